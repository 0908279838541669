// Pageblocks: the arena as those see it who empty its blocks, or take exact ranges out of them: what is
// in a block, keeping others from allocating there meanwhile, and claiming a part of it.
//
// Narrow on purpose: compaction, migration, contiguous ranges and the balloon know the arena by this
// and by MovablePages alone.
//
// Thread-safe. No call makes a system call but trim().
#pragma once

#include <cstdint>

#include "frames/arena_core.h"
#include "frames/movable_pages.h"

namespace buoy::frames {

// The zone at a glance; as ArenaStats, without a walk.
struct ArenaUse {
  PageCount free;
  PageCount partly_free;  // free, in blocks that are not wholly free
};

// A lock-free look at a block, true of no single moment. Frames.
struct BlockPicture {
  unsigned free = 0;  // in lists or caches
  unsigned movable = 0;
  Pfn in_the_way = Pfn::none();  // the first page that cannot be moved now
};

enum class Area : std::uint8_t { kGeneral, kReserve };

class Pageblocks {
 public:
  Pageblocks(ArenaCore& core, MovablePages& pages) : core_(core), pages_(pages) {}

  // ---- Looking. --------------------------------------------------------------------------------

  [[nodiscard]] Page& page(Pfn pfn) const { return core_.page(pfn); }
  [[nodiscard]] std::byte* pointer(Pfn pfn) const { return core_.pointer(pfn); }
  [[nodiscard]] Budget& budget() const { return core_.budget(); }
  [[nodiscard]] Counters& counters() const { return core_.counters(); }
  [[nodiscard]] ArenaStats stats() { return core_.stats(); }
  [[nodiscard]] std::uint32_t block_span() const { return core_.block_span(); }
  [[nodiscard]] PageCount block_pages() const { return core_.block_pages(); }
  [[nodiscard]] ArenaUse use();
  // The head of the run that a frame lies in; at this moment.
  [[nodiscard]] Pfn head_of(Pfn frame) const;
  [[nodiscard]] bool can_move(Pfn head, Callers callers) const {
    return pages_.can_move(head, callers);
  }
  [[nodiscard]] BlockPicture look_at(std::uint32_t block, Callers callers) const;
  [[nodiscard]] PageCount free_frames_of(std::uint32_t block);
  enum class Availability : std::uint8_t { kAbsent, kPresent, kBusy };
  [[nodiscard]] Availability availability_of(std::uint32_t block);
  struct BlockRange {
    std::uint32_t begin;
    std::uint32_t end;
  };
  [[nodiscard]] BlockRange blocks_of(Area area) const {
    return area == Area::kReserve ? BlockRange{0, core_.reserve_blocks()}
                                  : BlockRange{core_.reserve_blocks(), core_.block_count()};
  }
  [[nodiscard]] unsigned find_sparse(MigrateType type, unsigned least_free, std::uint8_t skip,
                                     std::uint32_t* out, unsigned most);
  void set_skip_hint(std::uint32_t block, std::uint8_t cycle);

  // ---- Emptying a block. -----------------------------------------------------------------------

  // True: nothing is allocated in this present block until end_isolation(). False: absent, or
  // somebody else's already.
  [[nodiscard]] bool try_isolate_block(std::uint32_t block);
  void end_isolation(std::uint32_t block);
  // The same, after pages of this type were put there: the block's type may follow.
  void end_isolation(std::uint32_t block, MigrateType used_for);
  [[nodiscard]] bool is_isolated_range_free(Pfn first, PageCount count);
  // The same for blocks in a row, present or absent: all or none. *absent: how many of them are to
  // be brought in; until then they are nobody else's either.
  [[nodiscard]] bool try_isolate_blocks(std::uint32_t begin, std::uint32_t end,
                                        std::uint32_t* absent);
  // Charges for one absent block of those and brings it in, isolated. Uses up *charged first, and
  // the budget's ordinary room for the rest. False: the budget has no room.
  [[nodiscard]] bool try_bring_in_isolated(std::uint32_t begin, std::uint32_t end,
                                           PageCount* charged);
  // For what was not brought in, too. `used_for`: pages of this type were put there.
  void end_isolation_of(std::uint32_t begin, std::uint32_t end);
  void end_isolation_of(std::uint32_t begin, std::uint32_t end, MigrateType used_for);

  // ---- Taking and giving. ----------------------------------------------------------------------

  // Allocates exactly this range of isolated blocks, tiled with aligned runs that each are
  // allocated as requested (request.order is ignored). False, and nothing, unless all is free.
  [[nodiscard]] bool try_claim_isolated(Pfn first, PageCount count, const FrameRequest& request);
  // Keeps the first `count` frames of an allocated run, as runs of their own, and frees the rest.
  void shorten(Pfn head, PageCount count, const FrameRequest& request);
  // One more block for pages of this type, paid for as above.
  [[nodiscard]] bool try_grow_by(MigrateType type, PageCount* charged) {
    return core_.try_grow(type, Charge::kOrdinary, charged);
  }
  void release(Pfn head) { core_.release(head); }
  void drain_caches() { core_.drain_caches(); }
  PageCount trim(std::uint32_t keep = 0) { return core_.trim(keep); }

 private:
  void isolate_locked(std::uint32_t block) BUOY_REQUIRES(core_.lock());
  void end_isolation_locked(std::uint32_t block, MigrateType type) BUOY_REQUIRES(core_.lock());
  void end_isolation_for_locked(std::uint32_t block, MigrateType used_for)
      BUOY_REQUIRES(core_.lock());
  [[nodiscard]] Availability availability_locked(std::uint32_t block) const;
  [[nodiscard]] bool is_isolated_range_free_locked(Pfn first, PageCount count)
      BUOY_REQUIRES(core_.lock());
  void mark_pieces_locked(Pfn first, std::uint32_t count, const FrameRequest& request)
      BUOY_REQUIRES(core_.lock());

  ArenaCore& core_;
  MovablePages& pages_;
};

}  // namespace buoy::frames
