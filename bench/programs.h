// The real programs of the `run` benchmark: how each is started, and what drives it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "samples.h"

namespace buoy::bench {

struct Program {
  std::string name;
  std::vector<std::string> words;   // the program that is given less memory than it wants
  std::vector<std::string> client;  // runs beside it, unlimited, and ends it; empty: none
  std::string missing;              // why it cannot run here; empty: it can
};

// Makes input files in $TMPDIR as needed (removed at the end). `quick` is about 150 MB each, else
// 400 MB.
[[nodiscard]] std::vector<Program> real_programs(bool quick);

// python3 that allocates and frees buffers of megabytes all the time: transformations of a byte
// string.
[[nodiscard]] Program buffers_program();

// Runs the program, behind the words of `prefix`, in a new memory cgroup with that limit, its
// client beside it. The sample: wall_s, peak_rss_bytes, cgroup_peak_bytes, major_faults (the
// kernel's), output_hash (as much as a double holds).
[[nodiscard]] Sample run_program(const Program& program, std::uint64_t limit, bool swap,
                                 const std::vector<std::string>& prefix = {});

}  // namespace buoy::bench
