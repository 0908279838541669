// `buoy top`: a live picture of what runs within a budget.
#pragma once

#include <string>
#include <vector>

namespace buoy::cli {

// Returns the exit status of `buoy`.
[[nodiscard]] int top_command(const std::vector<std::string>& words);

}  // namespace buoy::cli
