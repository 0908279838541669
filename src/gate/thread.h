// What the gate keeps for each thread of the program, and what the kernel touches of a thread's memory
// outside of its calls: stacks, alternate stacks, words that it clears when the thread ends.
//
// Every thread has an alternate stack for its faults: its own stack may be managed memory (a context
// of makecontext, pthread_attr_setstack), and a fault there could not be delivered on it. The program
// does not see it: it reads of none where it has set none, and may set its own, from which faults then
// go on to ours.
#pragma once

#include <cstdint>

#include "gate/memory.h"

namespace buoy::gate::thread {

// At each thread's first call. Cheap once it is done.
void prepare();
// Is this thread's storage its own? Threads that are made by a bare clone have that of their maker.
[[nodiscard]] bool has_own_storage();
void after_fork_in_child();
// sigaltstack(2) for the program.
long set_alternate_stack(Memory& memory, const long* arguments);
// The calling thread's stack may be managed memory (a coroutine's): what is near `here`, and room for
// a signal's frame below it, stays resident until its next call from another stack.
void hold_stack(Memory& memory, std::uintptr_t here);
// libc's swapcontext or setcontext sets a signal mask, the last thing before it goes on with a stack
// that may be managed memory, and out: there, too, is room for a signal's frame.
void note_context_switch(Memory& memory, std::uintptr_t call, const long* arguments);
// A thread is about to be made on managed stack, or with a managed word that the kernel clears: both
// stay resident. `clone3`'s size of the stack is known; of clone's so much is held below its top.
void hold_for_new_thread(Memory& memory, long number, const long* arguments);
// The calling thread is about to end: does for its robust mutexes what the kernel could not do where
// their pages are missing, and lets go of what it had.
void before_exit(Memory& memory);

}  // namespace buoy::gate::thread
