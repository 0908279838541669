#include "frames/movable_pages.h"

namespace buoy::frames {

bool MovablePages::try_set_movable(Pfn head, OwnerId owner) {
  return try_set_movable(head, owner, page(head).owner_word.load(std::memory_order_relaxed));
}

bool MovablePages::try_set_movable(Pfn head, OwnerId owner, std::uint64_t owner_word) {
  Page& p = page(head);
  p.lock.lock(LockRank::kPage);
  const PageWord w = p.load();
  const bool free_to = !w.has(PageFlag::kIsolated);
  if (free_to) {
    p.owner_id.store(owner, std::memory_order_relaxed);
    p.owner_word.store(owner_word, std::memory_order_relaxed);
    p.store(w.with(PageFlag::kMovable));
  }
  p.lock.unlock(LockRank::kPage);
  return free_to;
}

bool MovablePages::try_clear_movable(Pfn head, OwnerId owner) {
  Page& p = page(head);
  p.lock.lock(LockRank::kPage);
  const PageWord w = p.load();
  const bool is_owners = w.state() == PageState::kAllocated && p.owner() == owner;
  if (is_owners) p.store(w.without(PageFlag::kMovable));
  p.lock.unlock(LockRank::kPage);
  return is_owners;
}

bool MovablePages::try_release(Pfn head, OwnerId owner) {
  Page& p = page(head);
  p.lock.lock(LockRank::kPage);
  const PageWord w = p.load();
  const bool is_owners = w.state() == PageState::kAllocated && p.owner() == owner;
  if (is_owners) {
    p.owner_id.store(0, std::memory_order_relaxed);
    p.store(w.without(PageFlag::kMovable));
  }
  p.lock.unlock(LockRank::kPage);
  if (is_owners) put(head);
  return is_owners;
}

Pfn MovablePages::try_take_target(PageWord like, Targets targets) {
  const FrameRequest request{like.order(), MigrateType::kMovable, like.owner(), Charge::kOrdinary};
  const Zone::Blocks which =
      targets == Targets::kPartialBlocks ? Zone::Blocks::kPartial : Zone::Blocks::kAny;
  for (;;) {
    {
      const Guard guard(core_.lock());
      // Blocks of pages that stay come last: what can move does them no harm, but wins nothing.
      for (const MigrateType type :
           {MigrateType::kReserve, MigrateType::kMovable, MigrateType::kUnmovable}) {
        const Pfn head = core_.zone().try_take(type, request.order, which);
        if (head.is_none()) continue;
        core_.mark_allocated(head, request);
        counters().add(Event::compact_free_scanned, request.order.pages().value());
        return head;
      }
    }
    if (targets != Targets::kMayGrow || !core_.try_grow(request)) return Pfn::none();
  }
}

bool MovablePages::can_move(Pfn head, Callers callers) const {
  const Page& p = page(head);
  const PageWord w = p.load();
  return w.has(PageFlag::kMovable) && !w.has(PageFlag::kIsolated) &&
         owners_.may_call(p.owner(), callers);
}

}  // namespace buoy::frames
