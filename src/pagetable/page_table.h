// PageTable: the index, the leaves and the regions of one pool.
//
// Finding a leaf takes no lock. Making one, and everything about regions, takes the region lock
// (rank kRegions, so it may be held while leaves are locked).
#pragma once

#include <atomic>
#include <cstdint>

#include "base/lock.h"
#include "base/result.h"
#include "base/slab.h"
#include "base/units.h"
#include "pagetable/index.h"
#include "pagetable/leaf.h"
#include "pagetable/region.h"

namespace buoy {

class PageTable {
 public:
  using RegionLock = Mutex<LockRank::kRegions>;

  PageTable() = default;
  ~PageTable();
  PageTable(const PageTable&) = delete;
  PageTable& operator=(const PageTable&) = delete;

  // Room for so many leaves (2 MiB of touched address space each) and regions.
  [[nodiscard]] Status create();

  RegionLock& region_lock() BUOY_RETURN_CAPABILITY(region_lock_) { return region_lock_; }

  // The region around `v`, or null. Lock-free, async-signal-safe; the answer may be stale by the
  // time it is used, but the pointer stays a Region.
  [[nodiscard]] Region* find_region(Vpn v) const;
  // The same, or else the first region behind `v`; null if there is none.
  [[nodiscard]] Region* find_region_from(Vpn v, Vpn* first) const;
  // The regions' parts of the run, in address order:
  //     for (const auto [region, part] : table.regions_in(run))
  // What no region holds is passed over: whoever needs all of it compares where the parts begin. The
  // next one is looked for when the body is done, which may release the region.
  struct RegionPart {
    Region& region;
    PageRun part;
  };
  class RegionsIn {
   public:
    struct End {};
    class Iterator {
     public:
      Iterator(const PageTable& table, PageRun rest) : table_(table), rest_(rest) { find(); }
      RegionPart operator*() const { return {*region_, part_}; }
      Iterator& operator++() {
        rest_ = {part_.end(), rest_.end() - part_.end()};
        find();
        return *this;
      }
      bool operator!=(End) const { return region_ != nullptr; }

     private:
      void find();

      const PageTable& table_;
      PageRun rest_;
      Region* region_ = nullptr;
      PageRun part_;
    };
    RegionsIn(const PageTable& table, PageRun run) : table_(table), run_(run) {}
    [[nodiscard]] Iterator begin() const { return {table_, run_}; }
    [[nodiscard]] End end() const { return {}; }

   private:
    const PageTable& table_;
    PageRun run_;
  };
  [[nodiscard]] RegionsIn regions_in(PageRun run) const BUOY_REQUIRES(region_lock_) {
    return {*this, run};
  }
  [[nodiscard]] Leaf* find_leaf(Vpn v) const { return index_.find(v); }
  // Calls body(Leaf&, the run's part in its block) -> bool for every leaf that exists in the run, in
  // address order, until one answers false. What was never touched costs next to nothing.
  template <typename Body>
  void for_each_leaf_in(PageRun run, Body body) const {
    if (run.count.is_zero()) return;
    const std::uint64_t end = (run.end() - PageCount(1)).block() + 1;
    for (std::uint64_t b = index_.first_with_leaf(run.first.block(), end); b < end;
         b = index_.first_with_leaf(b + 1, end)) {
      const Vpn block(b * kPagesPerBlock);
      Leaf* leaf = index_.find(block);
      if (leaf == nullptr) continue;
      const Vpn first = block < run.first ? run.first : block;
      const Vpn block_end = block + PageCount(kPagesPerBlock);
      const Vpn part_end = block_end < run.end() ? block_end : run.end();
      if (!body(*leaf, PageRun{first, part_end - first})) return;
    }
  }
  // The leaf of `v`, made if need be: its PTEs say hole or empty as the region's extents do.
  // Null if no region holds `v`, or memory for metadata ran out.
  [[nodiscard]] Leaf* find_or_make_leaf(Vpn v) BUOY_EXCLUDES(region_lock_);
  [[nodiscard]] Leaf* find_or_make_leaf_locked(Vpn v) BUOY_REQUIRES(region_lock_);

  // A region object around the reservation, entered into the table. Null: too many regions.
  [[nodiscard]] Region* add_region(const mmu::Reservation& reservation, RegionFlags flags,
                                   RegionKind kind) BUOY_REQUIRES(region_lock_);
  // Takes it out; its leaves must be gone.
  void remove_region(Region& region) BUOY_REQUIRES(region_lock_);
  [[nodiscard]] std::uint32_t region_count() const {
    return region_count_.load(std::memory_order_acquire);
  }
  [[nodiscard]] Region& region_at(std::uint32_t i) const BUOY_REQUIRES(region_lock_) {
    return *order_[i].region;
  }

  // Returns an all-hole leaf to the slab. The caller holds its lock (which stays held: leaves are
  // type-stable) and has taken it off every reclaim list.
  void recycle(Leaf& leaf) BUOY_REQUIRES(region_lock_, leaf.lock);

  // Every live leaf, in no order; for validation, fork and statistics. body(Leaf&), unlocked.
  template <typename Body>
  void for_each_leaf(Body body) {
    const std::uint32_t end = leaves_.high_water();
    for (std::uint32_t i = 1; i < end; ++i) {
      Leaf& leaf = leaves_.at(i);
      if (leaf.block.load(std::memory_order_acquire) != ~std::uint64_t{0}) body(leaf);
    }
  }
  [[nodiscard]] ByteSize touched_bytes() const;

 private:
  static constexpr std::uint32_t kMaxLeaves = 1U << 23;  // 16 TiB of touched address space
  static constexpr std::uint32_t kMaxRegions = 1U << 16;
  struct Ordered {
    Vpn first;
    Vpn end;
    Region* region;
  };

  AddressIndex index_;
  Slab<Leaf> leaves_;
  Slab<Region> regions_;
  RegionLock region_lock_;
  // Sorted by address; a sequence lock lets readers search it without the region lock.
  Ordered* order_ = nullptr;
  std::uint32_t most_regions_ = 0;  // of this process
  std::atomic<std::uint32_t> region_count_{0};
  std::atomic<std::uint32_t> sequence_{0};
};

}  // namespace buoy
