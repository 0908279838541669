// The command line of `buoy run`, parsed and checked as far as words alone can tell.
#pragma once

#include <string>
#include <vector>

#include "cli/budget_request.h"
#include "cli/outcome.h"

namespace buoy::cli {

enum class FaultDelivery { kAuto, kThread, kSignal };

struct RunOptions {
  BudgetRequest budget;
  std::string backing_file;         // none, auto, a path; empty: auto where that is possible
  ByteSize backing_file_size = 0;   // 0: not said
  std::string encryption = "none";  // of the backing file
  ByteSize compressed_size = 0;     // 0: no limit
  std::string compressor = "lz4";
  FaultDelivery faults = FaultDelivery::kAuto;
  std::string on_exhausted = "sigbus";
  std::string unmanaged_exec = "refuse";
  std::string scope = "process";
  std::string show_budget = "yes";
  std::string stats;                 // empty: none; "-": stderr; otherwise a path
  std::string trace;                 // empty: none; otherwise a path
  std::vector<std::string> program;  // the program and its arguments; empty only with help
  bool help = false;
};

// `words`: what follows `buoy run`. Options end at the first word that is none, or at `--`.
[[nodiscard]] Outcome<RunOptions> parse_run_options(const std::vector<std::string>& words);

// The option's word.
[[nodiscard]] const char* word_of(FaultDelivery faults);

[[nodiscard]] const char* run_help();

}  // namespace buoy::cli
