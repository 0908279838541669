#include "pagetable/page_table.h"

#include <sys/mman.h>

#include <cstring>

namespace buoy {

Status PageTable::create() {
  if (Status s = index_.create(); !s) return s;
  // A leaf stands for a block at an address and one in the shadow, a region for one of each at least.
  if (Status s = leaves_.create(sys::most_needed(kMaxLeaves, kBlockSize, 64)); !s) return s;
  most_regions_ = sys::most_needed(kMaxRegions, kBlockSize, 64);
  if (Status s = regions_.create(most_regions_); !s) return s;
  auto memory = sys::reserve(sizeof(Ordered) * most_regions_, kPageSize, PROT_READ | PROT_WRITE);
  if (!memory) return memory.error();
  order_ = reinterpret_cast<Ordered*>(*memory);
  return {};
}

PageTable::~PageTable() {
  if (order_ == nullptr) return;
  sys::unmap(order_, sizeof(Ordered) * most_regions_);
  // The slab does not destroy what it holds; a region's maps have memory of their own.
  for (std::uint32_t i = 1; i < regions_.high_water(); ++i) regions_.at(i).~Region();
}

Region* PageTable::find_region(Vpn v) const {
  Vpn first;
  Region* region = find_region_from(v, &first);
  return region != nullptr && first <= v ? region : nullptr;
}

Region* PageTable::find_region_from(Vpn v, Vpn* first) const {
  for (;;) {
    const std::uint32_t before = sequence_.load(std::memory_order_acquire);
    if ((before & 1U) != 0) {
      __builtin_ia32_pause();
      continue;
    }
    std::uint32_t low = 0;
    std::uint32_t high = region_count_.load(std::memory_order_relaxed);
    while (low < high) {
      const std::uint32_t mid = (low + high) / 2;
      if (order_[mid].end <= v)
        low = mid + 1;
      else
        high = mid;
    }
    Region* found = nullptr;
    if (low < region_count_.load(std::memory_order_relaxed)) {
      found = order_[low].region;
      *first = order_[low].first;
    }
    std::atomic_thread_fence(std::memory_order_acquire);
    if (sequence_.load(std::memory_order_relaxed) == before) return found;
  }
}

void PageTable::RegionsIn::Iterator::find() {
  Vpn first;
  region_ = rest_.count.is_zero() ? nullptr : table_.find_region_from(rest_.first, &first);
  if (region_ == nullptr) return;
  part_ = intersection(rest_, region_->range());
  if (part_.count.is_zero()) region_ = nullptr;
}

Leaf* PageTable::find_or_make_leaf(Vpn v) {
  Leaf* leaf = find_leaf(v);
  if (leaf != nullptr) return leaf;
  if (find_region(v) == nullptr) return nullptr;
  const Guard guard(region_lock_);
  return find_or_make_leaf_locked(v);
}

Leaf* PageTable::find_or_make_leaf_locked(Vpn v) {
  if (Leaf* leaf = find_leaf(v); leaf != nullptr) return leaf;
  Region* region = find_region(v);
  if (region == nullptr) return nullptr;
  if (!index_.prepare(v.block())) return nullptr;
  const std::uint32_t fresh = leaves_.try_allocate();
  if (fresh == 0) return nullptr;
  Leaf& leaf = leaves_.at(fresh);
  const Guard guard(leaf.lock);
  leaf.reset(v.block(), region, PteState::kHole);
  region->extents.for_each_in({v.block_start(), PageCount(kPagesPerBlock)},
                              [&leaf](PageRun run, mmu::Access) BUOY_NO_TSA {
                                const unsigned first = run.first.in_block();
                                for (unsigned i = 0; i < run.count.value(); ++i)
                                  leaf.set(first + i, Pte::of(PteState::kEmpty));
                              });
  index_.put(v.block(), &leaf);
  return &leaf;
}

Region* PageTable::add_region(const mmu::Reservation& reservation, RegionFlags flags,
                              RegionKind kind) {
  const std::uint32_t count = region_count_.load(std::memory_order_relaxed);
  if (count == most_regions_) return nullptr;
  const std::uint32_t fresh = regions_.try_allocate();
  if (fresh == 0) return nullptr;
  Region& region = regions_.at(fresh);
  region.reservation = reservation;
  region.flags = flags;
  region.kind = kind;
  region.room_hint = reservation.base;
  region.has_foreign.store(false, std::memory_order_relaxed);
  std::uint32_t at = 0;
  while (at < count && order_[at].first < reservation.base) ++at;
  sequence_.fetch_add(1, std::memory_order_acq_rel);
  std::memmove(static_cast<void*>(order_ + at + 1), order_ + at, (count - at) * sizeof(Ordered));
  order_[at] = {reservation.base, reservation.base + reservation.pages, &region};
  region_count_.store(count + 1, std::memory_order_relaxed);
  sequence_.fetch_add(1, std::memory_order_release);
  return &region;
}

void PageTable::remove_region(Region& region) {
  const std::uint32_t count = region_count_.load(std::memory_order_relaxed);
  std::uint32_t at = 0;
  while (at < count && order_[at].region != &region) ++at;
  BUOY_CHECK(at < count);
  sequence_.fetch_add(1, std::memory_order_acq_rel);
  std::memmove(static_cast<void*>(order_ + at), order_ + at + 1,
               (count - at - 1) * sizeof(Ordered));
  region_count_.store(count - 1, std::memory_order_relaxed);
  sequence_.fetch_add(1, std::memory_order_release);
  region.extents.clear();
  region.foreign.clear();
  regions_.release(regions_.index_of(region));
}

void PageTable::recycle(Leaf& leaf) {
  BUOY_DCHECK(leaf.count_of(PteState::kHole) == kPagesPerBlock);
  // Somebody may have isolated it just now, who found it before: they look again under the lock.
  BUOY_DCHECK(leaf.lists.load(std::memory_order_relaxed) == 0);
  index_.put(leaf.block.load(std::memory_order_relaxed), nullptr);
  leaf.region.store(nullptr, std::memory_order_relaxed);
  leaf.block.store(~std::uint64_t{0}, std::memory_order_release);
  leaves_.release(leaves_.index_of(leaf));
}

ByteSize PageTable::touched_bytes() const {
  return index_.touched_bytes() + leaves_.touched_bytes() + regions_.touched_bytes() +
         region_count_.load(std::memory_order_relaxed) * sizeof(Ordered);
}

}  // namespace buoy
