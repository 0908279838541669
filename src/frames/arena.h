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
//   blocks taken x 512 = frames allocated + frames cached per CPU + frames free in the zone
//
// Thread-safe. Every call may be made with a leaf lock held; none makes a system call except
// those that take or return a block. Callers have signals blocked.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "base/check.h"
#include "base/counters.h"
#include "base/lock.h"
#include "base/result.h"
#include "base/units.h"
#include "frames/balloon.h"
#include "frames/budget.h"
#include "frames/compaction.h"
#include "frames/contiguous.h"
#include "frames/frame_cache.h"
#include "frames/migration.h"
#include "frames/movable.h"
#include "frames/page.h"
#include "frames/pageblock.h"
#include "frames/place.h"
#include "frames/zone.h"

namespace buoy::frames {

// Whether an allocation may move pages for it.
enum class Compaction : std::uint8_t {
  kNever,
  kAsync,  // pages of the engine's own owners; not again and again in vain
  kSync,   // pages of everybody, waiting for them: a call that the program made to get memory
};

struct FrameRequest {
  Order order;
  MigrateType type = MigrateType::kUnmovable;
  FrameOwner owner = FrameOwner::kNone;
  // Whether growing the arena may use the budget's reserve. kReclaim is for who frees more than
  // it takes. kOrdinary also leaves the last free frames (Watermarks::min) to reclaim.
  Charge charge = Charge::kOrdinary;
  Compaction compaction = Compaction::kAsync;
};

// How much address space an arena reserves.
enum class Span : std::uint8_t {
  kGenerous,  // beyond max_bytes where the process has room: a budget may be raised later
  kFixed,     // max_bytes, no more: a range that somebody registers once
};

struct ArenaOptions {
  ByteSize max_bytes = 0;
  // The first so many bytes, in whole blocks, take no unmovable pages but contiguous ones that are
  // asked for here. Costs nothing while it is not used.
  ByteSize reserve_bytes = 0;
  Span span = Span::kGenerous;
};

// Frames of the arena itself, in frames.
struct Watermarks {
  PageCount min;   // below: only Charge::kReclaim takes frames
  PageCount high;  // above: wholly free blocks go back to the system at once
};

// A moment's snapshot, taken under the zone lock.
struct ArenaStats {
  PageCount taken;      // in blocks that are present
  PageCount free;       // in the zone's lists
  PageCount cached;     // in per-CPU caches
  PageCount allocated;  // the rest
  std::uint32_t blocks = 0;
  std::uint32_t whole_free_blocks = 0;
  std::array<std::array<std::uint64_t, kMaxOrder + 1>, kMigrateTypes> free_runs{};
};

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
  [[nodiscard]] Pfn try_allocate(const FrameRequest& request);
  // The owner's reference goes, and with the last one the run. A movable page is taken back first,
  // as by clear_movable().
  void release(Pfn head);
  // `count` single frames (request.order is 0), all or none; neighbours where that costs nothing.
  // At most FrameBatch::kCapacity.
  [[nodiscard]] bool try_allocate_frames(const FrameRequest& request, Pfn* out, unsigned count);
  void release_frames(const Pfn* frames, unsigned count);

  // ---- Movable pages (movable.h) --------------------------------------------------------------
  [[nodiscard]] MovableOwners& owners() { return owners_; }
  [[nodiscard]] Migrator& migrator() { return migrator_; }
  // The allocated page may be moved from now on. False: it was taken back while it was isolated,
  // and the core has it still; again, a moment later.
  [[nodiscard]] bool try_set_movable(Pfn head, OwnerId owner);
  // The same, setting the page's owner_word.
  [[nodiscard]] bool try_set_movable(Pfn head, OwnerId owner, std::uint64_t owner_word);
  // It stays where it is from now on. Waits for a callback that is under way.
  void clear_movable(Pfn head);
  // For callers whose idea of where a page is may be out of date: false, and nothing, if the page
  // is not this owner's (any more) when its lock is held. try_release() frees it as release().
  [[nodiscard]] bool try_clear_movable(Pfn head, OwnerId owner);
  [[nodiscard]] bool try_release(Pfn head, OwnerId owner);
  // A place like that of a page with this word, for the page to move to; none() if there is none.
  [[nodiscard]] Pfn try_take_target(PageWord like, Targets targets);
  // Does the page look as if it could be moved for such a caller? Without its lock.
  [[nodiscard]] bool can_move(Pfn head, Callers callers) const;
  // Gives up a reference that is not the owner's; the last one frees the run.
  void put(Pfn head) {
    if (page(head).put()) free_run(head);
  }

  // ---- Pageblocks that are emptied (arena_blocks.cc) ------------------------------------------
  [[nodiscard]] Compactor& compactor() { return compactor_; }
  // The head of the run that a frame lies in; at this moment.
  [[nodiscard]] Pfn head_of(Pfn frame) const;
  [[nodiscard]] BlockPicture look_at(std::uint32_t block, Callers callers) const;
  [[nodiscard]] ArenaUse use();
  [[nodiscard]] unsigned find_sparse(MigrateType type, unsigned least_free, std::uint8_t skip,
                                     std::uint32_t* out, unsigned most);
  void set_skip_hint(std::uint32_t block, std::uint8_t cycle);
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
  // One more block for pages of this type, paid for as above.
  [[nodiscard]] bool try_grow_by(MigrateType type, PageCount* charged);
  enum class Availability : std::uint8_t { kAbsent, kPresent, kBusy };
  [[nodiscard]] Availability availability_of(std::uint32_t block);
  struct BlockRange {
    std::uint32_t begin;
    std::uint32_t end;
  };
  [[nodiscard]] BlockRange blocks_of(Area area) const {
    return area == Area::kReserve ? BlockRange{0, reserve_blocks_}
                                  : BlockRange{reserve_blocks_, block_count_};
  }
  // Keeps the first `count` frames of an allocated run, as runs of their own, and frees the rest.
  void shorten(Pfn head, PageCount count, const FrameRequest& request);
  [[nodiscard]] ContiguousRanges& contiguous() { return contiguous_; }
  [[nodiscard]] Balloon& balloon() { return balloon_; }
  // Allocates exactly this range of isolated blocks, tiled with aligned runs that each are
  // allocated as requested (request.order is ignored). False, and nothing, unless all is free.
  [[nodiscard]] bool try_claim_isolated(Pfn first, PageCount count, const FrameRequest& request);

  // Empties the per-CPU caches into the zone.
  void drain_caches();
  // Drains, and returns wholly free blocks beyond `keep` to the system. Frames returned.
  PageCount trim(std::uint32_t keep = 0);

  [[nodiscard]] Page& page(Pfn pfn) const { return pages_[pfn.value()]; }
  [[nodiscard]] std::byte* pointer(Pfn pfn) const {
    return base_ + (std::size_t{pfn.value()} << kPageShift);
  }
  [[nodiscard]] bool contains(const void* p) const {
    const auto* at = static_cast<const std::byte*>(p);
    return at >= base_ && at < base_ + bytes_;
  }
  [[nodiscard]] Pfn pfn_of(const void* p) const {
    BUOY_DCHECK(contains(p));
    return Pfn(static_cast<std::uint32_t>(
        static_cast<std::size_t>(static_cast<const std::byte*>(p) - base_) >> kPageShift));
  }

  [[nodiscard]] ArenaStats stats();
  // Pages charged to the budget, without a lock: whole blocks, but for what the balloon has.
  [[nodiscard]] PageCount taken() const {
    return PageCount(taken_blocks_.load(std::memory_order_relaxed) * kPagesPerBlock) -
           balloon_.pages();
  }
  [[nodiscard]] PageCount block_free_frames(std::uint32_t block);
  // Blocks that were ever taken are numbered below this.
  [[nodiscard]] std::uint32_t block_span() const {
    return block_span_.load(std::memory_order_acquire);
  }
  // mem_map and pageblocks that are resident.
  [[nodiscard]] ByteSize metadata_bytes() const;
  [[nodiscard]] Watermarks watermarks() const;
  [[nodiscard]] Budget& budget() const { return budget_; }
  [[nodiscard]] Counters& counters() const { return counters_; }

  // Asserts the accounting equation and every list. The arena must be quiet (no call under way).
  void validate();

 private:
  template <typename T, typename... Args>
  friend Result<T*> place(Args&&... args);
  template <typename T>
  friend void displace(T* object);

  static constexpr unsigned kCaches = 8;

  Arena(Budget& budget, Counters& counters)
      : budget_(budget), counters_(counters), zone_(pages_, blocks_) {}
  ~Arena() = default;
  [[nodiscard]] Status reserve(const ArenaOptions& options);
  // Nobody refers to the run any more.
  void free_run(Pfn head);

  [[nodiscard]] Pfn take_locked(const FrameRequest& request) BUOY_REQUIRES(lock_);
  [[nodiscard]] Pfn take_any_locked(const FrameRequest& request) BUOY_REQUIRES(lock_);
  [[nodiscard]] bool may_take_locked(const FrameRequest& request) BUOY_REQUIRES(lock_);
  // Takes one more block. False when the budget refuses or the address space is used up.
  [[nodiscard]] bool try_grow(const FrameRequest& request) BUOY_EXCLUDES(lock_);
  [[nodiscard]] bool pick_absent_locked(MigrateType type, std::uint32_t* block)
      BUOY_REQUIRES(lock_);
  [[nodiscard]] MigrateType type_of_new_block(std::uint32_t block, MigrateType wanted) const {
    return block < reserve_blocks_ ? MigrateType::kReserve : wanted;
  }
  void count_arrival_locked(std::uint32_t block) BUOY_REQUIRES(lock_);
  // Returns a wholly free block if there are more than `keep`; false if not.
  [[nodiscard]] bool return_block(std::uint32_t keep) BUOY_EXCLUDES(lock_);
  [[nodiscard]] Pfn try_allocate_slow(const FrameRequest& request);
  [[nodiscard]] Pfn try_allocate_last(const FrameRequest& request);
  [[nodiscard]] bool may_take(const FrameRequest& request) BUOY_EXCLUDES(lock_);
  void give_to_cache(MigrateType type, Pfn frame) BUOY_EXCLUDES(lock_);
  void give_batch(const FrameBatch& batch) BUOY_EXCLUDES(lock_);
  void mark_allocated(Pfn head, const FrameRequest& request);
  void end_isolation_locked(std::uint32_t block, MigrateType type) BUOY_REQUIRES(lock_);
  [[nodiscard]] Availability availability_locked(std::uint32_t block) const BUOY_REQUIRES(lock_);
  void isolate_locked(std::uint32_t block) BUOY_REQUIRES(lock_);
  void end_isolation_for_locked(std::uint32_t block, MigrateType used_for) BUOY_REQUIRES(lock_);
  void mark_pieces_locked(Pfn first, std::uint32_t count, const FrameRequest& request)
      BUOY_REQUIRES(lock_);
  // *own: how much of it came out of *charged.
  [[nodiscard]] bool try_charge_block(PageCount* charged, PageCount* own);
  [[nodiscard]] bool is_isolated_range_free_locked(Pfn first, PageCount count) BUOY_REQUIRES(lock_);
  // body(block, first frame in block, frames) for each block's part of a range.
  template <typename Body>
  static void for_each_part(Pfn first, PageCount count, Body body) {
    auto at = first.value();
    const auto end = static_cast<std::uint32_t>(at + count.value());
    while (at < end) {
      const std::uint32_t block = at / kPagesPerBlock;
      const std::uint32_t in_block = at % kPagesPerBlock;
      const std::uint32_t n =
          std::min(end - at, static_cast<std::uint32_t>(kPagesPerBlock) - in_block);
      body(block, in_block, n);
      at += n;
    }
  }
  [[nodiscard]] FrameCache& cache() { return caches_[sys::current_cpu() % kCaches]; }

  Budget& budget_;
  Counters& counters_;
  std::byte* base_ = nullptr;
  ByteSize bytes_ = 0;
  std::uint32_t block_count_ = 0;     // of the reservation
  std::uint32_t reserve_blocks_ = 0;  // the first so many are the reserve
  ReservedArray<Page> pages_;
  ReservedArray<Pageblock> blocks_;

  Mutex<LockRank::kZone> lock_;
  Zone zone_ BUOY_GUARDED_BY(lock_);
  std::uint32_t lowest_absent_ BUOY_GUARDED_BY(lock_) = 0;  // no absent block below it
  std::atomic<std::uint32_t> block_span_{0};
  std::atomic<std::uint64_t> taken_blocks_{0};  // charged: arriving, present and leaving
  std::array<FrameCache, kCaches> caches_{};
  MovableOwners owners_;
  Migrator migrator_{*this};
  Compactor compactor_{*this};
  ContiguousRanges contiguous_{*this};
  Balloon balloon_{*this};
};

}  // namespace buoy::frames
