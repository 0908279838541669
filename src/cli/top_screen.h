// The screen of `buoy top`: draws the table with ncurses, and does what keys ask for. Budgets are
// changed beside it, so that the picture lives on meanwhile.
#pragma once

#include <chrono>
#include <optional>

#include "cli/outcome.h"

namespace buoy::cli {

// Until a key or a signal ends it. Standard input and output are a terminal. Failure: it cannot be
// drawn on.
[[nodiscard]] std::optional<Failure> show_top(std::chrono::milliseconds interval);

}  // namespace buoy::cli
