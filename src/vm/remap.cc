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

Result<Vm::MappedAs> Vm::mapped_as(PageRun run) {
  const SignalBlock signals;
  const GatePass pass(context_.gate);
  const Guard guard(context_.table.region_lock());
  const Result<OneMapping> mapping = one_mapping(run);
  if (!mapping) return mapping.error();
  return MappedAs{without(mapping->region->flags, RegionFlags::kOwnersPromise), mapping->access};
}

Result<Vpn> Vm::remap(PageRun run, PageCount pages, bool may_move) {
  if (pages.is_zero()) return Error{EINVAL};
  if (mapped_prefix(run) != run.count) return Error{EFAULT};
  if (pages <= run.count) {
    if (pages < run.count)
      if (Status s = unmap({run.first + pages, run.count - pages}); !s) return s.error();
    return run.first;
  }
  const Result<MappedAs> as = mapped_as(run);
  if (!as) return as.error();
  // Wherever it goes, the part that is new is all that is promised anew.
  const bool is_accessible = as->access != mmu::Access::kNone;
  const Pledge pledge(commitment_, is_accessible ? pages - run.count : PageCount());
  if (!pledge.is_made()) return Error{ENOMEM};
  RegionFlags flags{};
  mmu::Access access{};
  {
    const SignalBlock signals;
    const GatePass pass(context_.gate);
    const Guard guard(context_.table.region_lock());
    const Result<OneMapping> mapping = one_mapping(run);
    if (!mapping) return mapping.error();
    Region* const region = mapping->region;
    flags = without(region->flags, RegionFlags::kOwnersPromise);
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
  auto fresh = map_pledged(pages, flags, access);
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
  const Result<MappedAs> as = mapped_as(run);
  if (!as) return as.error();
  const bool is_accessible = as->access != mmu::Access::kNone;
  const PageCount anew = is_accessible ? unpromised_in(there) : PageCount();
  const Pledge pledge(commitment_, anew - std::min(anew, run.count));
  if (!pledge.is_made()) return Error{ENOMEM};
  if (Status s = map_over_pledged(there, as->access, as->flags); !s) return s.error();
  const PageRun kept{run.first, std::min(run.count, pages)};
  if (Status s = move_pages(kept, target); !s) return s.error();
  move_marks(kept, target);
  (void)unmap(run);
  return target;
}

Result<Vpn> Vm::remap_leaving(PageRun run, Vpn target) {
  const bool is_fixed = target != Vpn();
  if (is_fixed && !intersection(run, {target, run.count}).count.is_zero()) return Error{EINVAL};
  const Result<MappedAs> as = mapped_as(run);
  if (!as) return as.error();
  if (is_fixed) {
    if (Status s = map_over({target, run.count}, as->access, as->flags); !s) return s.error();
  } else {
    const Result<Vpn> fresh = map(run.count, as->flags, as->access);
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

// ---- Moving pages -----------------------------------------------------------------------------

namespace {

// The leaves of two pages, locked by rising address; or the one leaf of both.
class LockedPair {
 public:
  struct Place {
    Leaf& leaf;
    Vpn vpn;
  };
  // `precharge` is for what comes to the target.
  LockedPair(Context& context, Place source, Place target, Precharge& precharge)
      : is_one_(&source.leaf == &target.leaf),
        is_rising_(source.vpn < target.vpn),
        low_(LockedLeaf::try_lock(context, is_rising_ ? source.leaf : target.leaf,
                                  is_rising_ ? source.vpn : target.vpn,
                                  is_one_ || !is_rising_ ? &precharge : nullptr)),
        high_(is_one_ ? std::optional<LockedLeaf>()
                      : LockedLeaf::try_lock(context, is_rising_ ? target.leaf : source.leaf,
                                             is_rising_ ? target.vpn : source.vpn,
                                             is_rising_ ? &precharge : nullptr)) {}
  // Nothing: its leaf was recycled.
  [[nodiscard]] std::optional<LockedLeaf>& source() { return is_one_ || is_rising_ ? low_ : high_; }
  [[nodiscard]] std::optional<LockedLeaf>& target() {
    return is_one_ || !is_rising_ ? low_ : high_;
  }

 private:
  bool is_one_;
  bool is_rising_;
  std::optional<LockedLeaf> low_;
  std::optional<LockedLeaf> high_;
};

// Gets what has a frame to standby, from where it can be moved; the first refusal's reason.
mmu::Outcome make_movable(LockedLeaf& locked, LeafRange range) {
  auto outcome = mmu::Outcome::kDone;
  const auto note = [&outcome](LockedLeaf::Progress p) {
    if (outcome == mmu::Outcome::kDone) outcome = p.outcome;
  };
  const Leaf& leaf = locked.leaf();
  for (const LeafRange run :
       runs_where(leaf, range, [](Pte p) { return p.traps_stores() && !p.is_held(); }))
    note(locked.allow_stores(run));
  for (const LeafRange run : runs_where(
           leaf, range, [](Pte p) { return p.state() == PteState::kLazyAway && !p.is_held(); }))
    note(locked.give_back(run));
  // Twice: a page that was found busy before is left alone once.
  if (!locked.take(range).complete()) note(locked.take(range));
  locked.drop_stale_shadows(range);
  return outcome;
}

void await_quiet(Context& context, Leaf& leaf, PageRun run) {
  auto locked = LockedLeaf::try_lock(context, leaf, run.first);
  if (locked) (void)locked->wait_until_quiet(LeafRange::of(run));
}

}  // namespace

// Contents of `from` move to `to` (fresh, empty); all or nothing.
Status Vm::move_pages(PageRun from, Vpn to) {
  for (PageCount done; done < from.count;) {
    const Moved moved = move_some({from.first + done, from.count - done}, to + done);
    done += moved.done;
    if (moved.status.ok()) continue;
    take_back({to, done}, from.first);
    return moved.status;
  }
  record(trace::Kind::kMoveFrom, from);
  record(trace::Kind::kMoveTo, {to, from.count});
  return {};
}

// Pages that were moved go home: they are nowhere else, so nothing may stop them.
void Vm::take_back(PageRun moved, Vpn home) {
  constexpr unsigned kMostTries = 5000;
  constexpr std::uint64_t kPauseNs = 1'000'000;
  unsigned tries = 0;
  for (PageCount done; done < moved.count;) {
    const Moved back = move_some({moved.first + done, moved.count - done}, home + done);
    done += back.done;
    if (back.status.ok()) continue;
    BUOY_CHECK(++tries < kMostTries && "pages of a remap that failed cannot go back");
    std::uint32_t never = 0;
    sys::futex_wait(&never, 0, kPauseNs);
  }
}

// The first pages of a run, as many as go at once, to where pages are empty. None: try again.
Vm::Moved Vm::move_some(PageRun from, Vpn to) {
  constexpr PageCount kMostAtOnce(64);  // as long as the longest fault may hold a leaf
  const SignalBlock signals;
  const GatePass pass(context_.gate);
  from = part_in_block(from);
  Leaf* source = context_.table.find_leaf(from.first);
  if (source == nullptr) return {from.count, {}};  // never touched
  from.count = std::min(part_in_block({to, from.count}).count, kMostAtOnce);
  Leaf* target = context_.table.find_or_make_leaf(to);
  if (target == nullptr) return {{}, Error{ENOMEM}};
  Precharge precharge(context_.budget);
  charge_move(*source, LeafRange::of(from), precharge);
  {
    LockedPair pair(context_, {*source, from.first}, {*target, to}, precharge);
    if (!pair.target()) return {{}, Error{ENOMEM}};
    if (!pair.source()) return {from.count, {}};  // unmapped meanwhile
    const LeafRange here = LeafRange::of(from);
    const LeafRange there = LeafRange::of({to, from.count});
    if (pair.source()->is_quiet(here) && pair.target()->is_quiet(there))
      return move_locked(*pair.source(), here, *pair.target(), there, precharge.held());
  }
  await_quiet(context_, *source, from);
  await_quiet(context_, *target, {to, from.count});
  return {};
}

// A frame for each page that has one, or as many as there are to have; one at least, even where
// nothing can be reclaimed: what is stored already must be somewhere.
void Vm::charge_move(const Leaf& leaf, LeafRange range, Precharge& precharge) {
  std::uint64_t frames = 0;
  for (unsigned i = range.first; i < range.end; ++i)
    if (leaf.get(i).frames() != 0) ++frames;
  if (frames == 0) return;
  if (reclaimer_.charge(precharge, PageCount(frames))) return;
  if (!reclaimer_.charge(precharge, PageCount(1))) (void)reclaimer_.charge_return(precharge);
}

// With both leaves locked a page is never in neither: until it is at its new place, it stays at the
// old one. At most `frames` pages that have one.
Vm::Moved Vm::move_locked(LockedLeaf& source, LeafRange from, LockedLeaf& target, LeafRange to,
                          PageCount frames) {
  const mmu::Outcome refused = make_movable(source, from);
  const mmu::Reservation& reservation = source.region().reservation;
  for (unsigned k = 0; k < from.size(); ++k) {
    const PageCount done(k);
    const LeafRange here = LeafRange::one(from.first + k);
    const LeafRange there = LeafRange::one(to.first + k);
    const Pte p = source.get(here.first);
    if (p.is_held()) return {done, Error{EBUSY}};
    if (p.state() == PteState::kHole || p.state() == PteState::kEmpty) continue;
    const bool has_no_frame = p.state() == PteState::kSwapped || p.state() == PteState::kPurged;
    if (!has_no_frame && p.state() != PteState::kStandby)
      return {done, Error{refused == mmu::Outcome::kNoMemory ? ENOMEM : EBUSY}};
    // It was unmapped meanwhile.
    if (target.get(there.first).state() == PteState::kHole) return {done, Error{ENOMEM}};
    // A fault in the target may have been first only if the program races with its own mremap.
    BUOY_CHECK(target.forget(there, PteState::kEmpty).complete());
    if (has_no_frame) {
      // If it is purged, its mark will follow, and find it.
      target.attach(there.first, source.detach(here.first));
      continue;
    }
    if (frames.is_zero()) return {done, done.is_zero() ? Status(Error{ENOMEM}) : Status()};
    const std::byte* bytes =
        context_.mmu->shadow_bytes(reservation, source.leaf().page(here.first));
    if (!target.fill(there.first, bytes).complete()) return {done, Error{ENOMEM}};
    BUOY_CHECK(source.forget(here, PteState::kEmpty).complete());
    frames -= PageCount(1);
  }
  return {PageCount(from.size()), {}};
}

}  // namespace buoy
