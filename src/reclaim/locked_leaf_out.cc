// How pages leave their addresses: to standby, lazily freed, squeezed.

#include <algorithm>

#include "reclaim/locked_leaf.h"

namespace buoy {

void LockedLeaf::drop_shadow_runs(LeafRange range) {
  // One call from the first to the last: nothing between them may still be needed.
  context_.mmu->drop_shadow(reservation(), pages(range));
  for (unsigned i = range.first; i < range.end; ++i) {
    const Pte p = leaf_.get(i);
    if (p.has(Pte::kInShadow)) leaf_.set(i, p.without(Pte::kInShadow));
  }
}

unsigned LockedLeaf::drop_stale_shadows(LeafRange range) {
  leaf_.lock.assert_held();
  if (leaf_.in_shadow == 0) return 0;
  const unsigned before = leaf_.in_shadow;
  const auto needed = [](Pte p) {
    return p.has(Pte::kInShadow) && (p.state() == PteState::kStandby ||
                                     p.state() == PteState::kLazyAway || p.has(Pte::kSqueezing));
  };
  for (unsigned i = range.first; i < range.end;) {
    if (!leaf_.get(i).has(Pte::kInShadow) || needed(leaf_.get(i))) {
      ++i;
      continue;
    }
    // As far as the last droppable frame before one that is needed.
    unsigned last = i;
    for (unsigned j = i + 1; j < range.end && !needed(leaf_.get(j)); ++j)
      if (leaf_.get(j).has(Pte::kInShadow)) last = j;
    drop_shadow_runs({i, last + 1});
    i = last + 1;
  }
  return before - leaf_.in_shadow;
}

// ---- To standby -------------------------------------------------------------------------------

void LockedLeaf::became_standby(LeafRange range) {
  const unsigned generation = context_.lru.generation();  // since when it is away
  unsigned taken = 0;
  for (unsigned i = range.first; i < range.end; ++i) {
    const Pte p = leaf_.get(i);
    if (!p.is_at_address()) continue;
    leaf_.set(i, p.with(Pte::kInShadow)
                     .without(Pte::kBusy)
                     .with_state(PteState::kStandby)
                     .with_generation(generation));
    ++taken;
  }
  context_.counters.add(Event::pgdeactivate, taken);
}

// MOVE refused the page: it is shared since a fork, or pinned. A store that changes nothing ends the
// first; the mark makes sure that we try this once, and then leave the page alone. That store must
// not trap: it would wait for the lock that we hold.
void LockedLeaf::unshare(unsigned i) {
  if (context_.mmu->unprotect(reservation(), pages(LeafRange::one(i))).complete())
    context_.mmu->unshare(reservation(), leaf_.page(i));
  leaf_.set(i, leaf_.get(i).with(Pte::kBusy));
}

// Whatever lies where in the block, nothing of it has to stay: its page table may move as one.
bool LockedLeaf::may_take_block(LeafRange range) const {
  return range == LeafRange::whole() && leaf_.in_shadow == 0 && leaf_.held == 0 &&
         leaf_.count_of(PteState::kLazyFree) == 0 && leaf_.count_of(PteState::kPurged) == 0;
}

LockedLeaf::Progress LockedLeaf::take(LeafRange range, const Marks* only) {
  leaf_.lock.assert_held();
  const unsigned standby_before = leaf_.count_of(PteState::kStandby);
  auto outcome = mmu::Outcome::kDone;
  const auto refused = [&outcome](mmu::Outcome why) {
    if (outcome == mmu::Outcome::kDone) outcome = why;
  };
  // A page may leave if it is ordinary, not held and (where asked) marked. A lazily freed page
  // must not: its traps would be lost. Runs may reach over pages that are not at their address,
  // but not over frames in the shadow, where they would collide.
  const auto leaves = [&](unsigned i, Pte p) {
    return (p.state() == PteState::kMapped || p.state() == PteState::kClean) && !p.is_held() &&
           !p.has(Pte::kSqueezing) && (only == nullptr || (*only)[i]);
  };
  drop_stale_shadows(range);
  unsigned i = range.first;
  if (only == nullptr && may_take_block(range)) {
    const mmu::Progress p =
        context_.mmu->take_block(reservation(), leaf_.first_page(), PageCount(leaf_.populated()));
    became_standby(range.head(pages_of(p)));
    i = p.complete() ? range.end : pages_of(p);
  }
  while (i < range.end) {
    if (!leaves(i, leaf_.get(i))) {
      ++i;
      continue;
    }
    unsigned last = i;
    for (unsigned j = i + 1; j < range.end && j - last <= kMostHolesInMove; ++j) {
      const Pte p = leaf_.get(j);
      if (leaves(j, p)) {
        last = j;
      } else if (p.is_at_address() || p.has(Pte::kPoisoned)) {
        break;
      }
    }
    const LeafRange run{i, last + 1};
    const mmu::Progress p = context_.mmu->take(reservation(), pages(run));
    became_standby(run.head(pages_of(p)));
    i += pages_of(p);
    if (p.complete()) continue;
    if (p.outcome == mmu::Outcome::kBusy && !leaf_.get(i).has(Pte::kBusy)) {
      if (leaf_.get(i).traps_stores()) {
        if (const Progress stores = allow_stores(LeafRange::one(i)); !stores.complete()) {
          refused(stores.outcome);
          break;
        }
      }
      unshare(i);
      continue;
    }
    refused(p.outcome);
    if (p.outcome == mmu::Outcome::kNoMemory) break;
    leaf_.set(i, leaf_.get(i).without(Pte::kBusy));
    touch(LeafRange::one(i));  // not before the clock comes round again
    ++i;
  }
  return {leaf_.count_of(PteState::kStandby) - standby_before, outcome};
}

// ---- Lazily freed -----------------------------------------------------------------------------

LockedLeaf::Progress LockedLeaf::trap_stores_lazily(LeafRange range) {
  leaf_.lock.assert_held();
  const mmu::Progress p = context_.mmu->protect(reservation(), pages(range));
  const LeafRange trapped = range.head(pages_of(p));
  for (unsigned i = trapped.first; i < trapped.end; ++i) {
    if (!leaf_.get(i).is_at_address()) continue;
    free_entry(i);
    leaf_.set(i, leaf_.get(i).with_state(PteState::kLazyFree));
  }
  return {trapped.size(), p.outcome};
}

unsigned LockedLeaf::became_lazy_away(LeafRange range) {
  unsigned marked = 0;
  for (unsigned i = range.first; i < range.end; ++i) {
    if (!leaf_.get(i).is_at_address()) continue;
    free_entry(i);
    leaf_.set(
        i, leaf_.get(i).with(Pte::kInShadow).without(Pte::kBusy).with_state(PteState::kLazyAway));
    ++marked;
  }
  return marked;
}

LockedLeaf::Progress LockedLeaf::take_lazily(LeafRange range) {
  leaf_.lock.assert_held();
  Progress sum;
  for (unsigned i = range.first; i < range.end; ++i) {
    const LeafRange rest{i, range.end};
    const mmu::Progress p = context_.mmu->take(reservation(), pages(rest));
    sum.done += became_lazy_away(rest.head(pages_of(p)));
    i += pages_of(p);
    if (sum.complete()) sum.outcome = p.outcome;
    if (p.complete() || p.outcome == mmu::Outcome::kNoMemory) break;
  }
  return sum;
}

unsigned LockedLeaf::free_block_lazily() {
  leaf_.lock.assert_held();
  if (context_.pins != mmu::Pins::kKnown || leaf_.held != 0 || leaf_.in_shadow != 0 ||
      leaf_.count_of(PteState::kLazyFree) != 0 || region().is(RegionFlags::kHuge))
    return 0;
  const unsigned n = leaf_.populated();
  if (n < kPagesPerBlock / 2) return 0;
  const mmu::Progress p = context_.mmu->take_block(reservation(), leaf_.first_page(), PageCount(n));
  return became_lazy_away(LeafRange::whole().head(pages_of(p)));
}

unsigned LockedLeaf::free_idle(LeafRange range) {
  leaf_.lock.assert_held();
  unsigned freed = 0;
  for (unsigned i = range.first; i < range.end; ++i) {
    const PteState state = leaf_.get(i).state();
    if (state == PteState::kEmpty) {
      leaf_.set(i, leaf_.get(i).with(Pte::kIdle));
      continue;
    }
    const bool trapped = state == PteState::kClean;
    free_entry(i);
    const Pte lazy = leaf_.get(i).with_state(PteState::kLazyFree);
    leaf_.set(i, trapped ? lazy : lazy.with(Pte::kIdle));
    ++freed;
  }
  return freed;
}

void LockedLeaf::reuse_idle(LeafRange range) {
  leaf_.lock.assert_held();
  const unsigned generation = context_.lru.generation();
  unsigned reused = 0;
  for (unsigned i = range.first; i < range.end; ++i) {
    const Pte p = leaf_.get(i);
    if (p.state() == PteState::kEmpty) {
      leaf_.set(i, p.without(Pte::kIdle));
    } else {
      leaf_.set(i, Lru::touched(p.with_state(PteState::kMapped), generation));
      note_touched(leaf_.get(i));
      ++reused;
    }
  }
  context_.counters.add(Event::pglazyunfreed, reused);
}

// ---- Squeezing --------------------------------------------------------------------------------

void LockedLeaf::begin_squeezing(unsigned i) {
  leaf_.lock.assert_held();
  leaf_.set(i, leaf_.get(i).with(Pte::kSqueezing));
}

bool LockedLeaf::finish_squeezing(unsigned i, swap::SwapEntry entry) {
  cancel_squeezing(i);
  leaf_.lock.assert_held();
  const Pte p = leaf_.get(i);
  if (p.state() == PteState::kStandby && !p.is_held()) {
    leaf_.set(i, p.with_entry(entry).with_state(PteState::kSwapped));
    return true;
  }
  // The page lives at its address, the result is of no use.
  context_.swap->free(entry);
  return false;
}

void LockedLeaf::cancel_squeezing(unsigned i) {
  leaf_.lock.assert_held();
  leaf_.set(i, leaf_.get(i).without(Pte::kSqueezing));
}

bool LockedLeaf::fall_back_on_copy(unsigned i) {
  leaf_.lock.assert_held();
  if (leaf_.get(i).entry().is_none()) return false;
  leaf_.set(i, leaf_.get(i).with_state(PteState::kSwapped));
  return true;
}

}  // namespace buoy
