// Mappings: which pages exist, and what the program may do with them.

#include <algorithm>
#include <cerrno>
#include <optional>

#include "base/signals.h"
#include "vm/vm.h"

namespace buoy {

namespace {
// Small mappings share spans of 1 GiB of address space, or of less where that is limited.
constexpr std::uint32_t kSpanBlocks = 512;
// The most a single mapping may have: what the address index covers, less room for others.
constexpr PageCount kLargestMapping(std::uint64_t{1} << 34);  // 64 TiB

PageRun intersection(PageRun a, PageRun b) {
  const Vpn first = std::max(a.first, b.first);
  const Vpn end = std::min(a.end(), b.end());
  return {first, first < end ? end - first : PageCount()};
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
  clear_leaves(run, PteState::kEmpty);
  return {};
}

Result<Vpn> Vm::map_at(PageRun run, RegionFlags flags, mmu::Access access) {
  if (run.count.is_zero()) return Error{EINVAL};
  if (run.count > kLargestMapping) return Error{ENOMEM};
  const SignalBlock signals;
  const GatePass pass(context_.gate);
  const Guard guard(context_.table.region_lock());
  const Vpn block = run.first.block_start();
  const PageRun blocks{block, run.end().aligned_up(PageCount(kPagesPerBlock)) - block};
  Vpn first;
  Region* region = context_.table.find_region_from(block, &first);
  if (region != nullptr && first < blocks.end()) {
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
void Vm::clear_leaves(PageRun run, PteState to) {
  for_each_locked_leaf(context_, run, [to](LockedLeaf& locked, LeafRange range) {
    BUOY_CHECK(locked.wait_until_quiet(range));  // recycled under the region lock alone
    // The kernel refuses only what it has mlocked, which we never ask for.
    BUOY_CHECK(locked.forget(range, to).complete());
    locked.split_folios(range, Event::folio_split);
    if (to == PteState::kEmpty) locked.begin_mapping(range);
    return true;
  });
}

// ---- unmap ------------------------------------------------------------------------------------

Status Vm::unmap(PageRun run) {
  const SignalBlock signals;
  const MarksPass pass(context_.gate, volatile_.lock());
  const Guard guard(context_.table.region_lock());
  for (Vpn at = run.first; at < run.end();) {
    Vpn first;
    Region* region = context_.table.find_region_from(at, &first);
    if (region == nullptr || first >= run.end()) break;
    const PageRun part = intersection({at, run.end() - at}, region->range());
    if (Status s = region->extents.prepare(); !s) return s;
    if (Status s = volatile_.prepare(); !s) return s;
    if (Status s = prepare_to_void_promises(); !s) return s;
    // First nobody can bring pages in any more, then what is there goes.
    region->extents.for_each_in(part, [&](PageRun mapped, mmu::Access) {
      (void)context_.mmu->permit(region->reservation, mapped, mmu::Access::kNone);
    });
    region->extents.erase(part);
    void_promises(part);
    // A purge of them would be over; nobody can mark them again.
    volatile_.forget(part);
    clear_leaves(part, PteState::kHole);
    at = part.end();
    if (region->kind == RegionKind::kOwn && region->extents.size() == 0) release_region(*region);
  }
  return {};
}

void Vm::release_region(Region& region) {
  context_.table.for_each_leaf_in(region.range(), [this](Leaf& leaf, PageRun) BUOY_NO_TSA {
    // A reclaimer may hold it isolated for a moment.
    while (!context_.lru.forget(leaf)) sys::call(SYS_sched_yield);
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
  clear_leaves(run, PteState::kEmpty);
  return place(*region, run, access);
}

Status Vm::carve_out(PageRun run) {
  const SignalBlock signals;
  const MarksPass pass(context_.gate, volatile_.lock());
  const Guard guard(context_.table.region_lock());
  for (Vpn at = run.first; at < run.end();) {
    Vpn first;
    Region* region = context_.table.find_region_from(at, &first);
    if (region == nullptr || first >= run.end()) break;
    const PageRun part = intersection({at, run.end() - at}, region->range());
    if (Status s = region->extents.prepare(); !s) return s;
    if (Status s = region->foreign.prepare(); !s) return s;
    if (Status s = volatile_.prepare(); !s) return s;
    if (Status s = prepare_to_void_promises(); !s) return s;
    if (Status s = context_.mmu->let_go(region->reservation, part); !s) return s;
    region->extents.erase(part);
    void_promises(part);
    volatile_.forget(part);
    clear_leaves(part, PteState::kHole);
    region->foreign.assign(part, true);
    region->has_foreign.store(true, std::memory_order_release);
    at = part.end();
  }
  return {};
}

Status Vm::take_over(PageRun run) {
  const SignalBlock signals;
  const GatePass pass(context_.gate);
  const Guard guard(context_.table.region_lock());
  const Vpn block = run.first.block_start();
  const PageRun blocks{block, run.end().aligned_up(PageCount(kPagesPerBlock)) - block};
  Vpn first;
  Region* region = context_.table.find_region_from(block, &first);
  if (region != nullptr && first < blocks.end()) {
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
  const PageRun before{block, run.first - block};
  const PageRun behind{run.end(), blocks.end() - run.end()};
  if (!before.count.is_zero()) region->foreign.assign(before, true);
  if (!behind.count.is_zero()) region->foreign.assign(behind, true);
  region->has_foreign.store(true, std::memory_order_release);
  return {};
}

Status Vm::protect(PageRun run, mmu::Access access) {
  const SignalBlock signals;
  const GatePass pass(context_.gate);
  const Guard guard(context_.table.region_lock());
  for (Vpn at = run.first; at < run.end();) {
    Region* region = context_.table.find_region(at);
    if (region == nullptr) return Error{ENOMEM};
    const PageRun part = intersection({at, run.end() - at}, region->range());
    const PageRun mapped{part.first, region->extents.covered_prefix(part)};
    if (!mapped.count.is_zero()) {
      if (Status s = region->extents.prepare(); !s) return s;
      if (Status s = permit(*region, mapped, access); !s) return s;
    }
    if (mapped.count != part.count) return Error{ENOMEM};
    at = part.end();
  }
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
  while (at < run.end()) {
    const Region* region = context_.table.find_region(at);
    if (region == nullptr) break;
    const PageRun part = intersection({at, run.end() - at}, region->range());
    const PageCount covered = region->extents.covered_prefix(part);
    at += covered;
    if (covered != part.count) break;
  }
  return at - run.first;
}

bool Vm::permits(PageRun run, PinFor purpose) {
  const SignalBlock signals;
  const GatePass pass(context_.gate);
  const Guard guard(context_.table.region_lock());
  bool is_permitted = true;
  for (Vpn at = run.first; at < run.end();) {
    const Region* region = context_.table.find_region(at);
    if (region == nullptr) break;
    const PageRun part = intersection({at, run.end() - at}, region->range());
    region->extents.for_each_in(part, [&](PageRun, mmu::Access access) {
      const bool is_storable =
          access == mmu::Access::kReadWrite || access == mmu::Access::kReadWriteExec;
      if (!is_storable && (purpose == PinFor::kWriting || access == mmu::Access::kNone))
        is_permitted = false;
    });
    at = part.end();
  }
  return is_permitted;
}

bool Vm::is_mapped(PageRun run) {
  for (Vpn at = run.first; at < run.end();) {
    const Vpn next = std::min(run.end(), at.block_start() + PageCount(kPagesPerBlock));
    const Leaf* leaf = context_.table.find_leaf(at);
    if (leaf == nullptr) {
      if (mapped_prefix({at, next - at}) != next - at) return false;
    } else {
      for (Vpn v = at; v < next; ++v)
        if (leaf->get(v.in_block()).state() == PteState::kHole) return false;
    }
    at = next;
  }
  return true;
}

// ---- remap ------------------------------------------------------------------------------------

// EFAULT: the run is not one mapping of equal access.
Result<Vm::OneMapping> Vm::one_mapping(PageRun run) {
  Region* const region = context_.table.find_region(run.first);
  const auto* extent = region == nullptr ? nullptr : region->extents.find(run.first);
  if (extent == nullptr || extent->end < run.end()) return Error{EFAULT};
  return OneMapping{region, extent->value};
}

Result<Vpn> Vm::remap(PageRun run, PageCount pages, bool may_move) {
  if (pages.is_zero()) return Error{EINVAL};
  if (mapped_prefix(run) != run.count) return Error{EFAULT};
  if (pages <= run.count) {
    if (pages < run.count)
      if (Status s = unmap({run.first + pages, run.count - pages}); !s) return s.error();
    return run.first;
  }
  RegionFlags flags{};
  mmu::Access access{};
  {
    const SignalBlock signals;
    const GatePass pass(context_.gate);
    const Guard guard(context_.table.region_lock());
    const Result<OneMapping> mapping = one_mapping(run);
    if (!mapping) return mapping.error();
    Region* const region = mapping->region;
    flags = region->flags;
    access = mapping->access;
    // Room right behind it?
    const PageRun more{run.end(), pages - run.count};
    Vpn at;
    bool foreign = false;
    region->foreign.for_each_in(more, [&foreign](PageRun, bool) { foreign = true; });
    if (more.end() <= region->range().end() && !foreign &&
        region->extents.find_gap(more, more.count, PageCount(1), &at) && at == more.first) {
      if (Status s = place(*region, more, access); !s) return s.error();
      return run.first;
    }
  }
  if (!may_move) return Error{ENOMEM};
  auto fresh = map(pages, flags, access);
  if (!fresh) return fresh.error();
  if (Status s = move_pages(run, *fresh); !s) {
    (void)unmap({*fresh, pages});
    return s.error();
  }
  move_marks(run, *fresh);
  (void)unmap(run);
  return *fresh;
}

Result<Vpn> Vm::remap_onto(PageRun run, Vpn target, PageCount pages) {
  const PageRun there{target, pages};
  if (!intersection(run, there).count.is_zero()) return Error{EINVAL};
  if (mapped_prefix(run) != run.count) return Error{EFAULT};
  RegionFlags flags{};
  mmu::Access access{};
  {
    const SignalBlock signals;
    const GatePass pass(context_.gate);
    const Guard guard(context_.table.region_lock());
    const Result<OneMapping> mapping = one_mapping(run);
    if (!mapping) return mapping.error();
    flags = mapping->region->flags;
    access = mapping->access;
  }
  if (Status s = map_over(there, access, flags); !s) return s.error();
  const PageRun kept{run.first, std::min(run.count, pages)};
  if (Status s = move_pages(kept, target); !s) return s.error();
  move_marks(kept, target);
  (void)unmap(run);
  return target;
}

Result<Vpn> Vm::remap_leaving(PageRun run, Vpn target) {
  const bool is_fixed = target != Vpn();
  if (is_fixed && !intersection(run, {target, run.count}).count.is_zero()) return Error{EINVAL};
  RegionFlags flags{};
  mmu::Access access{};
  {
    const SignalBlock signals;
    const GatePass pass(context_.gate);
    const Guard guard(context_.table.region_lock());
    const Result<OneMapping> mapping = one_mapping(run);
    if (!mapping) return mapping.error();
    flags = mapping->region->flags;
    access = mapping->access;
  }
  if (is_fixed) {
    if (Status s = map_over({target, run.count}, access, flags); !s) return s.error();
  } else {
    const Result<Vpn> fresh = map(run.count, flags, access);
    if (!fresh) return fresh;
    target = *fresh;
  }
  if (Status s = move_pages(run, target); !s) {
    (void)unmap({target, run.count});
    return s.error();
  }
  move_marks(run, target);
  return target;
}

bool Vm::has_mappings() {
  const SignalBlock signals;
  const GatePass pass(context_.gate);
  const Guard guard(context_.table.region_lock());
  for (std::uint32_t i = 0; i < context_.table.region_count(); ++i)
    if (context_.table.region_at(i).extents.size() != 0) return true;
  return false;
}

// Behind the pages, their marks and promises. Without memory to cut marks at the ends they stay behind, and the
// purged pages under them with what was in them: nothing.
void Vm::move_marks(PageRun from, Vpn to) {
  const SignalBlock signals;
  const MarksPass pass(context_.gate, volatile_.lock());
  if (volatile_.prepare().ok()) volatile_.relocate(from, to);
  const Guard guard(context_.table.region_lock());
  move_promises(from, to);
}

// Contents of `from` move to `to` (fresh, empty); all or nothing.
Status Vm::move_pages(PageRun from, Vpn to) {
  for (PageCount i; i < from.count; i += PageCount(1)) {
    const Vpn source = from.first + i;
    Leaf* leaf = context_.table.find_leaf(source);
    if (leaf == nullptr) {
      // Never touched: on to the next leaf.
      const PageCount skip = PageCount(kPagesPerBlock - source.in_block() - 1);
      i += std::min(skip, from.count - i - PageCount(1));
      continue;
    }
    if (Status s = move_page(source, to + i); !s) {
      take_back(from.first, to, i);
      return s;
    }
  }
  return {};
}

// The first `n` pages that were moved go home: they are nowhere else, so nothing may stop them.
void Vm::take_back(Vpn from, Vpn to, PageCount n) {
  constexpr unsigned kMostTries = 5000;
  constexpr std::uint64_t kPauseNs = 1'000'000;
  while (!n.is_zero()) {
    n -= PageCount(1);
    for (unsigned tries = 0; !move_page(to + n, from + n); ++tries) {
      BUOY_CHECK(tries < kMostTries && "pages of a remap that failed cannot go back");
      std::uint32_t never = 0;
      sys::futex_wait(&never, 0, kPauseNs);
    }
  }
}

// The entry of a page without a frame, or its being lost, goes over with both leaves locked: it is
// never in neither. kAgain: the page has become something else meanwhile.
Vm::HandOver Vm::hand_over(Leaf& source, Leaf& target, Vpn from, Vpn to) {
  const bool is_one = &source == &target;
  const bool is_rising = from < to;
  const auto lock = [this](Leaf& leaf, Vpn vpn) {
    return LockedLeaf::try_lock(context_, leaf, vpn);
  };
  auto low = is_rising ? lock(source, from) : lock(target, to);
  auto high = is_one      ? std::optional<LockedLeaf>()
              : is_rising ? lock(target, to)
                          : lock(source, from);
  auto& here = is_one || is_rising ? low : high;
  auto& there = is_one || !is_rising ? low : high;
  const unsigned i = from.in_block();
  const LeafRange place = LeafRange::one(to.in_block());
  if (!there || there->get(place.first).state() == PteState::kHole) return HandOver::kNoTarget;
  if (!here || !there->is_quiet(place)) return HandOver::kAgain;
  const Pte p = here->get(i);
  const bool is_swapped = p.state() == PteState::kSwapped && !p.has(Pte::kInShadow);
  if (!is_swapped && p.state() != PteState::kPurged) return HandOver::kAgain;
  // A fault in the target may have been first only if the program races with its own mremap.
  BUOY_CHECK(there->forget(place, PteState::kEmpty).complete());
  there->attach(place.first,
                here->detach(i));  // if it is purged, its mark will follow, and find it
  return HandOver::kDone;
}

// Until the page is at its new place it stays at the old one: a failure loses nothing.
Status Vm::move_page(Vpn from, Vpn to) {
  const SignalBlock signals;
  const GatePass pass(context_.gate);
  Leaf* source = context_.table.find_leaf(from);
  if (source == nullptr) return {};
  Leaf* target = context_.table.find_or_make_leaf(to);
  if (target == nullptr) return Error{ENOMEM};
  for (;;) {
    const PageImage image = read_for_move(*source, from);
    switch (image) {
      case PageImage::kNothing:
        return {};
      case PageImage::kPinned:
        return Error{EBUSY};
      case PageImage::kRefused:
        return Error{ENOMEM};
      case PageImage::kStandby: {
        const Status s = copy_over(*source, *target, from, to);
        if (s.code() == EAGAIN) continue;
        return s;
      }
      case PageImage::kWithoutFrame:
        break;
    }
    switch (hand_over(*source, *target, from, to)) {
      case HandOver::kDone:
        return {};
      case HandOver::kNoTarget:
        return Error{ENOMEM};
      case HandOver::kAgain:
        break;
    }
  }
}

// Gets the page to where it can be moved from: to standby, if it has a frame.
Vm::PageImage Vm::read_for_move(Leaf& leaf, Vpn from) {
  const unsigned i = from.in_block();
  const LeafRange page = LeafRange::one(i);
  auto found = LockedLeaf::try_lock(context_, leaf, from);
  if (!found || !found->wait_until_quiet(page)) return PageImage::kNothing;
  LockedLeaf& locked = *found;
  if (locked.get(i).is_held()) return PageImage::kPinned;
  if (locked.get(i).traps_stores() && !locked.allow_stores(page).complete())
    return PageImage::kRefused;
  if (locked.get(i).state() == PteState::kLazyAway && !locked.give_back(page).complete())
    return PageImage::kRefused;
  // Twice: a page that was found busy before is left alone once.
  if (locked.get(i).state() == PteState::kMapped && locked.take(page).done == 0)
    if (const LockedLeaf::Progress taken = locked.take(page); taken.done == 0)
      return taken.outcome == mmu::Outcome::kNoMemory ? PageImage::kRefused
                                                      : PageImage::kPinned;  // for a device
  switch (locked.get(i).state()) {
    case PteState::kStandby:
      return PageImage::kStandby;
    case PteState::kSwapped:
      locked.drop_stale_shadows(page);
      return PageImage::kWithoutFrame;
    case PteState::kPurged:
      return PageImage::kWithoutFrame;
    default:
      return PageImage::kNothing;
  }
}

// The bytes of a page on standby, to the target; then it goes here. EAGAIN: it has become something
// else meanwhile.
Status Vm::copy_over(Leaf& source, Leaf& target, Vpn from, Vpn to) {
  const LeafRange here = LeafRange::one(from.in_block());
  const LeafRange there = LeafRange::one(to.in_block());
  Precharge precharge(context_.budget);
  // It is stored already, and must be somewhere, even where nothing can be reclaimed.
  if (!reclaimer_.charge(precharge, PageCount(1)) && !reclaimer_.charge_return(precharge))
    return Error{ENOMEM};
  const ScratchPool::Borrowed scratch(scratch_);
  {
    auto locked = LockedLeaf::try_lock(context_, source, from);
    if (!locked || locked->get(here.first).state() != PteState::kStandby) return Error{EAGAIN};
    const std::byte* bytes = context_.mmu->shadow_bytes(locked->region().reservation, from);
    std::copy_n(bytes, kPageSize, scratch.page(0));
  }
  {
    auto locked = LockedLeaf::try_lock(context_, target, to, &precharge);
    if (!locked || !locked->wait_until_quiet(there) ||
        locked->get(there.first).state() == PteState::kHole)
      return Error{ENOMEM};
    // A fault in the target may have been first only if the program races with its own mremap.
    BUOY_CHECK(locked->forget(there, PteState::kEmpty).complete());
    if (!locked->fill(there.first, scratch.page(0)).complete()) return Error{ENOMEM};
  }
  auto locked = LockedLeaf::try_lock(context_, source, from);
  if (locked && locked->wait_until_quiet(here))
    BUOY_CHECK(locked->forget(here, PteState::kEmpty).complete());
  return {};
}

}  // namespace buoy
