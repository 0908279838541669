// Decimal numbers in texts that processes of a run hand to one another.
#pragma once

#include <cstdint>

namespace buoy {

inline constexpr std::uint64_t kNoNumber = ~std::uint64_t{0};

// Digits at *at, which goes past them. kNoNumber: there are none, or too many.
inline std::uint64_t parse_digits(const char** at) {
  std::uint64_t n = 0;
  const char* p = *at;
  for (; *p >= '0' && *p <= '9'; ++p) {
    if (n > (UINT64_MAX - 9) / 10) return kNoNumber;
    n = n * 10 + static_cast<std::uint64_t>(*p - '0');
  }
  const bool any = p != *at;
  *at = p;
  return any ? n : kNoNumber;
}

}  // namespace buoy
