// `buoy run`: checks everything that can be checked first, then starts the program with the preload
// library and waits for it.
#pragma once

#include <string>
#include <vector>

namespace buoy::cli {

// `words`: what follows `buoy run`. The exit status for buoy.
[[nodiscard]] int run_command(const std::vector<std::string>& words);

}  // namespace buoy::cli
