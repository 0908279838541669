// Where the preload library is.
#pragma once

#include <string>

#include "cli/outcome.h"

namespace buoy::cli {

// Its path, without links: beside the command (a build folder), or where an installation puts it,
// whatever its prefix is by now. kUsage where it is in neither place, or where the dynamic linker could
// not take its path.
[[nodiscard]] Outcome<std::string> find_preload_library();

}  // namespace buoy::cli
