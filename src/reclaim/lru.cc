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
    case LeafList::kResident:
      put(resident_);
      break;
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
    case LeafList::kResident:
      resident_.remove(leaf);
      break;
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

void Lru::add(Leaf& leaf, std::uint8_t wanted) {
  const Guard guard(lock_);
  if (leaf.isolated) return;
  const auto missing =
      static_cast<std::uint8_t>(wanted & ~leaf.lists.load(std::memory_order_relaxed));
  for (const LeafList l : kAll)
    if ((missing & bit(l)) != 0) link(leaf, l, false);
}

Leaf* Lru::isolate_oldest(LeafList list) {
  const Guard guard(lock_);
  Leaf* leaf = nullptr;
  switch (list) {
    case LeafList::kResident:
      leaf = resident_.front();
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
