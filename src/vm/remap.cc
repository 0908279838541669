// Remapping: mappings that change their size or their place, and take their pages along.

#include <algorithm>
#include <cerrno>
#include <optional>

#include "base/signals.h"
#include "vm/vm.h"

namespace buoy {

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
