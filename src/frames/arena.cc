#include "frames/arena.h"

namespace buoy::frames {

Result<Arena*> Arena::create(Budget& budget, Counters& counters, const ArenaOptions& options) {
  auto arena = place<Arena>(budget, counters);
  if (!arena) return arena;
  Status s = (*arena)->core_.reserve(options);
  if (s.ok()) s = (*arena)->balloon_.create();
  if (!s) {
    displace(*arena);
    return s.error();
  }
  return arena;
}

void Arena::destroy(Arena* arena) {
  arena->core_.budget().uncharge(arena->taken());
  displace(arena);
}

void Arena::validate() {
  balloon_.validate();
  core_.validate();
  BUOY_CHECK(core_.budget().used() >= taken());
}

}  // namespace buoy::frames
