// What a replay of a trace comes to, of a policy or of the engine.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace buoy::sim {

// Of the accesses that count (Trace::uncounted are past).
//
// A miss is an access to contents that had to be brought back: for a policy, an access to a page that
// was accessed before and is not resident; for the engine, a major fault (a load from the compressed
// pool or the file). The first access to a page, or the first after it was discarded, is `first`: no
// policy could have avoided it, and nothing is brought back.
struct Tally {
  std::uint64_t accesses = 0;
  std::uint64_t misses = 0;
  std::uint64_t first = 0;
  [[nodiscard]] double miss_ratio() const {
    return accesses == 0 ? 0 : static_cast<double>(misses) / static_cast<double>(accesses);
  }
};

// What only the engine has; but for the first also counted from Trace::uncounted on.
struct EngineCounts {
  std::uint64_t major_faults = 0;     // of the whole trace, what fills memory included
  std::uint64_t standby_touches = 0;  // faults on pages that were resident, but taken away
  std::uint64_t protect_faults = 0;   // stores to pages that keep a compressed copy
  std::uint64_t pages_in = 0;         // pages brought back: the window around each miss, too
  std::uint64_t pages_in_file = 0;    // of these: from the file
  std::uint64_t pages_out = 0;
};

// The tiers at one time, in pages of the program.
struct TierSample {
  std::uint64_t access = 0;       // accesses before it, those that do not count included
  std::uint64_t mapped = 0;       // resident at their addresses
  std::uint64_t standby = 0;      // resident, taken away
  std::uint64_t pool_frames = 0;  // frames of the budget that the compressed pool holds
  std::uint64_t compressed = 0;   // pages in the pool
  std::uint64_t in_file = 0;      // pages in the file
  std::uint64_t misses = 0;       // since the last sample
};

// Where pages were, as a picture: a row is some pages on end, a column some accesses on end.
struct Picture {
  enum class Tier : std::uint8_t { kNone, kMapped, kStandby, kCompressed, kFile };
  unsigned rows = 0;
  unsigned columns = 0;
  std::uint64_t pages_per_row = 0;
  std::uint64_t accesses_per_column = 0;
  std::vector<Tier> tiers;            // at the end of the column; the tier that most pages are in
  std::vector<std::uint32_t> misses;  // in the column
  [[nodiscard]] std::size_t cell(unsigned row, unsigned column) const {
    return std::size_t{column} * rows + row;
  }
};

struct Replayed {
  std::string policy;  // a policy's name, or "engine"
  std::uint64_t budget_bytes = 0;
  Tally tally;
  double cpu_seconds = 0;
  bool is_engine = false;
  EngineCounts engine;
  std::vector<TierSample> tiers;
  Picture picture;  // empty unless asked for
};

}  // namespace buoy::sim
