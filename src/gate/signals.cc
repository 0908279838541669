#include "gate/signals.h"

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <new>

#include "base/lock.h"
#include "base/signals.h"
#include "base/sys.h"
#include "gate/call.h"
#include "gate/parts.h"
#include "gate/signal_frame.h"

namespace buoy::gate::signals {

namespace {

constexpr long kMaskBytes = sizeof(std::uint64_t);
constexpr unsigned long kRestorer = 0x04000000;  // SA_RESTORER

// Are calls dispatched?
constinit std::atomic<bool> is_dispatched{false};

// One action, written under the lock, read by whoever is about to enter its handler.
class ActionSlot {
 public:
  [[nodiscard]] mmu::KernelSigaction load() const {
    for (;;) {
      const std::uint32_t before = version_.load(std::memory_order_acquire);
      std::uint64_t words[kWords];
      for (std::size_t i = 0; i < kWords; ++i) words[i] = words_[i].load(std::memory_order_acquire);
      if (before % 2 != 0 || version_.load(std::memory_order_relaxed) != before) continue;
      mmu::KernelSigaction action;
      std::memcpy(&action, words, sizeof action);
      return action;
    }
  }
  void store(const mmu::KernelSigaction& action) {
    std::uint64_t words[kWords];
    std::memcpy(words, &action, sizeof action);
    version_.fetch_add(1, std::memory_order_acq_rel);
    for (std::size_t i = 0; i < kWords; ++i) words_[i].store(words[i], std::memory_order_release);
    version_.fetch_add(1, std::memory_order_release);
  }
  // A writer that a fork child does not have may have been in the middle.
  void forget_writer() {
    if (version_.load(std::memory_order_relaxed) % 2 != 0) version_.fetch_add(1);
  }

 private:
  static constexpr std::size_t kWords = sizeof(mmu::KernelSigaction) / sizeof(std::uint64_t);
  std::atomic<std::uint32_t> version_{0};
  std::atomic<std::uint64_t> words_[kWords] = {};
};

// What the program has set for a signal. A handler of it is entered by buoy_signal_enter: that is what
// the kernel has for it.
struct Program {
  ActionSlot latest;
  ActionSlot handler;  // the latest that was a function: a delivery may be on its way to it
  std::atomic<bool> is_set{false};
};
constexpr int kSignals = 64;
constinit Program programs[kSignals + 1];
constinit SpinMutex actions_lock;

bool is_function(const mmu::KernelSigaction& action) {
  return action.handler != reinterpret_cast<void*>(SIG_DFL) &&
         action.handler != reinterpret_cast<void*>(SIG_IGN);
}

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

long set_thread_mask(Memory& memory, const long* a) {
  std::uint64_t set = 0;
  std::uint64_t old = 0;
  if (a[3] != kMaskBytes) return -EINVAL;
  if (a[1] != 0 && !read_program(memory, &set, at(a[1], sizeof set))) return -EFAULT;
  const long r = change_mask(a[0], a[1] != 0 ? &set : nullptr, a[2] != 0 ? &old : nullptr);
  return r != 0 || a[2] == 0 ? r : store(memory, a[2], &old, sizeof old);
}

bool is_entry(const mmu::KernelSigaction& action) {
  return action.handler == reinterpret_cast<void*>(&buoy_signal_enter);
}

// What the kernel gets in place of the program's action.
mmu::KernelSigaction kernels(int signal, const mmu::KernelSigaction& programs_own) {
  mmu::KernelSigaction action = programs_own;
  action.mask &= ~kKeptOpen;
  const bool is_always_ours = signal == SIGSYS && is_dispatched.load(std::memory_order_acquire);
  if (!is_function(action) && !is_always_ours) return action;
  action.handler = reinterpret_cast<void*>(&buoy_signal_enter);
  action.flags |= static_cast<unsigned long>(SA_ONSTACK | SA_SIGINFO);
  if (!is_always_ours) return action;
  // No other signal may come before it is known whether it is a call that is dispatched.
  action.mask = ~kKeptOpen;
  action.flags = (action.flags | kRestorer) & ~static_cast<unsigned long>(SA_RESETHAND);
  action.restorer = mmu::signal_delivery::restorer();
  return action;
}

// And the way back: what the program had set, by what the kernel has.
mmu::KernelSigaction programs_of(const mmu::KernelSigaction& kernels_own, const Program& program) {
  if (!program.is_set.load(std::memory_order_acquire)) return kernels_own;
  mmu::KernelSigaction action = program.latest.load();
  if (is_entry(kernels_own)) return action;
  if (is_function(kernels_own)) return kernels_own;
  // SA_RESETHAND, or a change that went another way.
  action.handler = kernels_own.handler;
  return action;
}

long set_kernel_action(int signal, const mmu::KernelSigaction* action, mmu::KernelSigaction* old) {
  return sys::call(SYS_rt_sigaction, signal, sys::ptr(action), sys::ptr(old), kMaskBytes);
}

long exchange_action(int signal, const mmu::KernelSigaction* fresh, mmu::KernelSigaction* old) {
  Program& program = programs[signal];
  // Nothing of this thread may want an action while it writes one.
  const SignalGuard guard(actions_lock);
  mmu::KernelSigaction before;
  if (const long r = set_kernel_action(signal, nullptr, &before); r != 0) return r;
  *old = programs_of(before, program);
  if (fresh == nullptr) return 0;
  if (is_function(*fresh)) program.handler.store(*fresh);
  program.latest.store(*fresh);
  program.is_set.store(true, std::memory_order_release);
  const mmu::KernelSigaction action = kernels(signal, *fresh);
  return set_kernel_action(signal, &action, nullptr);
}

long set_action(Memory& memory, const long* a) {
  using mmu::KernelSigaction;
  if (a[3] != kMaskBytes) return -EINVAL;
  KernelSigaction fresh;
  KernelSigaction old;
  if (a[1] != 0 && !read_program(memory, &fresh, at(a[1], sizeof fresh))) return -EFAULT;
  const auto signal = static_cast<int>(a[0]);
  if (signal < 1 || signal > kSignals) return -EINVAL;
  if (a[1] != 0 && (signal == SIGKILL || signal == SIGSTOP)) return -EINVAL;
  const KernelSigaction* const action = a[1] != 0 ? &fresh : nullptr;
  long r = 0;
  if (!is_own_process()) {
    if (signal == SIGBUS) return 0;
    fresh.mask &= ~kKeptOpen;
    r = set_kernel_action(signal, action, &old);
    old = programs_of(old, programs[signal]);
  } else if (signal == SIGBUS) {
    r = mmu::signal_delivery::set_program_action(action, &old);
  } else {
    r = exchange_action(signal, action, &old);
  }
  if (r != 0 || a[2] == 0) return r;
  return store(memory, a[2], &old, sizeof old);
}

}  // namespace

void note_process() {
  note_masks_owner();
  new (&actions_lock) SpinMutex();
  for (Program& program : programs) {
    program.latest.forget_writer();
    program.handler.forget_writer();
  }
}

void adopt_handlers() {
  for (int signal = 1; signal <= kSignals; ++signal) {
    mmu::KernelSigaction present;
    mmu::KernelSigaction old;
    if (signal == SIGBUS || set_kernel_action(signal, nullptr, &present) != 0) continue;
    if (is_function(present)) (void)exchange_action(signal, &present, &old);
  }
}

void catch_dispatched() {
  is_dispatched.store(true, std::memory_order_release);
  mmu::KernelSigaction present;
  mmu::KernelSigaction old;
  // What the program has set, or what the kernel has: set again, it is ours.
  if (exchange_action(SIGSYS, nullptr, &present) == 0)
    (void)exchange_action(SIGSYS, &present, &old);
}

mmu::KernelSigaction action_of(int signal) { return programs[signal].latest.load(); }
mmu::KernelSigaction handler_of(int signal) { return programs[signal].handler.load(); }

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
      mask &= ~kKeptOpen;
      pair.set = sys::ptr(&mask);
      argument = which.is_pair ? sys::ptr(&pair) : sys::ptr(&mask);
    }
  }
  return Call(memory, number, changed).make();
}

}  // namespace buoy::gate::signals
