// Arena: the frames that are on no LRU. What they hold belongs to the compressed pool, to
// contiguous buffers, to users' drivers and to the balloon.
//
//   reserved address space (grows with nothing but use)
//   | block 0: 2 MiB | block 1 | ... never taken ... |
//     present: charged to the Budget as a whole, backed by a huge page where the system allows
//     absent:  costs nothing
//
// A block is charged before its first frame is given out and uncharged after its memory went back
// to the system. So the arena's charge is always 2 MiB x blocks taken, whatever is free inside (but
// for what the balloon gave back): what is free inside is memory that the program has lost, and the
// allocator's whole aim is to keep blocks either full or empty.
//
// This is the facade: arena_core.h draws what it is composed of.
//
// Thread-safe. Every call may be made with a leaf lock held; none makes a system call except
// those that take or return a block. Callers have signals blocked.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/counters.h"
#include "base/result.h"
#include "base/units.h"
#include "frames/arena_core.h"
#include "frames/balloon.h"
#include "frames/budget.h"
#include "frames/compaction.h"
#include "frames/contiguous.h"
#include "frames/frame_allocator.h"
#include "frames/frame_request.h"
#include "frames/migration.h"
#include "frames/movable_pages.h"
#include "frames/page.h"
#include "frames/pageblocks.h"
#include "frames/place.h"

namespace buoy::frames {

class Arena {
 public:
  // Reserves address space for `max_bytes`, and for more where the process has room: a budget may
  // be raised later. ENOMEM when not even max_bytes can be reserved. EINVAL for zero.
  [[nodiscard]] static Result<Arena*> create(Budget& budget, Counters& counters,
                                             ByteSize max_bytes) {
    return create(budget, counters, ArenaOptions{max_bytes});
  }
  // The same. EINVAL, too, for a reserve larger than max_bytes.
  [[nodiscard]] static Result<Arena*> create(Budget& budget, Counters& counters,
                                             const ArenaOptions& options);
  // Uncharges what was taken. Nobody may use the arena or its frames any more.
  static void destroy(Arena* arena);

  // A naturally aligned run of 2^order frames, contents undefined; none() when the arena neither
  // has it nor may grow. The first frame's Page is the run's.
  [[nodiscard]] Pfn try_allocate(const FrameRequest& request) {
    return allocator_.try_allocate(request);
  }
  // The owner's reference goes, and with the last one the run. A movable page is taken back first,
  // as by clear_movable().
  void release(Pfn head) { core_.release(head); }
  // `count` single frames (request.order is 0), all or none; neighbours where that costs nothing.
  // At most FrameBatch::kCapacity.
  [[nodiscard]] bool try_allocate_frames(const FrameRequest& request, Pfn* out, unsigned count) {
    return allocator_.try_allocate_frames(request, out, count);
  }
  void release_frames(const Pfn* frames, unsigned count) { core_.release_frames({frames, count}); }

  // ---- Movable pages (movable_pages.h) ---------------------------------------------------------
  [[nodiscard]] MovableOwners& owners() { return pages_.owners(); }
  [[nodiscard]] bool try_set_movable(Pfn head, OwnerId owner) {
    return pages_.try_set_movable(head, owner);
  }
  [[nodiscard]] bool try_set_movable(Pfn head, OwnerId owner, std::uint64_t owner_word) {
    return pages_.try_set_movable(head, owner, owner_word);
  }
  // It stays where it is from now on. Waits for a callback that is under way.
  void clear_movable(Pfn head) { core_.clear_movable(head); }
  [[nodiscard]] bool try_clear_movable(Pfn head, OwnerId owner) {
    return pages_.try_clear_movable(head, owner);
  }
  [[nodiscard]] bool try_release(Pfn head, OwnerId owner) {
    return pages_.try_release(head, owner);
  }

  // ---- Its parts -------------------------------------------------------------------------------
  [[nodiscard]] MovablePages& pages() { return pages_; }
  [[nodiscard]] Pageblocks& blocks() { return blocks_; }
  [[nodiscard]] Migrator& migrator() { return migrator_; }
  [[nodiscard]] Compactor& compactor() { return compactor_; }
  [[nodiscard]] Balloon& balloon() { return balloon_; }
  [[nodiscard]] ContiguousRanges& contiguous() { return contiguous_; }

  // Empties the per-CPU caches into the zone.
  void drain_caches() { core_.drain_caches(); }
  // Drains, and returns wholly free blocks beyond `keep` to the system. Frames returned.
  PageCount trim(std::uint32_t keep = 0) { return core_.trim(keep); }

  [[nodiscard]] Page& page(Pfn pfn) const { return core_.page(pfn); }
  [[nodiscard]] std::byte* pointer(Pfn pfn) const { return core_.pointer(pfn); }
  [[nodiscard]] bool contains(const void* p) const { return core_.contains(p); }
  [[nodiscard]] Pfn pfn_of(const void* p) const { return core_.pfn_of(p); }

  [[nodiscard]] ArenaStats stats() { return core_.stats(); }
  // Pages charged to the budget, without a lock: whole blocks, but for what the balloon has.
  [[nodiscard]] PageCount taken() const { return core_.block_pages() - balloon_.pages(); }
  // Blocks that were ever taken are numbered below this.
  [[nodiscard]] std::uint32_t block_span() const { return core_.block_span(); }
  // mem_map and pageblocks that are resident, and the arena itself.
  [[nodiscard]] ByteSize metadata_bytes() const { return core_.map_bytes() + kPlacedBytes<Arena>; }
  [[nodiscard]] Watermarks watermarks() const { return ArenaCore::watermarks(); }
  [[nodiscard]] Counters& counters() const { return core_.counters(); }

  // Asserts the accounting equation and every list. The arena must be quiet (no call under way).
  void validate();

 private:
  template <typename T, typename... Args>
  friend Result<T*> place(Args&&... args);
  template <typename T>
  friend void displace(T* object);

  Arena(Budget& budget, Counters& counters) : core_(budget, counters) {}
  ~Arena() = default;

  ArenaCore core_;
  MovablePages pages_{core_};
  Pageblocks blocks_{core_, pages_};
  Migrator migrator_{pages_};
  Compactor compactor_{blocks_, migrator_};
  Balloon balloon_{blocks_, pages_};
  FrameAllocator allocator_{core_, compactor_, balloon_};
  ContiguousRanges contiguous_{blocks_, compactor_, allocator_};
};

}  // namespace buoy::frames
