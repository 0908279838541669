#include "policy_arc.h"

#include <algorithm>

namespace buoy::sim {

Arc::Arc(Page pages, std::size_t capacity)
    : capacity_(capacity), links_(pages), place_(pages, Place::kNowhere) {}

PageList& Arc::list(Place place) {
  switch (place) {
    case Place::kT1:
      return t1_;
    case Place::kT2:
      return t2_;
    case Place::kB1:
      return b1_;
    default:
      return b2_;
  }
}

void Arc::drop(Page page) {
  if (place_[page] != Place::kNowhere) list(place_[page]).remove(page);
  place_[page] = Place::kNowhere;
}

void Arc::move(Page page, Place to) {
  drop(page);
  list(to).push_newest(page);
  place_[page] = to;
}

void Arc::replace(bool wanted_is_in_b2) {
  if (resident() < capacity_) return;  // the paper's cache is always full here; ours may forget
  const auto t1 = static_cast<double>(t1_.size());
  const bool from_t1 =
      !t1_.is_empty() && (t1 > target_ || (wanted_is_in_b2 && t1 == target_) || t2_.is_empty());
  if (from_t1)
    move(t1_.oldest(), Place::kB1);
  else
    move(t2_.oldest(), Place::kB2);
}

// Case IV of the paper.
void Arc::make_room_for_new() {
  const std::size_t l1 = t1_.size() + b1_.size();
  if (l1 == capacity_) {
    if (t1_.size() < capacity_) {
      drop(b1_.oldest());
      replace(false);
    } else {
      drop(t1_.oldest());
    }
    return;
  }
  const std::size_t all = l1 + t2_.size() + b2_.size();
  if (all < capacity_) return;
  if (all == 2 * capacity_) drop(b2_.oldest());
  replace(false);
}

Lookup Arc::access(Page page) {
  const auto b1 = static_cast<double>(b1_.size());
  const auto b2 = static_cast<double>(b2_.size());
  switch (place_[page]) {
    case Place::kT1:
    case Place::kT2:
      move(page, Place::kT2);
      return Lookup::kHit;
    case Place::kB1:
      target_ = std::min(target_ + std::max(1.0, b2 / b1), static_cast<double>(capacity_));
      replace(false);
      move(page, Place::kT2);
      return Lookup::kMiss;
    case Place::kB2:
      target_ = std::max(target_ - std::max(1.0, b1 / b2), 0.0);
      replace(true);
      move(page, Place::kT2);
      return Lookup::kMiss;
    case Place::kNowhere:
      break;
  }
  make_room_for_new();
  move(page, Place::kT1);
  return Lookup::kMiss;
}

void Arc::forget(Page page) { drop(page); }

}  // namespace buoy::sim
