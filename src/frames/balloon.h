// Balloon: free frames inside blocks that cannot be emptied, given back to the system one run at a
// time, so that the budget can shrink below what the arena's blocks add up to.
//
//   block   xx..x...........x      x in use    . free, charged, resident
//           xx..xooooooooooox      o in the balloon: allocated to it, not resident, not charged
//
// Whole blocks go back by themselves (Arena::trim, after compaction) and cost nothing later; the
// balloon is for the rest, the largest runs first, because a run that is given back breaks its
// block's huge page. Its pages are movable by the common contract, so they keep no block from being
// emptied: where one moves, the new place is given back and the old one is charged in its stead.
// The arena takes frames back out of the balloon before it refuses an allocation.
//
// Thread-safe. Inflating and migrating make system calls.
#pragma once

#include <atomic>
#include <cstdint>

#include "base/lock.h"
#include "base/result.h"
#include "base/units.h"
#include "frames/budget.h"
#include "frames/pageblocks.h"

namespace buoy::frames {

class Balloon final : private MovableOps {
 public:
  Balloon(Pageblocks& blocks, MovablePages& pages) : blocks_(blocks), movable_(pages) {}
  // Makes its pages movable; once, before use.
  [[nodiscard]] Status create();

  // Gives back about `goal` free frames that are in partly used blocks, and uncharges them. A few
  // stay for the next allocation. Frames given back.
  PageCount inflate(PageCount goal);
  // Charges and frees pages until about `goal` frames came back, or the budget has no room. Frames.
  PageCount deflate(PageCount goal, Charge charge);
  // In the balloon now, without a lock.
  [[nodiscard]] PageCount pages() const {
    return PageCount(pages_.load(std::memory_order_relaxed));
  }
  // Asserts list and count. Quiet.
  void validate();

 private:
  [[nodiscard]] bool isolate(Pfn, MigrateMode) override { return true; }
  [[nodiscard]] MigrateOutcome migrate(Pfn from, Pfn to, MigrateMode mode) override;
  void put_back(Pfn) override {}

  [[nodiscard]] bool try_discard(Pfn head);
  void link_locked(Pfn head) BUOY_REQUIRES(lock_);
  void unlink_locked(Pfn head) BUOY_REQUIRES(lock_);

  Pageblocks& blocks_;
  MovablePages& movable_;
  OwnerId id_ = 0;
  // The list runs through Page::prev and next (1 + frame; 0: none), which nobody else uses of an
  // allocated page. A page's owner_word is 1 while it is in the list.
  Mutex<LockRank::kZclass> lock_;
  std::uint32_t head_ BUOY_GUARDED_BY(lock_) = 0;
  std::atomic<std::uint64_t> pages_{0};
};

}  // namespace buoy::frames
