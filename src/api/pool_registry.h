// The pools of this process: which one owns an address, and what fork must do to all of them.
#pragma once

#include "api/pool.h"

namespace buoy {

class PoolRegistry {
 public:
  static constexpr unsigned kMostPools = 64;

  // EBUSY: the process has the most pools it can have. The first one registers fork handlers.
  [[nodiscard]] static Status add(Pool& pool);
  static void remove(Pool& pool);
  [[nodiscard]] static bool has(const Pool& pool);
  // The pool that manages the address, or null. Lock-free.
  [[nodiscard]] static Pool* find(const void* address);
};

}  // namespace buoy
