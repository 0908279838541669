// `buoy info`: what this kernel and these rights allow, line by line, with the remedy for what is
// missing. For people; nothing parses it.
#pragma once

namespace buoy::cli {

// Exit status: 0, also where things are missing.
[[nodiscard]] int info_command();

}  // namespace buoy::cli
