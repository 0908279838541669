// `buoy set` and `buoy reclaim`: another budget for what runs, and memory back from it.
#pragma once

#include <string>
#include <vector>

namespace buoy::cli {

// `words`: what follows the command's name. The exit status; 1: not all of it could be done.
[[nodiscard]] int set_command(const std::vector<std::string>& words);
[[nodiscard]] int reclaim_command(const std::vector<std::string>& words);

}  // namespace buoy::cli
