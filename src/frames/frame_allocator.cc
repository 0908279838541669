#include "frames/frame_allocator.h"

#include <algorithm>

namespace buoy::frames {

// Nothing at hand: grow; else gather what the caches hold; else make room by moving; else share
// another type's blocks.
Pfn FrameAllocator::try_allocate_slow(const FrameRequest& request) {
  bool drained = false;
  for (;;) {
    const bool grown = core_.try_grow(request);
    if (!grown && !drained) {
      core_.drain_caches();
      drained = true;
    } else if (!grown) {
      return try_allocate_last(request);
    }
    // Having grown, it leaves what there was before.
    const Pfn head =
        core_.try_take_run(request, grown ? ArenaCore::Frames::kAll : ArenaCore::Frames::kAboveMin);
    if (!head.is_none()) return head;  // else another thread was quicker
  }
}

Pfn FrameAllocator::try_allocate_last(const FrameRequest& request) {
  // A single frame that can move may as well take any that is free. All else is worth moving others
  // for: a run has no other way, and a page that stays should not spread into others' blocks.
  const bool takes_any = request.order == Order(0) && request.type == MigrateType::kMovable;
  if (!takes_any && request.compaction != Compaction::kNever && core_.may_take(request)) {
    const Pfn made = compactor_.try_make_run(request);
    if (!made.is_none()) return made;
  }
  // What the balloon gave back comes one run at a time, as the budget has room.
  while (!balloon_.deflate(request.order.pages(), request.charge).is_zero()) {
    core_.drain_caches();
    const Pfn head = core_.try_take_run(request);
    if (!head.is_none()) return head;
  }
  return core_.try_take_any_run(request);
}

bool FrameAllocator::try_allocate_frames(const FrameRequest& request, Pfn* out, unsigned count) {
  BUOY_DCHECK(request.order == Order(0) && count <= FrameBatch::kCapacity);
  unsigned got = count > 1 ? core_.take_frames(request, {out, count}) : 0;
  for (; got < count; ++got) {
    out[got] = try_allocate(request);
    if (out[got].is_none()) {
      core_.release_frames({out, got});
      return false;
    }
  }
  std::sort(out, out + count);
  return true;
}

}  // namespace buoy::frames
