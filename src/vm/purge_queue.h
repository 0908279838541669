// PurgeQueue: which volatile extent is purged next. The lowest priority first, then the oldest mark;
// what was emptied before, and not marked again, last.
//
// There is no list to keep in order: a mark is one compare-and-swap, and nobody is told. The queue
// looks at all extents, keeps the best few dozen as candidates, and claims them one after the other
// by compare-and-swap against the word that it saw. It looks again when they are used up, or when a
// mark was made that goes before them.
//
// Takes no lock but its own; called with signals blocked, noting a mark excepted.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "base/lock.h"
#include "base/units.h"
#include "reclaim/reclaimer.h"
#include "vm/extent_index.h"
#include "vm/mark_steps.h"

namespace buoy {

class PurgeQueue {
 public:
  static constexpr unsigned kPriorities = 4;

  PurgeQueue(const ExtentIndex& extents, const MarkSteps& step) : extents_(extents), step_(step) {}

  // ---- Who marks. Async-signal-safe. -----------------------------------------------------------

  // The age of a mark that is made now.
  [[nodiscard]] std::uint64_t next_stamp() {
    return stamp_.fetch_add(1, std::memory_order_relaxed) + 1;
  }
  void note_marked(unsigned priority) {
    marks_made_[priority].fetch_add(1, std::memory_order_release);
  }

  // ---- Who purges. -----------------------------------------------------------------------------

  // What others are doing with the extents that there are: a purge ends soon, whatever happens; a
  // change of marks may have been interrupted by a signal handler, even the one that asks.
  enum class Others : std::uint8_t { kNothing, kChange, kPurge };
  struct Claim {
    std::uint32_t extent = 0;  // 0: there is nothing to purge but what `others` are at work on
    PageRun run;
    Vpn resume;  // where an earlier, partial purge stopped
    MarkWord word{0};
    Others others = Others::kNothing;
    [[nodiscard]] explicit operator bool() const { return extent != 0; }
  };
  // The next extent: purging from now on. kGentle leaves out what may rather be compressed and what
  // was purged already.
  [[nodiscard]] Claim claim(PurgeEffort effort);
  // The claim's purge ended before its end, with this word: the rest of it goes next, before
  // anything else is begun.
  void put_back(const Claim& claim, MarkWord now);

  // Other threads, and what they had under way, are not here.
  void after_fork_in_child() { nothing_at_.store(kNever, std::memory_order_relaxed); }

 private:
  struct Candidate {
    std::uint64_t order;  // smaller goes first
    MarkWord word{0};
    std::uint32_t extent;
  };
  using MarksMade = std::array<std::uint64_t, kPriorities>;
  static bool goes_before(const Candidate& a, const Candidate& b) { return a.order < b.order; }
  static std::uint64_t sum(const MarksMade& made);

  [[nodiscard]] MarksMade marks_made() const;
  // The candidate's place among all; none, if it is left alone at this effort.
  [[nodiscard]] bool is_wanted(const Extent& e, MarkWord word, PurgeEffort effort) const;
  [[nodiscard]] static std::uint64_t order_of(MarkWord word, std::uint64_t now);
  void push_candidate(const Candidate& candidate) BUOY_REQUIRES(lock_);
  // Fills the batch; says what others have under way.
  Others collect(PurgeEffort effort) BUOY_REQUIRES(lock_);
  // Claims the first candidate of the batch that is still what it was.
  [[nodiscard]] Claim claim_from_batch() BUOY_REQUIRES(lock_);
  // Was something marked since that goes before this priority?
  [[nodiscard]] bool is_overtaken(unsigned priority) const BUOY_REQUIRES(lock_);

  static constexpr std::size_t kBatch = 64;
  static constexpr std::uint64_t kNever = ~std::uint64_t{0};

  const ExtentIndex& extents_;
  const MarkSteps& step_;

  alignas(64) std::atomic<std::uint64_t> stamp_{0};
  // Marks made so far, by priority: tells a purger that its candidates are not the newest news.
  std::array<std::atomic<std::uint64_t>, kPriorities> marks_made_{};

  Mutex<LockRank::kVolatile> lock_;
  std::array<Candidate, kBatch> batch_ BUOY_GUARDED_BY(lock_){};
  std::size_t batch_next_ BUOY_GUARDED_BY(lock_) = 0;
  std::size_t batch_size_ BUOY_GUARDED_BY(lock_) = 0;
  PurgeEffort batch_effort_ BUOY_GUARDED_BY(lock_) = PurgeEffort::kGentle;
  MarksMade batch_marks_ BUOY_GUARDED_BY(lock_){};
  // The sum of marks_made_ when a gentle look found nothing, as before the first mark: until it
  // changes, there is nothing.
  std::atomic<std::uint64_t> nothing_at_{0};
};

}  // namespace buoy
