// MemoryRoom: how much memory this process and its children may have, and how much of it is used
// already: what `--budget 75%` and `--budget auto` go by.
//
//   machine            MemTotal, MemAvailable
//   `- cgroup /a       memory.max, memory.high (v2); memory.limit_in_bytes (v1)
//      `- cgroup /a/b  the same: whichever leaves least counts
//
// Both hierarchies are asked, each from the process's own cgroup up to what is mounted. Page cache
// that the kernel drops when it wants to counts as free. Files only; nothing is written.
#pragma once

#include <string>

#include "base/units.h"

namespace buoy::cli {

struct MemoryRoom {
  ByteSize limit = 0;         // the smallest of all limits
  ByteSize free = 0;          // the least that any of them leaves
  bool is_cgroup = false;     // a cgroup's limit is smaller than the machine's memory
  std::string pressure_file;  // where the kernel tells of pressure on it (PSI), if it does
};

// `root` stands for `/`: tests put a tree of their own there.
[[nodiscard]] MemoryRoom read_memory_room(const std::string& root);

// The root to read from: `/`, or what BUOY_SYSTEM_ROOT in the environment names (for tests).
[[nodiscard]] std::string system_root();

}  // namespace buoy::cli
