// For contents that tests tell apart: a number whose bits say little about where it came from.
#pragma once

#include <cstdint>

namespace buoy {

// The 64-bit finalizer of MurmurHash3 (Austin Appleby, 2011).
constexpr std::uint64_t mix(std::uint64_t x) {
  x ^= x >> 33;
  x *= 0xff51afd7ed558ccdU;
  x ^= x >> 33;
  x *= 0xc4ceb9fe1a85ec53U;
  return x ^ (x >> 33);
}

}  // namespace buoy
