#include "preload/forked_clone.h"

#include <linux/sched.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstring>

#include "base/sys.h"
#include "base/units.h"
#include "preload/kernel_result.h"
#include "preload/runtime.h"
#include "preload/stats_at_exit.h"

namespace buoy::preload {
namespace {

// Deep enough for the engine's fork work, which is iterative; its ranges are in its own slabs.
constexpr std::size_t kForkStackBytes = std::size_t{64} << 10;
alignas(kPageSize) constinit std::byte fork_stack[kForkStackBytes] = {};

// 0 free, 1 held, 2 held and waited for. Without a rank: the program's memory is touched, and faults,
// while it is held, and nobody takes it who holds anything.
constinit std::atomic<std::uint32_t> fork_lock{0};

void lock_fork() {
  std::uint32_t seen = 0;
  if (fork_lock.compare_exchange_strong(seen, 1)) return;
  while (fork_lock.exchange(2) != 0) sys::futex_wait(&fork_lock, 2);
}

void unlock_fork() {
  if (fork_lock.exchange(0) == 2) sys::futex_wake(&fork_lock, 1);
}

// clone3's arguments, as far as this file must know them, and room for what later kernels add.
struct Clone3Arguments {
  std::uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls;
  std::uint64_t more[24];
};
constexpr std::size_t kClone3Minimum = 64;

// A clone whose memory operands are ours: while the gate is closed, the kernel must not fault on
// the program's, and in the child not before its memory is set up. What the kernel would have
// stored, deliver() and deliver_in_child() store.
class PreparedClone {
 public:
  explicit PreparedClone(const CloneCall& call) : call_(call) {
    if (call.number == SYS_clone) {
      // The parent would wait for the child's exec with the gate closed.
      call_.arguments[0] &= ~static_cast<long>(CLONE_VFORK | CLONE_CHILD_SETTID);
      if ((call.arguments[0] & CLONE_CHILD_SETTID) != 0)
        child_word_ = reinterpret_cast<int*>(call.arguments[3]);  // NOLINT
      if ((call.arguments[0] & (CLONE_PARENT_SETTID | CLONE_PIDFD)) == 0) return;
      program_word_ = reinterpret_cast<int*>(call.arguments[2]);  // NOLINT
      call_.arguments[2] = sys::ptr(&word_);
    } else if (call.number == SYS_clone3) {
      const auto size = std::min(static_cast<std::size_t>(call.arguments[1]), sizeof clone3_);
      std::memcpy(&clone3_, reinterpret_cast<const void*>(call.arguments[0]), size);  // NOLINT
      call_.arguments[0] = sys::ptr(&clone3_);
      if ((clone3_.flags & CLONE_CHILD_SETTID) != 0)
        child_word_ = reinterpret_cast<int*>(clone3_.child_tid);  // NOLINT
      clone3_.flags &= ~static_cast<std::uint64_t>(CLONE_VFORK | CLONE_CHILD_SETTID);
      if ((clone3_.flags & CLONE_PARENT_SETTID) != 0) {
        program_word_ = reinterpret_cast<int*>(clone3_.parent_tid);  // NOLINT
        clone3_.parent_tid = reinterpret_cast<std::uint64_t>(&word_);
      }
      if ((clone3_.flags & CLONE_PIDFD) != 0) {
        program_pidfd_ = reinterpret_cast<int*>(clone3_.pidfd);  // NOLINT
        clone3_.pidfd = reinterpret_cast<std::uint64_t>(&pidfd_);
      }
    }
  }
  PreparedClone(const PreparedClone&) = delete;
  PreparedClone& operator=(const PreparedClone&) = delete;

  [[nodiscard]] long make() const {
    return sys::call(call_.number, call_.arguments[0], call_.arguments[1], call_.arguments[2],
                     call_.arguments[3], call_.arguments[4]);
  }
  // Once the gate is open again: what the kernel wrote goes where the program wanted it.
  void deliver() const {
    if (program_word_ != nullptr) *program_word_ = word_;
    if (program_pidfd_ != nullptr) *program_pidfd_ = pidfd_;
  }
  void deliver_in_child() const {
    deliver();
    if (child_word_ != nullptr) *child_word_ = sys::gettid();
  }

 private:
  CloneCall call_;
  Clone3Arguments clone3_{};
  int word_ = 0;
  int pidfd_ = 0;
  int* program_word_ = nullptr;
  int* program_pidfd_ = nullptr;
  int* child_word_ = nullptr;  // CLONE_CHILD_SETTID
};

// Runs a function on the fork stack, one thread at a time. Signals are blocked.
long on_fork_stack(long (*body)(const void* argument), const void* argument) {
  lock_fork();
  const long r = sys::on_stack(body, argument, fork_stack + kForkStackBytes);
  unlock_fork();
  return r;
}

// ---- A child on a copy of the caller's stack ---------------------------------------------------

long clone_and_set_up(const void* argument) {
  const PreparedClone clone(*static_cast<const CloneCall*>(argument));
  if (const Status s = before_fork(); !s) return kernel_result(s);
  const long r = clone.make();
  if (r == 0) {
    fork_lock.store(1);  // those who waited for it do not exist here
    after_fork_in_child();
    clone.deliver_in_child();
  } else {
    after_fork_in_parent(r);
    if (r > 0) clone.deliver();
  }
  return r;
}

// ---- A child on a stack of its own -------------------------------------------------------------

struct StackCloneCall {
  const CloneWithStack* request;
  std::uint64_t mask;
};

// On the program's stack, and not back: the fork stack is for the child's own forks now.
long run_child(const void* raw) {
  const CloneWithStack request = *static_cast<const CloneWithStack*>(raw);
  fork_lock.store(0);
  const int status = request.body(request.argument);
  // libc would end this thread; the engine's threads beside it would keep the process.
  write_stats_at_exit();
  for (;;) sys::call(SYS_exit_group, status);
}

// The child runs on its copy of this very stack until its memory is set up: the program's, which
// may be managed, is touched by nobody before, neither here nor by the kernel.
long clone_child_with_stack(const void* raw) {
  const auto& call = *static_cast<const StackCloneCall*>(raw);
  const CloneWithStack request = *call.request;
  int word = 0;
  const bool wants_word = (request.flags & (CLONE_PARENT_SETTID | CLONE_PIDFD)) != 0;
  const bool wants_child_word = (request.flags & CLONE_CHILD_SETTID) != 0;
  const long flags = request.flags & ~(CLONE_VFORK | CLONE_CHILD_SETTID);
  if (const Status s = before_fork(); !s) return kernel_result(s);
  const long pid = sys::call(SYS_clone, flags, 0, sys::ptr(&word), sys::ptr(request.child_word),
                             sys::ptr(request.tls));
  if (pid != 0) {
    after_fork_in_parent(pid);
    if (pid > 0 && wants_word) *request.parent_word = word;
    return pid;
  }
  after_fork_in_child();
  if (wants_child_word) *request.child_word = sys::gettid();
  sys::call(SYS_rt_sigprocmask, SIG_SETMASK, sys::ptr(&call.mask), 0, sizeof call.mask);
  auto top = reinterpret_cast<std::uintptr_t>(request.stack) & ~std::uintptr_t{15};
  return sys::on_stack(run_child, &request, reinterpret_cast<void*>(top));
}

}  // namespace

bool copies_address_space(long number, const long* arguments) {
  if (number == SYS_fork) return true;
  if (number == SYS_clone) return (arguments[0] & CLONE_VM) == 0;
  if (number != SYS_clone3 || arguments[1] < static_cast<long>(kClone3Minimum)) return false;
  const auto* a = reinterpret_cast<const Clone3Arguments*>(arguments[0]);  // NOLINT
  return (a->flags & CLONE_VM) == 0;
}

long forked_clone(const CloneCall& call) {
  if (call.number == SYS_clone && call.arguments[1] != 0) return -EINVAL;
  if (call.number == SYS_clone3) {
    const auto* a = reinterpret_cast<const Clone3Arguments*>(call.arguments[0]);  // NOLINT
    if (a->stack != 0) return -EINVAL;
  }
  return on_fork_stack(clone_and_set_up, &call);
}

long forked_clone_with_stack(const CloneWithStack& request) {
  StackCloneCall call{&request, 0};
  const std::uint64_t all = ~std::uint64_t{0};
  sys::call(SYS_rt_sigprocmask, SIG_SETMASK, sys::ptr(&all), sys::ptr(&call.mask), sizeof all);
  const long r = on_fork_stack(clone_child_with_stack, &call);
  sys::call(SYS_rt_sigprocmask, SIG_SETMASK, sys::ptr(&call.mask), 0, sizeof call.mask);
  return r;
}

}  // namespace buoy::preload
