// FrameAllocator: in which order the arena looks for frames, and what it does when none are free.
//
//   the cache, the zone -> a block more -> what other caches hold -> room made by moving
//                       -> what the balloon gave back -> any run, also where it spoils others' blocks
//
// Thread-safe. May be called with a leaf lock held.
#pragma once

#include "frames/arena_core.h"
#include "frames/balloon.h"
#include "frames/compaction.h"

namespace buoy::frames {

class FrameAllocator {
 public:
  FrameAllocator(ArenaCore& core, Compactor& compactor, Balloon& balloon)
      : core_(core), compactor_(compactor), balloon_(balloon) {}

  // As Arena's (arena.h).
  [[nodiscard]] Pfn try_allocate(const FrameRequest& request) {
    BUOY_DCHECK(request.order.value() <= kMaxOrder && request.type != MigrateType::kReserve);
    const Pfn head =
        request.order == Order(0) ? core_.try_take_frame(request) : core_.try_take_run(request);
    return head.is_none() ? try_allocate_slow(request) : head;
  }
  [[nodiscard]] bool try_allocate_frames(const FrameRequest& request, Pfn* out, unsigned count);

 private:
  [[nodiscard]] Pfn try_allocate_slow(const FrameRequest& request);
  [[nodiscard]] Pfn try_allocate_last(const FrameRequest& request);

  ArenaCore& core_;
  Compactor& compactor_;
  Balloon& balloon_;
};

}  // namespace buoy::frames
