// The statistics of a program that a signal ended, and that could not write them itself: what it
// published last, a tenth of a second before at most while it had work to do.
#pragma once

#include <string>

#include "cli/supervise.h"
#include "control/block.h"

namespace buoy::cli {

// One flat JSON object on one line, as Pool::write_stats() has it, with the signal's number as
// `ended_by_signal`; to `where`, a path, or "-" for stderr. `block` may be null: then no more is known.
void write_last_stats(const std::string& where, control::Block* block, const Ending& ending);

// The object.
[[nodiscard]] std::string format_last_stats(control::Block* block, const Ending& ending);

}  // namespace buoy::cli
