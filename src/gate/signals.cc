#include "gate/signals.h"

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstring>

#include "base/sys.h"
#include "gate/call.h"
#include "gate/parts.h"
#include "mmu/signal_delivery.h"

namespace buoy::gate::signals {

namespace {

constexpr std::uint64_t kBusBit = std::uint64_t{1} << (SIGBUS - 1);
constexpr long kMaskBytes = sizeof(std::uint64_t);
constexpr auto kOnStack = static_cast<unsigned long>(SA_ONSTACK);

// Does the program believe that SIGBUS is blocked in this thread?
thread_local constinit bool believes_blocked = false;
constinit std::atomic<int> process_id{0};
// A bit for each signal in whose handler's mask the program has put SIGBUS.
constinit std::atomic<std::uint64_t> in_handlers_mask{0};
// Does the program have an alternate stack, in any thread? As long as it does not, SA_ONSTACK means
// nothing: but to the kernel every thread has one, ours, where its handlers have no business. So the
// flag is left out, and kept here: a bit for each signal.
constinit std::atomic<bool> has_stacks{false};
constinit std::atomic<std::uint64_t> wants_stack{0};

struct MaskArgument {
  int index = -1;  // -1: none
  bool is_pair = false;
};
MaskArgument mask_argument(long number) {
  switch (number) {
    case SYS_rt_sigsuspend:
      return {0, false};
    case SYS_ppoll:
      return {3, false};
    case SYS_epoll_pwait:
    case SYS_epoll_pwait2:
      return {4, false};
    case SYS_pselect6:
      return {5, true};
    default:
      return {};
  }
}

Bytes at(long address, std::size_t length) {
  return {static_cast<std::uintptr_t>(address), length};
}

long store(Memory& memory, long address, const void* from, std::size_t length) {
  return write_program(memory, at(address, length), from) ? 0 : -EFAULT;
}

// A vfork child runs in our memory, but its actions are its own, and end with its exec.
bool is_own_process() {
  return sys::call(SYS_getpid) == process_id.load(std::memory_order_relaxed);
}

long set_thread_mask(Memory& memory, const long* a) {
  std::uint64_t set = 0;
  if (a[3] != kMaskBytes) return -EINVAL;
  if (a[1] != 0 && !read_program(memory, &set, at(a[1], sizeof set))) return -EFAULT;
  const bool had_bus = (set & kBusBit) != 0;
  const bool did_believe = believes_blocked;
  std::uint64_t kernels = set & ~kBusBit;
  std::uint64_t old = 0;
  const long r = sys::call(SYS_rt_sigprocmask, a[0], a[1] != 0 ? sys::ptr(&kernels) : 0,
                           a[2] != 0 ? sys::ptr(&old) : 0, kMaskBytes);
  if (r != 0) return r;
  // A vfork child has this thread's storage, but a mask of its own.
  if (a[1] != 0 && is_own_process()) {
    if (a[0] == SIG_BLOCK) believes_blocked = did_believe || had_bus;
    if (a[0] == SIG_UNBLOCK) believes_blocked = did_believe && !had_bus;
    if (a[0] == SIG_SETMASK) believes_blocked = had_bus;
  }
  if (a[2] == 0) return 0;
  if (did_believe) old |= kBusBit;
  return store(memory, a[2], &old, sizeof old);
}

void set_bit(std::atomic<std::uint64_t>& bits, std::uint64_t bit, bool is_set) {
  if (is_set)
    bits.fetch_or(bit, std::memory_order_relaxed);
  else
    bits.fetch_and(~bit, std::memory_order_relaxed);
}

long set_action(Memory& memory, const long* a) {
  using mmu::KernelSigaction;
  if (a[3] != kMaskBytes) return -EINVAL;
  KernelSigaction fresh;
  KernelSigaction old;
  if (a[1] != 0 && !read_program(memory, &fresh, at(a[1], sizeof fresh))) return -EFAULT;
  const auto signal = static_cast<int>(a[0]);
  if (signal < 1 || signal > 64) return -EINVAL;
  const std::uint64_t bit = std::uint64_t{1} << (signal - 1);
  const bool has_bus = (fresh.mask & kBusBit) != 0;
  const bool had_bus = (in_handlers_mask.load(std::memory_order_relaxed) & bit) != 0;
  const KernelSigaction* const action = a[1] != 0 ? &fresh : nullptr;
  KernelSigaction* const before = a[2] != 0 ? &old : nullptr;
  fresh.mask &= ~kBusBit;
  long r = 0;
  const bool is_own = is_own_process();
  const bool is_fault_signal = signal == SIGBUS || signal == SIGSEGV;
  if (is_fault_signal && !is_own)
    return signal == SIGBUS ? 0 : sys::call(SYS_rt_sigaction, a[0], a[1], a[2], a[3]);
  const bool had_stack = (wants_stack.load(std::memory_order_relaxed) & bit) != 0;
  const bool has_stack = signal != SIGBUS && (fresh.flags & kOnStack) != 0 && !has_stacks.load();
  if (has_stack) fresh.flags &= ~kOnStack;
  if (signal == SIGBUS)
    r = mmu::signal_delivery::set_program_action(action, before);
  else if (signal == SIGSEGV)
    r = mmu::signal_delivery::set_program_segv_action(action, before);
  else
    r = sys::call(SYS_rt_sigaction, signal, sys::ptr(action), sys::ptr(before), kMaskBytes);
  if (r != 0) return r;
  if (action != nullptr && is_own) {
    set_bit(in_handlers_mask, bit, has_bus);
    set_bit(wants_stack, bit, has_stack);
  }
  if (before == nullptr) return 0;
  if (had_bus) old.mask |= kBusBit;
  if (had_stack) old.flags |= kOnStack;
  return store(memory, a[2], &old, sizeof old);
}

}  // namespace

void note_process() { process_id.store(static_cast<int>(sys::call(SYS_getpid))); }

void note_alternate_stack() {
  if (has_stacks.exchange(true)) return;
  const std::uint64_t wanted = wants_stack.exchange(0);
  for (int signal = 1; signal <= 64; ++signal) {
    if ((wanted >> static_cast<unsigned>(signal - 1) & 1U) == 0) continue;
    mmu::KernelSigaction action;
    sys::call(SYS_rt_sigaction, signal, 0, sys::ptr(&action), kMaskBytes);
    action.flags |= kOnStack;
    sys::call(SYS_rt_sigaction, signal, sys::ptr(&action), 0, kMaskBytes);
  }
}

bool has_mask(long number) {
  return number == SYS_rt_sigprocmask || number == SYS_rt_sigaction ||
         mask_argument(number).index >= 0;
}

long call_with_mask(Memory& memory, long number, const long* a) {
  if (number == SYS_rt_sigprocmask) return set_thread_mask(memory, a);
  if (number == SYS_rt_sigaction) return set_action(memory, a);
  const MaskArgument which = mask_argument(number);
  long changed[6];
  std::memcpy(changed, a, sizeof changed);
  std::uint64_t mask = 0;
  struct Pair {
    long set;
    std::size_t size;
  } pair{};
  long& argument = changed[which.index];
  if (argument != 0) {
    if (which.is_pair && !read_program(memory, &pair, at(argument, sizeof pair))) return -EFAULT;
    const long set = which.is_pair ? pair.set : argument;
    if (set != 0) {
      if (!read_program(memory, &mask, at(set, sizeof mask))) return -EFAULT;
      mask &= ~kBusBit;
      pair.set = sys::ptr(&mask);
      argument = which.is_pair ? sys::ptr(&pair) : sys::ptr(&mask);
    }
  }
  return Call(memory, number, changed).make();
}

}  // namespace buoy::gate::signals
