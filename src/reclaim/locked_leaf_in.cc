// How pages come to their addresses.

#include <algorithm>

#include "reclaim/locked_leaf.h"

namespace buoy {

LockedLeaf::Progress LockedLeaf::fill_zeros(LeafRange range) {
  leaf_.lock.assert_held();
  const mmu::Progress p = context_.mmu->install_zeros(reservation(), pages(range));
  const LeafRange filled = range.head(pages_of(p));
  for (unsigned i = filled.first; i < filled.end; ++i)
    leaf_.set(i, leaf_.get(i).with_state(PteState::kMapped).with_level(0));
  touch(filled);
  context_.lru.note_installed(filled.size());
  return {filled.size(), p.outcome};
}

LockedLeaf::Progress LockedLeaf::fill(unsigned i, const std::byte* bytes) {
  leaf_.lock.assert_held();
  const mmu::Progress p =
      context_.mmu->install(reservation(), pages(LeafRange::one(i)), bytes, mmu::Stores::kAllowed);
  if (!p.complete()) return {0, p.outcome};
  leaf_.set(i, leaf_.get(i).with_state(PteState::kMapped));
  touch(LeafRange::one(i));
  return {1, p.outcome};
}

LockedLeaf::Progress LockedLeaf::install(LeafRange range, const std::byte* bytes,
                                         mmu::Stores stores) {
  leaf_.lock.assert_held();
  return install_from(PteState::kSwapped, range, bytes, stores);
}

LockedLeaf::Progress LockedLeaf::install_from(PteState from, LeafRange range,
                                              const std::byte* bytes, mmu::Stores stores) {
  const mmu::Progress p = context_.mmu->install(reservation(), pages(range), bytes, stores);
  const LeafRange installed = range.head(pages_of(p));
  unsigned just_left = 0;
  for (unsigned i = installed.first; i < installed.end; ++i) {
    const Pte old = leaf_.get(i);
    BUOY_DCHECK(old.state() == from);
    if (context_.lru.has_just_left(old)) ++just_left;
    const Pte back = old.with_level(context_.lru.level_after_return(old));
    if (stores == mmu::Stores::kAllowed) {
      leaf_.set(i, back.with_state(PteState::kMapped).without_entry());
      context_.swap->free(old.entry());
    } else {
      leaf_.set(i, back.with_state(PteState::kClean));
    }
  }
  if (just_left != 0) context_.counters.add(Event::workingset_activate, just_left);
  touch(installed);
  context_.lru.note_installed(installed.size());
  return {installed.size(), p.outcome};
}

// ---- Loading ----------------------------------------------------------------------------------

swap::SwapEntry LockedLeaf::begin_loading(unsigned i) {
  leaf_.lock.assert_held();
  leaf_.set(i, leaf_.get(i).with_state(PteState::kLoading));
  return leaf_.get(i).entry();
}

LockedLeaf::Progress LockedLeaf::finish_loading(LeafRange range, const std::byte* bytes,
                                                mmu::Stores stores) {
  leaf_.lock.assert_held();
  return install_from(PteState::kLoading, range, bytes, stores);
}

void LockedLeaf::cancel_loading(LeafRange range) {
  leaf_.lock.assert_held();
  for (unsigned i = range.first; i < range.end; ++i)
    if (leaf_.get(i).state() == PteState::kLoading)
      leaf_.set(i, leaf_.get(i).with_state(PteState::kSwapped));
}

// ---- From the shadow --------------------------------------------------------------------------

LockedLeaf::Progress LockedLeaf::give_back(LeafRange range) {
  leaf_.lock.assert_held();
  unsigned done = 0;
  while (done < range.size()) {
    LeafRange part{range.first + done, range.end};
    const bool squeezing = leaf_.get(part.first).has(Pte::kSqueezing);
    part = part.head(run_length(
        leaf_, part, [squeezing](Pte p) { return p.has(Pte::kSqueezing) == squeezing; }));
    mmu::GiveBackResult r;
    if (squeezing) {
      r = copy_back(part);
    } else {
      const PageCount afford = precharge_ == nullptr ? PageCount() : precharge_->held();
      r = context_.mmu->give_back(
          reservation(), pages(part),
          afford.value() >= done + part.size() ? mmu::Return::kCopied : mmu::Return::kMoved);
    }
    became_resident(part.head(pages_of(r.progress)), r.how);
    done += pages_of(r.progress);
    if (!r.progress.complete()) return {done, r.progress.outcome};
  }
  return {done, mmu::Outcome::kDone};
}

// Somebody reads the shadow without the lock: the frames must stay there.
mmu::GiveBackResult LockedLeaf::copy_back(LeafRange range) {
  mmu::Progress sum;
  for (unsigned i = range.first; i < range.end && sum.complete(); ++i) {
    const mmu::Progress p = context_.mmu->install(
        reservation(), pages(LeafRange::one(i)),
        context_.mmu->shadow_bytes(reservation(), leaf_.page(i)), mmu::Stores::kAllowed);
    sum = {sum.done + p.done, p.outcome};
  }
  return {sum, mmu::Return::kCopied};
}

void LockedLeaf::became_resident(LeafRange range, mmu::Return how) {
  const unsigned generation = context_.lru.generation();
  unsigned unfreed = 0;
  for (unsigned i = range.first; i < range.end; ++i) {
    free_entry(i);
    if (leaf_.get(i).state() == PteState::kLazyAway) ++unfreed;
    Pte p = Lru::touched(leaf_.get(i).with_state(PteState::kMapped), generation);
    p = p.with_level(Lru::level_after_touch(p));
    note_touched(p);
    leaf_.set(i, how == mmu::Return::kMoved ? p.without(Pte::kInShadow) : p);
  }
  if (unfreed != 0) context_.counters.add(Event::pglazyunfreed, unfreed);
}

// ---- Stores -----------------------------------------------------------------------------------

LockedLeaf::Progress LockedLeaf::allow_stores(LeafRange range) {
  leaf_.lock.assert_held();
  const mmu::Progress p = context_.mmu->unprotect(reservation(), pages(range));
  became_storable(range.head(pages_of(p)));
  return {pages_of(p), p.outcome};
}

void LockedLeaf::dirty(unsigned i) {
  leaf_.lock.assert_held();
  (void)context_.mmu->unprotect(reservation(), pages(LeafRange::one(i)));
  became_storable(LeafRange::one(i));
}

void LockedLeaf::became_storable(LeafRange range) {
  const unsigned generation = context_.lru.generation();
  unsigned unfreed = 0;
  for (unsigned i = range.first; i < range.end; ++i) {
    if (leaf_.get(i).state() == PteState::kLazyFree) ++unfreed;
    free_entry(i);
    // A clean page without its entry is no state of its own: go straight to mapped.
    leaf_.set(i, Lru::touched(leaf_.get(i).with_state(PteState::kMapped), generation));
    note_touched(leaf_.get(i));
  }
  if (unfreed != 0) context_.counters.add(Event::pglazyunfreed, unfreed);
}

void LockedLeaf::end_leftover_trap(unsigned i) {
  leaf_.lock.assert_held();
  (void)context_.mmu->unprotect(reservation(), pages(LeafRange::one(i)));
}

void LockedLeaf::trap_again(LeafRange range) {
  leaf_.lock.assert_held();
  const unsigned done = pages_of(context_.mmu->protect(reservation(), pages(range)));
  if (done < range.size()) (void)allow_stores({range.first + done, range.end});
}

}  // namespace buoy
