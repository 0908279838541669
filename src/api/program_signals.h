// sigaction and its relatives as the program calls them: do such calls reach program_signals.cc?
#pragma once

namespace buoy::program_signals {

// False where the library came too late for that (dlopen: ctypes, JNI, plugins): the program's calls
// are bound to libc's functions by then, or to those of another preloaded library, and replace the
// engine's SIGBUS action without its knowledge. Async-signal-safe.
[[nodiscard]] bool reach_us();

}  // namespace buoy::program_signals
