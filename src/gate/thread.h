// What the gate keeps for each thread of the program, and what the kernel touches of a thread's memory
// outside of its calls: stacks, alternate stacks, words that it clears when the thread ends.
//
// Every thread has an alternate stack of ours, and the kernel knows no other: faults and signals arrive
// there, because the program's stacks may be managed memory (a context of makecontext,
// pthread_attr_setstack, sigaltstack). What the program sets by sigaltstack is kept beside, and its
// handlers run where they would run without us (signal_entry.h).
#pragma once

#include <csignal>
#include <cstddef>
#include <cstdint>
#include <span>

#include "gate/memory.h"

namespace buoy::gate::thread {

// At each thread's first call. Cheap once it is done.
void prepare(Memory& memory);
// Is this thread's storage its own? Threads that are made by a bare clone have that of their maker.
[[nodiscard]] bool has_own_storage();
void after_fork_in_child();
// The stack for faults and signals; empty if there could be none.
[[nodiscard]] std::span<std::byte> own_stack();
[[nodiscard]] bool is_on_own_stack(std::uintptr_t sp);
// What the program has set with sigaltstack(2), as the kernel would store it in a signal's frame.
[[nodiscard]] stack_t alternate_stack();
// The kernel would disarm it now, if the program has asked for that.
void note_handler_entered();
// A handler returns to where the stack pointer is `sp`: what its frame says of the stack is set again.
void restore_alternate_stack(const stack_t& before, std::uintptr_t sp);
// sigaltstack(2) for the program, whose stack pointer is `sp`.
long set_alternate_stack(Memory& memory, const long* arguments, std::uintptr_t sp);
// The calling thread's stack may be managed memory (a coroutine's): what is near `here`, where calls
// have small operands of their own, stays resident until its next call from another stack.
void hold_stack(Memory& memory, std::uintptr_t here);
// A thread is about to be made on managed stack, or with a managed word that the kernel clears. The
// word stays resident; the stack until the thread has one of ours for its faults.
void hold_for_new_thread(Memory& memory, long number, const long* arguments);
// The calling thread is about to end: does for its robust mutexes what the kernel could not do where
// their pages are missing, and lets go of what it had.
void before_exit(Memory& memory);

}  // namespace buoy::gate::thread
