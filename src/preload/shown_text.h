// What a program in a budget reads in place of the files that tell of memory: which files those are,
// and their text with the budget in it. Text only; no system calls, no memory of its own.
#pragma once

#include <cstdint>
#include <string_view>

#include "base/sys.h"
#include "base/units.h"

namespace buoy::preload {

enum class ShownFile : std::uint8_t {
  kNone,       // is read as it is
  kMeminfo,    // /proc/meminfo
  kLimit,      // memory.max, memory.high, memory.limit_in_bytes: a number, or "max"
  kUsage,      // memory.current, memory.usage_in_bytes: a number
  kGroupStat,  // memory.stat, whose hierarchical_memory_limit is one
};

// Which one a file is, by its whole path, in the cgroups that `own` (a /proc/self/cgroup) names, or
// above them.
[[nodiscard]] ShownFile shown_file(std::string_view path, std::string_view own);
// The same, of any cgroup: a first look, for which nothing need be read.
[[nodiscard]] ShownFile may_be_shown(std::string_view path);

struct ShownBudget {
  ByteSize budget = 0;
  ByteSize resident = 0;
  [[nodiscard]] ByteSize free() const { return budget - (resident < budget ? resident : budget); }
};

// One line of the file, its newline not in it, as the program is to read it. `total`: MemTotal of the
// machine in bytes, of kMeminfo: where the budget is more, everything stays as it is.
void show_line(ShownFile file, std::string_view line, const ShownBudget& shown, ByteSize total,
               sys::Line* out);

// The bytes that a line of /proc/meminfo tells; 0 if it is another's.
[[nodiscard]] ByteSize meminfo_value(std::string_view line, std::string_view name);

}  // namespace buoy::preload
