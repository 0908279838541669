// Dispatch: system calls from code that cannot be patched come to the gate by Syscall User Dispatch.
//
// Such code is what is made at run time (executable memory that no loader has mapped), and objects
// whose code cannot be decoded (a Go program's: no unwind table). The kernel lets calls pass that stand
// between the lowest and the highest of libc, the dynamic linker and this library, and turns any
// other into SIGSYS. The handler sends the thread through the gate's entry, as if the code
// had been patched: the call is made outside of the handler, where it may wait and be interrupted.
// It is made on a stack of ours, since such code may have little of its own (goroutines); a handler that
// interrupts it runs on the program's.
//
// Costs a signal a call, about 2 us, and some 30 ns for each call that passes; so it is armed only when
// there is such code, thread by thread: at once in the thread that makes it, elsewhere at the next call.
#pragma once

#include "base/result.h"
#include "gate/image.h"
#include "gate/signal_frame.h"

namespace buoy::gate::dispatch {

// Calls from `passed` pass. Once, before anything is wanted.
void allow(CodeRange passed);
// From now on it is armed. ENOTSUP and others: the kernel, or a filter, does not let it be.
Status want();
[[nodiscard]] bool is_wanted();
// Arms the calling thread, if it is wanted. Cheap once it is done.
void arm_thread();
// Where the program's stack ends, for who runs at `sp`: there, if that is no stack of ours for a call.
[[nodiscard]] std::uintptr_t stack_of_program(std::uintptr_t sp);
void before_exit();
void after_fork_in_child();

// A SIGSYS: if it is a call of code that is caught, its context goes on in the gate.
[[nodiscard]] bool redirect(SignalFrame& frame);

}  // namespace buoy::gate::dispatch
