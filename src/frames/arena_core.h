// ArenaCore: the frames themselves. What a page is (mem_map), which runs are free (zone), the caches
// per CPU, and growing and shrinking by whole blocks. It moves nothing, and knows nobody who does.
//
//   Arena (arena.h)                    what everybody outside of this layer sees
//     FrameAllocator  ContiguousRanges   who hands out
//     Compactor  Migrator  Balloon       who moves and gives back
//     Pageblocks  MovablePages           how those see the core: by blocks, and by owners
//   ArenaCore
//
//   blocks taken x 512 = frames allocated + frames cached per CPU + frames free in the zone
//
// Thread-safe. Callers have signals blocked.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/check.h"
#include "base/counters.h"
#include "base/lock.h"
#include "base/result.h"
#include "base/sys.h"
#include "base/units.h"
#include "frames/budget.h"
#include "frames/frame_cache.h"
#include "frames/frame_request.h"
#include "frames/page.h"
#include "frames/pageblock.h"
#include "frames/place.h"
#include "frames/zone.h"

namespace buoy::frames {

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

class ArenaCore {
 public:
  using Lock = Mutex<LockRank::kZone>;

  ArenaCore(Budget& budget, Counters& counters)
      : budget_(budget), counters_(counters), zone_(pages_, blocks_) {}
  ArenaCore(const ArenaCore&) = delete;
  ArenaCore& operator=(const ArenaCore&) = delete;
  // Charges stay as they are.
  ~ArenaCore() {
    if (base_ != nullptr) sys::unmap(base_, bytes_);
  }
  // Once, before all else. EINVAL for options that contradict themselves; ENOMEM.
  [[nodiscard]] Status reserve(const ArenaOptions& options);

  [[nodiscard]] Budget& budget() const { return budget_; }
  [[nodiscard]] Counters& counters() const { return counters_; }

  // ---- The map. --------------------------------------------------------------------------------

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

  // ---- Taking frames that are there. The run is marked as requested; none(): there is none. -----

  // One frame, by way of the cache.
  [[nodiscard]] Pfn try_take_frame(const FrameRequest& request) {
    const Pfn head = cache().try_pop(request.type);
    if (head.is_none()) return refill(request);
    mark_allocated(head, request);
    return head;
  }
  // A run out of the zone: of the type's own blocks, of the reserve if it can move, of whole blocks
  // of another type. kAll: also the last frames, for who has just grown the arena by a block.
  enum class Frames : std::uint8_t { kAboveMin, kAll };
  [[nodiscard]] Pfn try_take_run(const FrameRequest& request, Frames which = Frames::kAboveMin);
  // Any run, also where it spoils others' blocks: the last resort.
  [[nodiscard]] Pfn try_take_any_run(const FrameRequest& request);
  // Several single frames under one lock; how many there were.
  [[nodiscard]] unsigned take_frames(const FrameRequest& request, std::span<Pfn> out);
  [[nodiscard]] bool may_take(const FrameRequest& request) BUOY_EXCLUDES(lock_);
  void mark_allocated(Pfn head, const FrameRequest& request) {
    Page& p = page(head);
    p.owner_word.store(0, std::memory_order_relaxed);
    p.owner_id.store(0, std::memory_order_relaxed);
    p.refs.store(1, std::memory_order_release);
    p.store(PageWord(PageState::kAllocated, request.order, request.type, request.owner));
  }

  // ---- Giving them back. -----------------------------------------------------------------------

  // The owner's reference goes, and with the last one the run. A movable page is taken back first,
  // as by clear_movable().
  void release(Pfn head);
  void release_frames(std::span<const Pfn> frames);
  // Gives up a reference that is not the owner's; the last one frees the run.
  void put(Pfn head) {
    if (page(head).put()) free_run(head);
  }
  // It stays where it is from now on. Waits for a callback that is under way.
  void clear_movable(Pfn head);
  // Empties the per-CPU caches into the zone.
  void drain_caches();
  // Drains, and returns wholly free blocks beyond `keep` to the system. Frames returned.
  PageCount trim(std::uint32_t keep = 0);

  // ---- Growing. --------------------------------------------------------------------------------

  // Takes one more block for pages of this type, charged as `charge` says. Uses up *charged first,
  // which the caller has charged already. False when the budget refuses or the address space is
  // used up.
  [[nodiscard]] bool try_grow(MigrateType type, Charge charge, PageCount* charged)
      BUOY_EXCLUDES(lock_);
  [[nodiscard]] bool try_grow(const FrameRequest& request) BUOY_EXCLUDES(lock_) {
    PageCount none;
    return try_grow(request.type, request.charge, &none);
  }
  // The two halves of it, for who takes a certain block. *own: how much came out of *charged.
  [[nodiscard]] bool try_charge_block(Charge charge, PageCount* charged, PageCount* own);
  // A charged block that is kArriving becomes present.
  void bring_in_locked(std::uint32_t block, MigrateType type) BUOY_REQUIRES(lock_);

  // ---- Blocks, for who empties them (Pageblocks). ----------------------------------------------

  [[nodiscard]] Lock& lock() BUOY_RETURN_CAPABILITY(lock_) { return lock_; }
  [[nodiscard]] Zone& zone() BUOY_REQUIRES(lock_) { return zone_; }
  [[nodiscard]] Pageblock& block(std::uint32_t n) const { return blocks_[n]; }
  [[nodiscard]] std::uint32_t block_count() const { return block_count_; }
  // The first so many are the reserve.
  [[nodiscard]] std::uint32_t reserve_blocks() const { return reserve_blocks_; }
  [[nodiscard]] MigrateType type_of_block(std::uint32_t block, MigrateType wanted) const {
    return block < reserve_blocks_ ? MigrateType::kReserve : wanted;
  }
  // Blocks that were ever taken are numbered below this.
  [[nodiscard]] std::uint32_t block_span() const {
    return block_span_.load(std::memory_order_acquire);
  }
  void span_up_to_locked(std::uint32_t end) BUOY_REQUIRES(lock_) {
    if (end > block_span_.load(std::memory_order_relaxed))
      block_span_.store(end, std::memory_order_release);
  }
  // A block that is kArriving, or whose memory is gone, becomes absent.
  void make_absent_locked(std::uint32_t block) BUOY_REQUIRES(lock_);

  // ---- Looking at it. --------------------------------------------------------------------------

  // Pages of blocks that are charged: arriving, present and leaving. Without a lock.
  [[nodiscard]] PageCount block_pages() const {
    return PageCount(taken_blocks_.load(std::memory_order_relaxed) * kPagesPerBlock);
  }
  [[nodiscard]] static Watermarks watermarks();
  [[nodiscard]] ArenaStats stats() BUOY_EXCLUDES(lock_);
  // mem_map and pageblocks that are resident.
  [[nodiscard]] ByteSize map_bytes() const;
  // Asserts the accounting equation and every list. Quiet (no call under way).
  void validate() BUOY_EXCLUDES(lock_);

 private:
  static constexpr unsigned kCaches = 8;

  // Nobody refers to the run any more.
  void free_run(Pfn head);
  // One for the caller, the rest for the cache.
  [[nodiscard]] Pfn refill(const FrameRequest& request);
  void give_to_cache(MigrateType type, Pfn frame) BUOY_EXCLUDES(lock_);
  void give_batch(const FrameBatch& batch) BUOY_EXCLUDES(lock_);
  [[nodiscard]] bool may_take_locked(const FrameRequest& request) BUOY_REQUIRES(lock_);
  [[nodiscard]] Pfn take_locked(const FrameRequest& request) BUOY_REQUIRES(lock_);
  [[nodiscard]] bool pick_absent_locked(MigrateType type, std::uint32_t* block)
      BUOY_REQUIRES(lock_);
  // Returns a wholly free block if there are more than `keep`; false if not.
  [[nodiscard]] bool return_block(std::uint32_t keep) BUOY_EXCLUDES(lock_);
  [[nodiscard]] FrameCache& cache() { return caches_[sys::current_cpu() % kCaches]; }

  Budget& budget_;
  Counters& counters_;
  std::byte* base_ = nullptr;
  ByteSize bytes_ = 0;
  std::uint32_t block_count_ = 0;  // of the reservation
  std::uint32_t reserve_blocks_ = 0;
  ReservedArray<Page> pages_;
  ReservedArray<Pageblock> blocks_;

  Lock lock_;
  Zone zone_ BUOY_GUARDED_BY(lock_);
  std::uint32_t lowest_absent_ BUOY_GUARDED_BY(lock_) = 0;  // no absent block below it
  std::atomic<std::uint32_t> block_span_{0};
  std::atomic<std::uint64_t> taken_blocks_{0};  // charged: arriving, present and leaving
  std::array<FrameCache, kCaches> caches_{};
};

}  // namespace buoy::frames
