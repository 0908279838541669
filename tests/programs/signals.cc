// signals [MIB]: handlers for SIGSEGV and SIGBUS that belong to the program, on stacks of every
// kind, touching memory that has been pushed out.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <csetjmp>
#include <csignal>
#include <ctime>
#include <thread>
#include <vector>

#include "check.h"

namespace {

constexpr std::size_t kMiB = std::size_t{1} << 20;

sigjmp_buf back;
volatile std::sig_atomic_t caught = 0;
std::atomic<std::uint64_t> alarms{0};
char* pages = nullptr;
std::size_t page_count = 0;

char* map(std::size_t bytes, int prot) {
  void* p = mmap(nullptr, bytes, prot, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(p != MAP_FAILED);
  return static_cast<char*>(p);
}

void jump_back(int signal, siginfo_t*, void*) {
  caught = signal;
  siglongjmp(back, 1);
}

// A collector's write barrier: the handler opens the page that was stored to.
void open_page(int signal, siginfo_t* info, void*) {
  caught = signal;
  auto* page = reinterpret_cast<char*>(reinterpret_cast<std::uintptr_t>(info->si_addr) & ~4095UL);
  CHECK(mprotect(page, kPage, PROT_READ | PROT_WRITE) == 0);
}

void on_alarm(int) {
  const int error = errno;
  const std::uint64_t n = alarms.fetch_add(1);
  const std::size_t i = mix(n) % page_count;
  check_stamp(pages + i * kPage, i, 0);
  errno = error;
}

void set_action(int signal, void (*handler)(int, siginfo_t*, void*), int flags) {
  struct sigaction action {};
  action.sa_sigaction = handler;
  action.sa_flags = SA_SIGINFO | flags;
  CHECK(sigaction(signal, &action, nullptr) == 0);
}

void segv_on_guard_pages() {
  char* p = map(16 * kMiB, PROT_NONE);
  set_action(SIGSEGV, jump_back, SA_NODEFER);
  caught = 0;
  if (sigsetjmp(back, 1) == 0) p[5 * kMiB] = 1;
  CHECK(caught == SIGSEGV);
  CHECK(mprotect(p, 16 * kMiB, PROT_READ) == 0);
  CHECK(p[7 * kMiB] == 0);
  caught = 0;
  if (sigsetjmp(back, 1) == 0) p[7 * kMiB] = 1;
  CHECK(caught == SIGSEGV);
  set_action(SIGSEGV, open_page, 0);
  for (std::size_t i = 0; i < 16 * kMiB / kPage; i += 3) stamp(p + i * kPage, i, 1);
  for (std::size_t i = 0; i < 16 * kMiB / kPage; i += 3) check_stamp(p + i * kPage, i, 1);
  CHECK(munmap(p, 16 * kMiB) == 0);
  caught = 0;
  set_action(SIGSEGV, jump_back, SA_NODEFER);
  if (sigsetjmp(back, 1) == 0) p[0] = 1;
  CHECK(caught == SIGSEGV);
}

void bus_error_past_the_end_of_a_file() {
  char name[] = "/tmp/signals.XXXXXX";
  const int fd = mkstemp(name);
  unlink(name);
  CHECK(ftruncate(fd, static_cast<off_t>(2 * kPage)) == 0);
  auto* p = static_cast<char*>(mmap(nullptr, 2 * kPage, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
  CHECK(p != MAP_FAILED);
  p[kPage] = 1;
  CHECK(ftruncate(fd, static_cast<off_t>(kPage)) == 0);
  set_action(SIGBUS, jump_back, SA_NODEFER);
  caught = 0;
  if (sigsetjmp(back, 1) == 0) p[kPage] = 2;
  CHECK(caught == SIGBUS);
  struct sigaction old {};
  CHECK(sigaction(SIGBUS, nullptr, &old) == 0);
  CHECK(old.sa_sigaction == jump_back && (old.sa_flags & SA_NODEFER) != 0);
  CHECK(signal(SIGBUS, SIG_DFL) == old.sa_handler);
  CHECK(signal(SIGBUS, SIG_IGN) == SIG_DFL);
  CHECK(signal(SIGBUS, SIG_DFL) == SIG_IGN);
  close(fd);
}

// Managed memory is touched while SIGBUS and everything else is blocked.
void touch_with_all_signals_blocked() {
  sigset_t all;
  sigset_t before;
  sigset_t now;
  sigfillset(&all);
  CHECK(pthread_sigmask(SIG_SETMASK, &all, &before) == 0);
  for (std::size_t i = 0; i < page_count; i += 7) check_stamp(pages + i * kPage, i, 0);
  CHECK(pthread_sigmask(SIG_SETMASK, &before, &now) == 0);
  CHECK(sigismember(&now, SIGBUS) == 1 && sigismember(&now, SIGSEGV) == 1);
}

// The alternate stack, and a thread's whole stack, lie in memory that is pushed out.
void stacks_in_managed_memory() {
  std::vector<char> alternate(256 * 1024);
  stack_t stack{};
  stack.ss_sp = alternate.data();
  stack.ss_size = alternate.size();
  CHECK(sigaltstack(&stack, nullptr) == 0);
  set_action(
      SIGUSR1, [](int, siginfo_t*, void*) { caught = SIGUSR1; }, SA_ONSTACK);
  for (int i = 0; i < 20; ++i) {
    CHECK(madvise(pages, page_count * kPage, MADV_PAGEOUT) == 0);
    caught = 0;
    CHECK(raise(SIGUSR1) == 0);
    CHECK(caught == SIGUSR1);
    for (std::size_t k = 0; k < page_count; k += 3) check_stamp(pages + k * kPage, k, 0);
  }
  stack.ss_flags = SS_DISABLE;
  CHECK(sigaltstack(&stack, nullptr) == 0);

  char* own_stack = map(kMiB, PROT_READ | PROT_WRITE);
  pthread_attr_t attributes;
  CHECK(pthread_attr_init(&attributes) == 0);
  CHECK(pthread_attr_setstack(&attributes, own_stack, kMiB) == 0);
  pthread_t thread{};
  CHECK(pthread_create(
            &thread, &attributes,
            [](void*) -> void* {
              volatile char deep[400000];
              for (std::size_t i = 0; i < sizeof deep; i += 1000) deep[i] = 3;
              for (std::size_t k = 0; k < page_count; k += 5) check_stamp(pages + k * kPage, k, 0);
              for (std::size_t i = 0; i < sizeof deep; i += 1000) CHECK(deep[i] == 3);
              return nullptr;
            },
            nullptr) == 0);
  CHECK(pthread_join(thread, nullptr) == 0);
  CHECK(munmap(own_stack, kMiB) == 0);
}

void handlers_interrupt_everything() {
  struct sigaction action {};
  action.sa_handler = on_alarm;
  action.sa_flags = SA_RESTART;
  CHECK(sigaction(SIGALRM, &action, nullptr) == 0);
  sigevent event{};
  event.sigev_notify = SIGEV_SIGNAL;
  event.sigev_signo = SIGALRM;
  timer_t timer{};
  CHECK(timer_create(CLOCK_MONOTONIC, &event, &timer) == 0);
  const itimerspec every{{0, 200000}, {0, 200000}};
  CHECK(timer_settime(timer, 0, &every, nullptr) == 0);
  for (std::uint64_t round = 0; alarms < 2000; ++round) {
    char* p = map(kMiB, PROT_READ | PROT_WRITE);
    stamp(p, round, 1);
    std::vector<char> heap(200000, 'x');
    check_stamp(p, round, 1);
    CHECK(munmap(p, kMiB) == 0);
    CHECK(heap[199999] == 'x');
  }
  CHECK(timer_delete(timer) == 0);
}

}  // namespace

int main(int argc, char** argv) {
  page_count = argument(argc, argv, 1, 128) * kMiB / kPage;
  pages = map(page_count * kPage, PROT_READ | PROT_WRITE);
  for (std::size_t i = 0; i < page_count; ++i) stamp(pages + i * kPage, i, 0);
  segv_on_guard_pages();
  bus_error_past_the_end_of_a_file();
  touch_with_all_signals_blocked();
  stacks_in_managed_memory();
  handlers_interrupt_everything();
  for (std::size_t i = 0; i < page_count; ++i) check_stamp(pages + i * kPage, i, 0);
  std::puts("OK signals");
}
