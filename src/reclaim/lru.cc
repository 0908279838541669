#include "reclaim/lru.h"

namespace buoy {

void Lru::link(Leaf& leaf, LeafList list, bool at_oldest) {
  const auto put = [&leaf, at_oldest](auto& l) {
    if (at_oldest)
      l.push_front(leaf);
    else
      l.push_back(leaf);
  };
  switch (list) {
    case LeafList::kResident: {
      if (at_oldest) set_ripens_in(leaf, -1);
      const unsigned tick = leaf.ripe.load(std::memory_order_relaxed) % kTicks;
      put(resident_[tick]);
      has_resident_ |= std::uint64_t{1} << tick;
      break;
    }
    case LeafList::kStandby:
      put(standby_);
      break;
    case LeafList::kLazyFree:
      put(lazyfree_);
      break;
    case LeafList::kDroppable:
      put(droppable_);
      break;
    case LeafList::kCount:
      break;
  }
  leaf.lists.fetch_or(bit(list), std::memory_order_relaxed);
  lengths_[static_cast<std::size_t>(list)].fetch_add(1, std::memory_order_relaxed);
}

void Lru::unlink(Leaf& leaf, LeafList list) {
  if ((leaf.lists.load(std::memory_order_relaxed) & bit(list)) == 0) return;
  switch (list) {
    case LeafList::kResident: {
      const unsigned tick = leaf.ripe.load(std::memory_order_relaxed) % kTicks;
      resident_[tick].remove(leaf);
      if (resident_[tick].front() == nullptr) has_resident_ &= ~(std::uint64_t{1} << tick);
      break;
    }
    case LeafList::kStandby:
      standby_.remove(leaf);
      break;
    case LeafList::kLazyFree:
      lazyfree_.remove(leaf);
      break;
    case LeafList::kDroppable:
      droppable_.remove(leaf);
      break;
    case LeafList::kCount:
      break;
  }
  leaf.lists.fetch_and(static_cast<std::uint8_t>(~bit(list)), std::memory_order_relaxed);
  lengths_[static_cast<std::size_t>(list)].fetch_sub(1, std::memory_order_relaxed);
}

void Lru::unlink_all(Leaf& leaf) {
  for (const LeafList l : kAll) unlink(leaf, l);
}

void Lru::set_ripens_in(Leaf& leaf, int ticks) const {
  const int most = static_cast<int>(kHorizon);
  const int least = most - static_cast<int>(kTicks) + 1;
  const int within = ticks > most ? most : ticks < least ? least : ticks;
  const unsigned tick = (generation() + static_cast<unsigned>(within)) % kTicks;
  leaf.ripe.store(static_cast<std::uint8_t>(tick), std::memory_order_relaxed);
}

void Lru::add(Leaf& leaf, std::uint8_t wanted, int soonest) {
  const Guard guard(lock_);
  const bool is_resident = (wanted & bit(LeafList::kResident)) != 0;
  const bool was_linked =
      (leaf.lists.load(std::memory_order_relaxed) & bit(LeafList::kResident)) != 0;
  if (is_resident && (is_riper(leaf, soonest) || (!was_linked && !leaf.isolated))) {
    unlink(leaf, LeafList::kResident);
    set_ripens_in(leaf, soonest);
  }
  if (leaf.isolated) return;
  const auto missing =
      static_cast<std::uint8_t>(wanted & ~leaf.lists.load(std::memory_order_relaxed));
  for (const LeafList l : kAll)
    if ((missing & bit(l)) != 0) link(leaf, l, false);
}

// Round the clock from the furthest past to the furthest future.
Leaf* Lru::soonest_resident() {
  if (has_resident_ == 0) return nullptr;
  const unsigned from = (generation() + kHorizon + 1) % kTicks;
  const auto steps =
      static_cast<unsigned>(std::countr_zero(std::rotr(has_resident_, static_cast<int>(from))));
  return resident_[(from + steps) % kTicks].front();
}

unsigned Lru::level_after_return(Pte p) {
  constexpr unsigned kSoon = kTicksPerBudget / 2;
  constexpr unsigned kLong = 2 * kTicksPerBudget;
  constexpr std::uint32_t kOneIn = 32;  // of those that come back while there is no room for them
  const unsigned away = age_of(p);
  if (away > kLong) return p.level() == 0 ? 0 : p.level() - 1;
  if (away > kSoon || p.level() >= kMostLevel) return p.level();
  const bool gains = !is_pressed_.load(std::memory_order_relaxed) ||
                     returns_.fetch_add(1, std::memory_order_relaxed) % kOneIn == 0;
  return gains ? p.level() + 1 : p.level();
}

Leaf* Lru::isolate_oldest(LeafList list) {
  const Guard guard(lock_);
  Leaf* leaf = nullptr;
  switch (list) {
    case LeafList::kResident:
      leaf = soonest_resident();
      break;
    case LeafList::kStandby:
      leaf = standby_.front();
      break;
    case LeafList::kLazyFree:
      leaf = lazyfree_.front();
      break;
    case LeafList::kDroppable:
      leaf = droppable_.front();
      break;
    case LeafList::kCount:
      break;
  }
  if (leaf == nullptr) return nullptr;
  unlink_all(*leaf);
  note_isolated(*leaf, true);
  return leaf;
}

bool Lru::isolate(Leaf& leaf) {
  const Guard guard(lock_);
  if (leaf.isolated) return false;
  unlink_all(leaf);
  note_isolated(leaf, true);
  return true;
}

void Lru::put_back(Leaf& leaf, std::uint8_t wanted, std::uint8_t oldest) {
  const Guard guard(lock_);
  BUOY_DCHECK(leaf.isolated);
  note_isolated(leaf, false);
  for (const LeafList l : kAll)
    if ((wanted & bit(l)) != 0) link(leaf, l, (oldest & bit(l)) != 0);
}

bool Lru::forget(Leaf& leaf) {
  const Guard guard(lock_);
  if (leaf.isolated) return false;
  unlink_all(leaf);
  return true;
}

}  // namespace buoy
