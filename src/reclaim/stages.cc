// The order of reclaim: what goes first, and when what comes next is due.
#include <algorithm>

#include "reclaim/reclaimer.h"

namespace buoy {

namespace {
Event event_of(ReclaimKind kind) {
  switch (kind) {
    case ReclaimKind::kDirect:
      return Event::pgsteal_direct;
    case ReclaimKind::kProactive:
      return Event::pgsteal_proactive;
    case ReclaimKind::kBackground:
      break;
  }
  return Event::pgsteal_background;
}
}  // namespace

// ---- The table ---------------------------------------------------------------------------------

// What may be forgotten.
const Reclaimer::Stage Reclaimer::kForgettable[] = {
    // Lazily freed: discarded, in runs.
    {&Reclaimer::is_short, &Reclaimer::discard_lazily_freed},
    // Droppable and old: the same.
    {&Reclaimer::is_short, &Reclaimer::drop_old},
    // Volatile: purged; not yet what may rather be compressed, and what was purged before.
    {&Reclaimer::is_short, &Reclaimer::purge_gently},
    // Droppable, of any age.
    {&Reclaimer::is_short, &Reclaimer::drop_any},
};

// From here on something is lost: time, at least.
const Reclaimer::Stage Reclaimer::kDear[] = {
    {&Reclaimer::is_short, &Reclaimer::tell_pressure},
    // Volatile, all of it.
    {&Reclaimer::is_short_in_crisis, &Reclaimer::purge_hard},
    // Ordinary and old: taken to the shadow, a leaf at a time -> standby. Frees nothing; what is
    // squeezed has had its second chance by that.
    {&Reclaimer::is_short_of_ordinary, &Reclaimer::fill_standby},
    // Standby, the oldest: compressed outside the leaf lock -> swapped.
    {&Reclaimer::is_short_of_ordinary, &Reclaimer::squeeze_oldest},
    // Ordinary, the oldest that there is, although it is not old: both at once.
    {&Reclaimer::is_in_vain_for_ordinary, &Reclaimer::squeeze_whatever},
    {&Reclaimer::is_in_vain, &Reclaimer::purge_hard},
    // Compressed: moved together, so that frames become free.
    {&Reclaimer::is_in_vain, &Reclaimer::compact_swap},
    // Compressed, the oldest: written to the backing file.
    {&Reclaimer::is_in_vain_above_a_file, &Reclaimer::write_back},
};

PageCount Reclaimer::reclaim(PageCount goal, ReclaimKind kind) {
  Attempt attempt{goal, kind, {}};
  run(kForgettable, attempt);
  if (!has_room(kind, goal)) {  // another's purge may have made it meanwhile
    run(kDear, attempt);
    if (attempt.freed.is_zero()) pressure_.note_fruitless();
  }
  context_.counters.add(event_of(kind), attempt.freed.value());
  return attempt.freed;
}

void Reclaimer::run(std::span<const Stage> stages, Attempt& attempt) {
  for (const Stage& stage : stages)
    if ((this->*stage.is_due)(attempt)) attempt.freed += (this->*stage.run)(attempt);
}

// ---- When a stage is due ------------------------------------------------------------------------

bool Reclaimer::is_short(const Attempt& a) const { return a.freed < a.goal; }

bool Reclaimer::is_short_in_crisis(const Attempt& a) const {
  return is_short(a) && pressure_.level() == PressureLevel::kCritical;
}

bool Reclaimer::is_short_of_ordinary(const Attempt& a) const {
  return is_short(a) && !are_last(a.kind);
}

bool Reclaimer::is_in_vain(const Attempt& a) const { return a.freed.is_zero(); }

bool Reclaimer::is_in_vain_for_ordinary(const Attempt& a) const {
  return is_in_vain(a) && !are_last(a.kind);
}

bool Reclaimer::is_in_vain_above_a_file(const Attempt& a) const {
  return is_in_vain(a) && context_.swap->has_file();
}

bool Reclaimer::has_room(ReclaimKind kind, PageCount goal) const {
  const Budget& budget = context_.budget;
  if (kind == ReclaimKind::kDirect) return budget.free() >= budget.reserve() + goal;
  return kind == ReclaimKind::kBackground && budget.is_above_high();
}

// ---- Stages -------------------------------------------------------------------------------------

PageCount Reclaimer::discard_lazily_freed(const Attempt& a) {
  PageCount freed;
  std::size_t tries = context_.lru.length(LeafList::kLazyFree);
  while (freed < a.missing() && tries-- > 0) {
    Leaf* leaf = context_.lru.isolate_oldest(LeafList::kLazyFree);
    if (leaf == nullptr) break;
    LockedLeaf locked(context_, *leaf);
    freed += PageCount(
        locked.discard_by_reclaim(LeafRange::whole(), LockedLeaf::Discards::kLazilyFreed).done);
    locked.put_back();
  }
  return freed;
}

PageCount Reclaimer::drop_old(const Attempt& a) { return drop(a.missing(), 1); }

PageCount Reclaimer::drop_any(const Attempt& a) { return drop(a.missing(), 0); }

PageCount Reclaimer::purge_gently(const Attempt& a) {
  return purge(a.missing(), PurgeEffort::kGentle);
}

// As much as was asked for, whatever came of it so far: it is not done by halves.
PageCount Reclaimer::purge_hard(const Attempt& a) { return purge(a.goal, PurgeEffort::kHard); }

PageCount Reclaimer::tell_pressure(const Attempt&) {
  pressure_.note_squeezing();
  return {};
}

PageCount Reclaimer::fill_standby(const Attempt& a) {
  const PageCount standby(context_.pages_in(PteState::kStandby));
  if (standby < standby_target() && age_out(a.missing(), Ripe::kOnly).is_zero())
    (void)age_out(a.missing(), Ripe::kOrNext);
  return {};
}

PageCount Reclaimer::squeeze_oldest(const Attempt& a) { return squeeze_standby(a.missing()); }

PageCount Reclaimer::squeeze_whatever(const Attempt& a) {
  (void)age_out(a.goal, Ripe::kOrNext);
  return squeeze_standby(a.goal);
}

PageCount Reclaimer::compact_swap(const Attempt&) { return context_.swap->compact(); }

PageCount Reclaimer::write_back(const Attempt& a) { return context_.swap->write_back(a.goal); }

}  // namespace buoy
