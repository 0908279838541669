// The file of `buoy run --trace`: opened when the pool is made, and by each fork child for itself;
// what is recorded, and when it is written, is vm/recorder.h's business.
//
// FILE, or FILE.PID for all but the process that `buoy run` started. A program that executes another
// goes on with the same file, behind a header of its own; a file left by an earlier run is emptied.
#pragma once

namespace buoy {
class Pool;
}

namespace buoy::preload {

// If a trace is wanted. Where the file cannot be had, one line says so, and nothing is recorded.
void start_trace(Pool& pool);
// Before anything else in the child could be recorded.
void trace_after_fork_in_child();
// Before the process ends, or becomes another program. Not in a vfork child. Raw system calls only.
void flush_trace();

}  // namespace buoy::preload
