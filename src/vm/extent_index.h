// Extents of pages that were ever declared volatile, and the index that finds them.
//
//   [0x100..0x180: volatile, priority 1] [0x180..0x1c0: withdrawn] ..gap.. [0x400..0x500: purged]
//
// An extent is a type-stable object; it lives on when its mark is withdrawn, so that
// marking it again is a look-up and one compare-and-swap, whatever its length.
//
// Beside the extents stand a treap by address, which belongs to who holds the marks lock, and a hash
// from the first page to the extent, which anyone may read: whatever it answers is checked against
// the extent's word. What a mark means is none of the index's business (volatile_map.h).
#pragma once

#include <atomic>
#include <cstdint>

#include "base/result.h"
#include "base/slab.h"
#include "base/treap.h"
#include "base/units.h"
#include "pagetable/region.h"
#include "vm/extent_hash.h"
#include "vm/mark_word.h"

namespace buoy {

struct alignas(64) Extent {
  Mark mark;
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

class ExtentIndex {
 public:
  using Index = std::uint32_t;  // 0: none

  [[nodiscard]] Status create();

  // ---- By anyone, at any time. -----------------------------------------------------------------

  [[nodiscard]] Extent& at(Index i) const { return extents_.at(i); }
  // The extent that has, or had a moment ago, exactly this run; 0 if it is not found.
  [[nodiscard]] Index find_exact(PageRun run) const;
  // All extents that there are, free ones among them, are numbered from 1 and below this.
  [[nodiscard]] Index high_water() const { return extents_.high_water(); }
  [[nodiscard]] std::uint32_t live() const { return extents_.live(); }
  [[nodiscard]] ByteSize touched_bytes() const {
    return extents_.touched_bytes() + hash_.touched_bytes();
  }

  // ---- Under the marks lock. -------------------------------------------------------------------

  // An object that stands nowhere yet: seized, as all that are free. 0: there is no memory.
  [[nodiscard]] Index try_allocate() { return extents_.try_allocate(); }
  void release(Index i) { extents_.release(i); }
  // The extent that holds the page, or else the first one behind it.
  [[nodiscard]] Index at_or_after(Vpn v) const;
  // Enters an extent with these bounds, which overlaps no other.
  void insert(Index i, PageRun run);
  void take_out(Index i);
  // Gives an extent that is in the index other bounds: its place among the others stays.
  void set_run(Index i, PageRun run);
  // Aborts if the parts contradict each other. The extents in it.
  std::uint32_t validate() const;

 private:
  void store_run(Index i, PageRun run) const;
  void enter_in_hash(Index i);
  void leave_hash(Index i);

  static constexpr std::uint32_t kMaxExtents = 1U << 24;

  Slab<Extent> extents_;
  Treap<Extent> tree_{extents_};
  ExtentHash hash_;
};

}  // namespace buoy
