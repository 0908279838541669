// Mappings: which pages exist, and what the program may do with them.

#include <algorithm>
#include <cerrno>

#include "base/signals.h"
#include "vm/vm.h"

namespace buoy {

namespace {
// Small mappings share spans of 1 GiB of address space, or of less where that is limited.
constexpr std::uint32_t kSpanBlocks = 512;
// The most a single mapping may have: what the address index covers, less room for others.
constexpr PageCount kLargestMapping(std::uint64_t{1} << 34);  // 64 TiB

// What a fresh mapping promises.
PageCount promised_by(PageCount pages, RegionFlags flags, mmu::Access access) {
  const bool is_none = access == mmu::Access::kNone || has(flags, RegionFlags::kOwnersPromise);
  return is_none ? PageCount() : pages;
}

// The whole blocks that the run reaches into.
PageRun blocks_around(PageRun run) {
  const Vpn first = run.first.block_start();
  return {first, run.end().aligned_up(PageCount(kPagesPerBlock)) - first};
}

// The first region that has a page of the run, and where it begins; null: none has.
Region* region_in(const PageTable& table, PageRun run, Vpn* first) {
  Region* const region = table.find_region_from(run.first, first);
  return region != nullptr && *first < run.end() ? region : nullptr;
}
}  // namespace

Status Vm::create() {
  context_.lru.set_budget_pages(context_.budget.limit().value());
  if (Status s = volatile_.create(); !s) return s;
  reclaimer_.set_purge_source(this);
  // A 32nd of what there is, shadow and all; two blocks at least.
  span_pages_ =
      PageCount(std::uint64_t{sys::most_needed(kSpanBlocks, 64 * kBlockSize, 2)} * kPagesPerBlock);
  largest_in_span_ =
      PageCount(std::min<std::uint64_t>(span_pages_.value() / 2, 16 * kPagesPerBlock));
  return scratch_.create();
}

// ---- map --------------------------------------------------------------------------------------

Result<Vpn> Vm::map(PageCount pages, RegionFlags flags, mmu::Access access) {
  if (pages.is_zero()) return Error{EINVAL};
  if (pages > kLargestMapping) return Error{ENOMEM};
  const Pledge pledge(commitment_, promised_by(pages, flags, access));
  if (!pledge.is_made()) return Error{ENOMEM};
  return map_pledged(pages, flags, access);
}

Result<Vpn> Vm::map_pledged(PageCount pages, RegionFlags flags, mmu::Access access) {
  const SignalBlock signals;
  const GatePass pass(context_.gate);
  const Guard guard(context_.table.region_lock());
  Vpn at;
  if (pages <= largest_in_span_ && !has(flags, RegionFlags::kHuge)) {
    if (Status s = carve_from_span(pages, flags, access, &at); !s) return s.error();
    return at;
  }
  auto region = new_region(pages, flags, RegionKind::kOwn);
  if (!region) return region.error();
  at = (*region)->reservation.base;
  if (Status s = place(**region, {at, pages}, access); !s) {
    release_region(**region);
    return s.error();
  }
  return at;
}

Result<Region*> Vm::new_region(PageCount pages, RegionFlags flags, RegionKind kind, Vpn hint) {
  const mmu::Backing backing =
      has(flags, RegionFlags::kHuge) ? mmu::Backing::kHugeWherePossible : mmu::Backing::kSmall;
  auto reservation = context_.mmu->reserve(pages, backing, hint);
  if (!reservation) return reservation.error();
  Region* region = context_.table.add_region(*reservation, flags, kind);
  if (region == nullptr) {
    context_.mmu->release(*reservation);
    return Error{ENOMEM};
  }
  return region;
}

Status Vm::carve_from_span(PageCount pages, RegionFlags flags, mmu::Access access, Vpn* at) {
  // Mappings of a block and more start on one, so that their leaves are theirs alone.
  const PageCount align(pages.value() >= kPagesPerBlock ? kPagesPerBlock : 1);
  for (std::uint32_t i = 0; i < context_.table.region_count(); ++i) {
    Region& region = context_.table.region_at(i);
    if (region.kind != RegionKind::kSpan || region.flags != flags) continue;
    const PageRun all = region.range();
    const PageRun rest{region.room_hint, all.end() - region.room_hint};
    if (!region.extents.find_gap(rest, pages, align, at) &&
        !region.extents.find_gap(all, pages, align, at))
      continue;
    if (region.foreign.size() != 0 && region.foreign.covered_prefix({*at, pages}).value() != 0)
      continue;
    bool taken = false;
    region.foreign.for_each_in({*at, pages}, [&taken](PageRun, bool) { taken = true; });
    if (taken) continue;
    if (Status s = place(region, {*at, pages}, access); !s) return s;
    region.room_hint = *at + pages < all.end() ? *at + pages : all.first;
    return {};
  }
  auto region = new_region(span_pages_, flags, RegionKind::kSpan);
  if (!region) return region.error();
  *at = (*region)->reservation.base;
  return place(**region, {*at, pages}, access);
}

Status Vm::place(Region& region, PageRun run, mmu::Access access) {
  if (Status s = region.extents.prepare(); !s) return s;
  if (Status s = prepare_to_void_promises(); !s) return s;
  if (Status s = context_.mmu->permit(region.reservation, run, access); !s) return s;
  region.extents.assign(run, access);
  void_promises(run);
  if (access != mmu::Access::kNone) note_promised(region, run);
  clear_leaves(run, PteState::kEmpty);
  return {};
}

Result<Vpn> Vm::map_at(PageRun run, RegionFlags flags, mmu::Access access) {
  if (run.count.is_zero()) return Error{EINVAL};
  if (run.count > kLargestMapping) return Error{ENOMEM};
  const Pledge pledge(commitment_, promised_by(run.count, flags, access));
  if (!pledge.is_made()) return Error{ENOMEM};
  const SignalBlock signals;
  const GatePass pass(context_.gate);
  const Guard guard(context_.table.region_lock());
  const PageRun blocks = blocks_around(run);
  Vpn first;
  Region* region = region_in(context_.table, blocks, &first);
  if (region != nullptr) {
    const bool is_inside = run.first >= first && run.end() <= region->range().end();
    if (!is_inside || region->flags != flags || region->extents.gap_prefix(run) != run.count ||
        region->foreign.gap_prefix(run) != run.count)
      return Error{EEXIST};
    if (Status s = place(*region, run, access); !s) return s.error();
    return run.first;
  }
  // Each place of its own costs two of the kernel's mappings, of which a process has few.
  constexpr std::uint32_t kMostRegionsByWish = 4096;
  if (context_.table.region_count() >= kMostRegionsByWish) return Error{EEXIST};
  auto made = new_region(blocks.count, flags, RegionKind::kOwn, blocks.first);
  if (!made) return Error{EEXIST};
  if (Status s = place(**made, run, access); !s) {
    release_region(**made);
    return s.error();
  }
  return run.first;
}

// Contents of the run's existing leaves go; their pages are `to` afterwards.
Status Vm::try_clear_leaves(PageRun run, PteState to) {
  record(to == PteState::kHole ? trace::Kind::kUnmap : trace::Kind::kMap, run);
  Status status;
  for_each_locked_leaf(context_, run, [to, &status](LockedLeaf& locked, LeafRange range) {
    BUOY_CHECK(locked.wait_until_quiet(range));  // recycled under the region lock alone
    // The kernel refuses what it has mlocked, which we never ask for, and what it has sealed and the
    // program may not store to (by an mseal(2) that did not pass by us).
    if (!locked.forget(range, to).complete()) {
      status = Error{EPERM};
      return false;
    }
    locked.split_folios(range, Event::folio_split);
    if (to == PteState::kEmpty) locked.begin_mapping(range);
    return true;
  });
  return status;
}

void Vm::clear_leaves(PageRun run, PteState to) { BUOY_CHECK(try_clear_leaves(run, to).ok()); }

// EPERM, and all is as it was: some of it is sealed, by the kernel.
Status Vm::close_to_all(const Region& region, PageRun part) {
  Status status;
  region.extents.for_each_in(part, [&](PageRun mapped, mmu::Access) {
    if (status.code() == EPERM) return;
    status = context_.mmu->permit(region.reservation, mapped, mmu::Access::kNone);
  });
  if (status.code() != EPERM) return {};
  region.extents.for_each_in(part, [&](PageRun mapped, mmu::Access access) {
    (void)context_.mmu->permit(region.reservation, mapped, access);
  });
  return status;
}

// ---- unmap ------------------------------------------------------------------------------------

Status Vm::unmap(PageRun run) {
  const SignalBlock signals;
  const MarksPass pass(context_.gate, volatile_.lock());
  const Guard guard(context_.table.region_lock());
  for (const auto [region, part] : context_.table.regions_in(run)) {
    if (Status s = region.extents.prepare(); !s) return s;
    if (Status s = volatile_.prepare(); !s) return s;
    if (Status s = prepare_to_void_promises(); !s) return s;
    // First nobody can bring pages in any more, then what is there goes.
    if (Status s = close_to_all(region, part); !s) return s;
    region.extents.erase(part);
    void_promises(part);
    // A purge of them would be over; nobody can mark them again.
    volatile_.forget(part);
    clear_leaves(part, PteState::kHole);
    if (region.kind == RegionKind::kOwn && region.extents.size() == 0) release_region(region);
  }
  return {};
}

void Vm::release_region(Region& region) {
  context_.table.for_each_leaf_in(region.range(), [this](Leaf& leaf, PageRun) BUOY_NO_TSA {
    // A reclaimer may hold it isolated for a moment.
    while (!context_.lru.forget(leaf)) sys::yield();
    LockedLeaf locked(context_, leaf);
    context_.table.recycle(leaf);
    return true;
  });
  const mmu::Reservation reservation = region.reservation;
  context_.table.remove_region(region);
  context_.mmu->release(reservation);
}

// ---- changes ----------------------------------------------------------------------------------

Status Vm::map_over(PageRun run, mmu::Access access, RegionFlags flags) {
  const Pledge pledge(commitment_, access == mmu::Access::kNone ? PageCount() : unpromised_in(run));
  if (!pledge.is_made()) return Error{ENOMEM};
  return map_over_pledged(run, access, flags);
}

Status Vm::map_over_pledged(PageRun run, mmu::Access access, RegionFlags flags) {
  const SignalBlock signals;
  const MarksPass pass(context_.gate, volatile_.lock());
  const Guard guard(context_.table.region_lock());
  Region* region = context_.table.find_region(run.first);
  if (region == nullptr || run.end() > region->range().end()) return Error{ENOMEM};
  // What is to be kept would be dropped, and wiped in a child.
  if (region->is(RegionFlags::kDroppable) && !has(flags, RegionFlags::kDroppable))
    return Error{EINVAL};
  if (Status s = volatile_.prepare(); !s) return s;
  volatile_.forget(run);
  if (Status s = try_clear_leaves(run, PteState::kEmpty); !s) return s;
  return place(*region, run, access);
}

Status Vm::carve_out(PageRun run) {
  const SignalBlock signals;
  const MarksPass pass(context_.gate, volatile_.lock());
  const Guard guard(context_.table.region_lock());
  for (const auto [region, part] : context_.table.regions_in(run)) {
    if (Status s = region.extents.prepare(); !s) return s;
    if (Status s = region.foreign.prepare(); !s) return s;
    if (Status s = volatile_.prepare(); !s) return s;
    if (Status s = prepare_to_void_promises(); !s) return s;
    if (Status s = context_.mmu->let_go(region.reservation, part); !s) return s;
    region.extents.erase(part);
    void_promises(part);
    volatile_.forget(part);
    clear_leaves(part, PteState::kHole);
    region.foreign.assign(part, true);
    region.has_foreign.store(true, std::memory_order_release);
  }
  return {};
}

Status Vm::take_over(PageRun run) {
  const SignalBlock signals;
  const GatePass pass(context_.gate);
  const Guard guard(context_.table.region_lock());
  const PageRun blocks = blocks_around(run);
  Vpn first;
  Region* region = region_in(context_.table, blocks, &first);
  if (region != nullptr) {
    if (run.first < first || run.end() > region->range().end()) return Error{ENOMEM};
    for (Vpn at = run.first; at < run.end();) {
      const PageRun rest{at, run.end() - at};
      const PageRun theirs{at, region->foreign.covered_prefix(rest)};
      if (theirs.count.is_zero()) {
        at += region->foreign.gap_prefix(rest);
        continue;
      }
      if (Status s = region->foreign.prepare(); !s) return s;
      if (Status s = context_.mmu->take_back(region->reservation, theirs); !s) return s;
      region->foreign.erase(theirs);
      at = theirs.end();
    }
    return {};
  }
  auto reservation = context_.mmu->reserve_around(run);
  if (!reservation) return reservation.error();
  region = context_.table.add_region(*reservation, RegionFlags::kNone, RegionKind::kOwn);
  if (region == nullptr || !region->foreign.prepare(2).ok()) {
    if (region != nullptr) context_.table.remove_region(*region);
    context_.mmu->release(*reservation);
    return Error{ENOMEM};
  }
  const PageRun before{blocks.first, run.first - blocks.first};
  const PageRun behind{run.end(), blocks.end() - run.end()};
  if (!before.count.is_zero()) region->foreign.assign(before, true);
  if (!behind.count.is_zero()) region->foreign.assign(behind, true);
  region->has_foreign.store(true, std::memory_order_release);
  return {};
}

Status Vm::protect(PageRun run, mmu::Access access) {
  const Pledge pledge(commitment_, access == mmu::Access::kNone ? PageCount() : unpromised_in(run));
  if (!pledge.is_made()) return Error{ENOMEM};
  const SignalBlock signals;
  const GatePass pass(context_.gate);
  const Guard guard(context_.table.region_lock());
  Vpn at = run.first;
  for (const auto [region, part] : context_.table.regions_in(run)) {
    if (part.first != at) break;
    const PageRun mapped{part.first, region.extents.covered_prefix(part)};
    if (!mapped.count.is_zero()) {
      if (Status s = region.extents.prepare(); !s) return s;
      if (Status s = permit(region, mapped, access); !s) return s;
    }
    at = mapped.end();
  }
  if (at != run.end()) return Error{ENOMEM};
  return {};
}

bool Vm::manages(Vpn v) const {
  const Region* region = context_.table.find_region(v);
  if (region == nullptr) return false;
  return !region->has_foreign.load(std::memory_order_acquire) ||
         region->foreign.covered_prefix_unlocked({v, PageCount(1)}).is_zero();
}

Vm::Stretch Vm::first_stretch(PageRun run) const {
  for (;;) {
    Vpn first;
    const Region* region = context_.table.find_region_from(run.first, &first);
    if (region == nullptr || first >= run.end()) return {run.count, Owner::kElsewhere};
    if (first > run.first) return {first - run.first, Owner::kElsewhere};
    PageRun part = intersection(run, region->range());
    if (part.first != run.first || part.count.is_zero()) continue;  // it has just gone
    if (region->has_foreign.load(std::memory_order_acquire)) {
      const PageCount foreign = region->foreign.covered_prefix_unlocked(part);
      if (!foreign.is_zero()) return {foreign, Owner::kElsewhere};
      part.count = std::max(region->foreign.gap_prefix_unlocked(part), PageCount(1));
    }
    const PageCount mapped = region->extents.covered_prefix_unlocked(part);
    if (!mapped.is_zero()) return {mapped, Owner::kProgram};
    const PageCount free = region->extents.gap_prefix_unlocked(part);
    if (!free.is_zero()) return {free, Owner::kNobody};
  }
}

PageCount Vm::mapped_prefix(PageRun run) {
  const SignalBlock signals;
  const GatePass pass(context_.gate);
  const Guard guard(context_.table.region_lock());
  return mapped_prefix_locked(run);
}

PageCount Vm::mapped_prefix_locked(PageRun run) const {
  Vpn at = run.first;
  for (const auto [region, part] : context_.table.regions_in(run)) {
    if (part.first != at) break;
    at += region.extents.covered_prefix(part);
  }
  return at - run.first;
}

bool Vm::is_mapped(PageRun run) {
  for (Vpn at = run.first; at < run.end();) {
    const PageRun part = part_in_block({at, run.end() - at});
    const Leaf* leaf = context_.table.find_leaf(at);
    if (leaf == nullptr) {
      if (mapped_prefix(part) != part.count) return false;
    } else {
      for (Vpn v = part.first; v < part.end(); ++v)
        if (leaf->get(v.in_block()).state() == PteState::kHole) return false;
    }
    at = part.end();
  }
  return true;
}

bool Vm::has_mappings() {
  const SignalBlock signals;
  const GatePass pass(context_.gate);
  const Guard guard(context_.table.region_lock());
  for (std::uint32_t i = 0; i < context_.table.region_count(); ++i)
    if (context_.table.region_at(i).extents.size() != 0) return true;
  return false;
}

}  // namespace buoy
