// gate_threads [PART] [MIB]: threads that are cancelled, end with locks held, are made by a bare clone,
// make processes, or wait by the thousand, while pages leave.
#include <dlfcn.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/futex.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <spawn.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "gate_testing.h"

extern char** environ;
using namespace gate_testing;

namespace {

constexpr std::size_t kMiB = std::size_t{1} << 20;

// ---- Cancellation.

std::atomic<int> destroyed{0};
std::atomic<int> cleaned{0};
struct Counted {
  ~Counted() { destroyed.fetch_add(1); }
};

struct Blocked {
  int way = 0;
  int socket = -1;
  char* buffer = nullptr;
  std::atomic<bool> is_ready{false};
};

void block(Blocked& b) {
  switch (b.way) {
    case 0:
      (void)!read(b.socket, b.buffer, 20000);
      break;
    case 1:
      (void)recv(b.socket, b.buffer, 20000, 0);
      break;
    case 2: {
      auto* const fd = reinterpret_cast<pollfd*>(b.buffer);
      *fd = {b.socket, POLLIN, 0};
      page_out(fd, sizeof *fd);
      (void)poll(fd, 1, -1);
      break;
    }
    case 3: {
      auto* const time = reinterpret_cast<timespec*>(b.buffer);
      *time = {1000, 0};
      page_out(time, sizeof *time);
      (void)nanosleep(time, time);
      break;
    }
    case 4: {
      iovec v[2] = {{b.buffer, 1000}, {b.buffer + 8192, 20000}};
      (void)!readv(b.socket, v, 2);
      break;
    }
    default: {
      iovec v{b.buffer, 20000};
      msghdr m{};
      m.msg_iov = &v;
      m.msg_iovlen = 1;
      (void)recvmsg(b.socket, &m, 0);
      break;
    }
  }
}

void* run_blocked(void* raw) {
  auto& b = *static_cast<Blocked*>(raw);
  const Counted outer;
  pthread_cleanup_push([](void*) { cleaned.fetch_add(1); }, nullptr);
  const Counted inner;
  page_out(b.buffer, 64 * kPage);
  b.is_ready = true;
  for (;;) block(b);
  pthread_cleanup_pop(0);
  return nullptr;
}

// Cancelled at any moment: in the midst of calls, faults and plain code.
void* run_anywhere(void* raw) {
  auto& b = *static_cast<Blocked*>(raw);
  int old = 0;
  pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, &old);
  b.is_ready = true;
  for (std::uint64_t i = 0;; ++i) {
    page_out(b.buffer, 64 * kPage);
    char c = static_cast<char>(i);
    if (pwrite(b.socket, b.buffer, 64 * kPage, 0) < 0 ||
        pread(b.socket, b.buffer, 64 * kPage, 0) < 0)
      b.buffer[i % (64 * kPage)] = c;
    b.buffer[i * kPage % (64 * kPage)] = c;
  }
}

void cancelled(int rounds) {
  int sockets[2];
  CHECK(socketpair(AF_UNIX, SOCK_DGRAM, 0, sockets) == 0);
  char* const buffer = map(kMiB);
  std::memset(buffer, 1, kMiB);
  for (int i = 0; i < rounds; ++i) {
    Blocked b;
    b.way = i % 6;
    b.socket = sockets[0];
    b.buffer = buffer;
    destroyed = cleaned = 0;
    pthread_t thread{};
    CHECK(pthread_create(&thread, nullptr, run_blocked, &b) == 0);
    while (!b.is_ready) sched_yield();
    if (i % 3 != 0) usleep(300);
    EXPECT(pthread_cancel(thread) == 0);
    void* result = nullptr;
    EXPECT(pthread_join(thread, &result) == 0 && result == PTHREAD_CANCELED);
    EXPECT(destroyed == 2 && cleaned == 1);
  }
  char name[] = "/tmp/gate_threads.XXXXXX";
  const int file = mkstemp(name);
  unlink(name);
  for (int i = 0; i < rounds; ++i) {
    Blocked b;
    b.socket = file;
    b.buffer = buffer;
    pthread_t thread{};
    CHECK(pthread_create(&thread, nullptr, run_anywhere, &b) == 0);
    while (!b.is_ready) sched_yield();
    usleep(static_cast<unsigned>(mix(static_cast<std::uint64_t>(i)) % 2000));
    EXPECT(pthread_cancel(thread) == 0);
    void* result = nullptr;
    EXPECT(pthread_join(thread, &result) == 0 && result == PTHREAD_CANCELED);
  }
  // All memory can still be used, and everything still be received.
  page_out(buffer, kMiB);
  for (std::size_t k = 0; k < kMiB; k += 512) buffer[k] = 2;
  CHECK(send(sockets[1], "after", 5, 0) == 5);
  page_out(buffer, kMiB);
  EXPECT(recv(sockets[0], buffer, 20000, 0) == 5 && std::memcmp(buffer, "after", 5) == 0);
  munmap(buffer, kMiB);
  close(file);
  close(sockets[0]);
  close(sockets[1]);
}

// ---- Locks whose owner dies.

struct Robust {
  pthread_mutex_t mutex;
};

void owner_dies(bool inherits, bool has_waiter) {
  char* const memory = map(kMiB);
  std::memset(memory, 0, kMiB);
  constexpr std::size_t kLocks = 8;
  pthread_mutexattr_t attributes;
  pthread_mutexattr_init(&attributes);
  CHECK(pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST) == 0);
  if (inherits) CHECK(pthread_mutexattr_setprotocol(&attributes, PTHREAD_PRIO_INHERIT) == 0);
  static pthread_mutex_t* locks[kLocks];
  for (std::size_t i = 0; i < kLocks; ++i) {
    locks[i] = reinterpret_cast<pthread_mutex_t*>(memory + i * 20 * kPage + i * 64);
    CHECK(pthread_mutex_init(locks[i], &attributes) == 0);
  }
  static std::atomic<int> step;
  step = 0;
  std::thread owner([memory] {
    for (pthread_mutex_t* m : locks) CHECK(pthread_mutex_lock(m) == 0);
    step = 1;
    while (step != 2) usleep(500);
    page_out(memory, kMiB);
  });
  while (step != 1) usleep(500);
  std::vector<std::thread> waiters;
  std::atomic<int> told{0};
  if (has_waiter)
    for (pthread_mutex_t* m : locks)
      waiters.emplace_back([m, &told] {
        timespec until{};
        clock_gettime(CLOCK_REALTIME, &until);
        until.tv_sec += 10;
        if (EXPECT(pthread_mutex_timedlock(m, &until) == EOWNERDEAD)) {
          told.fetch_add(1);
          EXPECT(pthread_mutex_consistent(m) == 0 && pthread_mutex_unlock(m) == 0);
        }
      });
  if (has_waiter) usleep(30000);
  page_out(memory, kMiB);
  step = 2;
  owner.join();
  for (std::thread& w : waiters) w.join();
  for (pthread_mutex_t* m : locks) {
    timespec until{};
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 3;
    const int error = pthread_mutex_timedlock(m, &until);
    EXPECT(error == (has_waiter ? 0 : EOWNERDEAD));
    if (error == EOWNERDEAD) EXPECT(pthread_mutex_consistent(m) == 0);
    if (error == 0 || error == EOWNERDEAD) EXPECT(pthread_mutex_unlock(m) == 0);
  }
  munmap(memory, kMiB);
}

void locks_of_the_dead(int rounds) {
  for (int i = 0; i < rounds; ++i) {
    owner_dies(false, false);
    owner_dies(false, true);
  }
}
void inherited_locks_of_the_dead(int rounds) {
  for (int i = 0; i < rounds; ++i) {
    owner_dies(true, false);
    owner_dies(true, true);
  }
}

// ---- Threads that libc does not know. They share its thread's storage with their maker, so they make
// system calls of their own.

long bare_call(long number, long a = 0, long b = 0, long c = 0, long d = 0) {
  long result = number;
  register long r10 asm("r10") = d;
  asm volatile("syscall"
               : "+a"(result)
               : "D"(a), "S"(b), "d"(c), "r"(r10)
               : "rcx", "r11", "memory");
  return result;
}

struct Bare {
  char* pages;
  std::size_t count;
  int pipe[2];
  long wrong = 0;
};

int run_bare(void* raw) {
  auto& b = *static_cast<Bare*>(raw);
  for (int round = 0; round < 20; ++round) {
    for (std::size_t i = 0; i < b.count; ++i) {
      const auto* const words = reinterpret_cast<const std::uint64_t*>(b.pages + i * kPage);
      for (std::size_t k = 0; k < kPage / 8; k += 37)
        if (words[k] != word_of(i, 0, k)) ++b.wrong;
    }
    bare_call(SYS_madvise, reinterpret_cast<long>(b.pages), static_cast<long>(b.count * kPage),
              MADV_PAGEOUT);
    const long n = bare_call(SYS_write, b.pipe[1], reinterpret_cast<long>(b.pages), 3000);
    if (n != 3000) ++b.wrong;
    char back[3000];
    if (bare_call(SYS_read, b.pipe[0], reinterpret_cast<long>(back), 3000) != 3000) ++b.wrong;
    if (__builtin_memcmp(back, b.pages, 3000) != 0) ++b.wrong;
  }
  return 0;
}

void bare_threads(int rounds) {
  constexpr std::size_t kThreads = 3;
  constexpr std::size_t kPages = 200;
  constexpr std::size_t kStack = std::size_t{256} << 10;
  char* const own = map(kPages * kPage);
  for (std::size_t i = 0; i < kPages; ++i) stamp(own + i * kPage, i, 0);
  Bare bare[kThreads];
  for (Bare& b : bare) {
    b.pages = map(kPages * kPage);
    b.count = kPages;
    for (std::size_t i = 0; i < kPages; ++i) stamp(b.pages + i * kPage, i, 0);
    CHECK(pipe(b.pipe) == 0);
  }
  for (int round = 0; round < rounds; ++round) {
    std::vector<char*> stacks;
    auto* const words = reinterpret_cast<int*>(map(std::size_t{64} << 10));  // tids and ends
    for (std::size_t t = 0; t < kThreads; ++t) {
      auto* const stack = static_cast<char*>(std::malloc(kStack));
      stacks.push_back(stack);
      int* const ends = words + t * 64;
      int* const tid = words + 2048 + t * 64;
      *ends = 1;
      page_out(words, kPage * 4);
      page_out(stack, kStack);
      const int made = clone(run_bare, stack + kStack,
                             CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD |
                                 CLONE_SYSVSEM | CLONE_CHILD_CLEARTID | CLONE_PARENT_SETTID,
                             &bare[t], tid, nullptr, ends);
      if (!EXPECT(made > 0)) {
        *ends = 0;
        continue;
      }
      EXPECT(*tid == made);
    }
    // Faults of this thread's, while theirs go on.
    for (int i = 0; i < 3; ++i) {
      for (std::size_t k = 0; k < kPages; ++k) check_stamp(own + k * kPage, k, 0);
      page_out(own, kPages * kPage);
    }
    for (std::size_t t = 0; t < kThreads; ++t) {
      const volatile int* const ends = words + t * 64;
      timespec until{20, 0};
      while (*ends != 0) {
        if (syscall(SYS_futex, ends, FUTEX_WAIT, 1, &until, nullptr, 0) == -1 && errno == ETIMEDOUT)
          break;
      }
      if (!EXPECT(*ends == 0)) std::exit(result("gate_threads"));
      std::free(stacks[t]);
      EXPECT(bare[t].wrong == 0);
    }
    munmap(words, std::size_t{64} << 10);
  }
  // This thread is as it was: with its alternate stack, and its pages.
  page_out(own, kPages * kPage);
  for (std::size_t k = 0; k < kPages; ++k) check_stamp(own + k * kPage, k, 0);
}

// ---- Processes, made by many threads.

__attribute__((noinline)) int status_of_vforked(int wanted) {
  const pid_t pid = vfork();
  if (pid == 0) _exit(wanted);
  int status = 0;
  return waitpid(pid, &status, 0) == pid && WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

void processes(int rounds) {
  constexpr int kThreads = 6;
  char* const pages = map(8 * kMiB);
  for (std::size_t i = 0; i < 8 * kMiB / kPage; ++i) stamp(pages + i * kPage, i, 0);
  const Evictor evictor(pages, 8 * kMiB);
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t)
    threads.emplace_back([&, t] {
      char* const own = pages + static_cast<std::size_t>(t) * kMiB;
      for (int i = 0; i < rounds; ++i) {
        switch ((i + t) % 5) {
          case 0:
            EXPECT(status_of_vforked(7) == 7);
            break;
          case 1: {
            const pid_t pid = fork();
            if (pid == 0) {
              for (std::size_t k = 0; k < 64; ++k) {
                const std::size_t page = static_cast<std::size_t>(t) * 256 + k;
                check_stamp(pages + page * kPage, page, 0);
              }
              _exit(8);
            }
            int status = 0;
            EXPECT(waitpid(pid, &status, 0) == pid && WIFEXITED(status) &&
                   WEXITSTATUS(status) == 8);
            break;
          }
          case 2:
            EXPECT(WEXITSTATUS(system("exit 9")) == 9);
            break;
          case 3: {
            FILE* const out = popen("echo told", "r");
            char line[16] = "";
            EXPECT(out != nullptr && std::fgets(line, sizeof line, out) != nullptr &&
                   std::strcmp(line, "told\n") == 0);
            if (out != nullptr) EXPECT(pclose(out) == 0);
            break;
          }
          default: {
            char name[] = "true";
            char* arguments[] = {name, nullptr};
            pid_t pid = 0;
            EXPECT(posix_spawnp(&pid, "true", nullptr, nullptr, arguments, environ) == 0);
            int status = -1;
            EXPECT(waitpid(pid, &status, 0) == pid && status == 0);
            break;
          }
        }
        check_stamp(own, static_cast<std::size_t>(t) * 256, 0);
      }
    });
  for (std::thread& t : threads) t.join();
}

// ---- Thousands that wait.

std::size_t resident_pages(const char* at, std::size_t bytes) {
  std::vector<unsigned char> pages(bytes / kPage);
  CHECK(mincore(const_cast<char*>(at), bytes, pages.data()) == 0);
  std::size_t n = 0;
  for (const unsigned char p : pages) n += p & 1U;
  return n;
}

void thousands_wait(std::size_t count) {
  int sockets[2];
  CHECK(socketpair(AF_UNIX, SOCK_DGRAM, 0, sockets) == 0);
  void* const all = mmap(nullptr, count * kMiB, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  CHECK(all != MAP_FAILED);
  auto* const buffers = static_cast<char*>(all);
  (void)madvise(buffers, count * kMiB, MADV_NOHUGEPAGE);
  struct One {
    int socket;
    char* buffer;
    std::size_t number;
  };
  std::vector<One> ones(count);
  std::vector<pthread_t> threads(count);
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  CHECK(pthread_attr_setstacksize(&attributes, std::size_t{64} << 10) == 0);
  static std::atomic<std::size_t> waiting;
  waiting = 0;
  for (std::size_t i = 0; i < count; ++i) {
    ones[i] = {sockets[0], buffers + i * kMiB, i};
    CHECK(pthread_create(
              &threads[i], &attributes,
              [](void* raw) -> void* {
                const One& one = *static_cast<One*>(raw);
                waiting.fetch_add(1);
                ssize_t n = 0;
                iovec v{one.buffer, kMiB};
                if (one.number % 3 == 0) n = recv(one.socket, one.buffer, kMiB, 0);
                if (one.number % 3 == 1) n = read(one.socket, one.buffer, kMiB);
                if (one.number % 3 == 2) n = readv(one.socket, &v, 1);
                EXPECT(n == 100);
                for (std::size_t k = 0; k < 100; ++k)
                  if (one.buffer[k] != 9) EXPECT(one.buffer[k] == 9);
                return nullptr;
              },
              &ones[i]) == 0);
  }
  while (waiting != count) usleep(1000);
  usleep(100000);
  EXPECT(resident_pages(buffers, count * kMiB) == 0);
  char message[100];
  std::memset(message, 9, sizeof message);
  for (std::size_t i = 0; i < count; ++i)
    CHECK(send(sockets[1], message, sizeof message, 0) == 100);
  for (const pthread_t t : threads) EXPECT(pthread_join(t, nullptr) == 0);
  std::size_t most = 0;
  for (std::size_t i = 0; i < count; ++i)
    most = std::max(most, resident_pages(buffers + i * kMiB, kMiB));
  // As many as one store of the program's own brings in.
  EXPECT(most <= 16);
  pthread_attr_destroy(&attributes);
  munmap(all, count * kMiB);
}

// ---- Streams that have more than pages are there for.

using StreamRead = ssize_t (*)(int fd, iovec* vector, int count);

void read_stream(char* pages, int from, int to, StreamRead read_all) {
  constexpr std::size_t kPieces[] = {130000, 2000, 20000};
  constexpr std::size_t kTotal = 152000;
  constexpr std::size_t kWritten = 4000;
  static std::vector<char> sent(kTotal);
  for (std::size_t i = 0; i < kTotal; ++i) sent[i] = static_cast<char>(i * 7 + i / 256);
  iovec vector[3];
  for (int i = 0; i < 3; ++i) vector[i] = {pages + i * 160000, kPieces[i]};
  for (std::size_t i = 0; i < kTotal; i += kWritten)
    CHECK(write(to, &sent[i], kWritten) == static_cast<ssize_t>(kWritten));
  EXPECT(read_all(from, vector, 3) == static_cast<ssize_t>(kTotal));
  std::size_t done = 0;
  for (int i = 0; i < 3; done += kPieces[i++])
    EXPECT(std::memcmp(vector[i].iov_base, &sent[done], kPieces[i]) == 0);
}

void streams(int rounds) {
  constexpr StreamRead kReads[] = {
      [](int fd, iovec* v, int n) { return readv(fd, v, n); },
      [](int fd, iovec* v, int n) { return preadv2(fd, v, n, -1, 0); },
  };
  int pipes[2];
  int sockets[2];
  CHECK(pipe(pipes) == 0 && fcntl(pipes[1], F_SETPIPE_SZ, 1 << 20) > 0);
  CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets) == 0);
  const int room = 400000;
  CHECK(setsockopt(sockets[1], SOL_SOCKET, SO_SNDBUF, &room, sizeof room) == 0);
  char* const pages = map(kMiB);
  const Evictor evictor(pages, kMiB);
  for (int i = 0; i < rounds; ++i) {
    for (const StreamRead read_all : kReads) {
      read_stream(pages, pipes[0], pipes[1], read_all);
      read_stream(pages, sockets[0], sockets[1], read_all);
    }
    read_stream(pages, sockets[0], sockets[1], [](int fd, iovec* v, int n) {
      msghdr m{};
      m.msg_iov = v;
      m.msg_iovlen = static_cast<std::size_t>(n);
      return recvmsg(fd, &m, 0);
    });
  }
}

// ---- A write that waits, and is interrupted while the rest of its pages are out.

void interrupted_writes(int rounds) {
  struct sigaction action {};
  action.sa_handler = [](int) {};
  action.sa_flags = SA_RESTART;
  CHECK(sigaction(SIGUSR2, &action, nullptr) == 0);
  int ends[2];
  CHECK(pipe(ends) == 0);
  char* const pages = map(4 * kMiB);
  std::memset(pages, 3, 4 * kMiB);
  const pthread_t writer = pthread_self();
  for (int i = 0; i < rounds; ++i) {
    std::atomic<bool> is_over{false};
    std::thread other([&] {
      // All of it is full, and waits.
      for (pollfd room{ends[1], POLLOUT, 0}; poll(&room, 1, 0) != 0;) usleep(100);
      usleep(2000);
      page_out(pages, 4 * kMiB);
      // It might not have begun to wait: then once more.
      while (!is_over) {
        pthread_kill(writer, SIGUSR2);
        usleep(20000);
      }
    });
    const ssize_t written = write(ends[1], pages, 4 * kMiB);
    is_over = true;
    other.join();
    EXPECT(written > 0 && written < static_cast<ssize_t>(4 * kMiB));
    static char taken[kMiB];
    for (ssize_t left = written; left > 0;) left -= read(ends[0], taken, sizeof taken);
  }
}

// ---- Structures in static data, which need not stay as it is.

alignas(kPage) char static_data[4 * kPage];

void structures_in(char* p) {
  const int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
  auto* const vector = new (p) iovec[2]{{p + 512, 1}, {p + 600, 2}};
  auto* const set = new (p + 128) sigset_t;
  sigemptyset(set);
  sigaddset(set, SIGUSR2);
  const auto all_answer = [&](bool can_read, bool can_write) {
    EXPECT(writev(null, vector, 2) == (can_read ? 3 : -1));
    EXPECT(can_read || errno == EFAULT);
    // Libc's own function would look at the set itself.
    std::uint64_t here = 0;
    EXPECT(syscall(SYS_rt_sigprocmask, SIG_BLOCK, set, &here, 8) == (can_read ? 0 : -1));
    EXPECT(can_read || errno == EFAULT);
    EXPECT(syscall(SYS_rt_sigprocmask, SIG_SETMASK, &here, set, 8) == (can_write ? 0 : -1));
    EXPECT(can_write || errno == EFAULT);
  };
  all_answer(true, true);
  EXPECT(sigismember(set, SIGUSR2) == 1);
  CHECK(mprotect(p, kPage, PROT_READ) == 0);
  all_answer(true, false);
  CHECK(mprotect(p, kPage, PROT_NONE) == 0);
  all_answer(false, false);
  CHECK(mprotect(p, kPage, PROT_READ | PROT_WRITE) == 0);
  all_answer(true, true);
  CHECK(munmap(p, kPage) == 0);
  all_answer(false, false);
  // As libc does it, without its names.
  CHECK(syscall(SYS_mmap, p, kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED,
                -1, 0) == reinterpret_cast<long>(p));
  close(null);
}
void static_structures() {
  structures_in(static_data + kPage);
  void* const m =
      mmap(nullptr, 4 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(m != MAP_FAILED);
  structures_in(static_cast<char*>(m) + kPage);
}

// ---- Large buffers, in which little arrives.

using Receive = ssize_t (*)(int fd, iovec* all);

void receive_into_large(int from, int to, Receive receive) {
  constexpr std::size_t kMostPages = 4;
  char message[100];
  std::memset(message, 5, sizeof message);
  char* const buffer = map(kMiB);
  (void)madvise(buffer, kMiB, MADV_NOHUGEPAGE);
  CHECK(write(to, message, sizeof message) == sizeof message);
  iovec all{buffer, kMiB};
  EXPECT(receive(from, &all) == sizeof message);
  EXPECT(resident_pages(buffer, kMiB) <= kMostPages);
  EXPECT(std::memcmp(buffer, message, sizeof message) == 0);
  CHECK(munmap(buffer, kMiB) == 0);
}

void large_buffers() {
  const Receive with_read = [](int fd, iovec* all) {
    return read(fd, all->iov_base, all->iov_len);
  };
  const Receive with_readv = [](int fd, iovec* all) { return readv(fd, all, 1); };
  const Receive with_recv = [](int fd, iovec* all) {
    return recv(fd, all->iov_base, all->iov_len, 0);
  };
  const Receive with_recvmsg = [](int fd, iovec* all) {
    msghdr m{};
    m.msg_iov = all;
    m.msg_iovlen = 1;
    return recvmsg(fd, &m, 0);
  };
  for (const int type : {SOCK_DGRAM, SOCK_STREAM, SOCK_SEQPACKET}) {
    int sockets[2];
    CHECK(socketpair(AF_UNIX, type, 0, sockets) == 0);
    for (const Receive receive : {with_read, with_readv, with_recv, with_recvmsg})
      receive_into_large(sockets[0], sockets[1], receive);
    close(sockets[0]);
    close(sockets[1]);
  }
  int pipes[2];
  CHECK(pipe(pipes) == 0);
  for (const Receive receive : {with_read, with_readv})
    receive_into_large(pipes[0], pipes[1], receive);
}

// ---- One call for much more than the budget.

void large_transfers(std::size_t mib) {
  const char* const folder = std::getenv("TMPDIR");
  std::string name = std::string(folder != nullptr ? folder : "/var/tmp") + "/gate_threads.XXXXXX";
  const int fd = mkstemp(name.data());
  CHECK(fd >= 0);
  unlink(name.c_str());
  const std::size_t bytes = mib * kMiB;
  char* const pages = map(bytes);
  for (std::size_t i = 0; i < bytes / kPage; ++i) stamp(pages + i * kPage, i, 1);
  EXPECT(write(fd, pages, bytes) == static_cast<ssize_t>(bytes));
  CHECK(munmap(pages, bytes) == 0);
  char* const again = map(bytes);
  EXPECT(lseek(fd, 0, SEEK_SET) == 0);
  EXPECT(read(fd, again, bytes) == static_cast<ssize_t>(bytes));
  for (std::size_t i = 0; i < bytes / kPage; ++i) check_stamp(again + i * kPage, i, 1);
  iovec v[2] = {{again, bytes / 2}, {again + bytes / 2, bytes / 2}};
  EXPECT(pwritev(fd, v, 2, 4096) == static_cast<ssize_t>(bytes));
  CHECK(munmap(again, bytes) == 0);
  char* const last = map(bytes);
  v[0].iov_base = last;
  v[1].iov_base = last + bytes / 2;
  EXPECT(preadv(fd, v, 2, 4096) == static_cast<ssize_t>(bytes));
  for (std::size_t i = 0; i < bytes / kPage; ++i) check_stamp(last + i * kPage, i, 1);
  CHECK(munmap(last, bytes) == 0);
  close(fd);
}

// ---- A stream and a log that several write to: what is written at once stays together.

void appended_records(int rounds) {
  char name[] = "/tmp/gate_threads.XXXXXX";
  const int made = mkstemp(name);
  close(made);
  const int fd = open(name, O_RDWR | O_APPEND);
  unlink(name);
  constexpr std::size_t kRecord = std::size_t{48} << 10;
  constexpr int kThreads = 3;
  char* const pages = map(4 * kMiB);
  for (int t = 0; t < kThreads; ++t)
    std::memset(pages + static_cast<std::size_t>(t) * kMiB, 'a' + t, kRecord);
  {
    std::vector<std::thread> threads;
    for (int t = 0; t < kThreads; ++t)
      threads.emplace_back([=] {
        char* const record = pages + static_cast<std::size_t>(t) * kMiB;
        for (int i = 0; i < rounds; ++i) {
          page_out(record, kRecord);
          EXPECT(write(fd, record, kRecord) == static_cast<ssize_t>(kRecord));
        }
      });
    for (std::thread& t : threads) t.join();
  }
  std::vector<char> record(kRecord);
  int broken = 0;
  for (int i = 0; i < rounds * kThreads; ++i) {
    CHECK(pread(fd, record.data(), kRecord, static_cast<off_t>(i) * static_cast<off_t>(kRecord)) ==
          static_cast<ssize_t>(kRecord));
    for (const char c : record)
      if (c != record[0]) {
        ++broken;
        break;
      }
  }
  EXPECT(broken == 0);
  close(fd);
}

// ---- A library of its own system calls, opened late: OpenMP's runtime, which waits by futex.

struct Team {
  void (*barrier)();
  char* pages;
  std::size_t count;
  std::atomic<std::size_t> next{0};
};

void openmp(int rounds) {
  setenv("OMP_WAIT_POLICY", "passive", 1);
  setenv("GOMP_SPINCOUNT", "0", 1);
  void* const library = dlopen("libgomp.so.1", RTLD_NOW);
  if (library == nullptr) return;
  const auto parallel = reinterpret_cast<void (*)(void (*)(void*), void*, unsigned, unsigned)>(
      dlsym(library, "GOMP_parallel"));
  Team team;
  team.barrier = reinterpret_cast<void (*)()>(dlsym(library, "GOMP_barrier"));
  team.count = 512;
  team.pages = map(team.count * kPage);
  for (std::size_t i = 0; i < team.count; ++i) stamp(team.pages + i * kPage, i, 0);
  const Evictor evictor(team.pages, team.count * kPage);
  for (int i = 0; i < rounds; ++i) {
    team.next = 0;
    parallel(
        [](void* raw) {
          Team& t = *static_cast<Team*>(raw);
          for (int phase = 0; phase < 5; ++phase) {
            for (int k = 0; k < 8; ++k) {
              const std::size_t page = t.next.fetch_add(1) % t.count;
              check_stamp(t.pages + page * kPage, page, 0);
            }
            t.barrier();
          }
        },
        &team, 4, 0);
    EXPECT(team.next == 4 * 5 * 8);
  }
}

// ---- A thread that forbids itself what the gate would like to ask.

bool forbid(std::initializer_list<int> numbers) {
  std::vector<sock_filter> code;
  code.push_back(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)));
  for (const int n : numbers) {
    code.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<unsigned>(n), 0, 1));
    code.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM));
  }
  code.push_back(BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
  const sock_fprog program{static_cast<unsigned short>(code.size()), code.data()};
  return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
         prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0) == 0;
}

void filtered() {
  std::thread([] {
    char* const pages = map(kMiB);
    int sockets[2];
    CHECK(socketpair(AF_UNIX, SOCK_DGRAM, 0, sockets) == 0);
    const int events = eventfd(0, 0);
    if (!EXPECT(forbid({SYS_fstat, SYS_newfstatat, SYS_statx, SYS_fstatfs, SYS_getsockopt,
                        SYS_process_vm_readv, SYS_process_vm_writev, SYS_getpid, SYS_gettid,
                        SYS_get_robust_list, SYS_fcntl, SYS_ppoll, SYS_openat, SYS_open,
                        SYS_sigaltstack, SYS_rt_tgsigqueueinfo, SYS_prctl, SYS_membarrier})))
      return;
    for (std::uint64_t i = 1; i < 200; ++i) {
      auto* const value = reinterpret_cast<std::uint64_t*>(pages + 5 * kPage);
      *value = i;
      page_out(pages, kMiB);
      EXPECT(write(events, value, 8) == 8);
      page_out(pages, kMiB);
      EXPECT(read(events, value, 8) == 8 && *value == i);
      char* const message = pages + 20 * kPage;
      std::memset(message, static_cast<int>(i), 5000);
      page_out(pages, kMiB);
      EXPECT(write(sockets[1], message, 5000) == 5000);
      char* const to = pages + 60 * kPage;
      page_out(pages, kMiB);
      EXPECT(read(sockets[0], to, 9000) == 5000 && std::memcmp(to, message, 5000) == 0);
      EXPECT(send(sockets[1], message, 5000, 0) == 5000);
      iovec v{to, 9000};
      msghdr m{};
      m.msg_iov = &v;
      m.msg_iovlen = 1;
      page_out(pages, kMiB);
      EXPECT(recvmsg(sockets[0], &m, 0) == 5000 && std::memcmp(to, message, 5000) == 0);
    }
  }).join();
}

}  // namespace

int main(int argc, char** argv) {
  const std::string only = argc > 1 ? argv[1] : "all";
  const std::size_t mib = argument(argc, argv, 2, 128);
  const auto part = [&](const char* name, auto body) {
    if (only == "all" || only == name) body();
  };
  part("cancel", [] { cancelled(120); });
  part("robust", [] { locks_of_the_dead(4); });
  part("inherit", [] { inherited_locks_of_the_dead(4); });
  if (only == "buffers") large_buffers();  // a handler thread brings in more
  part("streams", [] { streams(100); });
  part("interrupted", [] { interrupted_writes(5); });
  part("static", static_structures);
  part("bare", [] { bare_threads(20); });
  part("processes", [] { processes(15); });
  part("wait", [] { thousands_wait(2000); });
  part("append", [] { appended_records(100); });
  part("openmp", [] { openmp(200); });
  part("filter", [] { filtered(); });
  part("large", [&] { large_transfers(mib); });
  return result("gate_threads");
}
