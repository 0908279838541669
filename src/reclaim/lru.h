// Lru: where reclaim looks for memory, oldest places first.
//
// The entries are leaves, not pages: with no accessed bit and dear TLB flushes, choosing where to
// reclaim by leaf and what by the generation in each PTE beats picking single pages. A leaf is on
// any of four lists, by what its pages are:
//
//   resident   by the tick at which the first of its pages is ripe: soonest -> [leaf] [leaf] ...
//   droppable  oldest -> [leaf] ...                     first in, first out, of what may be dropped
//   standby    oldest -> [leaf] ...                     taken away, waiting to be squeezed
//   lazyfree   oldest -> [leaf] ...                     reclaim looks here first
//
// Whoever works on a leaf isolates it (off all lists); others skip it; put_back() links it again.
//
// GENERATIONS AND LEVELS. The clock ticks each time an eighth of the budget was brought in. A page
// carries the tick at which it was last seen (brought in, touched on standby; when it leaves, that),
// and a level: how often it was wanted again soon after it was taken away. It is left alone for a
// term that grows with the level:
//
//   level   0   1   2   3
//   ticks   1   5  13  29          1 + half a budget's ticks x (2^level - 1)
//
// then it is ripe, goes to standby, and what is not touched there leaves. Reclaim takes what ripens
// first, and when nothing is ripe, what will be next: a page that came once gives way before one that
// came back, however long ago. A level is gained by a touch on standby and by coming back within
// half a budget; it is lost by staying away for more than two.
//
// A loop that does not quite fit would raise all its pages alike, and each would push out the one
// that is wanted next. So while reclaim has to take what is not ripe, few of those that come back
// gain a level: what is resident stays so for its term, and the loop misses what does not fit.
// (The idea is that of bimodal insertion: Qureshi et al., "Adaptive Insertion Policies for High
// Performance Caching", ISCA 2007. Terms that double: the generations of Linux's MGLRU and the
// queues of Zhou et al., "The Multi-Queue Replacement Algorithm", USENIX 2001.)
#pragma once

#include <atomic>
#include <bit>
#include <cstdint>

#include "base/list.h"
#include "base/lock.h"
#include "pagetable/leaf.h"

namespace buoy {

class Lru {
 public:
  using ListLock = Mutex<LockRank::kLru>;

  static constexpr LeafList kAll[] = {LeafList::kResident, LeafList::kStandby, LeafList::kLazyFree,
                                      LeafList::kDroppable};
  static constexpr std::uint8_t bit(LeafList l) {
    return static_cast<std::uint8_t>(1U << static_cast<unsigned>(l));
  }

  static constexpr unsigned kMostLevel = 3;

  // Links the leaf at the newest end of each list in `wanted` that it is not on yet, and sees to it
  // that its resident pages are looked at in `soonest` ticks. An isolated leaf is left alone:
  // put_back() decides.
  void add(Leaf& leaf, std::uint8_t wanted, int soonest = 1);
  // Is the leaf to be looked at later than in `soonest` ticks? Without a lock, as a hint.
  [[nodiscard]] bool is_riper(const Leaf& leaf, int soonest) const {
    return ticks_until(leaf.ripe.load(std::memory_order_relaxed)) > soonest;
  }
  // In how many ticks the leaf is to be looked at; 0 or less: now.
  [[nodiscard]] int ripens_in(const Leaf& leaf) const {
    return ticks_until(leaf.ripe.load(std::memory_order_relaxed));
  }
  // For who has it isolated, before put_back().
  void set_ripens_in(Leaf& leaf, int ticks) const;
  // Takes the oldest leaf of the list off all its lists. Null if the list is empty.
  // The caller owns the isolation until put_back().
  [[nodiscard]] Leaf* isolate_oldest(LeafList list);
  // Isolates this leaf. False if somebody else has.
  [[nodiscard]] bool isolate(Leaf& leaf);
  // Ends an isolation: links the leaf into the lists of `wanted`, at the newest end; those in
  // `oldest` at the oldest end instead.
  void put_back(Leaf& leaf, std::uint8_t wanted, std::uint8_t oldest = 0);
  // Takes the leaf off all lists for good. False if it is isolated: try again later.
  [[nodiscard]] bool forget(Leaf& leaf);
  [[nodiscard]] std::size_t length(LeafList list) const {
    return lengths_[static_cast<std::size_t>(list)].load(std::memory_order_relaxed);
  }

  // Is anybody at work on a leaf? What it holds is on no list meanwhile.
  [[nodiscard]] bool has_isolated() const { return isolated_.load(std::memory_order_relaxed) != 0; }

  // Called with the number of pages that were brought in.
  void note_installed(std::uint64_t pages) {
    installed_.fetch_add(pages, std::memory_order_relaxed);
  }
  void set_budget_pages(std::uint64_t pages) {
    tick_pages_.store(pages / kTicksPerBudget + 1, std::memory_order_relaxed);
  }
  // Modulo 64, as PTEs hold it.
  [[nodiscard]] unsigned generation() const {
    return static_cast<unsigned>(installed_.load(std::memory_order_relaxed) /
                                 tick_pages_.load(std::memory_order_relaxed)) &
           0x3fU;
  }
  [[nodiscard]] unsigned age_of(Pte p) const { return (generation() - p.generation()) & 0x3fU; }
  // For how many ticks more the page is left alone; 0 or less: it is ripe.
  [[nodiscard]] int ticks_left(Pte p) const {
    return p.has(Pte::kCold) ? -static_cast<int>(kTicks)
                             : term_of(p.level()) - static_cast<int>(age_of(p));
  }
  static constexpr int term_of(unsigned level) {
    return 1 + kTicksPerBudget / 2 * ((1 << (level < kMostLevel ? level : kMostLevel)) - 1);
  }
  // The page was seen just now.
  [[nodiscard]] static Pte touched(Pte p, unsigned generation) {
    return p.with_generation(generation).without(Pte::kCold);
  }
  // What the page's level is after a touch on standby.
  [[nodiscard]] static unsigned level_after_touch(Pte p) {
    return p.level() < kMostLevel ? p.level() + 1 : kMostLevel;
  }
  // What it is when the page comes back that had left altogether at its generation's tick.
  [[nodiscard]] unsigned level_after_return(Pte p);
  // Did it leave a moment ago: would a little more memory have kept it?
  [[nodiscard]] bool has_just_left(Pte p) const { return age_of(p) <= 1; }
  [[nodiscard]] std::uint64_t tick_pages() const {
    return tick_pages_.load(std::memory_order_relaxed);
  }
  // Whether reclaim had to take, the last time, what was not ripe.
  void note_pressed(bool is) { is_pressed_.store(is, std::memory_order_relaxed); }

  // In a fork child: isolations of threads that do not exist here end.
  void after_fork_in_child_release(Leaf& leaf) BUOY_NO_TSA {
    if (leaf.isolated) note_isolated(leaf, false);
  }

 private:
  static constexpr unsigned kTicks = 64;  // as PTEs and leaves hold them
  static constexpr int kTicksPerBudget = 8;
  // The furthest future that a leaf may be put off to; what is further round the clock is past.
  static constexpr unsigned kHorizon = 40;

  [[nodiscard]] int ticks_until(unsigned tick) const {
    const unsigned ahead = (tick - generation()) % kTicks;
    return ahead <= kHorizon ? static_cast<int>(ahead) : static_cast<int>(ahead) - int{kTicks};
  }
  [[nodiscard]] Leaf* soonest_resident() BUOY_REQUIRES(lock_);
  void link(Leaf& leaf, LeafList list, bool at_oldest) BUOY_REQUIRES(lock_);
  void unlink(Leaf& leaf, LeafList list) BUOY_REQUIRES(lock_);
  void unlink_all(Leaf& leaf) BUOY_REQUIRES(lock_);
  void note_isolated(Leaf& leaf, bool is) BUOY_REQUIRES(lock_) {
    leaf.isolated = is;
    isolated_.fetch_add(is ? 1 : -1, std::memory_order_relaxed);
  }

  ListLock lock_;
  // By the tick that the leaf is ripe at; a bit for each that is not empty.
  List<Leaf, &Leaf::resident_node> resident_[kTicks] BUOY_GUARDED_BY(lock_);
  std::uint64_t has_resident_ BUOY_GUARDED_BY(lock_) = 0;
  List<Leaf, &Leaf::standby_node> standby_ BUOY_GUARDED_BY(lock_);
  List<Leaf, &Leaf::lazyfree_node> lazyfree_ BUOY_GUARDED_BY(lock_);
  List<Leaf, &Leaf::droppable_node> droppable_ BUOY_GUARDED_BY(lock_);
  std::atomic<std::size_t> lengths_[static_cast<std::size_t>(LeafList::kCount)]{};
  std::atomic<std::int64_t> isolated_{0};  // leaves
  std::atomic<std::uint64_t> installed_{0};
  std::atomic<std::uint64_t> tick_pages_{1};
  std::atomic<bool> is_pressed_{false};
  std::atomic<std::uint32_t> returns_{0};
};

}  // namespace buoy
