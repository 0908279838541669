// gate_code [PART]: system calls made by code that the program writes at run time, while pages leave.
#include <fcntl.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "gate_testing.h"

using namespace gate_testing;

namespace {

constexpr std::size_t kMiB = std::size_t{1} << 20;

// long call(number, a, b, c, d, e, f): the kernel's result. Then rt_sigreturn, as a restorer.
constexpr unsigned char kCode[] = {0x48, 0x89, 0xf8, 0x48, 0x89, 0xf7, 0x48, 0x89, 0xd6, 0x48, 0x89,
                                   0xca, 0x4d, 0x89, 0xc2, 0x4d, 0x89, 0xc8, 0x4c, 0x8b, 0x4c, 0x24,
                                   0x08, 0x0f, 0x05, 0xc3, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x48,
                                   0xc7, 0xc0, 0x0f, 0x00, 0x00, 0x00, 0x0f, 0x05};
constexpr std::size_t kRestorer = 32;
using Call = long (*)(long, ...);
Call raw = nullptr;
char* code = nullptr;

void make_code() {
  code = map(kPage);
  std::memcpy(code, kCode, sizeof kCode);
  CHECK(mprotect(code, kPage, PROT_READ | PROT_EXEC) == 0);
  raw = reinterpret_cast<Call>(code);
}

void transfers(int rounds) {
  char* const from = map(kMiB);
  char* const to = map(kMiB);
  int pipes[2];
  CHECK(pipe(pipes) == 0);
  const int events = eventfd(0, 0);
  for (int i = 0; i < rounds; ++i) {
    const std::size_t length = 1 + static_cast<std::size_t>(i) * 977 % 40000;
    char* const source = from + static_cast<std::size_t>(i) * 331 % 5000;
    char* const target = to + static_cast<std::size_t>(i) * 773 % 5000;
    for (std::size_t k = 0; k < length; ++k) source[k] = static_cast<char>(k * 7 + i);
    page_out(from, kMiB);
    page_out(to, kMiB);
    EXPECT(raw(SYS_write, pipes[1], source, length) == static_cast<long>(length));
    page_out(to, kMiB);
    EXPECT(raw(SYS_read, pipes[0], target, length) == static_cast<long>(length));
    EXPECT(std::memcmp(source, target, length) == 0);
    auto* const value = reinterpret_cast<std::uint64_t*>(to + 60 * kPage);
    *value = static_cast<std::uint64_t>(i) + 1;
    page_out(to, kMiB);
    EXPECT(raw(SYS_write, events, value, 8L) == 8);
    page_out(to, kMiB);
    EXPECT(raw(SYS_read, events, value, 8L) == 8 && *value == static_cast<std::uint64_t>(i) + 1);
  }
  EXPECT(raw(SYS_close, -1L) == -EBADF);
  EXPECT(raw(SYS_getpid) == getpid());
  CHECK(munmap(from, kMiB) == 0 && munmap(to, kMiB) == 0);
}

std::atomic<int> alarms{0};

// A call that waits is interrupted there, and goes on there.
void interrupted() {
  int pipes[2];
  CHECK(pipe(pipes) == 0);
  char* const to = map(kPage);
  for (const int flags : {0, SA_RESTART}) {
    struct sigaction action {};
    action.sa_handler = [](int) { alarms.fetch_add(1); };
    action.sa_flags = flags;
    CHECK(sigaction(SIGALRM, &action, nullptr) == 0);
    for (int i = 0; i < 20; ++i) {
      page_out(to, kPage);
      const int before = alarms;
      std::thread writer([&] {
        while (alarms == before) sched_yield();
        usleep(2000);
        EXPECT(write(pipes[1], "x", 1) == 1);
      });
      // Not to be lost before the call has begun: it comes again.
      const itimerval soon{{0, 2000}, {0, 2000}};
      const itimerval never{};
      CHECK(setitimer(ITIMER_REAL, &soon, nullptr) == 0);
      long got = raw(SYS_read, pipes[0], to, 1L);
      if (flags == 0) {
        EXPECT(got == -EINTR || got == 1);
        while (got == -EINTR) got = raw(SYS_read, pipes[0], to, 1L);
      }
      EXPECT(got == 1 && *to == 'x');
      CHECK(setitimer(ITIMER_REAL, &never, nullptr) == 0);
      writer.join();
    }
  }
}

// Everything blocked, by that code itself; and it reads back what it has set.
void masked() {
  char* const pages = map(4 * kPage);
  std::uint64_t* const mask = reinterpret_cast<std::uint64_t*>(pages);
  std::uint64_t* const old = reinterpret_cast<std::uint64_t*>(pages + 2 * kPage);
  constexpr std::uint64_t kNever = std::uint64_t{1} << (SIGKILL - 1) | std::uint64_t{1}
                                                                           << (SIGSTOP - 1);
  for (int i = 0; i < 50; ++i) {
    *mask = ~std::uint64_t{0};
    page_out(pages, 4 * kPage);
    EXPECT(raw(SYS_rt_sigprocmask, long{SIG_SETMASK}, mask, old, 8L) == 0);
    EXPECT(*old == 0);
    page_out(pages, 4 * kPage);
    EXPECT(raw(SYS_rt_sigprocmask, long{SIG_BLOCK}, 0L, old, 8L) == 0);
    EXPECT(*old == ~kNever);
    EXPECT(raw(SYS_getppid) == getppid());
    *mask = 0;
    EXPECT(raw(SYS_rt_sigprocmask, long{SIG_SETMASK}, mask, 0L, 8L) == 0);
  }
}

std::atomic<int> returned{0};
struct KernelAction {
  void (*handler)(int);
  unsigned long flags;
  void* restorer;
  std::uint64_t mask;
};

// Handlers that return by that code, and one of the program's own for SIGSYS.
void handlers() {
  auto* const action = reinterpret_cast<KernelAction*>(map(kPage));
  constexpr unsigned long kHasRestorer = 0x04000000;
  for (const int signal : {SIGUSR1, SIGSYS}) {
    *action = {[](int) { returned.fetch_add(1); }, kHasRestorer, code + kRestorer, 0};
    page_out(action, kPage);
    EXPECT(raw(SYS_rt_sigaction, long{signal}, action, 0L, 8L) == 0);
    for (int i = 0; i < 20; ++i) {
      const int before = returned;
      EXPECT(raw(SYS_tgkill, long{getpid()}, long{gettid()}, long{signal}) == 0);
      EXPECT(returned == before + 1);
    }
    KernelAction now{};
    EXPECT(raw(SYS_rt_sigaction, long{signal}, 0L, &now, 8L) == 0);
    EXPECT(now.handler == action->handler && now.restorer == code + kRestorer);
    EXPECT(now.flags == kHasRestorer);
  }
  struct sigaction standard {};
  standard.sa_handler = SIG_IGN;
  CHECK(sigaction(SIGSYS, &standard, nullptr) == 0);
  EXPECT(raise(SIGSYS) == 0);
  standard.sa_handler = SIG_DFL;
  CHECK(sigaction(SIGSYS, &standard, nullptr) == 0);
  const pid_t child = fork();
  if (child == 0) {
    (void)raise(SIGSYS);
    _exit(0);
  }
  int status = 0;
  EXPECT(waitpid(child, &status, 0) == child && WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS);
}

// Processes and threads that it makes, and calls in them.
void processes() {
  char* const pages = map(kMiB);
  for (std::size_t i = 0; i < kMiB / kPage; ++i) stamp(pages + i * kPage, i, 0);
  for (int i = 0; i < 10; ++i) {
    page_out(pages, kMiB);
    const long child = i % 2 == 0 ? raw(SYS_fork) : raw(SYS_clone, long{SIGCHLD}, 0L, 0L, 0L, 0L);
    if (child == 0) {
      check_stamp(pages + 7 * kPage, 7, 0);
      page_out(pages, kMiB);
      int pipes[2];
      bool is_right = pipe(pipes) == 0;
      is_right = is_right && raw(SYS_write, pipes[1], pages + 9 * kPage, 64L) == 64;
      is_right = is_right && raw(SYS_read, pipes[0], pages + 20 * kPage, 64L) == 64;
      raw(SYS_exit_group, is_right && wrong == 0 ? 0L : 1L);
    }
    int status = -1;
    EXPECT(child > 0 && waitpid(static_cast<pid_t>(child), &status, 0) == child && status == 0);
  }
  std::thread threads[3];
  for (std::thread& t : threads) t = std::thread([] { transfers(60); });
  for (std::thread& t : threads) t.join();
}

// A thread by a clone of that code's own, on a stack of the program's: it comes back to the code.
std::atomic<int> from_thread{0};
alignas(16) char thread_stack[64 << 10];
void bare_thread() {
  int word = 1;
  // The child finds its function where the code returns to.
  auto* top = reinterpret_cast<void**>(thread_stack + sizeof thread_stack) - 2;
  *top = reinterpret_cast<void*>(+[] {
    from_thread.store(static_cast<int>(raw(SYS_gettid)));
    for (;;) raw(SYS_exit, 0L);
  });
  const long flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD |
                     CLONE_CHILD_CLEARTID | CLONE_CHILD_SETTID;
  const long tid = raw(SYS_clone, flags, top, 0L, &word, 0L);
  EXPECT(tid > 0);
  while (__atomic_load_n(&word, __ATOMIC_ACQUIRE) != 0) sched_yield();
  EXPECT(from_thread == tid);
}

}  // namespace

int main(int argc, char** argv) {
  const std::string only = argc > 1 ? argv[1] : "all";
  make_code();
  const auto part = [&](const char* name, auto body) {
    if (only == "all" || only == name) body();
  };
  part("transfers", [] { transfers(400); });
  part("interrupted", [] { interrupted(); });
  part("masked", [] { masked(); });
  part("handlers", [] { handlers(); });
  part("processes", [] { processes(); });
  part("bare", [] { bare_thread(); });
  return result("gate_code");
}
