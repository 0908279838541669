// MovableOwner: a user's driver as the migration core sees it. Checks what comes from outside, and
// carries calls from the engine's contract (frames/movable.h) to the C one (buoy.h).
#pragma once

#include <atomic>

#include "api/pool.h"
#include "buoy/buoy.h"
#include "frames/movable.h"

namespace buoy {

class MovableOwner final : public frames::MovableOps {
 public:
  // EINVAL: a function is missing, or a field bad. EBUSY: too many owners.
  [[nodiscard]] static Result<MovableOwner*> create(Pool& pool, const buoy_movable_ops& ops);
  // EBUSY while it has pages.
  [[nodiscard]] static Status destroy(MovableOwner* owner);

  // All but allocate: EINVAL if that is no page of ours.
  [[nodiscard]] Result<void*> allocate(ByteSize length);
  Status set_movable(void* page, void* data);
  Status clear_movable(void* page);
  Status free(void* page);

  bool isolate(Pfn page, frames::MigrateMode mode) override;
  frames::MigrateOutcome migrate(Pfn from, Pfn to, frames::MigrateMode mode) override;
  void put_back(Pfn page) override;

  MovableOwner(Pool& pool, const buoy_movable_ops& ops) : pool_(pool), ops_(ops) {}

 private:
  [[nodiscard]] Pfn find(const void* page) const;
  [[nodiscard]] void* data_of(Pfn page) const;

  Pool& pool_;
  const buoy_movable_ops ops_;
  frames::OwnerId id_ = 0;
  std::atomic<std::uint64_t> pages_{0};
};

}  // namespace buoy
