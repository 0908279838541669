// Page: what the arena knows of one frame. 32 bytes a frame, in an array indexed by Pfn (mem_map).
//
// The first word says everything a scanner may ask without a lock: the frame's state, the order
// of the run it heads, its owner and its flags. It is one atomic, so a lock-free reader sees one
// moment's truth; it changes under the zone lock while the frame is free, and by the owner's
// rules while it is allocated.
//
//   states    kTail <-> kFree        a run is split or merged            (zone lock)
//             kFree <-> kAllocated   a run is taken or given             (zone lock)
//             kFree/kAllocated <-> kCached   in a per-CPU cache          (zone lock / cache lock)
//             kAllocated: movable, isolated           as movable.h says   (page lock)
//   Only heads carry state: every frame that heads no run is kTail. So a pageblock can be parsed
//   from its first frame, head by head.
#pragma once

#include <atomic>
#include <cstdint>

#include "base/check.h"
#include "base/lock.h"
#include "base/units.h"

namespace buoy::frames {

// Pageblocks and free lists are kept apart by how their frames can be freed up: frames that their
// owners can move do not share pageblocks with frames that stay.
enum class MigrateType : std::uint8_t {
  kUnmovable = 0,
  kMovable = 1,
  kReserve = 2,  // set aside for contiguous memory; lent to movable pages only
  kIsolate = 3,  // of a pageblock that is being emptied: nothing is allocated there meanwhile
};
inline constexpr unsigned kMigrateTypes = 4;

enum class PageState : std::uint8_t { kTail = 0, kFree, kCached, kAllocated };

enum class FrameOwner : std::uint8_t { kNone = 0, kZpool, kContiguous, kDriver, kBalloon };

// Flag bits of an allocated head. Movable and isolated are as in the 2016 contract: set by the
// owner under the page's lock, read by scanners without it.
enum class PageFlag : std::uint32_t {
  kMovable = 1U << 16,
  kIsolated = 1U << 17,
};

// A snapshot of a Page's first word.
class PageWord {
 public:
  constexpr PageWord() = default;
  constexpr explicit PageWord(std::uint32_t bits) : bits_(bits) {}
  constexpr PageWord(PageState state, Order order, MigrateType type = MigrateType::kUnmovable,
                     FrameOwner owner = FrameOwner::kNone)
      : bits_(static_cast<std::uint32_t>(state) | order.value() << 4 |
              static_cast<std::uint32_t>(type) << 8 | static_cast<std::uint32_t>(owner) << 12) {}
  [[nodiscard]] constexpr std::uint32_t bits() const { return bits_; }
  [[nodiscard]] constexpr PageState state() const { return static_cast<PageState>(bits_ & 0xfU); }
  [[nodiscard]] constexpr Order order() const { return Order((bits_ >> 4) & 0xfU); }
  // What the owner asked for; the pageblock's own type may differ after a fallback.
  [[nodiscard]] constexpr MigrateType type() const {
    return static_cast<MigrateType>((bits_ >> 8) & 0xfU);
  }
  [[nodiscard]] constexpr FrameOwner owner() const {
    return static_cast<FrameOwner>((bits_ >> 12) & 0xfU);
  }
  [[nodiscard]] constexpr bool has(PageFlag f) const {
    return (bits_ & static_cast<std::uint32_t>(f)) != 0;
  }
  [[nodiscard]] constexpr PageWord with(PageFlag f) const {
    return PageWord(bits_ | static_cast<std::uint32_t>(f));
  }
  [[nodiscard]] constexpr PageWord without(PageFlag f) const {
    return PageWord(bits_ & ~static_cast<std::uint32_t>(f));
  }

 private:
  std::uint32_t bits_ = 0;
};

struct Page {
  std::atomic<std::uint32_t> word{0};  // a PageWord
  SpinMutex lock;                      // the page lock: guards the owner against migration (kPage)
  std::uint32_t prev = 0;              // free lists: Pfn values; guard: zone lock
  std::uint32_t next = 0;
  std::atomic<std::uint64_t> owner_word{0};  // the owner's own; the zpool: zspage and frame index
  std::atomic<std::uint32_t> refs{0};        // 1 from allocation on; isolation takes another
  std::atomic<std::uint32_t> owner_id{0};  // whose MovableOps (movable.h); set under the page lock

  [[nodiscard]] PageWord load() const { return PageWord(word.load(std::memory_order_acquire)); }
  void store(PageWord w) { word.store(w.bits(), std::memory_order_release); }
  [[nodiscard]] std::uint32_t owner() const { return owner_id.load(std::memory_order_relaxed); }

  // Takes a reference, unless the page is being freed or is free.
  [[nodiscard]] bool try_get() {
    std::uint32_t n = refs.load(std::memory_order_relaxed);
    while (n != 0)
      if (refs.compare_exchange_weak(n, n + 1, std::memory_order_acquire)) return true;
    return false;
  }
  // Gives one up. True: it was the last, and the run is the caller's to free.
  [[nodiscard]] bool put() {
    const std::uint32_t before = refs.fetch_sub(1, std::memory_order_acq_rel);
    BUOY_CHECK(before != 0 && "a frame is released twice");
    return before == 1;
  }
};
static_assert(sizeof(Page) <= 32, "the arena's metadata per frame");

}  // namespace buoy::frames
