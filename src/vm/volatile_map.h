// VolatileMap: which page ranges the program declared volatile, and what purging did to them.
//
//   [0x100..0x180: volatile, priority 1] [0x180..0x1c0: withdrawn] ..gap.. [0x400..0x500: purged]
//
// It knows extents and nothing of pages: whether a page is mapped or mlocked it asks its Ground,
// and the pages of a purge are the caller's business.
//
//   withdrawn --mark--> volatile --claim--> volatile+purging --finish--> volatile (+purged) (+spent)
//    ^                   |   ^                     |
//    +-----withdraw------+   +------- mark --------+        withdraw during purging: +awaited, wait
//
// What decides stands in one word for each extent (mark_word.h); extents are found by an index
// (extent_index.h), and purged in the order of a queue (purge_queue.h). Here is what marking,
// withdrawing, purging and changes of mappings do with the three.
//
// An extent with `purged` may have pages that were purged; an extent without has none. (What became
// of each page, its PTE says.)
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "base/result.h"
#include "base/units.h"
#include "pagetable/region.h"
#include "reclaim/reclaimer.h"
#include "vm/extent_index.h"
#include "vm/mark_steps.h"
#include "vm/mark_word.h"
#include "vm/marks_lock.h"
#include "vm/purge_queue.h"

namespace buoy {

class VolatileMap {
 public:
  static constexpr unsigned kPriorities = PurgeQueue::kPriorities;

  // What lies under the marks. Called with the marks lock held and signals deliverable: answers
  // without a lock.
  class Ground {
   public:
    struct Part {
      PageCount mapped;  // from the run's first page on, within one region; 0: a hole
      RegionFlags flags = RegionFlags::kNone;
    };
    virtual Part part_at(PageRun run) = 0;
    virtual bool has_mlocked(PageRun run) = 0;

   protected:
    ~Ground() = default;
  };

  explicit VolatileMap(Ground& ground) : ground_(ground) {}
  [[nodiscard]] Status create();

  // ---- Marking. Both are exact-extent fast, and may be called in a signal handler then. --------

  struct Marked {
    PageCount done;   // from the run's first page on
    PageCount newly;  // of them, pages that were not volatile before
    int error = 0;    // why not all: ENOMEM a hole or no memory, EINVAL mlocked, EDEADLK
  };
  // EINVAL (nothing changed) if a page of the part that is mapped is mlocked.
  // EDEADLK (nothing changed): called in a signal handler that interrupted a change of marks.
  Marked mark(PageRun run, unsigned priority);

  enum class Outcome : std::uint8_t {
    kDone,
    kHole,       // ENOMEM behind `done`
    kPurged,     // behind `done` lies an extent with purged pages: see withdraw_purged
    kNoMemory,   // behind `done`
    kReentered,  // EDEADLK
  };
  struct Withdrawn {
    PageCount done;
    PageCount newly;  // of them, pages that were volatile
    Outcome outcome = Outcome::kDone;
  };
  // Withdraws the marks of the run, up to the first hole or purged extent.
  Withdrawn withdraw(PageRun run);

  // Withdrawing the mark of a purged extent. Between begin and finish it is seized, and the caller
  // clears its pages' purged state. Inside the gate, signals blocked.
  struct Clearing {
    PageRun run;  // zero pages: nothing to clear (any more)
    std::uint32_t extent = 0;
  };
  // Only if the run is exactly an extent, and purged. Takes no lock.
  [[nodiscard]] Clearing begin_clearing_exact(PageRun run);
  // Withdraws marks like withdraw(), but on kPurged the extent behind `done`, cut to the run, is
  // seized, and `clearing` names it.
  [[nodiscard]] Withdrawn begin_clearing(PageRun run, Clearing* clearing) BUOY_REQUIRES(lock_);
  // The pages whose mark was withdrawn.
  PageCount finish_clearing(const Clearing& clearing);

  // ---- Purging: no lock of the map; signals blocked. -------------------------------------------

  using Others = PurgeQueue::Others;
  using Claim = PurgeQueue::Claim;
  // The next extent to purge (purge_queue.h).
  [[nodiscard]] Claim claim(PurgeEffort effort) { return queue_.claim(effort); }
  // Somebody wants the extent: stop after the page at hand.
  [[nodiscard]] bool is_awaited(const Claim& claim) const;
  enum class Lost : std::uint8_t { kNothing, kPages };
  // `reached`: the purge went so far; run.end() if it went through.
  void finish(const Claim& claim, Lost lost, Vpn reached);

  // ---- Mappings change. The marks lock is held for all of it. ----------------------------------

  [[nodiscard]] MarksLock& lock() BUOY_RETURN_CAPABILITY(lock_) { return lock_; }
  // So that the next forget() or relocate() cannot fail. ENOMEM.
  [[nodiscard]] Status prepare() BUOY_REQUIRES(lock_);
  // The run has no marks afterwards, and no extents.
  void forget(PageRun run) BUOY_REQUIRES(lock_);
  // Marks of `from` move with its pages to `to`, where nothing is marked.
  void relocate(PageRun from, Vpn to) BUOY_REQUIRES(lock_);
  [[nodiscard]] bool has_marks(PageRun run) BUOY_REQUIRES(lock_);
  // Are all pages of the run under marks that say they were purged?
  [[nodiscard]] bool is_all_purged(PageRun run) BUOY_REQUIRES(lock_);
  // Calls body(PageRun) for each volatile part of the run, in address order.
  template <typename Body>
  void for_each_volatile(PageRun run, Body body) BUOY_REQUIRES(lock_) {
    for_each_extent(run, [&](const Extent& e) {
      if (e.mark.load().has(MarkWord::kVolatile)) body(intersection(e.run(), run));
      return true;
    });
  }

  // ---- The whole -------------------------------------------------------------------------------

  [[nodiscard]] PageCount volatile_pages() const;
  [[nodiscard]] ByteSize touched_bytes() const { return extents_.touched_bytes(); }
  // In a fork child: what other threads had under way when memory was copied is not.
  void after_fork_in_child();
  // No call is under way. Aborts on a difference.
  void validate() BUOY_REQUIRES(lock_);

  // For tests (mark_steps.h).
  using Step = MarkSteps::Step;
  using StepHook = MarkSteps::Hook;
  void set_step_hook(StepHook hook, void* context) { step_.set(hook, context); }

 private:
  // A piece of a run on one kind of region, all of it mapped.
  struct Stretch {
    PageRun run;
    RegionFlags flags = RegionFlags::kNone;
  };

  [[nodiscard]] Extent& extent(std::uint32_t index) const { return extents_.at(index); }
  [[nodiscard]] bool try_mark_exact(PageRun run, unsigned priority, Marked* marked);
  [[nodiscard]] bool try_withdraw_exact(PageRun run, Withdrawn* withdrawn);
  Marked mark_slowly(PageRun run, unsigned priority);
  // False: this very thread has the lock. With a step hook, waiting is steps.
  [[nodiscard]] bool lock_for_change() BUOY_TRY_ACQUIRE(true, lock_) BUOY_NO_TSA;
  // Waits until nobody is at work on the extent as one of `flags` says.
  void await(Extent& e, std::uint64_t flags);
  void add_pages(std::int64_t pages);

  // Structure.
  [[nodiscard]] std::uint32_t at_or_after(Vpn v) const BUOY_REQUIRES(lock_) {
    return extents_.at_or_after(v);
  }
  // Calls body(const Extent&) -> bool for each extent that has a page of the run, in address order,
  // until one answers false.
  template <typename Body>
  void for_each_extent(PageRun run, Body body) BUOY_REQUIRES(lock_) {
    for (std::uint32_t i = at_or_after(run.first); i != 0 && extent(i).first_page() < run.end();
         i = at_or_after(extent(i).end_page()))
      if (!body(extent(i))) return;
  }
  // The stretch at `at`; no pages at a hole.
  [[nodiscard]] Stretch stretch_at(PageRun run) BUOY_REQUIRES(lock_);
  // From the run's first page to the first hole; EINVAL if any of that is mlocked.
  [[nodiscard]] Status survey(PageRun run, PageCount* mapped) BUOY_REQUIRES(lock_);
  [[nodiscard]] MarkWord seize(std::uint32_t index) BUOY_REQUIRES(lock_);
  // No extent lies on both sides of `v` afterwards. Needs a spare.
  void cut(Vpn v) BUOY_REQUIRES(lock_);
  // The stretch becomes one extent, marked; the pages that were not volatile before. Needs spares.
  PageCount cover(const Stretch& stretch, unsigned priority, std::uint64_t stamp)
      BUOY_REQUIRES(lock_);
  [[nodiscard]] std::uint32_t take_spare() BUOY_REQUIRES(lock_);
  // The extent is seized, with this word before that.
  void take_out_and_free(std::uint32_t index, MarkWord word) BUOY_REQUIRES(lock_);
  void sweep_withdrawn() BUOY_REQUIRES(lock_);

  static constexpr std::size_t kSpares = 2;  // a change cuts two extents at most
  static constexpr unsigned kShards = 8;
  struct alignas(64) Shard {
    std::atomic<std::int64_t> pages{0};
  };

  Ground& ground_;
  MarkSteps step_;
  ExtentIndex extents_;
  PurgeQueue queue_{extents_, step_};
  MarksLock lock_;
  std::array<std::uint32_t, kSpares> spares_ BUOY_GUARDED_BY(lock_){};
  std::size_t n_spares_ BUOY_GUARDED_BY(lock_) = 0;
  std::uint32_t sweep_at_ BUOY_GUARDED_BY(lock_) = 4096;
  std::array<Shard, kShards> volatile_{};
};

}  // namespace buoy
