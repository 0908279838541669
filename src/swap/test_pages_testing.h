// Pages for tests: every kind that compression treats in a way of its own, reproducible by number.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "base/units.h"

namespace buoy::swap::test {

using Page = std::array<std::byte, kPageSize>;

enum class Fill : std::uint8_t {
  kZero,     // same-filled, no object
  kPattern,  // same-filled with a word too wide for a handle's word
  kQuarter,  // LZ4 quarters it
  kHalf,     // LZ4 halves it
  kMostly,   // three quarters are random: compressed, barely
  kText,     // small
  kRandom,   // incompressible
};
inline constexpr unsigned kFills = 7;

[[nodiscard]] Page make_page(Fill fill, unsigned number);

}  // namespace buoy::swap::test
