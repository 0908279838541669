// A leaf: the 512 PTEs of one 2 MiB block, their lock, and their place on the reclaim lists.
//
// Leaves are type-stable: recycled through a Slab, never unmapped. Whoever reaches a leaf through
// the index without holding anything locks it and checks `block` and `region` again.
//
// Lock order: leaf, then anything of kLru and beyond; two leaves by rising block number.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "base/list.h"
#include "base/lock.h"
#include "base/units.h"
#include "pagetable/leaf_range.h"
#include "pagetable/pte.h"

namespace buoy {

class Region;

// The reclaim lists a leaf may be on: any subset, by what its pages are.
enum class LeafList : std::uint8_t { kResident, kStandby, kLazyFree, kDroppable, kCount };

struct Leaf {
  using Lock = Mutex<LockRank::kLeaf>;

  Lock lock;
  // The block of address space, ~0 while on the free list. Written with the lock held.
  std::atomic<std::uint64_t> block{~std::uint64_t{0}};
  std::atomic<Region*> region{nullptr};

  static constexpr std::uint16_t kNoFault = 0xffff;
  // Where the last fault was, and how large a folio it brought: locality detection. Hints, also
  // read by faults in the neighbouring leaves; hence atomic, and never trusted.
  std::atomic<std::uint16_t> last_fault{kNoFault};
  std::atomic<std::uint8_t> window_order{0};
  // The same for stores over lazily freed pages: where the last un-free was, and its order.
  std::atomic<std::uint16_t> last_unfree{kNoFault};
  std::atomic<std::uint8_t> unfree_order{0};
  // Faults on its pages since it was made. Written with the lock held.
  std::atomic<std::uint32_t> faults{0};
  // Bumped, and woken, when a page leaves kLoading or kSqueezing.
  std::atomic<std::uint32_t> event{0};
  std::atomic<std::uint32_t> waiters{0};

  // Pages by state; the equation: they sum to 512, and `in_shadow` counts the flag.
  std::array<std::uint16_t, static_cast<std::size_t>(PteState::kCount)> count
      BUOY_GUARDED_BY(lock){};
  std::uint16_t in_shadow BUOY_GUARDED_BY(lock) = 0;
  std::uint16_t held BUOY_GUARDED_BY(lock) = 0;

  // List membership: written under the Lru's lock; `lists` (a bit per LeafList) may be read
  // without it as a hint.
  ListNode resident_node;
  ListNode standby_node;
  ListNode lazyfree_node;
  ListNode droppable_node;
  std::atomic<std::uint8_t> lists{0};
  // The tick at which reclaim should look at its resident pages, modulo 64 (reclaim/lru.h).
  std::atomic<std::uint8_t> ripe{0};
  bool isolated = false;  // somebody works on it after taking it off its lists

  [[nodiscard]] Vpn first_page() const {
    return Vpn(block.load(std::memory_order_relaxed) * kPagesPerBlock);
  }
  [[nodiscard]] Vpn page(unsigned i) const { return first_page() + PageCount(i); }
  [[nodiscard]] Pte get(unsigned i) const { return Pte(ptes_[i].load(std::memory_order_relaxed)); }
  [[nodiscard]] unsigned count_of(PteState s) const BUOY_REQUIRES(lock) {
    return count[static_cast<std::size_t>(s)];
  }
  [[nodiscard]] unsigned populated() const BUOY_REQUIRES(lock) {
    return count_of(PteState::kMapped) + count_of(PteState::kLazyFree) + count_of(PteState::kClean);
  }
  // Every PTE becomes `fill`, the counts anew: for a leaf fresh off the slab.
  void reset(std::uint64_t new_block, Region* owner, PteState fill) BUOY_REQUIRES(lock);
  // Recounts everything and compares. Aborts on a difference.
  void validate() const BUOY_REQUIRES(lock);

 private:
  // Who writes PTEs, and when: LockedLeaf (reclaim/locked_leaf.h) makes every transition, PageTable
  // the first ones, before anyone else can find the leaf, and folios (folio.cc) the orders.
  friend class LockedLeaf;
  friend class PageTable;
  friend void set_orders(Leaf& leaf, LeafRange range, Order order);
  friend struct LeafWriterForTest;

  // Replaces PTE i, keeping the counts; checks the transition.
  void set(unsigned i, Pte value) BUOY_REQUIRES(lock);
  // What folio the page is of: nothing else changes.
  void set_order(unsigned i, Order order) BUOY_REQUIRES(lock) {
    ptes_[i].store(get(i).with_order(order).bits(), std::memory_order_relaxed);
  }

  std::array<std::atomic<std::uint64_t>, kPagesPerBlock> ptes_;
};

// The length of the run of pages from the first of the range on for which `test(pte)` holds.
template <typename Test>
[[nodiscard]] unsigned run_length(const Leaf& leaf, LeafRange range, Test test) {
  unsigned n = range.first;
  while (n < range.end && test(leaf.get(n))) ++n;
  return n - range.first;
}

// The maximal runs of pages in the range for which `test(pte)` holds, in rising order:
//     for (const LeafRange run : runs_where(leaf, range, test))
// The next one is looked for when the body is done with the one before, which it may change.
template <typename Test>
class RunsWhere {
 public:
  struct End {};
  class Iterator {
   public:
    Iterator(const RunsWhere& runs, unsigned from) : runs_(runs) { find(from); }
    LeafRange operator*() const { return run_; }
    Iterator& operator++() {
      find(run_.end);
      return *this;
    }
    bool operator!=(End) const { return !run_.is_empty(); }

   private:
    void find(unsigned i) {
      const unsigned end = runs_.range_.end;
      while (i < end && !runs_.test_(runs_.leaf_.get(i))) ++i;
      run_ = {i, i + (i < end ? run_length(runs_.leaf_, {i, end}, runs_.test_) : 0)};
    }

    const RunsWhere& runs_;
    LeafRange run_;
  };

  RunsWhere(const Leaf& leaf, LeafRange range, Test test)
      : leaf_(leaf), range_(range), test_(test) {}
  [[nodiscard]] Iterator begin() const { return {*this, range_.first}; }
  [[nodiscard]] End end() const { return {}; }

 private:
  const Leaf& leaf_;
  LeafRange range_;
  Test test_;
};

template <typename Test>
[[nodiscard]] RunsWhere<Test> runs_where(const Leaf& leaf, LeafRange range, Test test) {
  return {leaf, range, test};
}

}  // namespace buoy
