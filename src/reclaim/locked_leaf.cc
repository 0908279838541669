#include "reclaim/locked_leaf.h"

#include <algorithm>

#include "base/sys.h"

namespace buoy {

namespace {

constexpr auto index_of(PteState s) { return static_cast<std::size_t>(s); }

unsigned frames_of(const std::array<std::uint16_t, index_of(PteState::kCount)>& count,
                   unsigned in_shadow) {
  return count[index_of(PteState::kMapped)] + count[index_of(PteState::kLazyFree)] +
         count[index_of(PteState::kClean)] + in_shadow;
}

}  // namespace

std::uint8_t lists_for(const Leaf& leaf) {
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

// ---- The lock ---------------------------------------------------------------------------------

// The analysis knows the leaf's lock by the caller's name for it; within, it is leaf_.lock.
LockedLeaf::LockedLeaf(Context& context, Leaf& leaf, Precharge* precharge) BUOY_NO_TSA
    : context_(context),
      leaf_(leaf),
      precharge_(precharge) {
  open();
}

LockedLeaf::LockedLeaf(AlreadyLocked, Context& context, Leaf& leaf, Precharge* precharge)
    : context_(context), leaf_(leaf), precharge_(precharge) {
  leaf_.lock.assert_held();
  remember();
}

LockedLeaf::~LockedLeaf() BUOY_NO_TSA { settle(); }

// An optional cannot tell the analysis what it holds: what the lock guards is asked of the object
// alone, each of whose operations asserts that it is held.
std::optional<LockedLeaf> LockedLeaf::try_lock(Context& context, Leaf& leaf, Vpn vpn,
                                               Precharge* precharge) BUOY_NO_TSA {
  leaf.lock.lock();
  if (leaf.block.load(std::memory_order_relaxed) != vpn.block()) {
    leaf.lock.unlock();
    return std::nullopt;
  }
  return std::optional<LockedLeaf>(std::in_place, AlreadyLocked{}, context, leaf, precharge);
}

void LockedLeaf::open() {
  leaf_.lock.lock();
  remember();
}

void LockedLeaf::remember() {
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
  BUOY_EXPENSIVE(if (leaf_.count != count_before_) leaf_.validate());
  leaf_.lock.unlock();
}

void LockedLeaf::touch(LeafRange range) {
  const unsigned generation = context_.lru.generation();
  for (unsigned i = range.first; i < range.end; ++i) {
    leaf_.set(i, Lru::touched(leaf_.get(i), generation));
    note_touched(leaf_.get(i));
  }
}

void LockedLeaf::note_touched(Pte p) { soonest_ = std::min(soonest_, Lru::term_of(p.level())); }

void LockedLeaf::free_entry(unsigned i) {
  const Pte p = leaf_.get(i);
  if (p.entry().is_none()) return;
  context_.swap->free(p.entry());
  leaf_.set(i, p.without_entry());
}

// ---- Without a change of contents -------------------------------------------------------------

void LockedLeaf::join_folio(unsigned first, Order order) {
  leaf_.lock.assert_held();
  join(leaf_, first, order);
}

void LockedLeaf::split_folios(LeafRange range, Event why) {
  leaf_.lock.assert_held();
  const unsigned cut = split_at(leaf_, range);
  if (cut != 0) context_.counters.add(why, cut);
}

void LockedLeaf::mark_cold(LeafRange range) {
  leaf_.lock.assert_held();
  for (unsigned i = range.first; i < range.end; ++i)
    if (leaf_.get(i).is_at_address()) leaf_.set(i, leaf_.get(i).with(Pte::kCold));
}

bool LockedLeaf::pin(unsigned i) {
  leaf_.lock.assert_held();
  const Pte p = leaf_.get(i);
  if (p.pins() == Pte::kMaxPins) return false;
  leaf_.set(i, p.with_pins(p.pins() + 1));
  return true;
}

void LockedLeaf::unpin(unsigned i) {
  leaf_.lock.assert_held();
  const Pte p = leaf_.get(i);
  if (p.pins() != 0) leaf_.set(i, p.with_pins(p.pins() - 1));
}

void LockedLeaf::mlock(unsigned i) {
  leaf_.lock.assert_held();
  leaf_.set(i, leaf_.get(i).with(Pte::kLocked));
}

void LockedLeaf::munlock(LeafRange range) {
  leaf_.lock.assert_held();
  for (unsigned i = range.first; i < range.end; ++i)
    if (leaf_.get(i).has(Pte::kLocked)) leaf_.set(i, leaf_.get(i).without(Pte::kLocked));
}

void LockedLeaf::begin_mapping(LeafRange range) {
  leaf_.lock.assert_held();
  for (unsigned i = range.first; i < range.end; ++i) {
    const Pte p = leaf_.get(i);
    leaf_.set(i, p.state() == PteState::kHole ? Pte::of(PteState::kEmpty)
                                              : p.without(Pte::kLocked).without(Pte::kIdle));
  }
}

bool LockedLeaf::poison(unsigned i) {
  leaf_.lock.assert_held();
  if (!context_.mmu->poison(reservation(), leaf_.page(i))) return false;
  leaf_.set(i, leaf_.get(i).with(Pte::kPoisoned));
  return true;
}

// ---- Moving -----------------------------------------------------------------------------------

LockedLeaf::Detached LockedLeaf::detach(unsigned i) {
  leaf_.lock.assert_held();
  const Pte p = leaf_.get(i);
  BUOY_CHECK((p.state() == PteState::kSwapped || p.state() == PteState::kPurged) &&
             !p.has(Pte::kInShadow));
  if (p.has(Pte::kPoisoned)) context_.mmu->unpoison(reservation(), leaf_.page(i));
  leaf_.set(i, p.without_entry()
                   .with_state(PteState::kEmpty)
                   .without(Pte::kCold)
                   .without(Pte::kBusy)
                   .without(Pte::kPoisoned));
  return Detached(p);
}

void LockedLeaf::attach(unsigned i, Detached what) {
  leaf_.lock.assert_held();
  BUOY_CHECK(leaf_.get(i).state() == PteState::kEmpty);
  const Pte p = std::exchange(what.pte_, Pte());
  leaf_.set(i, leaf_.get(i).with_entry(p.entry()).with_state(p.state()));
}

// ---- Waiting and lists ------------------------------------------------------------------------

bool LockedLeaf::is_quiet(LeafRange range) const {
  leaf_.lock.assert_held();
  if (leaf_.in_shadow == 0 && leaf_.count_of(PteState::kLoading) == 0) return true;
  for (unsigned i = range.first; i < range.end; ++i) {
    const Pte p = leaf_.get(i);
    if (p.state() == PteState::kLoading || p.has(Pte::kSqueezing)) return false;
  }
  return true;
}

bool LockedLeaf::wait_until_quiet(LeafRange range) {
  leaf_.lock.assert_held();
  const std::uint64_t block = leaf_.block.load(std::memory_order_relaxed);
  while (!is_quiet(range)) {
    wait_for_announcement();
    if (leaf_.block.load(std::memory_order_relaxed) != block) return false;
  }
  return true;
}

void LockedLeaf::wait_for_announcement() {
  const std::uint32_t seen = leaf_.event.load(std::memory_order_acquire);
  leaf_.waiters.fetch_add(1, std::memory_order_seq_cst);
  settle();
  // Whoever works on the page announces; the time-out only bounds a lost wake-up.
  sys::futex_wait(&leaf_.event, seen, 2'000'000);
  leaf_.waiters.fetch_sub(1, std::memory_order_relaxed);
  open();
}

void LockedLeaf::announce() {
  leaf_.event.fetch_add(1, std::memory_order_seq_cst);
  if (leaf_.waiters.load(std::memory_order_seq_cst) != 0) sys::futex_wake(&leaf_.event, INT32_MAX);
}

void LockedLeaf::put_back(std::uint8_t oldest) {
  leaf_.lock.assert_held();
  context_.lru.put_back(leaf_, lists_for(leaf_), oldest);
}

}  // namespace buoy
