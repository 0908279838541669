// VolatileMap: which page ranges the program declared volatile, and what purging did to them.
//
//   [0x100..0x180: volatile, priority 1] [0x180..0x1c0: idle] ..gap.. [0x400..0x500: purged]
//
// It knows extents and nothing of pages: whether a page is mapped or mlocked it asks its Ground,
// and the pages of a purge are the caller's business.
//
// An extent is a type-stable object; it lives on when its mark is withdrawn ("idle"), so that
// marking it again is a look-up and one compare-and-swap, whatever its length. Everything that
// decides stands in one word, so marking, withdrawing and purging are linearizable:
//
//   63         48 47                        8 7      6 5     0
//   [ generation | stamp: age of the mark    | priority | flags ]
//
//   idle ---mark---> volatile --claim--> volatile+purging --finish--> volatile (+purged) (+spent)
//    ^                |   ^                     |
//    +---withdraw-----+   +------- mark --------+        withdraw during purging: +awaited, wait
//
//   seized: somebody changes the extent or its pages' purged state; a free object is seized for
//   good. The generation counts what seizing changed, so a compare-and-swap against a word that was
//   read before fails.
//
// An extent with `purged` may have pages that were purged; an extent without has none. (What became
// of each page, its PTE says.)
//
// Beside the extents stand an ordered tree (a treap, guarded by the marks lock) and a hash from the
// first page to the extent, which anyone may read: whatever it answers is checked against the
// extent's word.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "base/result.h"
#include "base/slab.h"
#include "base/units.h"
#include "pagetable/region.h"
#include "reclaim/reclaimer.h"
#include "vm/extent_hash.h"
#include "vm/marks_lock.h"

namespace buoy {

class VolatileMap {
 public:
  static constexpr unsigned kPriorities = 4;

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
  // The pages that became idle.
  PageCount finish_clearing(const Clearing& clearing);

  // ---- Purging: no lock of the map; signals blocked. -------------------------------------------

  // What others are doing with the extents that there are: a purge ends soon, whatever happens; a
  // change of marks may have been interrupted by a signal handler, even the one that asks.
  enum class Others : std::uint8_t { kNothing, kChange, kPurge };
  struct Claim {
    std::uint32_t extent = 0;  // 0: there is nothing to purge but what `others` are at work on
    PageRun run;
    Vpn resume;  // where an earlier, partial purge stopped
    std::uint64_t word = 0;
    Others others = Others::kNothing;
    [[nodiscard]] explicit operator bool() const { return extent != 0; }
  };
  // The next extent to purge: lowest priority first, then the oldest mark. kGentle leaves out what
  // may rather be compressed and what was purged already.
  [[nodiscard]] Claim claim(PurgeEffort effort);
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
    for (std::uint32_t i = at_or_after(run.first); i != 0 && extent(i).first_page() < run.end();
         i = at_or_after(extent(i).end_page())) {
      if (!Word(extent(i).word.load(std::memory_order_acquire)).has(Word::kVolatile)) continue;
      const Vpn first = extent(i).first_page() < run.first ? run.first : extent(i).first_page();
      const Vpn end = extent(i).end_page() < run.end() ? extent(i).end_page() : run.end();
      body(PageRun{first, end - first});
    }
  }

  // ---- The whole -------------------------------------------------------------------------------

  [[nodiscard]] PageCount volatile_pages() const;
  [[nodiscard]] ByteSize touched_bytes() const {
    return extents_.touched_bytes() + hash_.touched_bytes();
  }
  // In a fork child: what other threads had under way when memory was copied is not.
  void after_fork_in_child();
  // No call is under way. Aborts on a difference.
  void validate() BUOY_REQUIRES(lock_);

  // For tests: runs between any two steps that others could see. Null in the product.
  enum class Step : std::uint8_t { kNext, kWaiting };
  using StepHook = void (*)(void* context, Step step);
  void set_step_hook(StepHook hook, void* context) {
    hook_ = hook;
    hook_context_ = context;
  }

 private:
  class Word {
   public:
    enum Flag : std::uint64_t {
      kVolatile = 1,
      kPurged = 2,
      kPurging = 4,
      kSeized = 8,
      kAwaited = 16,  // whoever ends purging or seizing wakes the waiters
      kSpent = 32,    // purged to its end since it was marked last
    };
    static constexpr unsigned kStampBits = 40;

    explicit Word(std::uint64_t bits) : bits_(bits) {}
    [[nodiscard]] std::uint64_t bits() const { return bits_; }
    [[nodiscard]] bool has(std::uint64_t flags) const { return (bits_ & flags) != 0; }
    [[nodiscard]] unsigned priority() const { return static_cast<unsigned>(bits_ >> 6) & 3U; }
    [[nodiscard]] std::uint64_t stamp() const { return (bits_ >> 8) & kStampMask; }
    [[nodiscard]] Word with(std::uint64_t flags) const { return Word(bits_ | flags); }
    [[nodiscard]] Word without(std::uint64_t flags) const { return Word(bits_ & ~flags); }
    [[nodiscard]] Word marked(unsigned priority, std::uint64_t stamp) const {
      const std::uint64_t kept = bits_ & ((kGenerationMask << 48) | kPurged | kPurging | kAwaited);
      return Word(kept | kVolatile | std::uint64_t{priority} << 6 | (stamp & kStampMask) << 8);
    }
    // The mark, without what was purged and who is at work.
    [[nodiscard]] Word idle() const {
      return without(kVolatile | kPurged | kPurging | kSeized | kAwaited | kSpent);
    }
    // This word's content in the next generation of another object.
    [[nodiscard]] Word in_generation_after(Word other) const {
      constexpr std::uint64_t kOne = std::uint64_t{1} << 48;
      return Word((bits_ & (kOne - 1)) | ((other.bits_ & ~(kOne - 1)) + kOne));
    }
    [[nodiscard]] Word next_generation() const { return in_generation_after(*this); }
    [[nodiscard]] bool has_same_generation_as(Word o) const { return bits_ >> 48 == o.bits_ >> 48; }
    [[nodiscard]] bool has_same_mark_as(Word o) const {
      return stamp() == o.stamp() && priority() == o.priority();
    }
    static constexpr std::uint64_t kStampMask = (std::uint64_t{1} << kStampBits) - 1;

   private:
    static constexpr std::uint64_t kGenerationMask = 0xffff;
    std::uint64_t bits_;
  };

  struct alignas(64) Extent {
    std::atomic<std::uint64_t> word{Word::kSeized};
    // Page numbers. Changed only while seized, with the marks lock held.
    std::atomic<std::uint64_t> first{0};
    std::atomic<std::uint64_t> end{0};
    // Where the next purge goes on. Belongs to who is purging, else to who has seized it.
    Vpn resume;
    // The region's, set when the extent is made.
    std::atomic<RegionFlags> flags{RegionFlags::kNone};
    // The treap. Guarded by the marks lock.
    std::uint32_t left = 0;
    std::uint32_t right = 0;

    [[nodiscard]] Vpn first_page() const { return Vpn(first.load(std::memory_order_relaxed)); }
    [[nodiscard]] Vpn end_page() const { return Vpn(end.load(std::memory_order_relaxed)); }
    [[nodiscard]] PageRun run() const { return {first_page(), end_page() - first_page()}; }
  };

  // A piece of a run on one kind of region, all of it mapped.
  struct Stretch {
    PageRun run;
    RegionFlags flags = RegionFlags::kNone;
  };

  [[nodiscard]] Extent& extent(std::uint32_t index) const { return extents_.at(index); }
  [[nodiscard]] std::uint32_t find_exact(PageRun run) const;
  [[nodiscard]] bool try_mark_exact(PageRun run, unsigned priority, Marked* marked);
  [[nodiscard]] bool try_withdraw_exact(PageRun run, Withdrawn* withdrawn);
  Marked mark_slowly(PageRun run, unsigned priority);
  // False: this very thread has the lock. With a step hook, waiting is steps.
  [[nodiscard]] bool lock_for_change() BUOY_TRY_ACQUIRE(true, lock_) BUOY_NO_TSA;
  // Waits until nobody is at work on the extent as one of `flags` says.
  void await(Extent& e, std::uint64_t flags);
  void wake_waiters(const Extent& e) const;
  void step(Step step = Step::kNext) const {
    if (hook_ != nullptr) hook_(hook_context_, step);
  }
  [[nodiscard]] std::uint64_t next_stamp() {
    return stamp_.fetch_add(1, std::memory_order_relaxed) + 1;
  }
  void note_marked(unsigned priority) {
    marks_made_[priority].fetch_add(1, std::memory_order_release);
  }
  void add_pages(std::int64_t pages);

  // Structure.
  [[nodiscard]] std::uint32_t at_or_after(Vpn v) const BUOY_REQUIRES(lock_);
  // The stretch at `at`; no pages at a hole.
  [[nodiscard]] Stretch stretch_at(PageRun run) BUOY_REQUIRES(lock_);
  // From the run's first page to the first hole; EINVAL if any of that is mlocked.
  [[nodiscard]] Status survey(PageRun run, PageCount* mapped) BUOY_REQUIRES(lock_);
  [[nodiscard]] Word seize(std::uint32_t index) BUOY_REQUIRES(lock_);
  void publish(std::uint32_t index, Word word);
  // No extent lies on both sides of `v` afterwards. Needs a spare.
  void cut(Vpn v) BUOY_REQUIRES(lock_);
  // The stretch becomes one extent, marked; the pages that were not volatile before. Needs spares.
  PageCount cover(const Stretch& stretch, unsigned priority, std::uint64_t stamp)
      BUOY_REQUIRES(lock_);
  [[nodiscard]] std::uint32_t take_spare() BUOY_REQUIRES(lock_);
  void insert(std::uint32_t index) BUOY_REQUIRES(lock_);
  // The extent is seized; it leaves the tree and the hash.
  void take_out(std::uint32_t index) BUOY_REQUIRES(lock_);
  void take_out_and_free(std::uint32_t index, Word word) BUOY_REQUIRES(lock_);
  void sweep_idle() BUOY_REQUIRES(lock_);
  void split(std::uint32_t tree, Vpn at, std::uint32_t* below, std::uint32_t* above)
      BUOY_REQUIRES(lock_);
  [[nodiscard]] std::uint32_t merge(std::uint32_t below, std::uint32_t above) BUOY_REQUIRES(lock_);
  void enter_in_hash(std::uint32_t index) BUOY_REQUIRES(lock_);
  void leave_hash(std::uint32_t index) BUOY_REQUIRES(lock_);

  // Candidates.
  struct Candidate {
    std::uint64_t order;  // smaller goes first
    std::uint64_t word;
    std::uint32_t extent;
  };
  using MarksMade = std::array<std::uint64_t, kPriorities>;
  [[nodiscard]] MarksMade marks_made() const;
  [[nodiscard]] std::uint64_t marks_made_in_all() const;
  void push_candidate(const Candidate& candidate) BUOY_REQUIRES(batch_lock_);
  // Fills the batch; says what others have under way.
  Others collect(PurgeEffort effort) BUOY_REQUIRES(batch_lock_);
  // Was something marked since that goes before this priority?
  [[nodiscard]] bool is_overtaken(unsigned priority) const BUOY_REQUIRES(batch_lock_);

  static constexpr std::uint32_t kMaxExtents = 1U << 24;
  static constexpr std::size_t kSpares = 2;  // a change cuts two extents at most
  static constexpr std::size_t kBatch = 64;
  static constexpr unsigned kShards = 8;
  struct alignas(64) Shard {
    std::atomic<std::int64_t> pages{0};
  };

  Ground& ground_;
  Slab<Extent> extents_;
  ExtentHash hash_;
  MarksLock lock_;
  std::uint32_t root_ BUOY_GUARDED_BY(lock_) = 0;
  std::array<std::uint32_t, kSpares> spares_ BUOY_GUARDED_BY(lock_){};
  std::size_t n_spares_ BUOY_GUARDED_BY(lock_) = 0;
  std::uint32_t sweep_at_ BUOY_GUARDED_BY(lock_) = 4096;

  alignas(64) std::atomic<std::uint64_t> stamp_{0};
  // Marks made so far, by priority: tells a purger that its candidates are not the newest news.
  std::array<std::atomic<std::uint64_t>, kPriorities> marks_made_{};
  std::array<Shard, kShards> volatile_{};

  Mutex<LockRank::kVolatile> batch_lock_;
  std::array<Candidate, kBatch> batch_ BUOY_GUARDED_BY(batch_lock_){};
  std::size_t batch_next_ BUOY_GUARDED_BY(batch_lock_) = 0;
  std::size_t batch_size_ BUOY_GUARDED_BY(batch_lock_) = 0;
  PurgeEffort batch_effort_ BUOY_GUARDED_BY(batch_lock_) = PurgeEffort::kGentle;
  MarksMade batch_marks_ BUOY_GUARDED_BY(batch_lock_){};
  // The sum of marks_made_ when a gentle look found nothing: until it changes, there is nothing.
  std::atomic<std::uint64_t> nothing_at_{0};

  StepHook hook_ = nullptr;
  void* hook_context_ = nullptr;
};

}  // namespace buoy
