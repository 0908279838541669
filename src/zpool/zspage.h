// Zspage: one to eight frames, not necessarily neighbours, cut into slots of one size.
//
//   frame 0               frame 1               frame 2
//   |slot 0|slot 1|slot 2 |  |slot 3|slot 4|slo |t 5 |slot 6| unused |
//                        ^ a slot may cross into the next frame
//   slot, taken:  handle << 1 | 1 (4 bytes), then the object
//   slot, free:   (1 + next free slot) << 1
//   slots from `untouched` on were never taken and hold anything
//
// Slot sizes are multiples of 16, so a header never crosses a frame.
// A descriptor is type-stable (Slab). Guard: the lock of its size class, but for `frames` and
// `class_index`, which also hold still while any handle of an object inside is pinned.
#pragma once

#include <array>
#include <cstdint>

#include "base/units.h"
#include "zpool/size_class.h"

namespace buoy::zpool {

// How full, in tenths; the kernel's groups. Empty zspages are freed at once and are in none.
inline constexpr unsigned kGroups = 12;
inline constexpr unsigned kGroupNone = 0;
inline constexpr unsigned kGroupFull = kGroups - 1;

struct Zspage {
  std::array<Pfn, kMaxChain> frames;
  std::uint32_t prev = 0;  // in its fullness group; slab indices, 0: none
  std::uint32_t next = 0;
  std::uint32_t whole_frame_handle = 0;  // the header of a whole-frame object
  std::uint16_t in_use = 0;              // taken slots
  std::uint16_t first_free = 0;          // 1 + slot; 0: none below `untouched`
  std::uint16_t untouched = 0;
  std::uint8_t class_index = 0;
  std::uint8_t group = kGroupNone;

  [[nodiscard]] const SizeClass& size_class() const { return kSizeClasses.at(class_index); }
  [[nodiscard]] static unsigned group_of(unsigned in_use, unsigned objects) {
    if (in_use == 0) return kGroupNone;
    if (in_use == objects) return kGroupFull;
    return in_use * 10 / objects + 1;
  }
};
static_assert(sizeof(Zspage) <= 60, "64 bytes in its slab");

}  // namespace buoy::zpool
