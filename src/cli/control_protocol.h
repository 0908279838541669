// The words of the control socket: requests are lines of JSON, and so are the answers
// (docs/control.md). Here a line becomes a request, and replies of processes become an answer; who
// asks the processes, and how, is RunMembers'.
//
// Whatever is in a line, parsing it ends with a request or with a sentence for who sent it.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "api/picture.h"
#include "base/units.h"
#include "cli/outcome.h"

namespace buoy::cli {

// A request has no more bytes than that, its newline included.
inline constexpr std::size_t kMostRequestBytes = 4096;

struct ControlRequest {
  enum class Kind : std::uint8_t { kStats, kSetBudget, kReclaim, kCompact, kSubscribe, kPicture };
  Kind kind = Kind::kStats;
  ByteSize bytes = 0;  // of kSetBudget and kReclaim
  std::chrono::milliseconds interval{};
  pid_t pid = 0;  // one process of the run; 0: all
};

// What a process drew (api/picture.h).
struct Picture {
  std::vector<PictureCell> cells;
  std::vector<PictureBlock> blocks;
  // Blocks of 2 MiB that are not in it, of the address space and of the arena.
  std::uint64_t cells_left_out = 0;
  std::uint64_t blocks_left_out = 0;
};

// What one process answered.
struct MemberReply {
  pid_t pid = 0;
  std::string command;
  std::string error;  // why there is no answer, or what went wrong; empty: all is well
  std::uint64_t result = 0;
  std::vector<std::uint64_t> words;  // by Pool::stat_name(); empty without an answer
  std::optional<Picture> picture;    // if it was asked for one
};

struct RunFacts {
  pid_t pid = 0;
  std::string command;
  ByteSize budget = 0;            // of processes that start from now on
  std::uint64_t turned_away = 0;  // processes that are not told of, for want of a place
  bool is_tree = false;           // `budget` is one for all processes,
  ByteSize leased = 0;            // of which they have leased so much
};

// The line, without its newline. Failure: what is wrong with it.
[[nodiscard]] Outcome<ControlRequest> parse_request(std::string_view line);

// Lines, without the newline.
[[nodiscard]] std::string format_error(const std::string& why);
[[nodiscard]] std::string format_answer(ControlRequest::Kind kind, const RunFacts& run,
                                        const std::vector<MemberReply>& replies);

}  // namespace buoy::cli
