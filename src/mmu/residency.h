// Residency: asks the kernel which pages of a range are there, without touching them.
//
// By /proc/self/pagemap: unlike mincore(2) it also tells pages that the system swapped out.
// Async-signal-safe.
#pragma once

#include <bitset>
#include <cstdint>

#include "base/result.h"
#include "base/units.h"

namespace buoy::mmu {

class Residency {
 public:
  // At most so many pages in one question.
  static constexpr std::uint64_t kMaxPages = kPagesPerBlock;
  // Whether page tables may hold markers (poison), which the pagemap shows like swapped pages.
  enum class Markers : std::uint8_t { kNone, kPossible };

  Residency() = default;
  Residency(const Residency&) = delete;
  Residency& operator=(const Residency&) = delete;
  ~Residency() { close(); }

  // Again in a fork child: a pagemap belongs to the memory of its opener. ENOENT and others where
  // there is no /proc.
  [[nodiscard]] Status open(Markers markers);
  void close();
  [[nodiscard]] bool is_open() const { return fd_ >= 0; }

  // A bit a page: populated or not.
  using Bits = std::bitset<kMaxPages>;
  // False if the kernel does not say; then no bit means anything.
  [[nodiscard]] bool query(Vpn first, PageCount count, Bits& bits) const;

 private:
  int fd_ = -1;
  Markers markers_ = Markers::kNone;
};

}  // namespace buoy::mmu
