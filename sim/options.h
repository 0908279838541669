// The command line of buoy-sim.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/units.h"
#include "patterns.h"
#include "swap/swap_stack.h"
#include "trace_file.h"

namespace buoy::sim {

// A budget as the user gave it: bytes, or a part of what the trace touches.
struct BudgetRequest {
  ByteSize bytes = 0;
  double part = 0;  // of the footprint; 0: `bytes` says
};

struct Options {
  enum class Action : std::uint8_t { kReplay, kHelp, kList };
  Action action = Action::kReplay;
  std::string trace;  // a file; empty: the pattern
  TraceFormat format = TraceFormat::kAuto;
  PatternRequest pattern;
  std::uint64_t warmup = 0;           // accesses more that do not count
  std::vector<std::string> policies;  // in the order of the output; "engine" is one
  std::vector<BudgetRequest> budgets;
  double stored = 0;
  std::string backing_file = "auto";
  swap::CompressorKind compressor = swap::CompressorKind::kLz4;
  unsigned take_ns = 3000;
  bool json_to_stdout = false;
  std::string json;  // files; empty: none
  std::string html;
  std::string write_trace;
};

// `words`: what follows the command's name. Throws std::runtime_error with one line for the user.
[[nodiscard]] Options parse_options(const std::vector<std::string>& words);
[[nodiscard]] const char* help();

}  // namespace buoy::sim
