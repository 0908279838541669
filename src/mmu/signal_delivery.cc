#include "mmu/signal_delivery.h"

#include <ucontext.h>

#include <atomic>
#include <cerrno>
#include <new>

#include "base/check.h"
#include "base/lock.h"
#include "base/signals.h"
#include "base/sys.h"
#include "mmu/uffd_abi.h"

// What the kernel returns to when the handler ends. Byte for byte libc's, by which debuggers and
// unwinders know a signal frame.
asm(R"(
  .pushsection .text
  .balign 16
  nop
  .type buoy_signal_restorer, @function
  .globl buoy_signal_restorer
  .hidden buoy_signal_restorer
buoy_signal_restorer:
  movq $15, %rax
  syscall
  .size buoy_signal_restorer, . - buoy_signal_restorer
  .popsection
)");
extern "C" void buoy_signal_restorer();

namespace buoy::mmu::signal_delivery {

namespace {

constexpr unsigned long kSaRestorer = 0x04000000;
constexpr std::uint64_t kSigbusBit = std::uint64_t{1} << (SIGBUS - 1);

// ---- Receivers: a few slots; each counts who is inside, so that detach() can wait.
struct Slot {
  std::atomic<SignalReceiver*> receiver{nullptr};
  std::atomic<std::uint32_t> inside{0};
};
constexpr unsigned kSlots = 64;
Slot slots[kSlots];
std::atomic<unsigned> slots_used{0};  // high-water mark

// ---- The program's action: written rarely, read in the handler. A writer fills the next entry of
// a ring and publishes it; a reader copies the current one, and reads again in the unlikely case
// that the ring went round meanwhile.
constexpr std::uint32_t kRing = 16;
constexpr std::size_t kActionWords = sizeof(KernelSigaction) / sizeof(std::uint64_t);
std::atomic<std::uint64_t> ring[kRing][kActionWords];
std::atomic<std::uint32_t> current{0};
SpinMutex install_lock;  // guards attach and detach, writing the ring, is_installed
bool is_installed = false;

KernelSigaction program_action() {
  for (;;) {
    const std::uint32_t seen = current.load(std::memory_order_acquire);
    std::uint64_t words[kActionWords];
    for (std::size_t i = 0; i < kActionWords; ++i)
      words[i] = ring[seen % kRing][i].load(std::memory_order_acquire);
    if (current.load(std::memory_order_relaxed) - seen >= kRing - 1) continue;
    KernelSigaction action;
    __builtin_memcpy(&action, words, sizeof action);
    return action;
  }
}

void publish_program_action(const KernelSigaction& action) {
  const std::uint32_t next = current.load(std::memory_order_relaxed) + 1;
  std::uint64_t words[kActionWords];
  __builtin_memcpy(words, &action, sizeof action);
  for (std::size_t i = 0; i < kActionWords; ++i)
    ring[next % kRing][i].store(words[i], std::memory_order_relaxed);
  current.store(next, std::memory_order_release);
}

long kernel_sigaction(const KernelSigaction* action, KernelSigaction* old, int signal = SIGBUS) {
  return sys::call(SYS_rt_sigaction, signal, sys::ptr(action), sys::ptr(old),
                   sizeof(std::uint64_t));
}

// ---- A handler of the program that needs itself.
//
// The kernel blocks a signal while its handler runs, and kills who raises it then; we leave SIGBUS
// deliverable, so we must notice. A flag is not enough: a handler may leave by siglongjmp. What it
// restores then, as a return does, is the signal mask; so while the handler runs, one more signal
// is blocked that was not: the canary.
struct InHandler {
  int canary = 0;            // the signal; 0: go by the stack
  std::uintptr_t frame = 0;  // of our handler below the program's; 0: it is not running
  unsigned depth = 0;        // SA_NODEFER: how often it runs
};
thread_local constinit InHandler in_handler;
// Few enough for the stack of any thread; on a small one for signals the kernel ends it before.
constexpr unsigned kDeepest = 16;

constexpr std::uint64_t bit_of(int signal) { return std::uint64_t{1} << (signal - 1); }

// One that nobody uses first, then the real-time signals from the last. 0: every one is blocked.
int find_canary(std::uint64_t mask) {
  if ((mask & bit_of(SIGSTKFLT)) == 0) return SIGSTKFLT;
  for (int signal = 64; signal > 34; --signal)
    if ((mask & bit_of(signal)) == 0) return signal;
  return 0;
}

bool is_inside_handler(const ucontext_t* context, std::uint64_t mask) {
  if (in_handler.frame == 0) return false;
  if (in_handler.canary != 0) return (mask & bit_of(in_handler.canary)) != 0;
  constexpr std::uintptr_t kNear = 1 << 20;
  const auto sp = static_cast<std::uintptr_t>(context->uc_mcontext.gregs[REG_RSP]);
  return sp < in_handler.frame && in_handler.frame - sp < kNear;
}

// ---- In the handler.

Verdict ask_receivers(const Fault& fault) {
  const unsigned used = slots_used.load(std::memory_order_acquire);
  for (unsigned i = 0; i < used; ++i) {
    Slot& slot = slots[i];
    slot.inside.fetch_add(1, std::memory_order_seq_cst);
    SignalReceiver* receiver = slot.receiver.load(std::memory_order_seq_cst);
    const Verdict verdict = receiver == nullptr ? Verdict::kForeign : receiver->on_sigbus(fault);
    slot.inside.fetch_sub(1, std::memory_order_release);
    if (verdict != Verdict::kForeign) return verdict;
  }
  return Verdict::kForeign;
}

thread_local constinit std::uintptr_t touchers_stack = 0;

bool is_unmapped(Vpn vpn) {
  const unsigned used = slots_used.load(std::memory_order_acquire);
  for (unsigned i = 0; i < used; ++i) {
    Slot& slot = slots[i];
    slot.inside.fetch_add(1, std::memory_order_seq_cst);
    const SignalReceiver* receiver = slot.receiver.load(std::memory_order_seq_cst);
    const bool answer = receiver != nullptr && receiver->is_unmapped(vpn);
    slot.inside.fetch_sub(1, std::memory_order_release);
    if (answer) return true;
  }
  return false;
}

// ---- SIGSEGV: stands before a handler of the program, in all else as the program has set it.
using InfoHandler = void (*)(int, siginfo_t*, void*);
constinit std::atomic<InfoHandler> segv_handler{nullptr};

void on_sigsegv(int signal, siginfo_t* info, void* context) {
  correct_segv(info);
  segv_handler.load(std::memory_order_acquire)(signal, info, context);
}

// Death by SIGBUS: with the default action in place, the access is made again, or the signal is
// sent again, and the core dump shows the program where it was.
void take_default_action(const siginfo_t* info, bool is_fault) {
  const KernelSigaction none;
  kernel_sigaction(&none, nullptr);
  if (is_fault) return;
  sys::call(SYS_rt_tgsigqueueinfo, sys::call(SYS_getpid), sys::gettid(), SIGBUS, sys::ptr(info));
}

constinit HandlerMover handler_mover;

// Does what the kernel would have done with this signal without us.
void hand_on(siginfo_t* info, ucontext_t* context, bool is_fault) {
  std::uint64_t mask = 0;
  static_assert(sizeof mask <= sizeof context->uc_sigmask);
  __builtin_memcpy(&mask, &context->uc_sigmask, sizeof mask);
  const KernelSigaction action = program_action();
  if (action.handler == reinterpret_cast<void*>(SIG_IGN) && !is_fault) return;
  // The kernel does not let a fault be ignored either.
  if (action.handler == reinterpret_cast<void*>(SIG_DFL) ||
      action.handler == reinterpret_cast<void*>(SIG_IGN)) {
    take_default_action(info, is_fault);
    return;
  }
  if ((action.flags & static_cast<unsigned long>(SA_RESETHAND)) != 0) {
    const KernelSigaction none;
    set_program_action(&none, nullptr);
  }
  const InHandler outer = in_handler;
  const bool is_inside = is_inside_handler(context, mask);
  const bool may_nest = (action.flags & static_cast<unsigned long>(SA_NODEFER)) != 0;
  if (is_fault && is_inside && (!may_nest || outer.depth > kDeepest)) {
    sys::Line()
        .text("the program's SIGBUS handler itself raised SIGBUS, at ")
        .hex(reinterpret_cast<std::uintptr_t>(info->si_addr))
        .text(" (purged or lost memory); ending the program")
        .complain();
    take_default_action(info, is_fault);
    return;
  }
  mask = (mask | action.mask) & ~kSigbusBit;
  void* const moved =
      handler_mover.move == nullptr
          ? nullptr
          : handler_mover.move(context,
                               (action.flags & static_cast<unsigned long>(SA_ONSTACK)) != 0);
  // A handler that may nest may be left by a jump that restores no mask, again and again: a signal that
  // it blocked would stay blocked.
  in_handler.canary = may_nest ? 0 : find_canary(mask);
  in_handler.frame =
      reinterpret_cast<std::uintptr_t>(moved != nullptr ? moved : __builtin_frame_address(0));
  in_handler.depth = is_inside ? outer.depth + 1 : 1;
  if (in_handler.canary != 0) mask |= bit_of(in_handler.canary);
  if (moved != nullptr) handler_mover.start(moved, action, mask);
  sys::call(SYS_rt_sigprocmask, SIG_SETMASK, sys::ptr(&mask), 0, sizeof mask);
  using Handler = void (*)(int, siginfo_t*, void*);
  reinterpret_cast<Handler>(action.handler)(SIGBUS, info, context);
  in_handler = is_inside ? outer : InHandler();
}

// send_bus_error() was it.
bool is_from_ourselves(const siginfo_t& info) {
  return info.si_code == SI_QUEUE && info.si_pid == sys::call(SYS_getpid);
}

Fault fault_of(const siginfo_t& info, const ucontext_t& context) {
  const auto error = static_cast<std::uint64_t>(context.uc_mcontext.gregs[REG_ERR]);
  const void* const where = is_from_ourselves(info) ? info.si_value.sival_ptr : info.si_addr;
  Fault fault;
  fault.address = reinterpret_cast<std::uintptr_t>(where);
  fault.vpn = Vpn::of_address(fault.address);
  fault.is_store = (error & abi::kErrorStore) != 0;
  fault.is_protection = (error & abi::kErrorPresent) != 0;
  if (is_from_ourselves(info)) fault.tid = sys::gettid();
  return fault;
}

void on_sigbus(int, siginfo_t* info, void* raw_context) {
  const int saved_errno = errno;
  auto* context = static_cast<ucontext_t*>(raw_context);
  // Codes above zero come from the kernel; of those only MCEERR_AO is not about this instruction.
  const bool is_fault = info->si_code > 0 && info->si_code != BUS_MCEERR_AO;
  Verdict verdict = Verdict::kForeign;
  if (is_fault || is_from_ourselves(*info)) {
    if (handler_mover.move == nullptr)
      touchers_stack = static_cast<std::uintptr_t>(context->uc_mcontext.gregs[REG_RSP]);
    verdict = ask_receivers(fault_of(*info, *context));
    touchers_stack = 0;
  }
  errno = saved_errno;
  if (verdict == Verdict::kResolved) return;
  if (verdict == Verdict::kBusError) {
    if (!is_fault) info->si_addr = info->si_value.sival_ptr;
    info->si_code = BUS_ADRERR;
  }
  hand_on(info, context, is_fault || verdict == Verdict::kBusError);
  errno = saved_errno;
}

void install_locked() {
  KernelSigaction ours;
  ours.handler = reinterpret_cast<void*>(&on_sigbus);
  ours.flags =
      static_cast<unsigned long>(SA_SIGINFO | SA_ONSTACK | SA_NODEFER | SA_RESTART) | kSaRestorer;
  ours.restorer = reinterpret_cast<void*>(&buoy_signal_restorer);
  ours.mask = ~kSigbusBit;
  KernelSigaction before;
  const long rc = kernel_sigaction(&ours, &before);
  BUOY_CHECK(rc == 0);
  publish_program_action(before);
  is_installed = true;
}

// Who came past set_program_action() has set what it wants already.
void put_back_program_action_locked() {
  KernelSigaction present;
  kernel_sigaction(nullptr, &present);
  if (present.handler != reinterpret_cast<void*>(&on_sigbus)) return;
  const KernelSigaction programs = program_action();
  kernel_sigaction(&programs, nullptr);
}

}  // namespace

void set_handler_mover(const HandlerMover& mover) { handler_mover = mover; }

void note_handler_left(const void* frame) {
  if (in_handler.frame == reinterpret_cast<std::uintptr_t>(frame)) in_handler = InHandler();
}

void correct_segv(siginfo_t* info) {
  if (info->si_code == SEGV_ACCERR && is_unmapped(Vpn::containing(info->si_addr)))
    info->si_code = SEGV_MAPERR;
}

std::uintptr_t stack_of_toucher() { return touchers_stack; }

Status attach(SignalReceiver* receiver) {
  const SignalGuard guard(install_lock);
  for (unsigned i = 0; i < kSlots; ++i) {
    if (slots[i].receiver.load(std::memory_order_relaxed) != nullptr) continue;
    slots[i].receiver.store(receiver, std::memory_order_seq_cst);
    if (i >= slots_used.load(std::memory_order_relaxed))
      slots_used.store(i + 1, std::memory_order_release);
    if (!is_installed) install_locked();
    return {};
  }
  return Error{EBUSY};
}

void detach(SignalReceiver* receiver) {
  Slot* slot = nullptr;
  {
    const SignalGuard guard(install_lock);
    bool is_any_left = false;
    for (Slot& s : slots) {
      SignalReceiver* const present = s.receiver.load(std::memory_order_relaxed);
      if (present == receiver) slot = &s;
      is_any_left = is_any_left || (present != nullptr && present != receiver);
    }
    if (slot == nullptr) return;
    slot->receiver.store(nullptr, std::memory_order_seq_cst);
    if (!is_any_left) {
      put_back_program_action_locked();
      is_installed = false;
    }
  }
  while (slot->inside.load(std::memory_order_seq_cst) != 0) __builtin_ia32_pause();
}

void forget_other_threads() {
  new (&install_lock) SpinMutex();
  for (Slot& slot : slots) slot.inside.store(0, std::memory_order_relaxed);
}

void send_bus_error(int tid, std::uintptr_t address) {
  const long pid = sys::call(SYS_getpid);
  siginfo_t info{};
  info.si_signo = SIGBUS;
  info.si_code = SI_QUEUE;  // the kernel lets one thread forge no other code for another
  info.si_pid = static_cast<pid_t>(pid);
  info.si_value.sival_ptr = reinterpret_cast<void*>(address);
  sys::call(SYS_rt_tgsigqueueinfo, pid, tid, SIGBUS, sys::ptr(&info));
}

void* restorer() { return reinterpret_cast<void*>(&buoy_signal_restorer); }

long set_program_action(const KernelSigaction* action, KernelSigaction* old) {
  const SignalGuard guard(install_lock);
  if (!is_installed) return kernel_sigaction(action, old);
  // Copied first: the arguments may be one object.
  const KernelSigaction before = program_action();
  if (action != nullptr) publish_program_action(*action);
  if (old != nullptr) *old = before;
  return 0;
}

long set_program_segv_action(const KernelSigaction* action, KernelSigaction* old) {
  const SignalGuard guard(install_lock);
  const InfoHandler handler_before = segv_handler.load(std::memory_order_relaxed);
  KernelSigaction ours;
  KernelSigaction before;
  if (action != nullptr) {
    ours = *action;
    // SIG_DFL and SIG_IGN are 0 and 1.
    const bool is_told_why = (ours.flags & SA_SIGINFO) != 0 &&
                             reinterpret_cast<std::uintptr_t>(ours.handler) > 1 &&
                             ours.handler != reinterpret_cast<void*>(&on_sigsegv);
    if (is_told_why) {
      segv_handler.store(reinterpret_cast<InfoHandler>(ours.handler), std::memory_order_release);
      ours.handler = reinterpret_cast<void*>(&on_sigsegv);
    }
  }
  const long rc = kernel_sigaction(action != nullptr ? &ours : nullptr, &before, SIGSEGV);
  if (rc != 0) return rc;
  if (before.handler == reinterpret_cast<void*>(&on_sigsegv))
    before.handler = reinterpret_cast<void*>(handler_before);
  if (old != nullptr) *old = before;
  return 0;
}

}  // namespace buoy::mmu::signal_delivery
