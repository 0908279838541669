// MovablePages: the arena's pages as their owners and the migrator see them (the contract is in
// movable.h): whose a page is, whether it may move, and a place for it to move to.
//
// Thread-safe; makes no system call but where a target may grow the arena.
#pragma once

#include <cstdint>

#include "frames/arena_core.h"
#include "frames/movable.h"

namespace buoy::frames {

// Where the new place of a page may be.
enum class Targets : std::uint8_t {
  kPartialBlocks,  // never break a wholly free pageblock: they are what compaction is after
  kPresentBlocks,
  kMayGrow,  // take new pageblocks, if the budget has room for ordinary use
};

class MovablePages {
 public:
  explicit MovablePages(ArenaCore& core) : core_(core) {}

  [[nodiscard]] MovableOwners& owners() { return owners_; }
  [[nodiscard]] Page& page(Pfn pfn) const { return core_.page(pfn); }
  [[nodiscard]] Counters& counters() const { return core_.counters(); }

  // The allocated page may be moved from now on. False: it was taken back while it was isolated,
  // and the core has it still; again, a moment later.
  [[nodiscard]] bool try_set_movable(Pfn head, OwnerId owner);
  // The same, setting the page's owner_word.
  [[nodiscard]] bool try_set_movable(Pfn head, OwnerId owner, std::uint64_t owner_word);
  // For callers whose idea of where a page is may be out of date: false, and nothing, if the page
  // is not this owner's (any more) when its lock is held. try_release() frees it as release().
  [[nodiscard]] bool try_clear_movable(Pfn head, OwnerId owner);
  [[nodiscard]] bool try_release(Pfn head, OwnerId owner);
  // Does the page look as if it could be moved for such a caller? Without its lock.
  [[nodiscard]] bool can_move(Pfn head, Callers callers) const;
  // A place like that of a page with this word, for the page to move to; none() if there is none.
  [[nodiscard]] Pfn try_take_target(PageWord like, Targets targets);
  void release(Pfn head) { core_.release(head); }
  void put(Pfn head) { core_.put(head); }

 private:
  ArenaCore& core_;
  MovableOwners owners_;
};

}  // namespace buoy::frames
