// Calls on processes, identities, signals and scheduling.
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <array>
#include <vector>

#include "gate/calls_testing.h"

namespace buoy::gate::calls {
namespace {

void nothing(int) {}

std::uint64_t bit_of(int signal) { return 1ULL << (signal - 1); }

void block(int signal) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, signal);
  sigprocmask(SIG_BLOCK, &set, nullptr);
}
void take_pending(long = 0) {
  const timespec now{};
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGUSR1);
  while (sigtimedwait(&set, nullptr, &now) > 0) {
  }
}

NamedCall simple(long number, std::vector<Argument> arguments, unsigned loose = 0) {
  return {number, [=] { return Call{arguments, {}, {}, loose}; }};
}

// ---------------------------------------------------------------- processes

void make_zombie() {
  const pid_t child = fork();
  if (child == 0) _exit(3);
  siginfo_t info;
  waitid(P_PID, static_cast<id_t>(child), &info, WEXITED | WNOWAIT);
}
void reap(long = 0) {
  while (waitpid(-1, nullptr, WNOHANG) > 0) {
  }
}

Call wait_for_child() {
  return {.arguments = {-1, room(4), 0, room(144)},
          .before = make_zombie,
          .after = reap,
          .same_result = false};
}
Call wait_for_id() { return {{P_ALL, 0, room(28), WEXITED, room(144)}, make_zombie, reap}; }

// A file that may be executed and is no program: everything is read, then ENOEXEC.
std::string no_program() {
  const int fd = open("garbage", O_WRONLY | O_CREAT, 0755);
  const bool written = write(fd, "\x01\x02\x03\x04", 4) == 4;
  close(fd);
  return written ? "garbage" : "";
}
Argument two_strings(std::uint8_t* page) {
  char* end = reinterpret_cast<char*>(page) + kPageBytes;
  std::memcpy(end - 10, "one\0other", 10);
  return copy_of(std::array<char*, 3>{end - 10, end - 6, nullptr});
}
Call execute() {
  std::uint8_t* page = own_page();
  return {.arguments = {text(no_program()), two_strings(page), two_strings(page)}, .inner = page};
}
Call execute_at() {
  Call c = execute();
  c.arguments.insert(c.arguments.begin(), AT_FDCWD);
  c.arguments.emplace_back(0);
  return c;
}

Call copy_through() {
  std::uint8_t* page = own_page();
  std::uint8_t* data = page + kPageBytes - 64;
  auto* more = lasting(std::array<char, 64>{});
  const Argument local = copy_of(std::array<iovec, 2>{iovec{data, 30}, iovec{data + 30, 34}});
  const Argument remote = copy_of(std::array<iovec, 1>{iovec{more, 64}});
  return {.arguments = {getpid(), local, 2, remote, 1, 0}, .inner = page};
}

// Refused for its flags, which is seen when it has been read.
Call refused_clone() {
  struct {
    std::uint64_t flags = ~0ULL;
    std::uint64_t more[10] = {};
  } request;
  return {{copy_of(request), static_cast<long>(sizeof request)}};
}

Call limits() {
  rlimit now{};
  getrlimit(RLIMIT_CORE, &now);
  return {{0, RLIMIT_CORE, copy_of(now), room(16)}};
}
Call set_limit() {
  rlimit now{};
  getrlimit(RLIMIT_CORE, &now);
  return {{RLIMIT_CORE, copy_of(now)}};
}

// Written only if its version is unknown.
Argument capability_header() {
  return copy_of(__user_cap_header_struct{.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0});
}

Call groups() {
  const int count = getgroups(0, nullptr);
  return {{count + 1, room(4 * static_cast<std::size_t>(count + 1))}};
}

// ---------------------------------------------------------------- signals

// As the kernel has it.
struct Action {
  void (*handler)(int);
  unsigned long flags;
  void (*restorer)();
  std::uint64_t mask;
};

Call set_action() { return {{SIGUSR2, copy_of(Action{SIG_IGN, 0, nullptr, 0}), room(32), 8}}; }
Call set_mask() { return {{SIG_BLOCK, copy_of(std::uint64_t{0}), room(8), 8}}; }
Call take_signal() {
  block(SIGUSR1);
  return {{copy_of(bit_of(SIGUSR1)), room(128), copy_of(timespec{1, 0}), 8},
          [] { raise(SIGUSR1); },
          take_pending};
}

// With a code that is no known one, so that the kernel looks at all the bytes.
Argument odd_information() {
  siginfo_t info{};
  info.si_signo = SIGUSR1;
  info.si_code = 99;
  return copy_of(info);
}
Call queue_signal() {
  block(SIGUSR1);
  return {{getpid(), SIGUSR1, odd_information()}, {}, take_pending};
}
Call queue_signal_to_thread() {
  block(SIGUSR1);
  return {{getpid(), gettid(), SIGUSR1, odd_information()}, {}, take_pending};
}
Call signal_by_descriptor() {
  block(SIGUSR1);
  const int fd = static_cast<int>(syscall(SYS_pidfd_open, getpid(), 0));
  return {{fd, SIGUSR1, odd_information(), 0}, {}, take_pending};
}
Call suspend() {
  block(SIGUSR1);
  signal(SIGUSR1, nothing);
  return {{room(8), 8}, [] { raise(SIGUSR1); }, take_pending};
}
Call alternate_stack() {
  stack_t stack{};
  stack.ss_flags = SS_DISABLE;
  return {{copy_of(stack), room(24)}};
}

// ---------------------------------------------------------------- scheduling

constexpr std::size_t kMaskBytes = 128;

Call set_affinity() {
  std::vector<std::uint8_t> mask(kMaskBytes);
  syscall(SYS_sched_getaffinity, 0, mask.size(), mask.data());
  // Of a mask that is longer than the kernel's own, the rest is not looked at.
  return {{0, 8, Argument({mask.begin(), mask.begin() + 8})}};
}

struct SchedulingAttributes {
  std::uint32_t size = 48, policy = 0;
  std::uint64_t flags = 0;
  std::int32_t nice = 0;
  std::uint32_t priority = 0;
  std::uint64_t times[3] = {};
};

struct Waiter {
  std::uint64_t value;
  const void* address;
  std::uint32_t flags, spare;
};
constexpr std::uint32_t kWord = 2 | 128;  // FUTEX2_SIZE_U32, FUTEX2_PRIVATE

// For the word at the end of the page, which is zero.
Waiter waiter(const std::uint8_t* page, std::uint64_t value) {
  return {value, page + kPageBytes - 4, kWord, 0};
}
Call wait_for_many() {
  const std::uint8_t* other = own_page();
  std::uint8_t* page = own_page();
  return {.arguments = {copy_of(std::array<Waiter, 2>{waiter(page, 0), waiter(other, 1)}), 2, 0,
                        copy_of(timespec{1, 0}), CLOCK_MONOTONIC},
          .inner = page};
}
Call requeue() {
  std::uint8_t* page = own_page();
  const std::uint8_t* other = own_page();
  return {.arguments = {copy_of(std::array<Waiter, 2>{waiter(page, 0), waiter(other, 0)}), 0, 1, 1},
          .inner = page};
}

}  // namespace

Calls process_calls() {
  const Argument id = room(4);
  return {
      {13, set_action},
      {14, set_mask},
      {59, execute},
      {61, wait_for_child},
      simple(63, {room(390)}),
      simple(97, {RLIMIT_CORE, room(16)}),
      simple(98, {RUSAGE_SELF, room(144)}),
      simple(99, {room(112)}),
      {115, groups},
      simple(118, {id, id, id}),
      simple(120, {id, id, id}),
      simple(125, {capability_header(), room(24)}, 1),
      simple(126, {capability_header(), room(24)}, 1),
      simple(127, {room(8), 8}),
      {128, take_signal},
      {129, queue_signal},
      {130, suspend},
      {131, alternate_stack},
      simple(142, {0, room(4)}),
      simple(143, {0, room(4)}),
      simple(144, {0, SCHED_OTHER, room(4)}),
      simple(148, {0, room(16)}),
      {160, set_limit},
      {203, set_affinity},
      simple(204, {0, kMaskBytes, room(kMaskBytes)}),
      {247, wait_for_id},
      simple(274, {0, room(8), room(8)}),
      {297, queue_signal_to_thread},
      {302, limits},
      simple(309, {room(4), room(4), 0}),
      {310, copy_through},
      {311, copy_through},
      simple(314, {0, copy_of(SchedulingAttributes{}), 0}),
      simple(315, {0, room(56), 56, 0}),
      {322, execute_at},
      {424, signal_by_descriptor},
      {435, refused_clone},
      {449, wait_for_many},
      // A word has to be aligned, so that none ends one byte behind the end of memory.
      simple(455, {room(4), 1, ~0U, kWord, copy_of(timespec{1, 0}), CLOCK_MONOTONIC}, 1),
      {456, requeue},
  };
}

}  // namespace buoy::gate::calls
