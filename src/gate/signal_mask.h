// A thread's signal mask, as the program has set it: what is kept open (signals.h) is left out of what the
// kernel has, and put back into what the program reads.
//
// Compiled without vector registers, so that it can be changed at the gate's entry.
#pragma once

#include <csignal>
#include <cstdint>

namespace buoy::gate::signals {

// SIGBUS and SIGSYS, as a mask has them.
inline constexpr std::uint64_t kKeptOpen = std::uint64_t{1} << (SIGBUS - 1) | std::uint64_t{1}
                                                                                  << (SIGSYS - 1);

// This process is the one whose masks are kept: at the start, and in each fork child.
void note_masks_owner();
// A vfork child runs in our memory, but its masks and actions are its own, and end with its exec.
[[nodiscard]] bool is_own_process();
// rt_sigprocmask(2) with both sets in memory of ours, or null. 0 or -errno.
long change_mask(long how, const std::uint64_t* set, std::uint64_t* old);
// In a thread that may have blocked SIGSYS before there was a gate.
void open_dispatched();

// Has a handler of the program run, and returned, in this thread since it was last watched for? (At the
// leaving: a handler's own calls, which watch as well, are over then.)
void watch_for_handlers();
void note_handler_returns();
[[nodiscard]] bool has_handler_run();

}  // namespace buoy::gate::signals
