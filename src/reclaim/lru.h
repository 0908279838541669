// Lru: where reclaim looks for memory, oldest places first.
//
// The entries are leaves, not pages: with no accessed bit and dear TLB flushes, choosing where to
// reclaim by leaf and what by the generation in each PTE beats picking single pages. A leaf is on
// any of four lists, by what its pages are:
//
//   resident   oldest -> [leaf] [leaf] ... <- newest    scanned like a clock: front to back
//   droppable  oldest -> [leaf] ...                     the same, of regions that may be dropped
//   standby    oldest -> [leaf] ...                     taken away, waiting to be squeezed
//   lazyfree   oldest -> [leaf] ...                     reclaim looks here first
//
// Whoever works on a leaf isolates it (off all lists); others skip it; put_back() links it again.
// Generations: a clock that ticks each time an eighth of the budget was brought in.
#pragma once

#include <atomic>
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

  // Links the leaf at the newest end of each list in `wanted` that it is not on yet. An isolated
  // leaf is left alone: put_back() decides.
  void add(Leaf& leaf, std::uint8_t wanted);
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
    tick_pages_.store(pages / 8 + 1, std::memory_order_relaxed);
  }
  // Modulo 64, as PTEs hold it.
  [[nodiscard]] unsigned generation() const {
    return static_cast<unsigned>(installed_.load(std::memory_order_relaxed) /
                                 tick_pages_.load(std::memory_order_relaxed)) &
           0x3fU;
  }
  [[nodiscard]] unsigned age_of(Pte p) const { return (generation() - p.generation()) & 0x3fU; }

  // In a fork child: isolations of threads that do not exist here end.
  void after_fork_in_child_release(Leaf& leaf) BUOY_NO_TSA {
    if (leaf.isolated) note_isolated(leaf, false);
  }

 private:
  void link(Leaf& leaf, LeafList list, bool at_oldest) BUOY_REQUIRES(lock_);
  void unlink(Leaf& leaf, LeafList list) BUOY_REQUIRES(lock_);
  void unlink_all(Leaf& leaf) BUOY_REQUIRES(lock_);
  void note_isolated(Leaf& leaf, bool is) BUOY_REQUIRES(lock_) {
    leaf.isolated = is;
    isolated_.fetch_add(is ? 1 : -1, std::memory_order_relaxed);
  }

  ListLock lock_;
  List<Leaf, &Leaf::resident_node> resident_ BUOY_GUARDED_BY(lock_);
  List<Leaf, &Leaf::standby_node> standby_ BUOY_GUARDED_BY(lock_);
  List<Leaf, &Leaf::lazyfree_node> lazyfree_ BUOY_GUARDED_BY(lock_);
  List<Leaf, &Leaf::droppable_node> droppable_ BUOY_GUARDED_BY(lock_);
  std::atomic<std::size_t> lengths_[static_cast<std::size_t>(LeafList::kCount)]{};
  std::atomic<std::int64_t> isolated_{0};  // leaves
  std::atomic<std::uint64_t> installed_{0};
  std::atomic<std::uint64_t> tick_pages_{1};
};

}  // namespace buoy
