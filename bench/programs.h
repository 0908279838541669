// The real programs of the `run` benchmark: how each is started, and what drives it.
#pragma once

#include <string>
#include <vector>

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

}  // namespace buoy::bench
