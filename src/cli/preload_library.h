// Where the parts of Buoy are that are not in the command: the preload library, and the server of
// `buoy serve`.
#pragma once

#include <string>

#include "cli/outcome.h"

namespace buoy::cli {

// The path of a part, without links: beside the command (a build folder), or where an installation puts it,
// whatever its prefix is by now. kUsage where it is in neither place.
[[nodiscard]] Outcome<std::string> find_part(const std::string& name);
// The library's; kUsage, too, where the dynamic linker could not take its path.
[[nodiscard]] Outcome<std::string> find_preload_library();

}  // namespace buoy::cli
