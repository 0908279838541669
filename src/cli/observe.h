// `buoy ps` and `buoy stat`: what the runs of this user are doing.
#pragma once

#include <string>
#include <vector>

namespace buoy::cli {

// `words`: what follows the command's name. The exit status.
[[nodiscard]] int ps_command(const std::vector<std::string>& words);
[[nodiscard]] int stat_command(const std::vector<std::string>& words);

}  // namespace buoy::cli
