#include "gate/signal_entry.h"

#include <cstring>

#include "base/sys.h"
#include "gate/dispatch.h"
#include "gate/signals.h"
#include "gate/thread.h"
#include "mmu/signal_delivery.h"

namespace buoy::gate {

namespace {

constexpr std::size_t kRedZone = 128;
constexpr std::uint64_t kAllButBus = ~(std::uint64_t{1} << (SIGBUS - 1));

std::uintptr_t address_of(const void* p) { return reinterpret_cast<std::uintptr_t>(p); }

SignalFrame* frame_of(SignalContext* context) {
  return reinterpret_cast<SignalFrame*>(reinterpret_cast<std::byte*>(context) -
                                        offsetof(SignalFrame, context));
}

bool wants_stack(const mmu::KernelSigaction& action) {
  return (action.flags & static_cast<unsigned long>(SA_ONSTACK)) != 0;
}

HandlerStart start_of(SignalFrame* frame, const mmu::KernelSigaction& action, std::uint64_t mask) {
  return {frame, action.handler, frame->info.si_signo, &frame->info, &frame->context, mask};
}

[[noreturn]] void end_by(int signal) {
  const mmu::KernelSigaction none;
  const std::uint64_t bit = std::uint64_t{1} << (signal - 1);
  sys::call(SYS_rt_sigaction, signal, sys::ptr(&none), 0, sizeof none.mask);
  sys::call(SYS_rt_sigprocmask, SIG_UNBLOCK, sys::ptr(&bit), 0, sizeof bit);
  for (;;) sys::call(SYS_tgkill, sys::call(SYS_getpid), sys::gettid(), signal);
}

SignalFrame* move_to_program(SignalFrame* frame, bool is_on_stack);

// The thread was on its way into a handler: there it is now.
void finish_start(SignalContext& interrupted) {
  greg_t* const regs = interrupted.registers;
  const auto pc = static_cast<std::uintptr_t>(regs[REG_RIP]);
  const auto is_within = [pc](const void* begin, const void* end) {
    return pc >= address_of(begin) && pc < address_of(end);
  };
  if (is_within(reinterpret_cast<const void*>(&buoy_signal_enter), buoy_signal_blocked)) {
    auto* const outer = reinterpret_cast<SignalFrame*>(regs[REG_RSP]);  // NOLINT
    const mmu::KernelSigaction action = signals::handler_of(outer->info.si_signo);
    SignalFrame* const moved = move_to_program(outer, wants_stack(action));
    regs[REG_RIP] = sys::ptr(action.handler);
    regs[REG_RSP] = sys::ptr(moved);
    regs[REG_RDI] = moved->info.si_signo;
    regs[REG_RSI] = sys::ptr(&moved->info);
    regs[REG_RDX] = sys::ptr(&moved->context);
  } else if (is_within(buoy_signal_open, buoy_signal_opened)) {
    regs[REG_RIP] = regs[REG_R13];
    regs[REG_RSP] = regs[REG_R12];
    regs[REG_RDI] = regs[REG_R14];
    regs[REG_RSI] = regs[REG_R15];
    regs[REG_RDX] = regs[REG_RBX];
  }
}

// As the kernel chooses the place. A frame that interrupts the handling of a fault stays.
SignalFrame* move_to_program(SignalFrame* frame, bool is_on_stack) {
  SignalContext& context = frame->context;
  if (thread::is_on_own_stack(static_cast<std::uintptr_t>(context.registers[REG_RSP])))
    finish_start(context);
  const auto running = static_cast<std::uintptr_t>(context.registers[REG_RSP]);
  if (thread::is_on_own_stack(running)) return frame;
  const std::uintptr_t interrupted = dispatch::stack_of_program(running);
  const stack_t programs = thread::alternate_stack();
  const bool switches = is_on_stack && (programs.ss_flags & SS_DISABLE) == 0 &&
                        interrupted - address_of(programs.ss_sp) > programs.ss_size;
  if (switches && programs.ss_size < bytes_of(*frame)) end_by(SIGSEGV);
  SignalFrame* const moved = copy_frame(
      *frame, switches ? address_of(programs.ss_sp) + programs.ss_size : interrupted - kRedZone);
  moved->return_address = reinterpret_cast<const void*>(&buoy_signal_return);
  moved->context.stack = programs;
  thread::note_handler_entered();
  return moved;
}

void* move_for_fault(void* context, bool is_on_stack) {
  SignalFrame* const frame = frame_of(static_cast<SignalContext*>(context));
  if (!thread::is_on_own_stack(address_of(frame))) return nullptr;
  SignalFrame* const moved = move_to_program(frame, is_on_stack);
  return moved == frame ? nullptr : moved;
}

[[noreturn]] void start_for_fault(void* frame, const mmu::KernelSigaction& action,
                                  std::uint64_t mask) {
  const HandlerStart start = start_of(static_cast<SignalFrame*>(frame), action, mask);
  buoy_signal_start(&start);
}

// SIGSYS is ours while calls are dispatched: one that is somebody else's does what the program has set.
void without_handler(const SignalFrame& frame) {
  const mmu::KernelSigaction action = signals::action_of(SIGSYS);
  const bool is_sent = frame.info.si_code <= 0;
  if (action.handler == reinterpret_cast<void*>(SIG_IGN) && is_sent)
    buoy_signal_resume(&frame.context);
  if (action.handler == reinterpret_cast<void*>(SIG_DFL) ||
      action.handler == reinterpret_cast<void*>(SIG_IGN))
    end_by(SIGSYS);
}

long copy_back(const void* raw) {
  const auto* const frame = static_cast<const SignalFrame*>(raw);
  const std::span<std::byte> own = thread::own_stack();
  SignalFrame* const back = copy_frame(*frame, address_of(own.data() + own.size()));
  const auto resumed = static_cast<std::uintptr_t>(back->context.registers[REG_RSP]);
  thread::restore_alternate_stack(back->context.stack, dispatch::stack_of_program(resumed));
  back->context.mask &= ~signals::kKeptOpen;
  back->context.stack = stack_t{own.data(), 0, own.size()};
  buoy_signal_resume(&back->context);
}

}  // namespace

void set_handler_mover() {
  mmu::signal_delivery::set_handler_mover({&move_for_fault, &start_for_fault});
}

}  // namespace buoy::gate

using namespace buoy;
using namespace buoy::gate;

void buoy_signal_deliver(SignalFrame* frame, std::uint64_t mask) {
  if (frame->info.si_signo == SIGSYS && gate::dispatch::redirect(*frame))
    buoy_signal_resume(&frame->context);
  if (frame->info.si_signo == SIGSYS) without_handler(*frame);
  const mmu::KernelSigaction action = signals::handler_of(frame->info.si_signo);
  // The kernel blocks more than the program has asked for (signals.cc).
  if (frame->info.si_signo == SIGSYS)
    mask = (frame->context.mask | action.mask) & ~signals::kKeptOpen;
  if (frame->info.si_signo == SIGSEGV) mmu::signal_delivery::correct_segv(&frame->info);
  if (thread::is_on_own_stack(address_of(frame)))
    frame = move_to_program(frame, wants_stack(action));
  const HandlerStart start = start_of(frame, action, mask);
  buoy_signal_start(&start);
}

void buoy_signal_leave(SignalContext* context) {
  sys::call(SYS_rt_sigprocmask, SIG_SETMASK, sys::ptr(&kAllButBus), 0, sizeof kAllButBus);
  const SignalFrame* const frame = frame_of(context);
  mmu::signal_delivery::note_handler_left(frame);
  signals::note_handler_returns();
  const std::span<std::byte> own = thread::own_stack();
  const std::size_t taken = bytes_of(*frame);
  if (taken > own.size() / 2) buoy_signal_resume(context);
  const std::uintptr_t below = address_of(own.data() + own.size()) - taken;
  sys::on_stack(&copy_back, frame, reinterpret_cast<void*>(below & ~std::uintptr_t{15}));  // NOLINT
  __builtin_unreachable();
}
