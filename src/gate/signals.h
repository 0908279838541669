// Signals and the gate: a fault is a SIGBUS, so SIGBUS must never be blocked.
//
// A thread that blocks it (all signals, as libc itself does around fork and thread creation) would
// die at its next fault. So it is left out of every mask that reaches the kernel, and what the
// program believes is kept beside: the mask that it reads back says SIGBUS is blocked if it blocked
// it. What differs: a SIGBUS that somebody sends meanwhile arrives at once.
#pragma once

#include <cstdint>

#include "gate/memory.h"

namespace buoy::gate::signals {

// This process is the one whose signal actions are kept: at the start, and in each fork child.
void note_process();

// The program is about to have an alternate stack: its handlers that want one get it from now on.
void note_alternate_stack();

// Is the call one whose mask must not reach the kernel as it is?
[[nodiscard]] bool has_mask(long number);
// Makes such a call. Results as the kernel's.
long call_with_mask(Memory& memory, long number, const long* arguments);

}  // namespace buoy::gate::signals
