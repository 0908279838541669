// Statistics at the end of the process: one flat JSON object where BUOY_STATS says.
//
// The end is exit() (our destructor), _exit() and its relatives, quick_exit(), or the system calls
// behind them by syscall(). If a signal ends the process, `buoy run` writes what was published last
// (member.h), of the process that it started; exec carries the process on.
#pragma once

namespace buoy::preload {

// Keeps a way to stderr, which many programs close before they end. Called when the pool is made.
void prepare_stats_at_exit();

// Writes what was traced, too. Writes once; later calls, and calls in a vfork child, do nothing. Raw system calls only.
void write_stats_at_exit();

// The child writes its own, whatever the parent has written.
void stats_at_exit_after_fork_in_child();

}  // namespace buoy::preload
