#include "policy_s3fifo.h"

#include <algorithm>

namespace buoy::sim {

S3Fifo::S3Fifo(Page pages, std::size_t capacity)
    : capacity_(capacity),
      most_small_(std::max<std::size_t>(capacity / 10, 1)),
      links_(pages),
      place_(pages, Place::kNowhere),
      accesses_(pages) {}

PageList& S3Fifo::list(Place place) {
  switch (place) {
    case Place::kSmall:
      return small_;
    case Place::kMain:
      return main_;
    default:
      return ghost_;
  }
}

void S3Fifo::drop(Page page) {
  if (place_[page] != Place::kNowhere) list(place_[page]).remove(page);
  place_[page] = Place::kNowhere;
}

void S3Fifo::move(Page page, Place to) {
  drop(page);
  list(to).push_newest(page);
  place_[page] = to;
}

Lookup S3Fifo::access(Page page) {
  if (place_[page] == Place::kSmall || place_[page] == Place::kMain) {
    accesses_[page] = std::min<std::uint8_t>(accesses_[page] + 1, kMostCounted);
    return Lookup::kHit;
  }
  // Is it a ghost now, or after room was made for it? The paper makes room first.
  while (resident() >= capacity_) evict();
  move(page, place_[page] == Place::kGhost ? Place::kMain : Place::kSmall);
  accesses_[page] = 0;
  return Lookup::kMiss;
}

void S3Fifo::evict() {
  if (small_.size() >= most_small_ || main_.is_empty())
    evict_from_small();
  else
    evict_from_main();
}

void S3Fifo::evict_from_small() {
  while (!small_.is_empty()) {
    const Page page = small_.oldest();
    if (accesses_[page] > 1) {
      move(page, Place::kMain);
      if (main_.size() > capacity_ - most_small_) evict_from_main();
      continue;
    }
    move(page, Place::kGhost);
    if (ghost_.size() > capacity_ - most_small_) drop(ghost_.oldest());
    return;
  }
}

void S3Fifo::evict_from_main() {
  while (accesses_[main_.oldest()] != 0) {
    --accesses_[main_.oldest()];
    main_.make_newest(main_.oldest());
  }
  drop(main_.oldest());
}

void S3Fifo::forget(Page page) { drop(page); }

}  // namespace buoy::sim
