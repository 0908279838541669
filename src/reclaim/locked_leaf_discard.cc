// How pages lose what is in them: discarded, dropped, purged, forgotten.

#include <algorithm>

#include "reclaim/locked_leaf.h"

namespace buoy {

namespace {
// So that the range, empty at first, reaches up to page i.
void widen(LeafRange& range, unsigned i) {
  if (range.is_empty()) range.first = i;
  range.end = i + 1;
}
}  // namespace

unsigned LockedLeaf::drop_lazy_away(LeafRange range) {
  unsigned gone = 0;
  for (const LeafRange run : runs_where(
           leaf_, range, [](Pte p) { return p.state() == PteState::kLazyAway && !p.is_held(); })) {
    context_.mmu->drop_shadow(reservation(), pages(run));
    for (unsigned i = run.first; i < run.end; ++i)
      leaf_.set(i, leaf_.get(i).without(Pte::kInShadow).with_state(PteState::kEmpty));
    gone += run.size();
    split_folios(run, Event::folio_split_reclaim);
  }
  return gone;
}

namespace {
bool may_be_discarded(Pte p, LockedLeaf::Discards what) {
  return (p.state() == PteState::kLazyFree ||
          (what == LockedLeaf::Discards::kOrdinaryToo &&
           (p.state() == PteState::kMapped || p.state() == PteState::kClean))) &&
         !p.is_held() && !p.has(Pte::kSqueezing);
}
}  // namespace

// The runs reach over holes, as far as the way they go allows.
unsigned LockedLeaf::collect_discardable(unsigned* i, unsigned end, Discards what,
                                         std::span<PageRun> runs) {
  const auto most_holes =
      context_.pins == mmu::Pins::kKnown ? unsigned{kPagesPerBlock} : kMostHolesInMove;
  unsigned n = 0;
  while (*i < end && n < runs.size()) {
    const unsigned first = *i;
    *i = first + 1;
    if (!may_be_discarded(leaf_.get(first), what)) continue;
    unsigned last = first;
    for (unsigned j = first + 1; j < end && j - last <= most_holes; ++j) {
      const Pte p = leaf_.get(j);
      if (may_be_discarded(p, what))
        last = j;
      else if (p.is_at_address() || p.has(Pte::kInShadow) || p.has(Pte::kPoisoned))
        break;
    }
    *i = last + 1;
    drop_stale_shadows({first, *i});
    runs[n++] = pages({first, *i});
  }
  return n;
}

mmu::Progress LockedLeaf::discard_runs(std::span<const PageRun> runs) {
  if (context_.pins == mmu::Pins::kKnown) return context_.mmu->discard_runs(reservation(), runs);
  // Only MOVE refuses a page that a device may still write to.
  PageCount done;
  for (const PageRun& run : runs) {
    const mmu::Progress p = context_.mmu->take(reservation(), run);
    if (!p.done.is_zero()) context_.mmu->drop_shadow(reservation(), {run.first, p.done});
    done += p.done;
    if (!p.complete()) return {done, p.outcome};
  }
  return {done, mmu::Outcome::kDone};
}

LockedLeaf::Progress LockedLeaf::discard_by_reclaim(LeafRange range, Discards what) {
  leaf_.lock.assert_held();
  auto outcome = mmu::Outcome::kDone;
  unsigned lazily = leaf_.count_of(PteState::kLazyAway) != 0 ? drop_lazy_away(range) : 0;
  unsigned dropped = 0;
  unsigned candidates = leaf_.count_of(PteState::kLazyFree);
  if (what == Discards::kOrdinaryToo)
    candidates += leaf_.count_of(PteState::kMapped) + leaf_.count_of(PteState::kClean);
  // Stored to since: nothing to look for, however large the folio.
  for (unsigned i = candidates == 0 ? range.end : range.first; i < range.end;) {
    PageRun storage[mmu::kMostRuns];
    const std::span runs(storage, collect_discardable(&i, range.end, what, storage));
    if (runs.empty()) break;
    const mmu::Progress p = discard_runs(runs);
    PageCount left = p.done;
    for (const PageRun& r : runs) {
      const unsigned first = r.first.in_block();
      const auto gone = static_cast<unsigned>(std::min(left, r.count).value());
      for (unsigned j = first; j < first + gone; ++j) {
        const Pte old = leaf_.get(j);
        if (!old.is_at_address()) continue;
        free_entry(j);
        const Pte empty = leaf_.get(j).with_state(PteState::kEmpty).without(Pte::kBusy);
        leaf_.set(j, old.has(Pte::kIdle) ? empty.with(Pte::kIdle) : empty);
        old.state() == PteState::kLazyFree ? ++lazily : ++dropped;
      }
      // A folio that was freed in part is split here, when its memory is wanted, and not before.
      split_folios({first, first + gone}, Event::folio_split_reclaim);
      left -= PageCount(gone);
      if (gone == r.count.value()) continue;
      i = first + gone;  // refused
      break;
    }
    if (p.complete()) continue;
    const Pte refused = leaf_.get(i);
    // To take the trap of a lazily freed page away would let a store slip in.
    const bool is_trapped = refused.state() == PteState::kLazyFree && !refused.has(Pte::kIdle);
    if (p.outcome == mmu::Outcome::kBusy && !refused.has(Pte::kBusy) && !is_trapped) {
      unshare(i);
      continue;
    }
    if (outcome == mmu::Outcome::kDone) outcome = p.outcome;
    leaf_.set(i, refused.without(Pte::kBusy));
    ++i;  // pinned: it stays what it is, and is tried later
  }
  if (lazily != 0) context_.counters.add(Event::pglazyfreed, lazily);
  if (dropped != 0) context_.counters.add(Event::pgdropped, dropped);
  return {lazily + dropped, outcome};
}

unsigned LockedLeaf::drop_standby(LeafRange range) {
  leaf_.lock.assert_held();
  unsigned gone = 0;
  for (const LeafRange run : runs_where(leaf_, range, [](Pte p) {
         return p.state() == PteState::kStandby && !p.is_held() && !p.has(Pte::kSqueezing);
       })) {
    context_.mmu->drop_shadow(reservation(), pages(run));
    for (unsigned i = run.first; i < run.end; ++i) {
      free_entry(i);
      leaf_.set(i, leaf_.get(i).without(Pte::kInShadow).with_state(PteState::kEmpty));
    }
    gone += run.size();
  }
  if (gone != 0) context_.counters.add(Event::pgdropped, gone);
  return gone;
}

namespace {
bool can_be_purged(Pte p) {
  return (p.frames() != 0 || p.state() == PteState::kSwapped) && p.state() != PteState::kLoading &&
         !p.is_held() && !p.has(Pte::kSqueezing);
}
}  // namespace

LockedLeaf::Purged LockedLeaf::purge(LeafRange range) {
  leaf_.lock.assert_held();
  Purged sum;
  for (unsigned i = range.first; i < range.end;) {
    if (!can_be_purged(leaf_.get(i))) {
      ++i;
      continue;
    }
    // Runs reach over pages that have no frame, but for poison, which a MOVE would stumble over.
    unsigned last = i;
    for (unsigned j = i + 1; j < range.end; ++j) {
      const Pte p = leaf_.get(j);
      if (can_be_purged(p))
        last = j;
      else if (p.frames() != 0 || p.has(Pte::kPoisoned))
        break;
    }
    const Purged purged = purge_run({i, last + 1});
    sum.pages += purged.pages;
    sum.frames += purged.frames;
    i = last + 1;
  }
  return sum;
}

// Every page of the run that has frames may be purged. Those stay whose frame cannot be discarded.
LockedLeaf::Purged LockedLeaf::purge_run(LeafRange range) {
  LeafRange mapped;
  bool has_shadow = false;
  for (unsigned i = range.first; i < range.end; ++i) {
    const Pte p = leaf_.get(i);
    has_shadow = has_shadow || p.has(Pte::kInShadow);
    if (p.is_at_address()) widen(mapped, i);
  }
  // Before the frames at addresses, whose way out may lead through the shadow.
  if (has_shadow) context_.mmu->drop_shadow(reservation(), pages(range));
  const unsigned discarded_to =
      mapped.is_empty() ? range.end : mapped.first + discard_mapped(mapped);
  Purged purged;
  unsigned lazily = 0;
  for (unsigned i = range.first; i < range.end; ++i) {
    const Pte p = leaf_.get(i);
    const unsigned frames = p.frames();
    Pte next = p.without(Pte::kInShadow);
    const bool stays = p.is_at_address() && i >= discarded_to;
    if (!can_be_purged(p)) continue;  // nothing is in it
    if (!stays) {
      if (!p.entry().is_none()) context_.swap->free(p.entry());
      next = next.without_entry().without(Pte::kBusy).without(Pte::kCold);
      // What the user had given up before is no loss.
      const bool is_lazy = p.state() == PteState::kLazyFree || p.state() == PteState::kLazyAway;
      next = next.with_state(is_lazy ? PteState::kEmpty : PteState::kPurged);
      if (p.has(Pte::kIdle)) next = next.with(Pte::kIdle);
      ++(is_lazy ? lazily : purged.pages);
    }
    leaf_.set(i, next);
    purged.frames += frames - next.frames();
  }
  if (lazily != 0) context_.counters.add(Event::pglazyfreed, lazily);
  return purged;
}

// The frames at the addresses of the run go, in the way that respects the kernel's pins; pages from
// the first on that are gone. Nothing of the run is in the shadow.
unsigned LockedLeaf::discard_mapped(LeafRange range) {
  if (context_.pins == mmu::Pins::kUnknown) {
    // Only MOVE refuses a page that a device may still write to.
    const mmu::Progress p = context_.mmu->take(reservation(), pages(range));
    if (!p.done.is_zero()) context_.mmu->drop_shadow(reservation(), pages(range.head(pages_of(p))));
    return pages_of(p);
  }
  // Less than all of it where something is mlocked behind our back.
  return pages_of(context_.mmu->discard(reservation(), pages(range)));
}

LockedLeaf::Progress LockedLeaf::forget(LeafRange range, PteState to) {
  BUOY_DCHECK(is_quiet(range));
  leaf_.lock.assert_held();
  LeafRange mapped;
  LeafRange shadow;
  unsigned lazily = 0;
  for (unsigned i = range.first; i < range.end; ++i) {
    const Pte p = leaf_.get(i);
    if (p.is_at_address()) widen(mapped, i);
    if (p.has(Pte::kInShadow)) widen(shadow, i);
    if (p.state() == PteState::kLazyFree || p.state() == PteState::kLazyAway) ++lazily;
  }
  if (!mapped.is_empty()) {
    const mmu::Progress p = context_.mmu->discard(reservation(), pages(mapped));
    if (!p.complete()) {
      // What is gone is gone: the pages up to there are forgotten, the rest is as it was.
      const LeafRange gone{range.first, mapped.first + pages_of(p)};
      if (p.done.is_zero()) return {0, p.outcome};
      return {forget(gone, to).done, p.outcome};
    }
  }
  if (!shadow.is_empty()) context_.mmu->drop_shadow(reservation(), pages(shadow));
  if (lazily != 0) context_.counters.add(Event::pglazydropped, lazily);
  for (unsigned i = range.first; i < range.end; ++i) {
    const Pte p = leaf_.get(i);
    if (p.state() == PteState::kHole || p.state() == to) continue;
    free_entry(i);
    // Locks, pins and promises belong to the mapping, not to the contents.
    Pte next = leaf_.get(i).with_state(to).without(Pte::kInShadow);
    next = next.without(Pte::kCold).without(Pte::kBusy);
    if (to == PteState::kEmpty && p.has(Pte::kIdle)) next = next.with(Pte::kIdle);
    if (p.has(Pte::kPoisoned)) {
      context_.mmu->unpoison(reservation(), leaf_.page(i));
      next = next.without(Pte::kPoisoned);
    }
    if (to == PteState::kHole) next = Pte::of(PteState::kHole);
    leaf_.set(i, next);
  }
  return {range.size(), mmu::Outcome::kDone};
}

}  // namespace buoy
