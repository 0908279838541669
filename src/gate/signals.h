// Signals and the gate: a fault is a SIGBUS, a call that is dispatched a SIGSYS, so neither must ever
// be blocked.
//
// A thread that blocks them (all signals, as libc itself does around fork and thread creation) would
// die at its next fault. So they are left out of every mask that reaches the kernel, and what the
// program believes is kept beside: the mask that it reads back says SIGBUS is blocked if it blocked
// it. What differs: a SIGBUS or SIGSYS that somebody sends meanwhile arrives at once.
//
// The program's handlers are entered by us (signal_frame.h says why); it reads back what it has set.
#pragma once

#include <cstdint>

#include "gate/memory.h"
#include "gate/signal_mask.h"
#include "mmu/signal_delivery.h"

namespace buoy::gate::signals {

// This process is the one whose signal actions are kept: at the start, and in each fork child.
void note_process();

// Handlers that were set before there was a gate become entered as those that are set later.
void adopt_handlers();
// The action of the latest handler that the program has set for a signal.
[[nodiscard]] mmu::KernelSigaction handler_of(int signal);
// The latest of all, SIG_DFL and SIG_IGN included.
[[nodiscard]] mmu::KernelSigaction action_of(int signal);

// From now on SIGSYS arrives where handlers are entered, whatever the program has set for it.
void catch_dispatched();

// Is the call one whose mask must not reach the kernel as it is?
[[nodiscard]] bool has_mask(long number);
// Makes such a call. Results as the kernel's.
long call_with_mask(Memory& memory, long number, const long* arguments);

}  // namespace buoy::gate::signals
