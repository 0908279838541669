// `buoy serve`: pictures of what runs, for a browser, and metrics for Prometheus. The server is a program
// of its own (src/serve), because its libraries take longer to load than `buoy run` may take; here it is
// found and executed.
#pragma once

#include <string>
#include <vector>

namespace buoy::cli {

// Returns only if it cannot be executed: the exit status of `buoy`.
[[nodiscard]] int serve_command(const std::vector<std::string>& words);

}  // namespace buoy::cli
