// The program that `buoy run` is to start: where it is, and whether the preload library can be
// loaded into it.
#pragma once

#include <string>

#include "cli/outcome.h"

namespace buoy::cli {

// The file that a shell would execute for `name`: itself if it has a slash, else the first
// executable in $PATH. kNotFound, kCannotExecute.
[[nodiscard]] Outcome<std::string> resolve_program(const std::string& name);

// Follows `#!` lines and looks at what the kernel will load in the end. Refused with
// kCannotExecute: statically linked programs, those of another machine, and setuid, setgid and
// capable ones, for which the dynamic linker ignores LD_PRELOAD. True if all is well.
[[nodiscard]] Outcome<bool> check_preloadable(const std::string& path);

}  // namespace buoy::cli
