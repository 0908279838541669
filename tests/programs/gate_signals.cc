// gate_signals [TIMES [PART...]]: signals while pages leave. Masks that block everything, handlers on every kind
// of stack, handlers that leave a blocked call for good, and handlers that are the program's own for
// what the memory manager lives by.
#include <execinfo.h>
#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#include <algorithm>
#include <csetjmp>
#include <string>
#include <vector>

#include "gate_testing.h"

extern char** environ;
using namespace gate_testing;

namespace {

constexpr std::size_t kMiB = std::size_t{1} << 20;
constexpr std::size_t kArena = 4 * kMiB;
char* arena = nullptr;     // stamped, and read only
char* operands = nullptr;  // of calls
int sockets[2] = {-1, -1};

// A place for operands, paged out.
template <typename T = char>
T* place(std::size_t i, std::size_t bytes = sizeof(T)) {
  char* const p = operands + (i * 97 % 61) * 16 * kPage;
  page_out(p, bytes);
  return reinterpret_cast<T*>(p);
}

void handle(int signal, void (*handler)(int), int flags = 0, bool blocks_all = false) {
  struct sigaction action {};
  action.sa_handler = handler;
  action.sa_flags = flags;
  if (blocks_all) sigfillset(&action.sa_mask);
  CHECK(sigaction(signal, &action, nullptr) == 0);
}

// Ticks of SIGALRM, as long as it lives.
class Ticks {
 public:
  explicit Ticks(long microseconds) { set(microseconds); }
  ~Ticks() { set(0); }
  Ticks(const Ticks&) = delete;
  Ticks& operator=(const Ticks&) = delete;

 private:
  static void set(long microseconds) {
    itimerval t{};
    t.it_interval.tv_usec = t.it_value.tv_usec = microseconds;
    CHECK(setitimer(ITIMER_REAL, &t, nullptr) == 0);
  }
};

std::size_t mappings() {
  std::size_t lines = 0;
  const int fd = open("/proc/self/maps", O_RDONLY);
  char buffer[4096];
  for (ssize_t n = 0; (n = read(fd, buffer, sizeof buffer)) > 0;)
    for (ssize_t i = 0; i < n; ++i) lines += buffer[i] == '\n' ? 1 : 0;
  close(fd);
  return lines;
}

void all_signals_blocked() {
  sigset_t all;
  sigset_t before;
  sigset_t now;
  sigfillset(&all);
  EXPECT(pthread_sigmask(SIG_SETMASK, &all, &before) == 0);
  for (std::size_t i = 0; i < kArena; i += 3 * kPage)
    check_stamp(arena + i / kPage * kPage, i / kPage, 0);
  EXPECT(pthread_sigmask(SIG_BLOCK, nullptr, &now) == 0);
  for (int s = 1; s < 32; ++s)
    if (s != SIGKILL && s != SIGSTOP) EXPECT(sigismember(&now, s) == 1);
  // A child of vfork changes its own mask, and its own actions.
  struct sigaction action {};
  action.sa_handler = [](int) {};
  sigfillset(&action.sa_mask);
  EXPECT(sigaction(SIGUSR2, &action, nullptr) == 0);
  const pid_t pid = vfork();
  if (pid == 0) {
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, nullptr);
    signal(SIGUSR2, SIG_DFL);
    _exit(0);
  }
  EXPECT(waitpid(pid, nullptr, 0) == pid);
  EXPECT(pthread_sigmask(SIG_BLOCK, nullptr, &now) == 0 && sigismember(&now, SIGBUS) == 1);
  EXPECT(sigaction(SIGUSR2, nullptr, &action) == 0 && sigismember(&action.sa_mask, SIGBUS) == 1);
  EXPECT(pthread_sigmask(SIG_SETMASK, &before, nullptr) == 0);
  EXPECT(pthread_sigmask(SIG_BLOCK, nullptr, &now) == 0 && sigismember(&now, SIGBUS) == 0);
}

void spawned_with_masks() {
  posix_spawnattr_t attributes;
  sigset_t all;
  sigfillset(&all);
  CHECK(posix_spawnattr_init(&attributes) == 0);
  CHECK(posix_spawnattr_setsigmask(&attributes, &all) == 0);
  CHECK(posix_spawnattr_setsigdefault(&attributes, &all) == 0);
  CHECK(posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF) == 0);
  struct sigaction action {};
  action.sa_handler = [](int) {};
  sigfillset(&action.sa_mask);
  EXPECT(sigaction(SIGUSR2, &action, nullptr) == 0);
  for (std::size_t i = 0; i < 20; ++i) {
    char* const text = place(i, 64);
    std::strcpy(text, "kill -USR1 $$; exit 9");  // blocked
    char shell[] = "sh";
    char option[] = "-c";
    auto** const argv = place<char*>(i + 1, 64);
    argv[0] = shell;
    argv[1] = option;
    argv[2] = text;
    argv[3] = nullptr;
    page_out(text, 64);
    page_out(argv, 64);
    pid_t pid = 0;
    int* const status = place<int>(i + 2);
    EXPECT(posix_spawn(&pid, "/bin/sh", nullptr, &attributes, argv, environ) == 0);
    EXPECT(waitpid(pid, status, 0) == pid && WIFEXITED(*status) && WEXITSTATUS(*status) == 9);
  }
  EXPECT(sigaction(SIGUSR2, nullptr, &action) == 0 && sigismember(&action.sa_mask, SIGBUS) == 1);
  posix_spawnattr_destroy(&attributes);
}

std::atomic<int> handled{0};

void waits_with_masks() {
  handle(SIGUSR1, [](int) { handled.fetch_add(1); });
  sigset_t usr1;
  sigset_t before;
  sigemptyset(&usr1);
  sigaddset(&usr1, SIGUSR1);
  CHECK(pthread_sigmask(SIG_BLOCK, &usr1, &before) == 0);
  sigset_t all_but;
  sigfillset(&all_but);
  sigdelset(&all_but, SIGUSR1);
  const int epoll = epoll_create1(0);
  for (std::size_t i = 0; i < 40; ++i) {
    auto* const mask = place<sigset_t>(i);
    *mask = all_but;
    const int before_it = handled;
    EXPECT(raise(SIGUSR1) == 0 && handled == before_it);
    page_out(mask, sizeof *mask);
    switch (i % 4) {
      case 0:
        EXPECT(sigsuspend(mask) == -1 && errno == EINTR);
        break;
      case 1: {
        auto* const fd = place<pollfd>(i + 1);
        *fd = {sockets[0], POLLIN, 0};
        page_out(fd, sizeof *fd);
        EXPECT(ppoll(fd, 1, nullptr, mask) == -1 && errno == EINTR);
        break;
      }
      case 2: {
        auto* const set = place<fd_set>(i + 1);
        FD_ZERO(set);
        FD_SET(sockets[0], set);
        EXPECT(pselect(sockets[0] + 1, set, nullptr, nullptr, nullptr, mask) == -1 &&
               errno == EINTR && FD_ISSET(sockets[0], set));
        break;
      }
      default: {
        auto* const event = place<epoll_event>(i + 1);
        EXPECT(epoll_pwait(epoll, event, 1, -1, mask) == -1 && errno == EINTR);
        break;
      }
    }
    EXPECT(handled == before_it + 1);
  }
  close(epoll);
  CHECK(pthread_sigmask(SIG_SETMASK, &before, nullptr) == 0);
}

// ---- Handlers that make calls on memory that is out, while a call is blocked that waits for it.

int nested_depth = 0;
int deepest = 0;
int inner[2] = {-1, -1};

void nested_handler(int) {
  const int error = errno;
  deepest = std::max(deepest, ++nested_depth);
  const auto depth = static_cast<std::size_t>(nested_depth);
  const char* const out = arena + 20 * kPage;
  page_out(out, 8 * kPage);
  check_stamp(out, 20, 0);
  page_out(out, 8 * kPage);
  EXPECT(send(inner[1], out, 6000, 0) == 6000);
  char* const in = operands + (depth % 8) * 8 * kPage;
  page_out(in, 8 * kPage);
  if (depth < 3) raise(SIGALRM);
  EXPECT(recv(inner[0], in, 8192, 0) == 6000 && std::memcmp(in, out, 6000) == 0);
  --nested_depth;
  errno = error;
}

void nested_handlers() {
  CHECK(socketpair(AF_UNIX, SOCK_DGRAM, 0, inner) == 0);
  handle(SIGALRM, nested_handler, SA_NODEFER | SA_RESTART, false);
  std::thread sender([] {
    for (int i = 0; i < 30; ++i) {
      usleep(7000);
      char message[5000];
      std::memset(message, i, sizeof message);
      CHECK(write(sockets[1], message, sizeof message) == sizeof message);
    }
  });
  // The handlers are this thread's: the sender has them blocked by then, or does not wait on memory.
  {
    const Ticks ticks(1000);
    char* const to = operands + kArena / 2;
    for (int i = 0; i < 30; ++i) {
      page_out(to, 8192);
      const ssize_t n = i % 2 == 0 ? recv(sockets[0], to, 8192, 0) : read(sockets[0], to, 8192);
      EXPECT(n == 5000);
      for (int k = 0; k < 5000; ++k)
        if (to[k] != i) {
          EXPECT(to[k] == i);
          break;
        }
    }
  }
  sender.join();
  EXPECT(deepest >= 3);
  close(inner[0]);
  close(inner[1]);
}

void interrupted_and_restarted() {
  handle(SIGALRM, [](int) { handled.fetch_add(1); });
  {
    const Ticks ticks(3000);
    char* const to = place(5, 70000);
    EXPECT(recv(sockets[0], to, 70000, 0) == -1 && errno == EINTR);
    page_out(to, 70000);
    EXPECT(read(sockets[0], to, 70000) == -1 && errno == EINTR);
    auto* const fd = place<pollfd>(9);
    *fd = {sockets[0], POLLIN, 0};
    page_out(fd, sizeof *fd);
    EXPECT(poll(fd, 1, -1) == -1 && errno == EINTR);
    EXPECT(wait4(-1, place<int>(3), 0, nullptr) == -1 && errno == ECHILD);
  }
  handle(
      SIGALRM, [](int) { handled.fetch_add(1); }, SA_RESTART);
  const int before = handled;
  std::thread sender([] {
    usleep(50000);
    CHECK(send(sockets[1], "late", 4, 0) == 4);
    usleep(50000);
    CHECK(send(sockets[1], "later", 5, 0) == 5);
  });
  {
    const Ticks ticks(1000);
    char* const to = place(6, 70000);
    EXPECT(recv(sockets[0], to, 70000, 0) == 4 && std::memcmp(to, "late", 4) == 0);
    page_out(to, 70000);
    EXPECT(read(sockets[0], to, 70000) == 5 && std::memcmp(to, "later", 5) == 0);
  }
  sender.join();
  EXPECT(handled > before + 10);
}

// ---- Handlers that do not come back.

sigjmp_buf back;

// At several depths of the stack, and from more than one kind of call.
__attribute__((noinline)) long blocked_call(std::size_t i, char* to) {
  volatile char depth[1024];
  depth[0] = 0;
  if (i % 5 != 0) return blocked_call(i / 5 * 5 + (i % 5) - 1, to) + depth[0];
  switch (i / 5 % 4) {
    case 0:
      return recv(sockets[0], to, 20000, 0);
    case 1:
      return read(sockets[0], to, 20000);
    case 2: {
      iovec v[2] = {{to, 5000}, {to + 8192, 5000}};
      return readv(sockets[0], v, 2);
    }
    default: {
      mmsghdr m[2] = {};
      iovec v{to, 20000};
      m[0].msg_hdr.msg_iov = &v;
      m[0].msg_hdr.msg_iovlen = 1;
      return recvmmsg(sockets[0], m, 1, 0, nullptr);
    }
  }
}

void jumps_out_of_handlers(std::size_t times) {
  static std::vector<char> alternate(std::size_t{128} << 10);
  stack_t stack{};
  stack.ss_sp = alternate.data();
  stack.ss_size = alternate.size();
  CHECK(sigaltstack(&stack, nullptr) == 0);
  char* const to = operands + kArena / 2;
  static std::size_t i;
  static std::size_t count_before;
  for (i = 0; i < times; ++i) {
    if (i == times / 10) count_before = mappings();
    // Every other time on the alternate stack.
    handle(
        SIGALRM, [](int) { siglongjmp(back, 1); }, i % 2 == 0 ? 0 : SA_ONSTACK);
    if (sigsetjmp(back, 1) == 0) {
      itimerval soon{};
      soon.it_value.tv_usec = 20;
      soon.it_interval.tv_usec = 500;
      page_out(to, 20000);
      CHECK(setitimer(ITIMER_REAL, &soon, nullptr) == 0);
      const long n = blocked_call(i, to);
      if (wrong < 3) std::fprintf(stderr, "call %zu: %ld\n", i, n);
      EXPECT(false);
    }
    const itimerval none{};
    CHECK(setitimer(ITIMER_REAL, &none, nullptr) == 0);
    handle(SIGALRM, SIG_IGN);  // one that is pending yet
  }
  EXPECT(mappings() < count_before + 20);
  // What comes now is received as ever.
  char message[9000];
  std::memset(message, 42, sizeof message);
  for (i = 0; i < 40; ++i) {
    CHECK(write(sockets[1], message, sizeof message) == sizeof message);
    page_out(to, 20000);
    const long n = blocked_call(i, to);
    if (i / 5 % 4 == 3)
      EXPECT(n == 1);
    else
      EXPECT(n == 9000);
    EXPECT(i / 5 % 4 == 2 || std::memcmp(to, message, sizeof message) == 0);
  }
  stack.ss_flags = SS_DISABLE;
  CHECK(sigaltstack(&stack, nullptr) == 0);
}

// A handler that switches to another context while a call is blocked, and comes back to it later.
ucontext_t main_context;
ucontext_t waiting_context;
volatile std::sig_atomic_t is_waiting = 0;

void switch_to_main(int) {
  if (is_waiting == 0) return;
  is_waiting = 0;
  CHECK(swapcontext(&waiting_context, &main_context) == 0);
}

void switches_out_of_handlers(std::size_t times, int flags) {
  constexpr std::size_t kStack = std::size_t{256} << 10;
  static std::vector<char> own_stack(kStack);
  static std::size_t rounds;
  static char* to;
  rounds = times;
  to = operands + kArena / 2;
  handle(SIGALRM, switch_to_main, flags | SA_RESTART);
  CHECK(getcontext(&waiting_context) == 0);
  waiting_context.uc_stack.ss_sp = own_stack.data();
  waiting_context.uc_stack.ss_size = own_stack.size();
  waiting_context.uc_link = &main_context;
  makecontext(
      &waiting_context,
      [] {
        for (std::size_t i = 0; i < rounds; ++i) {
          page_out(to, 20000);
          is_waiting = 1;
          const ssize_t n = recv(sockets[0], to, 20000, 0);
          is_waiting = 0;
          EXPECT(n == 7000);
          for (std::size_t k = 0; k < 7000; k += 500) EXPECT(to[k] == static_cast<char>(i));
        }
      },
      0);
  const Ticks ticks(200);
  for (std::size_t i = 0; i < times; ++i) {
    CHECK(swapcontext(&main_context, &waiting_context) == 0);
    // The call waits in there; meanwhile others are made here, and pages come and go.
    char* const mine = operands + kArena / 2 + 64 * kPage;
    std::memset(mine, 7, 6000);
    page_out(mine, 6000);
    EXPECT(send(inner[1], mine, 6000, 0) == 6000);
    page_out(mine, 16000);
    EXPECT(recv(inner[0], mine + 6000, 9000, 0) == 6000 && mine[6000] == 7 && mine[11999] == 7);
    for (std::size_t k = 0; k < 64; k += 5) check_stamp(arena + k * kPage, k, 0);
    char message[7000];
    std::memset(message, static_cast<char>(i), sizeof message);
    CHECK(write(sockets[1], message, sizeof message) == sizeof message);
    // It blocks in the next call, or is done.
  }
  CHECK(swapcontext(&main_context, &waiting_context) == 0);
}

// ---- The program's handlers of faults.

volatile std::sig_atomic_t caught = 0;
void note_and_jump(int signal) {
  caught = signal;
  siglongjmp(back, 1);
}

void own_fault_handlers() {
  handle(SIGSEGV, note_and_jump, SA_NODEFER);
  handle(SIGBUS, note_and_jump, SA_NODEFER);
  char* const guarded = map(64 * kPage);
  std::memset(guarded, 3, 64 * kPage);
  CHECK(mprotect(guarded, 64 * kPage, PROT_READ) == 0);
  char name[] = "/tmp/gate_signals.XXXXXX";
  const int fd = mkstemp(name);
  unlink(name);
  CHECK(ftruncate(fd, 1) == 0);
  auto* const file =
      static_cast<char*>(mmap(nullptr, 2 * kPage, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
  CHECK(file != MAP_FAILED);
  for (int i = 0; i < 200; ++i) {
    page_out(guarded, 64 * kPage);
    caught = 0;
    if (sigsetjmp(back, 1) == 0) guarded[i % 64 * kPage] = 1;
    EXPECT(caught == SIGSEGV && guarded[i % 64 * kPage] == 3);
    caught = 0;
    if (sigsetjmp(back, 1) == 0) file[kPage] = 1;
    EXPECT(caught == SIGBUS);
    // To calls the same places are EFAULT, and nothing is harmed.
    EXPECT(pread(fd, guarded + i % 64 * kPage, 1, 0) == -1 && errno == EFAULT);
    EXPECT(write(fd, file + kPage, 10) == -1 && errno == EFAULT);
    CHECK(write(sockets[1], "12345", 5) == 5);
    EXPECT(recv(sockets[0], guarded, 5, 0) == -1 && errno == EFAULT);
    CHECK(write(sockets[1], "12345", 5) == 5);
    iovec v{guarded, 5};
    EXPECT(readv(sockets[0], &v, 1) == -1 && errno == EFAULT);
    CHECK(write(sockets[1], "12345", 5) == 5);
    msghdr m{};
    m.msg_iov = &v;
    m.msg_iovlen = 1;
    EXPECT(recvmsg(sockets[0], &m, 0) == -1 && errno == EFAULT);
    char c = 0;
    EXPECT(recv(sockets[0], &c, 1, MSG_DONTWAIT) == -1 && errno == EAGAIN);
  }
  signal(SIGSEGV, SIG_DFL);
  signal(SIGBUS, SIG_DFL);
  munmap(guarded, 64 * kPage);
  munmap(file, 2 * kPage);
  close(fd);
}

// ---- Stacks in memory that leaves.

std::atomic<bool> is_running{false};
std::atomic<int> signals_seen{0};

__attribute__((noinline)) std::uint64_t use_stack(std::size_t seed) {
  volatile std::uint64_t words[3000];
  for (std::size_t i = 0; i < std::size(words); i += 16) words[i] = mix(seed + i);
  std::uint64_t sum = 0;
  for (std::size_t i = 0; i < std::size(words); i += 16) {
    if (words[i] != mix(seed + i)) EXPECT(words[i] == mix(seed + i));
    sum += words[i];
  }
  return sum;
}

void on_usr1(int) {
  const int error = errno;
  use_stack(static_cast<std::size_t>(signals_seen.fetch_add(1)));
  errno = error;
}

void signals_on_managed_stacks() {
  handle(SIGUSR1, on_usr1, SA_RESTART);
  constexpr std::size_t kStack = std::size_t{256} << 10;
  char* const stack = map(kStack);
  pthread_attr_t attributes;
  CHECK(pthread_attr_init(&attributes) == 0 &&
        pthread_attr_setstack(&attributes, stack, kStack) == 0);
  pthread_t thread{};
  is_running = true;
  signals_seen = 0;
  CHECK(pthread_create(
            &thread, &attributes,
            [](void*) -> void* {
              for (std::size_t i = 0; is_running; ++i) use_stack(i);
              return nullptr;
            },
            nullptr) == 0);
  for (int i = 0; i < 300; ++i) {
    page_out(stack, kStack);
    EXPECT(pthread_kill(thread, SIGUSR1) == 0);
    while (signals_seen <= i) sched_yield();
  }
  is_running = false;
  EXPECT(pthread_join(thread, nullptr) == 0);
  pthread_attr_destroy(&attributes);
  CHECK(munmap(stack, kStack) == 0);
}

void signals_on_contexts() {
  handle(SIGALRM, on_usr1, SA_RESTART);
  constexpr std::size_t kContexts = 8;
  constexpr std::size_t kStack = std::size_t{128} << 10;
  static ucontext_t contexts[kContexts];
  static ucontext_t caller;
  static std::size_t current;
  std::vector<std::vector<char>> stacks(kContexts, std::vector<char>(kStack));
  signals_seen = 0;
  for (std::size_t k = 0; k < kContexts; ++k) {
    CHECK(getcontext(&contexts[k]) == 0);
    contexts[k].uc_stack.ss_sp = stacks[k].data();
    contexts[k].uc_stack.ss_size = kStack;
    contexts[k].uc_link = nullptr;
    makecontext(
        &contexts[k],
        [] {
          for (std::size_t i = 0;; ++i) {
            use_stack(i);
            CHECK(swapcontext(&contexts[current], &caller) == 0);
          }
        },
        0);
  }
  {
    const Ticks ticks(500);
    for (std::size_t i = 0; i < 4000; ++i) {
      current = i % kContexts;
      if (i % 16 < kContexts) page_out(stacks[current].data(), kStack);
      CHECK(swapcontext(&caller, &contexts[current]) == 0);
    }
  }
  EXPECT(signals_seen > 0);
}

// Threads whose alternate stacks come from malloc, and go back there.
void alternate_stacks_come_and_go() {
  handle(SIGUSR1, on_usr1, SA_ONSTACK | SA_RESTART);
  signals_seen = 0;
  for (int i = 0; i < 2000; ++i) {
    std::thread([] {
      std::vector<char> room(std::size_t{64} << 10);
      stack_t stack{};
      stack.ss_sp = room.data();
      stack.ss_size = room.size();
      EXPECT(sigaltstack(&stack, nullptr) == 0);
      page_out(room.data(), room.size());
      EXPECT(raise(SIGUSR1) == 0);
      stack_t told{};
      EXPECT(sigaltstack(nullptr, &told) == 0 && told.ss_sp == room.data() && told.ss_flags == 0);
      stack.ss_flags = SS_DISABLE;
      EXPECT(sigaltstack(&stack, nullptr) == 0);
      EXPECT(sigaltstack(nullptr, &told) == 0 && told.ss_flags == SS_DISABLE);
    }).join();
  }
  EXPECT(signals_seen == 2000);
  // As many mappings of their own, of 1 GiB together: what they held must have been let go.
  for (int i = 0; i < 1000; ++i) {
    char* const room = map(kMiB);
    stack_t stack{};
    stack.ss_sp = room;
    stack.ss_size = kMiB;
    CHECK(sigaltstack(&stack, nullptr) == 0);
    EXPECT(raise(SIGUSR1) == 0);
    stack.ss_flags = SS_DISABLE;
    CHECK(sigaltstack(&stack, nullptr) == 0);
    CHECK(munmap(room, kMiB) == 0);
  }
  std::vector<char> room(48 * kMiB / 2);
  for (std::size_t i = 0; i < room.size(); i += kPage) room[i] = static_cast<char>(i / kPage);
  for (std::size_t i = 0; i < room.size(); i += kPage)
    if (room[i] != static_cast<char>(i / kPage)) EXPECT(room[i] == static_cast<char>(i / kPage));
}

// A handler that wants the alternate stack where there is none runs on the thread's, however deep.
__attribute__((noinline)) void deep(int n) {
  volatile char room[8192];
  room[0] = static_cast<char>(n);
  if (n > 0) deep(n - 1);
  EXPECT(room[0] == static_cast<char>(n));
}

void handlers_without_alternate_stack() {
  handle(
      SIGUSR1,
      [](int) {
        deep(40);
        handled.fetch_add(1);
      },
      SA_ONSTACK);
  const int before = handled;
  for (int i = 0; i < 20; ++i) {
    page_out(arena, kArena);
    EXPECT(raise(SIGUSR1) == 0);
    check_stamp(arena, 0, 0);
  }
  EXPECT(handled == before + 20);
}

// Many signals that have to be delivered at once: each handler runs before the wait is over, on top of
// one another, with the masks that the kernel gives.
std::uint64_t mask_now() {
  std::uint64_t mask = 0;
  syscall(SYS_rt_sigprocmask, SIG_BLOCK, nullptr, &mask, sizeof mask);
  return mask;
}
std::uint64_t masks_of_handlers[65];
const volatile char* of_interrupted = nullptr;  // on the stack that handlers must share, if any
void note_mask(int signal) {
  masks_of_handlers[signal] = mask_now();
  volatile char room[3000];
  if (of_interrupted != nullptr)
    EXPECT(of_interrupted - room < static_cast<long>(kMiB) && of_interrupted > room);
  room[2999] = static_cast<char>(signal);
  handled.fetch_add(room[2999] == static_cast<char>(signal) ? 1 : 1000);
}

void bursts() {
  constexpr int kFirst = 40;
  constexpr int kLast = 60;
  const std::uint64_t before = mask_now();
  for (int round = 0; round < 40; ++round) {
    std::vector<char> own(std::size_t{256} << 10);
    const stack_t stack{own.data(), 0, own.size()};
    const stack_t none{nullptr, SS_DISABLE, 0};
    CHECK(sigaltstack(round % 2 == 0 ? &stack : &none, nullptr) == 0);
    sigset_t blocked;
    sigemptyset(&blocked);
    for (int signal = kFirst; signal <= kLast; ++signal) {
      handle(signal, note_mask,
             (signal % 2 == 0 ? SA_ONSTACK : 0) | (signal % 3 == 0 ? SA_NODEFER : 0));
      sigaddset(&blocked, signal);
    }
    CHECK(sigprocmask(SIG_BLOCK, &blocked, nullptr) == 0);
    const int handled_before = handled;
    for (int signal = kFirst; signal <= kLast; ++signal) CHECK(raise(signal) == 0);
    page_out(own.data(), own.size());
    sigset_t empty;
    sigemptyset(&empty);
    const volatile char here = 0;
    of_interrupted = round % 2 == 0 ? nullptr : &here;
    EXPECT(sigsuspend(&empty) == -1 && errno == EINTR);
    EXPECT(handled == handled_before + kLast - kFirst + 1);
    // The kernel pushes all the frames, and the last to be pushed runs first: what runs later has
    // the masks of those that it was pushed over.
    for (int signal = kFirst; signal <= kLast; ++signal) {
      std::uint64_t expected = 0;
      for (int under = kFirst; under <= signal; ++under)
        if (under % 3 != 0) expected |= std::uint64_t{1} << (under - 1);
      EXPECT(masks_of_handlers[signal] == expected);
    }
    CHECK(sigaltstack(&none, nullptr) == 0);
    CHECK(sigprocmask(SIG_UNBLOCK, &blocked, nullptr) == 0);
    EXPECT(mask_now() == before);
  }
  for (int signal = kFirst; signal <= kLast; ++signal) handle(signal, SIG_DFL);
}

// What a handler sees of its stack, and what is left of it and of its action afterwards.
stack_t stack_inside;
stack_t stack_of_context;
int rc_inside = 0;
void look_at_stack(int, siginfo_t*, void* context) {
  stack_of_context = static_cast<ucontext_t*>(context)->uc_stack;
  EXPECT(sigaltstack(nullptr, &stack_inside) == 0);
  const stack_t none{nullptr, SS_DISABLE, 0};
  rc_inside = sigaltstack(&none, nullptr) == 0 ? 0 : errno;
}

void alternate_stacks_as_told() {
  constexpr int kDisarm = static_cast<int>(1U << 31);
  std::vector<char> own(std::size_t{64} << 10);
  stack_t told{};
  for (int i = 0; i < 20; ++i) {
    struct sigaction action {};
    action.sa_sigaction = look_at_stack;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESETHAND;
    sigaddset(&action.sa_mask, SIGUSR2);
    const int disarm = i % 2 == 0 ? 0 : kDisarm;
    const stack_t stack{own.data(), disarm, own.size()};
    CHECK(sigaltstack(&stack, nullptr) == 0);
    EXPECT(sigaltstack(nullptr, &told) == 0 && told.ss_flags == disarm && told.ss_sp == own.data());
    CHECK(sigaction(SIGUSR1, &action, nullptr) == 0);
    page_out(own.data(), own.size());
    EXPECT(raise(SIGUSR1) == 0);
    EXPECT(stack_of_context.ss_sp == own.data() && stack_of_context.ss_size == own.size());
    EXPECT(stack_of_context.ss_flags == disarm);
    EXPECT(stack_inside.ss_flags == (disarm == 0 ? SS_ONSTACK : SS_DISABLE));
    EXPECT(rc_inside == (disarm == 0 ? EPERM : 0));
    EXPECT(sigaltstack(nullptr, &told) == 0 && told.ss_flags == disarm && told.ss_sp == own.data());
    struct sigaction now {};
    EXPECT(sigaction(SIGUSR1, nullptr, &now) == 0);
    EXPECT(now.sa_handler == SIG_DFL && sigismember(&now.sa_mask, SIGUSR2) == 1);
    constexpr auto kFlags = static_cast<int>(SA_SIGINFO | SA_ONSTACK | SA_RESETHAND);
    EXPECT((now.sa_flags & kFlags) == action.sa_flags);
  }
  const stack_t small{own.data(), 0, 1000};
  EXPECT(sigaltstack(&small, nullptr) == -1 && errno == ENOMEM);
  const stack_t wrong{own.data(), 64, own.size()};
  EXPECT(sigaltstack(&wrong, nullptr) == -1 && errno == EINVAL);
  const stack_t none{nullptr, SS_DISABLE, 0};
  CHECK(sigaltstack(&none, nullptr) == 0);
}

// From a handler back to what it interrupted, by the unwind tables.
void* called_from = nullptr;
bool was_found = false;
void look_back(int) {
  void* frames[64];
  const int n = backtrace(frames, 64);
  was_found = std::find(frames, frames + n, called_from) != frames + n;
}
__attribute__((noinline)) void raise_inside() {
  called_from = __builtin_extract_return_addr(__builtin_return_address(0));
  EXPECT(raise(SIGUSR1) == 0);
}

void unwound_from_handlers() {
  std::vector<char> own(std::size_t{64} << 10);
  for (int i = 0; i < 20; ++i) {
    const stack_t stack{own.data(), i % 2 == 0 ? 0 : SS_DISABLE, own.size()};
    CHECK(sigaltstack(&stack, nullptr) == 0);
    handle(SIGUSR1, look_back, i % 4 < 2 ? SA_ONSTACK : 0);
    was_found = false;
    raise_inside();
    EXPECT(was_found);
  }
  const stack_t none{nullptr, SS_DISABLE, 0};
  CHECK(sigaltstack(&none, nullptr) == 0);
}

}  // namespace

int main(int argc, char** argv) {
  const std::size_t times = argument(argc, argv, 1, 10000);
  const std::vector<std::string> only(argv + std::min(argc, 2), argv + argc);
  arena = map(kArena);
  operands = map(kArena);
  for (std::size_t i = 0; i < kArena / kPage; ++i) stamp(arena + i * kPage, i, 0);
  CHECK(socketpair(AF_UNIX, SOCK_DGRAM, 0, sockets) == 0);
  const auto part = [&](const char* name, auto body) {
    if (only.empty() || std::find(only.begin(), only.end(), name) != only.end()) body();
  };
  part("masks", all_signals_blocked);
  part("spawn", spawned_with_masks);
  part("waits", waits_with_masks);
  part("nested", nested_handlers);
  part("restart", interrupted_and_restarted);
  part("faults", own_fault_handlers);
  part("stacks", signals_on_managed_stacks);
  part("contexts", signals_on_contexts);
  part("alternate", alternate_stacks_come_and_go);
  part("none", handlers_without_alternate_stack);
  part("bursts", bursts);
  part("told", alternate_stacks_as_told);
  part("unwound", unwound_from_handlers);
  CHECK(socketpair(AF_UNIX, SOCK_DGRAM, 0, inner) == 0);
  part("switch", [&] { switches_out_of_handlers(std::min<std::size_t>(times, 500), 0); });
  part("switch-onstack",
       [&] { switches_out_of_handlers(std::min<std::size_t>(times, 500), SA_ONSTACK); });
  part("jumps", [&] { jumps_out_of_handlers(times); });
  return result("gate_signals");
}
