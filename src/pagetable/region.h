// A region: one reservation of the Mmu, and which of its pages the program has mapped.
//
// Either one large mapping of its own, or a span out of which small mappings are carved, so that
// they share leaves, kernel page tables and registrations. Regions are type-stable (a Slab);
// `extents` and list membership are guarded by the PageTable's region lock.
#pragma once

#include <atomic>
#include <cstdint>

#include "base/extent_map.h"
#include "base/units.h"
#include "mmu/mmu.h"

namespace buoy {

enum class RegionFlags : std::uint32_t {
  kNone = 0,
  kDroppable = 1,
  kHuge = 2,
  kPurgedReadsZero = 4,
  kVolatileMayCompress = 8,
  kOwnersPromise = 16,  // whoever hands it out says how much of it is promised (vm/commitment.h)
};
constexpr RegionFlags operator|(RegionFlags a, RegionFlags b) {
  return static_cast<RegionFlags>(static_cast<std::uint32_t>(a) | static_cast<std::uint32_t>(b));
}
constexpr RegionFlags without(RegionFlags set, RegionFlags f) {
  return static_cast<RegionFlags>(static_cast<std::uint32_t>(set) & ~static_cast<std::uint32_t>(f));
}
constexpr bool has(RegionFlags set, RegionFlags f) {
  return (static_cast<std::uint32_t>(set) & static_cast<std::uint32_t>(f)) != 0;
}

enum class RegionKind : std::uint8_t {
  kOwn,   // one mapping, released when its last page is unmapped
  kSpan,  // many small ones; kept for reuse
};

class Region {
 public:
  mmu::Reservation reservation;
  RegionFlags flags = RegionFlags::kNone;
  RegionKind kind = RegionKind::kOwn;
  // What the program mapped, by access. Guarded by the region lock.
  ExtentMap<mmu::Access> extents;
  // Where the search for room starts. Guarded by the region lock.
  Vpn room_hint;
  // The part of the reservation that is somebody else's (MAP_FIXED of a file over it): the Mmu has let
  // it go. Guarded by the region lock.
  ExtentMap<bool> foreign;
  // Whether `foreign` has anything: may be asked without the lock.
  std::atomic<bool> has_foreign{false};

  [[nodiscard]] PageRun range() const { return {reservation.base, reservation.pages}; }
  [[nodiscard]] bool is(RegionFlags f) const { return has(flags, f); }
};

}  // namespace buoy
