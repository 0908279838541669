// A signal's frame: what the kernel stores where a handler is about to run, and reads when it has run.
//
// The kernel does both without a fault of ours: on memory whose pages have left it ends the program.
// So every handler of the program is entered on the thread's own alternate stack, which is never
// managed, and from there the frame is moved to where the program expects it: to its own alternate
// stack, or below the interrupted stack, by ordinary loads and stores. It goes the same way back before
// the kernel reads it. Layout: struct rt_sigframe of x86-64, and above it the state of the vector unit.
#pragma once

#include <csignal>
#include <cstddef>
#include <cstdint>

#include <sys/ucontext.h>

namespace buoy::gate {

// The kernel's struct ucontext (libc's is longer).
struct SignalContext {
  std::uint64_t flags;
  std::uint64_t link;
  stack_t stack;
  greg_t registers[NGREG];
  std::byte* vectors;
  std::uint64_t reserved[8];
  std::uint64_t mask;
};

struct SignalFrame {
  const void* return_address;
  SignalContext context;
  siginfo_t info;
};
static_assert(sizeof(SignalContext) == 304 && sizeof(SignalFrame) == 440);

// A handler that is about to be entered. Its layout is known to the code that enters it.
struct HandlerStart {
  SignalFrame* frame;
  void* handler;
  std::int64_t signal;
  siginfo_t* info;
  SignalContext* context;
  std::uint64_t mask;
};

// Copies a frame and its vector state to below `top`. What it returns to is the caller's to say.
SignalFrame* copy_frame(const SignalFrame& from, std::uintptr_t top);
// How much of the stack below `top` that takes, at most.
[[nodiscard]] std::size_t bytes_of(const SignalFrame& frame);

}  // namespace buoy::gate

extern "C" {
// The kernel starts each handler here.
void buoy_signal_enter() __attribute__((visibility("hidden")));
// What frames that were moved return to. Unwinders know it as a signal frame.
void buoy_signal_return() __attribute__((visibility("hidden")));
// Sets the handler's mask, and goes to it.
[[noreturn]] void buoy_signal_start(const buoy::gate::HandlerStart* start)
    __attribute__((visibility("hidden")));
// rt_sigreturn(2) by a frame's context.
[[noreturn]] void buoy_signal_resume(const buoy::gate::SignalContext* context)
    __attribute__((visibility("hidden")));
// The same for where the stack pointer is already; to jump to.
extern const char buoy_signal_sigreturn[] __attribute__((visibility("hidden")));
// Within these the thread is on its way into a handler, and may be interrupted by another signal: from
// buoy_signal_enter on nothing has been done yet, from buoy_signal_open on but the jump.
extern const char buoy_signal_blocked[] __attribute__((visibility("hidden")));
extern const char buoy_signal_open[] __attribute__((visibility("hidden")));
extern const char buoy_signal_opened[] __attribute__((visibility("hidden")));
}
