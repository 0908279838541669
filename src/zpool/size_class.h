// Size classes: which slot size an object gets, and how many frames make up its zspage.
//
// Slot sizes are 32 to 4096 in steps of 16. For each, the zspage's chain length (1 to 8 frames)
// is the one that leaves the smallest share of it unused, where each further frame must win back
// half a percent: a class's last zspage is half empty on average, so long chains and many classes
// cost a pool more than they save until it is very large. Sizes that come out with the same
// (objects, frames) would only differ in waste, so they are merged into the largest of them, which
// is why a class is looked up and never computed.
//
// The last class holds one whole frame without a header: an object too long to share a frame costs
// one frame, however long. Source: zsmalloc (Linux mm/zsmalloc.c), with a 4-byte header, not 8.
#pragma once

#include <array>
#include <cstdint>

#include "base/units.h"

namespace buoy::zpool {

inline constexpr unsigned kClassStep = 16;
inline constexpr unsigned kSmallestSlot = 32;
inline constexpr unsigned kMaxChain = 8;     // frames of a zspage; the kernel's default
inline constexpr unsigned kHeaderBytes = 4;  // an object's back-reference to its handle
inline constexpr unsigned kSizeCount = (kPageSize - kSmallestSlot) / kClassStep + 1;

struct SizeClass {
  std::uint16_t slot_bytes = 0;  // header included
  std::uint16_t objects = 0;     // of a full zspage
  std::uint8_t frames = 0;       // of a zspage
  // One object that fills one frame, its back-reference kept in the zspage.
  [[nodiscard]] constexpr bool is_whole_frame() const { return slot_bytes == kPageSize; }
};

class SizeClassTable {
 public:
  constexpr SizeClassTable() {
    // From the largest size down, so that a merge keeps the largest.
    for (unsigned i = kSizeCount; i-- > 0;) {
      const SizeClass c = best_of(kSmallestSlot + i * kClassStep);
      if (count_ == 0 || classes_[count_ - 1].objects != c.objects ||
          classes_[count_ - 1].frames != c.frames)
        classes_[count_++] = c;
      by_size_[i] = static_cast<std::uint8_t>(count_ - 1);
    }
  }

  [[nodiscard]] constexpr unsigned count() const { return count_; }
  // Class 0 is the whole-frame class; higher numbers are smaller slots.
  [[nodiscard]] constexpr const SizeClass& at(unsigned index) const { return classes_[index]; }
  // The class for an object of 1 to 4096 bytes, header not included.
  [[nodiscard]] constexpr unsigned index_for(unsigned length) const {
    const unsigned slot = length + kHeaderBytes;
    if (slot > kPageSize) return 0;
    if (slot <= kSmallestSlot) return by_size_[0];
    return by_size_[(slot - kSmallestSlot + kClassStep - 1) / kClassStep];
  }
  // The longest object that costs less than a frame.
  [[nodiscard]] constexpr unsigned longest_packed() const {
    return classes_[1].slot_bytes - kHeaderBytes;
  }

 private:
  static constexpr SizeClass best_of(unsigned slot) {
    SizeClass best;
    unsigned best_cost = 0;
    for (unsigned frames = 1; frames <= kMaxChain; ++frames) {
      const auto bytes = frames * static_cast<unsigned>(kPageSize);
      // Per frame: the share that is left over, and 1/200 for each frame; in integers.
      const unsigned cost = bytes % slot * 200 + frames * bytes;
      if (best.frames != 0 && cost * best.frames >= best_cost * frames) continue;
      best_cost = cost;
      best.slot_bytes = static_cast<std::uint16_t>(slot);
      best.objects = static_cast<std::uint16_t>(bytes / slot);
      best.frames = static_cast<std::uint8_t>(frames);
    }
    return best;
  }

  std::array<SizeClass, kSizeCount> classes_{};
  std::array<std::uint8_t, kSizeCount> by_size_{};
  unsigned count_ = 0;
};

inline constexpr SizeClassTable kSizeClasses;

static_assert(kSizeClasses.at(0).is_whole_frame() && kSizeClasses.at(0).objects == 1);
static_assert(kSizeClasses.count() <= 256, "a class index is one byte");
static_assert(kSizeClasses.at(kSizeClasses.count() - 1).objects <= 2048, "11 bits name an object");
static_assert(kSizeClasses.longest_packed() > 3 * kPageSize / 4);

}  // namespace buoy::zpool
