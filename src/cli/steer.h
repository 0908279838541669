// `buoy set` and `buoy reclaim`: another budget for what runs, and memory back from it.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/units.h"
#include "cli/outcome.h"

namespace buoy::cli {

// Of a run or of one process, by its id; the answer has every process with the budget that it has now.
// Blocks until memory is down to it, for a minute at most.
[[nodiscard]] Outcome<nlohmann::json> change_budget(int pid, ByteSize bytes);

// `words`: what follows the command's name. The exit status; 1: not all of it could be done.
[[nodiscard]] int set_command(const std::vector<std::string>& words);
[[nodiscard]] int reclaim_command(const std::vector<std::string>& words);

}  // namespace buoy::cli
