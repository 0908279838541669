// ShownBudget: programs that ask how much memory there is are told of their budget, so that they size
// heaps and caches by it: sysinfo(2), which libc's sysconf and get_phys_pages ask, /proc/meminfo and the
// files of their own memory cgroup.
//
// A file is told by what was opened, whatever path led there. Its descriptor then is that of a memory
// file with the changed text, as of that moment. Where that cannot be had, the program reads the
// real one. With the gate only: see route.h.
#pragma once

namespace buoy::preload {

// After the pool is made, if the settings say so.
void show_budget();
[[nodiscard]] bool is_budget_shown();

// An open for reading, just made: its result, or another file's under the same number.
void show_opened(long descriptor);
// sysinfo(2).
[[nodiscard]] long sysinfo_shown(long address);

}  // namespace buoy::preload
