// The way of a signal into a handler of the program, and back.
//
// deliver: the kernel has stored the frame on the thread's own stack (thread.h) and blocks what it
// would block. All is blocked until the frame is where the program expects it. A signal that comes
// before that is done finds the first one on its way, and puts that frame in place before its own.
// leave: all is blocked, the frame goes to the top of the own stack, and the kernel reads it there.
#pragma once

#include "gate/signal_frame.h"

namespace buoy::gate {

// Faults that are the program's own go the same way.
void set_handler_mover();

}  // namespace buoy::gate

extern "C" {
[[noreturn]] void buoy_signal_deliver(buoy::gate::SignalFrame* frame, std::uint64_t mask)
    __attribute__((visibility("hidden")));
[[noreturn]] void buoy_signal_leave(buoy::gate::SignalContext* context)
    __attribute__((visibility("hidden")));
}
