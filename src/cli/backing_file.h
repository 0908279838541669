// --backing-file, checked before the program starts: each process opens it on its own later.
#pragma once

#include <string>

#include "base/units.h"
#include "cli/outcome.h"

namespace buoy::cli {

// The value for the preload library: `none`, `auto`, or an absolute path. A path must be one that
// can be created: each process creates one of its own and unlinks it at once, and nothing that was
// there is overwritten. Neither it nor `auto` may lie on tmpfs, which is memory.
[[nodiscard]] Outcome<std::string> check_backing_file(const std::string& value);

// What may be written by default, where a checked value other than none says: half of what is free.
[[nodiscard]] ByteSize default_backing_file_size(const std::string& checked);

}  // namespace buoy::cli
