// What a handle's word holds when the page has no object in the pool: 61 bits, by tier.
//
//   60                                        1   0
//   |  repeated 8-byte pattern, if it fits    | 0 |    same-filled
//   |  place in the backing file              | 1 |    in the file
#pragma once

#include <cstdint>

namespace buoy::swap::foreign {

inline constexpr unsigned kValueBits = 60;

[[nodiscard]] constexpr bool fits(std::uint64_t pattern) { return pattern >> kValueBits == 0; }
[[nodiscard]] constexpr std::uint64_t of_pattern(std::uint64_t pattern) { return pattern << 1; }
[[nodiscard]] constexpr std::uint64_t of_file(std::uint64_t place) { return place << 1 | 1U; }
[[nodiscard]] constexpr bool is_file(std::uint64_t payload) { return (payload & 1U) != 0; }
[[nodiscard]] constexpr std::uint64_t value(std::uint64_t payload) { return payload >> 1; }

}  // namespace buoy::swap::foreign
