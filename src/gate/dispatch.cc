#include "gate/dispatch.h"

#include <linux/sched.h>
#include <sched.h>
#include <sys/prctl.h>

#include <atomic>
#include <cerrno>

#include "base/sys.h"
#include "gate/call.h"
#include "gate/clone_thunk.h"
#include "gate/entry.h"
#include "gate/parts.h"
#include "gate/signals.h"
#include "gate/thread.h"

namespace buoy::gate::dispatch {

namespace {

constexpr long kSetDispatch = 59;  // PR_SET_SYSCALL_USER_DISPATCH
constexpr long kOff = 0;
constexpr long kOn = 1;
constexpr int kDispatched = 2;  // si_code SYS_USER_DISPATCH

constinit CodeRange passed;
constinit std::atomic<bool> wanted{false};
thread_local constinit bool is_armed = false;

// A call has one as long as it is under way; a handler that interrupts it may make more. One that is
// left for good (a handler jumps out of it) keeps its own; where none is free, a call runs on the
// program's stack.
constexpr unsigned kStacks = 4;
constexpr std::size_t kStackBytes = std::size_t{64} << 10;
struct CallStacks {
  std::byte* base = nullptr;
  DispatchedCall calls[kStacks];
};
thread_local constinit CallStacks stacks;

void make_stacks() {
  if (stacks.base != nullptr) return;
  const long got = sys::call(SYS_mmap, 0, kStacks * kStackBytes, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
  if (got < 0) return;
  stacks.base = reinterpret_cast<std::byte*>(got);  // NOLINT(performance-no-int-to-ptr)
}

struct CallPlace {
  DispatchedCall* call;
  std::uintptr_t stack;
};

CallPlace place_for_call(std::uintptr_t sp) {
  const auto base = reinterpret_cast<std::uintptr_t>(stacks.base);
  for (unsigned i = 0; i < kStacks; ++i)
    if (stacks.calls[i].is_under_way == 0) return {&stacks.calls[i], base + (i + 1) * kStackBytes};
  constexpr std::uintptr_t kRedZone = 128;
  const std::uintptr_t below = (sp - kRedZone - sizeof(DispatchedCall)) & ~std::uintptr_t{15};
  return {reinterpret_cast<DispatchedCall*>(below), below};  // NOLINT(performance-no-int-to-ptr)
}

// Does it share memory with its child? Then both sides go on at the call itself.
bool shares_memory(Memory& memory, long number, const long* a) {
  if (number == SYS_vfork) return true;
  if (number == SYS_clone) return (a[0] & CLONE_VM) != 0;
  if (number != SYS_clone3) return false;
  std::uint64_t flags = 0;
  return read_program(memory, &flags, {static_cast<std::uintptr_t>(a[0]), sizeof flags}) &&
         (flags & CLONE_VM) != 0;
}

}  // namespace

void allow(CodeRange range) { passed = range; }
bool is_wanted() { return wanted.load(std::memory_order_relaxed); }

Status want() {
  if (is_wanted()) return {};
  // Tried, before there is a handler for it, on nothing: everything passes.
  const long rc = sys::call(SYS_prctl, kSetDispatch, kOn, 0, -1, 0);
  if (rc != 0) return Error{static_cast<int>(-rc)};
  sys::call(SYS_prctl, kSetDispatch, kOff, 0, 0, 0);
  thread::prepare(*memory_if_set());
  signals::catch_dispatched();
  wanted.store(true, std::memory_order_release);
  arm_thread();
  return {};
}

void arm_thread() {
  // Only where the signal arrives on a stack of ours.
  if (!is_wanted() || is_armed || thread::own_stack().empty()) return;
  make_stacks();
  if (stacks.base == nullptr) return;
  signals::open_dispatched();
  is_armed = sys::call(SYS_prctl, kSetDispatch, kOn, static_cast<long>(passed.begin),
                       static_cast<long>(passed.bytes()), 0) == 0;
}

std::uintptr_t stack_of_program(std::uintptr_t sp) {
  const auto base = reinterpret_cast<std::uintptr_t>(stacks.base);
  if (base == 0 || sp <= base || sp - base > kStacks * kStackBytes) return sp;
  return stacks.calls[(sp - base - 1) / kStackBytes].stack_pointer;
}

void before_exit() {
  if (stacks.base == nullptr || !thread::has_own_storage()) return;
  sys::call(SYS_munmap, sys::ptr(stacks.base), kStacks * kStackBytes);
  stacks = CallStacks();
}

void after_fork_in_child() {
  is_armed = false;
  arm_thread();
}

bool redirect(SignalFrame& frame) {
  if (frame.info.si_code != kDispatched) return false;
  Memory& memory = *memory_if_set();
  memory.count(Event::gate_dispatched);
  greg_t* const regs = frame.context.registers;
  const long number = regs[REG_RAX];
  const long a[6] = {regs[REG_RDI], regs[REG_RSI], regs[REG_RDX],
                     regs[REG_R10], regs[REG_R8],  regs[REG_R9]};
  const auto resume = static_cast<std::uintptr_t>(regs[REG_RIP]);
  if (number == SYS_rt_sigreturn) {
    regs[REG_RIP] = sys::ptr(buoy_signal_sigreturn);
    return true;
  }
  if (shares_memory(memory, number, a)) {
    thread::hold_for_new_thread(memory, number, a);
    const char* const thunk = clone_thunk_for(resume);
    if (thunk == nullptr)
      regs[REG_RAX] = -EAGAIN;
    else
      regs[REG_RIP] = sys::ptr(thunk);
    return true;
  }
  const CallPlace place = place_for_call(static_cast<std::uintptr_t>(regs[REG_RSP]));
  place.call->stack_pointer = static_cast<std::uintptr_t>(regs[REG_RSP]);
  place.call->is_under_way = 1;
  // The two registers that a system call does not keep.
  regs[REG_R11] = static_cast<greg_t>(resume);
  regs[REG_RCX] = sys::ptr(place.call);
  regs[REG_RIP] = reinterpret_cast<greg_t>(&buoy_gate_enter_dispatched);
  regs[REG_RSP] = static_cast<greg_t>(place.stack);
  return true;
}

}  // namespace buoy::gate::dispatch
