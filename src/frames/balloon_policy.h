// BalloonPolicy: how large the budget should be, from what the system says. An interface only, for
// a balloon that follows its cgroup and the system's pressure; nothing calls it yet: today the
// program says the size itself (buoy_pool_resize).
//
// What will: the background thread, at most once a second, fills in BalloonSignals from memory.max,
// memory.high and memory.current of the process's cgroup and from memory.pressure (PSI), asks
// target(), and resizes the pool as buoy_pool_resize does, in steps of whole pageblocks.
#pragma once

#include <cstdint>

#include "base/units.h"

namespace buoy::frames {

// A moment's reading. A limit that is not set is UINT64_MAX.
struct BalloonSignals {
  std::uint64_t cgroup_limit_bytes = UINT64_MAX;  // the lower one of memory.high and memory.max
  std::uint64_t cgroup_used_bytes = 0;            // memory.current
  // Shares of the last ten seconds in which some, or all, tasks waited for memory; 1/100 percent.
  std::uint32_t psi_some_avg10 = 0;
  std::uint32_t psi_full_avg10 = 0;
  PageCount budget;         // the present limit
  PageCount used;           // of it
  PageCount budget_wanted;  // what the program asked for: never more
};

class BalloonPolicy {
 public:
  // The limit that the budget should have. Called from an engine thread: no malloc, no libc.
  [[nodiscard]] virtual PageCount target(const BalloonSignals& signals) = 0;

 protected:
  ~BalloonPolicy() = default;
};

}  // namespace buoy::frames
