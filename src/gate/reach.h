// Reach: memory that is not managed, and that a load or a store of ours is known not to fail in.
#pragma once

#include <cstddef>
#include <cstdint>

#include "gate/known_data.h"
#include "gate/memory.h"

namespace buoy::gate {

// Near the top of the caller's stack, where most structures of calls are; or static data.
[[nodiscard]] inline bool is_within_reach(Bytes b) {
  constexpr std::uintptr_t kNear = std::uintptr_t{32} << 10;
  const auto here = reinterpret_cast<std::uintptr_t>(__builtin_frame_address(0));
  if (b.address >= here && b.address - here < kNear && b.length < kNear) return true;
  return known_data::holds(b.address, b.length);
}

}  // namespace buoy::gate
