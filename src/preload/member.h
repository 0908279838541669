// Member: this process as one of those of its run, whose supervisor may ask it for its statistics
// and give it another budget (control/block.h).
//
// What is asked is done by a thread of its own, which sleeps in a futex otherwise: the program's
// threads and the fault path know nothing of it. A process takes part once it has lived for a tenth
// of a second; for the many that a shell starts and forgets, that costs nothing. One that cannot,
// because its program has closed the block's descriptor, or all places are taken, runs as well
// without.
#pragma once

#include <cstdint>

namespace buoy::preload {

// Maps the block of the run, if there is one. Bytes: the budget that this process is to have in
// place of its environment's; 0: that one. Before the pool is made.
[[nodiscard]] std::uint64_t find_run();
// The pool's heartbeat: joins the run the first time. The process that `buoy run` started publishes
// each time, if its statistics are wanted: should a signal end it, they are what is left to write.
void beat_in_run();
// Such a process joins at once. When there is a pool.
void join_run_if_stats_are_wanted();
// In a fork child, before its pool has threads: it has not joined yet.
void member_after_fork_in_child();

}  // namespace buoy::preload
