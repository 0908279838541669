// SwapEntry: the name of a page in the swap tiers. Here, because page tables hold it and must not
// know what the tiers are.
#pragma once

#include <cstdint>

namespace buoy::swap {

// What a PTE holds of a page that is in a tier: 32 bits, never 0.
class SwapEntry {
 public:
  constexpr SwapEntry() = default;
  constexpr explicit SwapEntry(std::uint32_t bits) : bits_(bits) {}
  [[nodiscard]] constexpr std::uint32_t bits() const { return bits_; }
  [[nodiscard]] constexpr bool is_none() const { return bits_ == 0; }
  constexpr bool operator==(const SwapEntry&) const = default;

 private:
  std::uint32_t bits_ = 0;
};

}  // namespace buoy::swap
