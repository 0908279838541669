#include "reclaim/locked_leaf.h"

#include <algorithm>

namespace buoy {

// The lock is this object's; the analysis cannot see through the members.
#define LEAF_HELD BUOY_NO_TSA

namespace {

// MOVE looks at every hole it passes (about 0.1 us each), and each run of pages costs it the same
// whether it comes in one call or in two: bridging more holes than this costs more than a call.
constexpr unsigned kMostHolesInMove = 4;

constexpr auto index_of(PteState s) { return static_cast<std::size_t>(s); }

unsigned frames_of(const std::array<std::uint16_t, index_of(PteState::kCount)>& count,
                   unsigned in_shadow) {
  return count[index_of(PteState::kMapped)] + count[index_of(PteState::kLazyFree)] +
         count[index_of(PteState::kClean)] + in_shadow;
}

Pte touched(Pte p, unsigned generation) {
  return p.with_generation(generation).without(Pte::kCold);
}

}  // namespace

std::uint8_t lists_for(const Leaf& leaf) BUOY_NO_TSA {
  std::uint8_t wanted = 0;
  if (leaf.count_of(PteState::kMapped) + leaf.count_of(PteState::kClean) != 0) {
    const Region* region = leaf.region.load(std::memory_order_relaxed);
    wanted |=
        Lru::bit(region->is(RegionFlags::kDroppable) ? LeafList::kDroppable : LeafList::kResident);
  }
  if (leaf.in_shadow != leaf.count_of(PteState::kLazyAway)) wanted |= Lru::bit(LeafList::kStandby);
  if (leaf.count_of(PteState::kLazyFree) + leaf.count_of(PteState::kLazyAway) != 0)
    wanted |= Lru::bit(LeafList::kLazyFree);
  return wanted;
}

LockedLeaf::LockedLeaf(Context& context, Leaf& leaf, Precharge* precharge)
    : context_(context), leaf_(leaf), precharge_(precharge) {
  open();
}

LockedLeaf::~LockedLeaf() LEAF_HELD { settle(); }

void LockedLeaf::open() {
  leaf_.lock.lock();
  count_before_ = leaf_.count;
  shadow_before_ = leaf_.in_shadow;
  held_before_ = leaf_.held;
}

void LockedLeaf::settle() {
  for (std::size_t s = 0; s < count_before_.size(); ++s) {
    const int delta = int{leaf_.count[s]} - int{count_before_[s]};
    if (delta != 0) context_.pages[s].fetch_add(delta, std::memory_order_relaxed);
  }
  if (leaf_.in_shadow != shadow_before_)
    context_.shadow_frames.fetch_add(int{leaf_.in_shadow} - static_cast<int>(shadow_before_),
                                     std::memory_order_relaxed);
  if (leaf_.held != held_before_)
    context_.held_pages.fetch_add(int{leaf_.held} - static_cast<int>(held_before_),
                                  std::memory_order_relaxed);
  const unsigned before = frames_of(count_before_, shadow_before_);
  const unsigned now = frames_of(leaf_.count, leaf_.in_shadow);
  if (now > before) {
    BUOY_CHECK(precharge_ != nullptr);
    precharge_->consume(PageCount(now - before));
  } else if (now < before) {
    context_.budget.uncharge(PageCount(before - now));
  }
  const std::uint8_t wanted = lists_for(leaf_);
  const bool is_riper = soonest_ != kNoneTouched && context_.lru.is_riper(leaf_, soonest_);
  if (is_riper || (wanted & ~leaf_.lists.load(std::memory_order_relaxed)) != 0)
    context_.lru.add(leaf_, wanted, soonest_ == kNoneTouched ? 1 : soonest_);
  leaf_.lock.unlock();
}

bool LockedLeaf::is_of(Vpn vpn) const {
  return leaf_.block.load(std::memory_order_relaxed) == vpn.block();
}

void LockedLeaf::touch(unsigned first, unsigned n) LEAF_HELD {
  const unsigned generation = context_.lru.generation();
  for (unsigned i = first; i < first + n; ++i) {
    leaf_.set(i, touched(leaf_.get(i), generation));
    note_touched(leaf_.get(i));
  }
}

void LockedLeaf::note_touched(Pte p) { soonest_ = std::min(soonest_, Lru::term_of(p.level())); }

void LockedLeaf::split_folios(unsigned begin, unsigned end, Event why) LEAF_HELD {
  const unsigned cut = split_at(leaf_, begin, end);
  if (cut != 0) context_.counters.add(why, cut);
}

void LockedLeaf::free_entry(unsigned i) LEAF_HELD {
  const Pte p = leaf_.get(i);
  if (p.entry().is_none()) return;
  context_.swap->free(p.entry());
  leaf_.ptes[i].store(p.without_entry().bits(), std::memory_order_relaxed);
}

// ---- Bringing in ------------------------------------------------------------------------------

unsigned LockedLeaf::fill_zeros(unsigned first, unsigned n) LEAF_HELD {
  const mmu::Progress p = context_.mmu->install_zeros(reservation(), run(first, n));
  const auto done = static_cast<unsigned>(p.done.value());
  for (unsigned i = first; i < first + done; ++i)
    leaf_.set(i, leaf_.get(i).with_state(PteState::kMapped).with_level(0));
  touch(first, done);
  context_.lru.note_installed(done);
  return done;
}

unsigned LockedLeaf::install(unsigned first, unsigned n, const std::byte* bytes,
                             mmu::Stores stores) LEAF_HELD {
  const mmu::Progress p = context_.mmu->install(reservation(), run(first, n), bytes, stores);
  const auto done = static_cast<unsigned>(p.done.value());
  unsigned just_left = 0;
  for (unsigned i = first; i < first + done; ++i) {
    if (context_.lru.has_just_left(leaf_.get(i))) ++just_left;
    leaf_.set(i, leaf_.get(i).with_level(context_.lru.level_after_return(leaf_.get(i))));
    if (stores == mmu::Stores::kAllowed) {
      const swap::SwapEntry entry = leaf_.get(i).entry();
      leaf_.set(i, leaf_.get(i).with_state(PteState::kMapped).without_entry());
      context_.swap->free(entry);
    } else {
      leaf_.set(i, leaf_.get(i).with_state(PteState::kClean));
    }
  }
  if (just_left != 0) context_.counters.add(Event::workingset_activate, just_left);
  touch(first, done);
  context_.lru.note_installed(done);
  return done;
}

unsigned LockedLeaf::give_back(unsigned first, unsigned n) LEAF_HELD {
  const unsigned generation = context_.lru.generation();
  unsigned done = 0;
  unsigned unfreed = 0;
  while (done < n) {
    const unsigned at = first + done;
    const bool squeezing = leaf_.get(at).has(Pte::kSqueezing);
    const unsigned length = run_length(
        leaf_, at, first + n, [squeezing](Pte p) { return p.has(Pte::kSqueezing) == squeezing; });
    unsigned moved = 0;
    mmu::Return how = mmu::Return::kCopied;
    if (squeezing) {
      // Somebody reads the shadow without the lock: the frame must stay there.
      for (; moved < length; ++moved) {
        const mmu::Progress p =
            context_.mmu->install(reservation(), run(at + moved, 1),
                                  context_.mmu->shadow_bytes(reservation(), leaf_.page(at + moved)),
                                  mmu::Stores::kAllowed);
        if (!p.complete()) break;
      }
    } else {
      const PageCount afford = precharge_ == nullptr ? PageCount() : precharge_->held();
      const mmu::GiveBackResult r = context_.mmu->give_back(
          reservation(), run(at, length),
          afford.value() >= done + length ? mmu::Return::kCopied : mmu::Return::kMoved);
      moved = static_cast<unsigned>(r.progress.done.value());
      how = r.how;
    }
    for (unsigned i = at; i < at + moved; ++i) {
      free_entry(i);
      if (leaf_.get(i).state() == PteState::kLazyAway) ++unfreed;
      Pte p = touched(leaf_.get(i).with_state(PteState::kMapped), generation);
      p = p.with_level(Lru::level_after_touch(p));
      note_touched(p);
      if (how == mmu::Return::kMoved) p = p.without(Pte::kInShadow);
      leaf_.set(i, p);
    }
    done += moved;
    if (moved < length) break;
  }
  if (unfreed != 0) context_.counters.add(Event::pglazyunfreed, unfreed);
  return done;
}

unsigned LockedLeaf::allow_stores(unsigned first, unsigned n) LEAF_HELD {
  const mmu::Progress p = context_.mmu->unprotect(reservation(), run(first, n));
  const auto done = static_cast<unsigned>(p.done.value());
  became_storable(first, done);
  return done;
}

void LockedLeaf::dirty(unsigned i) LEAF_HELD {
  (void)context_.mmu->unprotect(reservation(), run(i, 1));
  became_storable(i, 1);
}

void LockedLeaf::became_storable(unsigned first, unsigned n) LEAF_HELD {
  const unsigned generation = context_.lru.generation();
  unsigned unfreed = 0;
  for (unsigned i = first; i < first + n; ++i) {
    if (leaf_.get(i).state() == PteState::kLazyFree) ++unfreed;
    free_entry(i);
    // A clean page without its entry is no state of its own: go straight to mapped.
    leaf_.set(i, touched(leaf_.get(i).with_state(PteState::kMapped), generation));
    note_touched(leaf_.get(i));
  }
  if (unfreed != 0) context_.counters.add(Event::pglazyunfreed, unfreed);
}

// ---- Letting go -------------------------------------------------------------------------------

void LockedLeaf::drop_shadow_runs(unsigned begin, unsigned end) LEAF_HELD {
  // One call from the first to the last: nothing between them may still be needed.
  context_.mmu->drop_shadow(reservation(), run(begin, end - begin));
  for (unsigned i = begin; i < end; ++i) {
    const Pte p = leaf_.get(i);
    if (p.has(Pte::kInShadow)) leaf_.set(i, p.without(Pte::kInShadow));
  }
}

unsigned LockedLeaf::drop_stale_shadows(unsigned begin, unsigned end) LEAF_HELD {
  if (leaf_.in_shadow == 0) return 0;
  const unsigned before = leaf_.in_shadow;
  const auto needed = [](Pte p) {
    return p.has(Pte::kInShadow) && (p.state() == PteState::kStandby ||
                                     p.state() == PteState::kLazyAway || p.has(Pte::kSqueezing));
  };
  for (unsigned i = begin; i < end;) {
    if (!leaf_.get(i).has(Pte::kInShadow) || needed(leaf_.get(i))) {
      ++i;
      continue;
    }
    // As far as the last droppable frame before one that is needed.
    unsigned last = i;
    for (unsigned j = i + 1; j < end && !needed(leaf_.get(j)); ++j)
      if (leaf_.get(j).has(Pte::kInShadow)) last = j;
    drop_shadow_runs(i, last + 1);
    i = last + 1;
  }
  return before - leaf_.in_shadow;
}

void LockedLeaf::became_standby(unsigned first, unsigned n) LEAF_HELD {
  const unsigned generation = context_.lru.generation();  // since when it is away
  unsigned taken = 0;
  for (unsigned i = first; i < first + n; ++i) {
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
void LockedLeaf::unshare(unsigned i) LEAF_HELD {
  if (context_.mmu->unprotect(reservation(), run(i, 1)).complete())
    context_.mmu->unshare(reservation(), leaf_.page(i));
  leaf_.set(i, leaf_.get(i).with(Pte::kBusy));
}

unsigned LockedLeaf::take(unsigned begin, unsigned end, const Marks* only) LEAF_HELD {
  const unsigned standby_before = leaf_.count_of(PteState::kStandby);
  // A page may leave if it is ordinary, not held and (where asked) marked. A lazily freed page
  // must not: its traps would be lost. Runs may reach over pages that are not at their address,
  // but not over frames in the shadow, where they would collide.
  const auto leaves = [&](unsigned i, Pte p) {
    return (p.state() == PteState::kMapped || p.state() == PteState::kClean) && !p.is_held() &&
           !p.has(Pte::kSqueezing) && (only == nullptr || ((*only)[i / 64] >> (i % 64) & 1U) != 0);
  };
  drop_stale_shadows(begin, end);
  if (begin == 0 && end == kPagesPerBlock && only == nullptr && leaf_.in_shadow == 0 &&
      leaf_.held == 0 && leaf_.count_of(PteState::kLazyFree) == 0 &&
      leaf_.count_of(PteState::kPurged) == 0) {
    // The whole block, whatever lies where: its page table may move as one.
    const mmu::Progress p =
        context_.mmu->take_block(reservation(), leaf_.first_page(), PageCount(leaf_.populated()));
    const auto done = static_cast<unsigned>(p.done.value());
    became_standby(0, done);
    if (p.complete()) return leaf_.count_of(PteState::kStandby) - standby_before;
    begin = done;
  }
  for (unsigned i = begin; i < end;) {
    if (!leaves(i, leaf_.get(i))) {
      ++i;
      continue;
    }
    unsigned last = i;
    for (unsigned j = i + 1; j < end && j - last <= kMostHolesInMove; ++j) {
      const Pte p = leaf_.get(j);
      if (leaves(j, p)) {
        last = j;
      } else if (p.is_at_address() || p.has(Pte::kPoisoned)) {
        break;
      }
    }
    const unsigned n = last + 1 - i;
    const mmu::Progress p = context_.mmu->take(reservation(), run(i, n));
    const auto done = static_cast<unsigned>(p.done.value());
    became_standby(i, done);
    i += done;
    if (p.complete()) continue;
    if (p.outcome == mmu::Outcome::kBusy && !leaf_.get(i).has(Pte::kBusy)) {
      if (leaf_.get(i).traps_stores() && allow_stores(i, 1) == 0) break;
      unshare(i);
      continue;
    }
    if (p.outcome == mmu::Outcome::kNoMemory) break;
    leaf_.set(i, leaf_.get(i).without(Pte::kBusy));
    touch(i, 1);  // not before the clock comes round again
    ++i;
  }
  return leaf_.count_of(PteState::kStandby) - standby_before;
}

unsigned LockedLeaf::trap_stores_lazily(unsigned first, unsigned n) LEAF_HELD {
  const mmu::Progress p = context_.mmu->protect(reservation(), run(first, n));
  const auto done = static_cast<unsigned>(p.done.value());
  for (unsigned i = first; i < first + done; ++i) {
    if (!leaf_.get(i).is_at_address()) continue;
    free_entry(i);
    leaf_.set(i, leaf_.get(i).with_state(PteState::kLazyFree));
  }
  return done;
}

unsigned LockedLeaf::take_lazily(unsigned first, unsigned n) LEAF_HELD {
  unsigned marked = 0;
  for (unsigned i = first; i < first + n; ++i) {
    const mmu::Progress p = context_.mmu->take(reservation(), run(i, first + n - i));
    for (const unsigned end = i + static_cast<unsigned>(p.done.value()); i < end; ++i) {
      free_entry(i);
      leaf_.set(
          i, leaf_.get(i).with(Pte::kInShadow).without(Pte::kBusy).with_state(PteState::kLazyAway));
      ++marked;
    }
    if (p.complete() || p.outcome == mmu::Outcome::kNoMemory) break;
  }
  return marked;
}

unsigned LockedLeaf::free_block_lazily() LEAF_HELD {
  if (context_.pins != mmu::Pins::kKnown || leaf_.held != 0 || leaf_.in_shadow != 0 ||
      leaf_.count_of(PteState::kLazyFree) != 0 || region().is(RegionFlags::kHuge))
    return 0;
  const unsigned n = leaf_.populated();
  if (n < kPagesPerBlock / 2) return 0;
  const mmu::Progress p = context_.mmu->take_block(reservation(), leaf_.first_page(), PageCount(n));
  const auto done = static_cast<unsigned>(p.done.value());
  for (unsigned i = 0; i < done; ++i) {
    if (!leaf_.get(i).is_at_address()) continue;
    free_entry(i);
    leaf_.set(i, leaf_.get(i).with(Pte::kInShadow).with_state(PteState::kLazyAway));
  }
  return leaf_.count_of(PteState::kLazyAway);
}

unsigned LockedLeaf::free_idle(unsigned first, unsigned n) LEAF_HELD {
  unsigned freed = 0;
  for (unsigned i = first; i < first + n; ++i) {
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

void LockedLeaf::reuse_idle(unsigned first, unsigned n) LEAF_HELD {
  const unsigned generation = context_.lru.generation();
  unsigned reused = 0;
  for (unsigned i = first; i < first + n; ++i) {
    const Pte p = leaf_.get(i);
    if (p.state() == PteState::kEmpty) {
      leaf_.set(i, p.without(Pte::kIdle));
    } else {
      leaf_.set(i, touched(p.with_state(PteState::kMapped), generation));
      note_touched(leaf_.get(i));
      ++reused;
    }
  }
  context_.counters.add(Event::pglazyunfreed, reused);
}

unsigned LockedLeaf::drop_lazy_away(unsigned begin, unsigned end) LEAF_HELD {
  unsigned gone = 0;
  for_each_run(
      leaf_, begin, end, [](Pte p) { return p.state() == PteState::kLazyAway && !p.is_held(); },
      [&](unsigned first, unsigned n) LEAF_HELD {
        context_.mmu->drop_shadow(reservation(), run(first, n));
        for (unsigned i = first; i < first + n; ++i)
          leaf_.set(i, leaf_.get(i).without(Pte::kInShadow).with_state(PteState::kEmpty));
        gone += n;
        split_folios(first, first + n, Event::folio_split_reclaim);
      });
  return gone;
}

namespace {
bool may_be_discarded(Pte p, bool droppable) {
  return (p.state() == PteState::kLazyFree ||
          (droppable && (p.state() == PteState::kMapped || p.state() == PteState::kClean))) &&
         !p.is_held() && !p.has(Pte::kSqueezing);
}
}  // namespace

// The runs reach over holes, as far as the way they go allows.
unsigned LockedLeaf::collect_discardable(unsigned* i, unsigned end, bool droppable,
                                         std::span<PageRun> runs) LEAF_HELD {
  const auto most_holes =
      context_.pins == mmu::Pins::kKnown ? unsigned{kPagesPerBlock} : kMostHolesInMove;
  unsigned n = 0;
  while (*i < end && n < runs.size()) {
    const unsigned first = *i;
    *i = first + 1;
    if (!may_be_discarded(leaf_.get(first), droppable)) continue;
    unsigned last = first;
    for (unsigned j = first + 1; j < end && j - last <= most_holes; ++j) {
      const Pte p = leaf_.get(j);
      if (may_be_discarded(p, droppable))
        last = j;
      else if (p.is_at_address() || p.has(Pte::kInShadow) || p.has(Pte::kPoisoned))
        break;
    }
    *i = last + 1;
    drop_stale_shadows(first, *i);
    runs[n++] = run(first, *i - first);
  }
  return n;
}

mmu::Progress LockedLeaf::discard_runs(std::span<const PageRun> runs) LEAF_HELD {
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

unsigned LockedLeaf::discard_by_reclaim(unsigned begin, unsigned end, bool droppable) LEAF_HELD {
  unsigned lazily = leaf_.count_of(PteState::kLazyAway) != 0 ? drop_lazy_away(begin, end) : 0;
  unsigned dropped = 0;
  const unsigned candidates =
      leaf_.count_of(PteState::kLazyFree) +
      (droppable ? leaf_.count_of(PteState::kMapped) + leaf_.count_of(PteState::kClean) : 0);
  // Stored to since: nothing to look for, however large the folio.
  if (candidates == 0) begin = end;
  for (unsigned i = begin; i < end;) {
    PageRun storage[mmu::kMostRuns];
    const std::span runs(storage, collect_discardable(&i, end, droppable, storage));
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
      split_folios(first, first + gone, Event::folio_split_reclaim);
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
    leaf_.set(i, refused.without(Pte::kBusy));
    ++i;  // pinned: it stays what it is, and is tried later
  }
  if (lazily != 0) context_.counters.add(Event::pglazyfreed, lazily);
  if (dropped != 0) context_.counters.add(Event::pgdropped, dropped);
  return lazily + dropped;
}

unsigned LockedLeaf::drop_standby(unsigned begin, unsigned end) LEAF_HELD {
  unsigned gone = 0;
  const auto goes = [](Pte p) {
    return p.state() == PteState::kStandby && !p.is_held() && !p.has(Pte::kSqueezing);
  };
  for_each_run(leaf_, begin, end, goes, [&](unsigned first, unsigned n) LEAF_HELD {
    context_.mmu->drop_shadow(reservation(), run(first, n));
    for (unsigned i = first; i < first + n; ++i) {
      free_entry(i);
      leaf_.set(i, leaf_.get(i).without(Pte::kInShadow).with_state(PteState::kEmpty));
    }
    gone += n;
  });
  if (gone != 0) context_.counters.add(Event::pgdropped, gone);
  return gone;
}

namespace {
bool can_be_purged(Pte p) {
  return (p.frames() != 0 || p.state() == PteState::kSwapped) && p.state() != PteState::kLoading &&
         !p.is_held() && !p.has(Pte::kSqueezing);
}
}  // namespace

LockedLeaf::Purged LockedLeaf::purge(unsigned begin, unsigned end) LEAF_HELD {
  Purged sum;
  for (unsigned i = begin; i < end;) {
    if (!can_be_purged(leaf_.get(i))) {
      ++i;
      continue;
    }
    // Runs reach over pages that have no frame, but for poison, which a MOVE would stumble over.
    unsigned last = i;
    for (unsigned j = i + 1; j < end; ++j) {
      const Pte p = leaf_.get(j);
      if (can_be_purged(p))
        last = j;
      else if (p.frames() != 0 || p.has(Pte::kPoisoned))
        break;
    }
    const Purged run = purge_run(i, last + 1);
    sum.pages += run.pages;
    sum.frames += run.frames;
    i = last + 1;
  }
  return sum;
}

// Every page of the run that has frames may be purged. Those stay whose frame cannot be discarded.
LockedLeaf::Purged LockedLeaf::purge_run(unsigned first, unsigned end) LEAF_HELD {
  unsigned first_mapped = end;
  unsigned end_mapped = first;
  bool has_shadow = false;
  for (unsigned i = first; i < end; ++i) {
    const Pte p = leaf_.get(i);
    has_shadow = has_shadow || p.has(Pte::kInShadow);
    if (!p.is_at_address()) continue;
    if (first_mapped == end) first_mapped = i;
    end_mapped = i + 1;
  }
  // Before the frames at addresses, whose way out may lead through the shadow.
  if (has_shadow) context_.mmu->drop_shadow(reservation(), run(first, end - first));
  unsigned discarded_to = first_mapped;
  if (first_mapped < end_mapped)
    discarded_to += discard_mapped(first_mapped, end_mapped - first_mapped);
  Purged purged;
  unsigned lazily = 0;
  for (unsigned i = first; i < end; ++i) {
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
unsigned LockedLeaf::discard_mapped(unsigned first, unsigned n) LEAF_HELD {
  if (context_.pins == mmu::Pins::kUnknown) {
    // Only MOVE refuses a page that a device may still write to.
    const mmu::Progress p = context_.mmu->take(reservation(), run(first, n));
    if (!p.done.is_zero()) context_.mmu->drop_shadow(reservation(), {leaf_.page(first), p.done});
    return static_cast<unsigned>(p.done.value());
  }
  // Less than all of it where something is mlocked behind our back.
  return static_cast<unsigned>(context_.mmu->discard(reservation(), run(first, n)).done.value());
}

bool LockedLeaf::forget(unsigned begin, unsigned end, PteState to) LEAF_HELD {
  BUOY_DCHECK(is_quiet(begin, end));
  unsigned first_mapped = end;
  unsigned end_mapped = begin;
  unsigned first_shadow = end;
  unsigned end_shadow = begin;
  unsigned lazily = 0;
  for (unsigned i = begin; i < end; ++i) {
    const Pte p = leaf_.get(i);
    if (p.is_at_address()) {
      if (first_mapped == end) first_mapped = i;
      end_mapped = i + 1;
    }
    if (p.has(Pte::kInShadow)) {
      if (first_shadow == end) first_shadow = i;
      end_shadow = i + 1;
    }
    if (p.state() == PteState::kLazyFree || p.state() == PteState::kLazyAway) ++lazily;
  }
  if (first_mapped < end_mapped) {
    const mmu::Progress p =
        context_.mmu->discard(reservation(), run(first_mapped, end_mapped - first_mapped));
    if (!p.complete()) {
      // What is gone is gone: the pages up to there are forgotten, the rest is as it was.
      const unsigned reached = first_mapped + static_cast<unsigned>(p.done.value());
      if (reached > first_mapped) (void)forget(begin, reached, to);
      return false;
    }
  }
  if (first_shadow < end_shadow)
    context_.mmu->drop_shadow(reservation(), run(first_shadow, end_shadow - first_shadow));
  if (lazily != 0) context_.counters.add(Event::pglazydropped, lazily);
  for (unsigned i = begin; i < end; ++i) {
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
  return true;
}

unsigned LockedLeaf::let_clean_go(unsigned begin, unsigned end) LEAF_HELD {
  unsigned gone = 0;
  const auto goes = [](Pte p) { return p.state() == PteState::kClean && !p.is_held(); };
  for_each_run(leaf_, begin, end, goes, [&](unsigned first, unsigned n) LEAF_HELD {
    const mmu::Progress p = context_.mmu->discard(reservation(), run(first, n));
    for (unsigned i = first; i < first + p.done.value(); ++i) {
      leaf_.set(i, leaf_.get(i).with_state(PteState::kSwapped));
      ++gone;
    }
  });
  context_.counters.add(Event::pgcopykept, gone);
  return gone;
}

// ---- Waiting ----------------------------------------------------------------------------------

bool LockedLeaf::is_quiet(unsigned begin, unsigned end) const LEAF_HELD {
  if (leaf_.in_shadow == 0 && leaf_.count_of(PteState::kLoading) == 0) return true;
  for (unsigned i = begin; i < end; ++i) {
    const Pte p = leaf_.get(i);
    if (p.state() == PteState::kLoading || p.has(Pte::kSqueezing)) return false;
  }
  return true;
}

void LockedLeaf::wait_until_quiet(unsigned begin, unsigned end) LEAF_HELD {
  while (!is_quiet(begin, end)) {
    const std::uint32_t seen = leaf_.event.load(std::memory_order_acquire);
    leaf_.waiters.fetch_add(1, std::memory_order_seq_cst);
    settle();
    // Whoever works on the page announces; the time-out only bounds a lost wake-up.
    sys::futex_wait(&leaf_.event, seen, 2'000'000);
    leaf_.waiters.fetch_sub(1, std::memory_order_relaxed);
    open();
  }
}

void LockedLeaf::announce() {
  leaf_.event.fetch_add(1, std::memory_order_seq_cst);
  if (leaf_.waiters.load(std::memory_order_seq_cst) != 0) sys::futex_wake(&leaf_.event, INT32_MAX);
}

}  // namespace buoy
