// SignalDelivery: the one SIGBUS handler of the process, shared by all Mmus.
//
// A SIGBUS that an Mmu claims is its fault, resolved in the faulting thread. Any other goes where
// it would have gone without us: to the program's own action, which is what was installed before
// us or what set_program_action() was told since. What cannot be imitated: without a HandlerMover a
// program's handler without SA_ONSTACK runs on the alternate stack if the thread has one, as ours; and
// SIGBUS stays deliverable while it runs, because it may touch managed memory. But if it touches
// what only it could bring back (a page that is a bus error again), the program ends with a line
// that says so, as the kernel would end it, unless the handler was installed with SA_NODEFER.
//
// The handler runs with all signals but SIGBUS masked, and keeps errno.
#pragma once

#include <csignal>
#include <cstddef>
#include <cstdint>

#include "base/result.h"
#include "mmu/mmu.h"

namespace buoy::mmu {

// struct sigaction as the kernel has it on x86-64.
struct KernelSigaction {
  void* handler = nullptr;  // SIG_DFL, SIG_IGN or a function
  unsigned long flags = 0;
  void* restorer = nullptr;
  std::uint64_t mask = 0;
};

// Somebody who may claim a SIGBUS.
class SignalReceiver {
 public:
  // A fault has no tid here; what send_bus_error() sent has.
  virtual Verdict on_sigbus(const Fault& fault) = 0;
  // FaultSink's question.
  [[nodiscard]] virtual bool is_unmapped(Vpn vpn) const = 0;

 protected:
  ~SignalReceiver() = default;
};

namespace signal_delivery {

// Enters a receiver; the first one installs the handler. ENOMEM when there are too many.
[[nodiscard]] Status attach(SignalReceiver* receiver);
// Afterwards it is not called any more, nor still running. The last one puts the program's own
// action back in place.
void detach(SignalReceiver* receiver);

// Thread delivery without poison: the thread `tid`, which waits in a fault at `address`, gets
// SIGBUS as if the hardware had sent it. Its receiver is asked, and must say kBusError.
void send_bus_error(int tid, std::uintptr_t address);

// Somebody who can run the program's SIGBUS handler where the program expects it: not on the stack on
// which we got the fault. `context` is the kernel's.
struct HandlerMover {
  // Moves the signal's frame; null: it has to stay.
  void* (*move)(void* context, bool is_on_alternate_stack) = nullptr;
  // Goes to the handler by what move() gave.
  void (*start)(void* frame, const KernelSigaction& action, std::uint64_t mask) = nullptr;
};
void set_handler_mover(const HandlerMover& mover);
// A handler that start() has started returns, by the frame that move() gave.
void note_handler_left(const void* frame);
// What the kernel says of a SIGSEGV, as it would be without our reservations.
void correct_segv(siginfo_t* info);

// In a fork child, which has one thread: what others were doing here is not going on any more.
void forget_other_threads();

// Within a receiver's answer to a fault: where the stack of who faulted ends, on which the kernel may put
// the frame of the next signal. 0: not in one, or there is a HandlerMover, so that none arrives there.
[[nodiscard]] std::uintptr_t stack_of_toucher();

// sigaction(SIGBUS) for the program: null arguments as there. Without a receiver it passes the
// call to the kernel. 0 or -errno.
long set_program_action(const KernelSigaction* action, KernelSigaction* old);
// The same for SIGSEGV. A handler of the program that is told why finds there what the kernel would
// say without us: that the page is not mapped, where it lies in a reservation and is nobody's.
long set_program_segv_action(const KernelSigaction* action, KernelSigaction* old);
// Where a handler that the kernel starts returns to.
[[nodiscard]] void* restorer();

}  // namespace signal_delivery
}  // namespace buoy::mmu
