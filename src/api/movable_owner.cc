#include "api/movable_owner.h"

#include <cerrno>

#include "base/signals.h"
#include "frames/place.h"

namespace buoy {

using frames::MigrateMode;
using frames::MigrateOutcome;

namespace {
int mode_of(MigrateMode mode) {
  return mode == MigrateMode::kSync ? BUOY_MIGRATE_SYNC : BUOY_MIGRATE_ASYNC;
}
Order order_covering(PageCount n) {
  unsigned o = 0;
  while ((std::uint64_t{1} << o) < n.value()) ++o;
  return Order(o);
}
}  // namespace

Result<MovableOwner*> MovableOwner::create(Pool& pool, const buoy_movable_ops& ops) {
  if (ops.struct_size < sizeof ops || ops.isolate == nullptr || ops.migrate == nullptr ||
      ops.put_back == nullptr || (ops.flags & ~unsigned{BUOY_MOVABLE_ANY_THREAD}) != 0)
    return Error{EINVAL};
  auto owner = frames::place<MovableOwner>(pool, ops);
  if (!owner) return owner;
  const auto callers = (ops.flags & BUOY_MOVABLE_ANY_THREAD) != 0 ? frames::Callers::kEngine
                                                                  : frames::Callers::kUser;
  auto id = pool.arena().owners().add(**owner, callers);
  if (!id) {
    frames::displace(*owner);
    return id.error();
  }
  (*owner)->id_ = *id;
  pool.count_owner(1);
  return owner;
}

Status MovableOwner::destroy(MovableOwner* owner) {
  if (owner->pages_.load(std::memory_order_relaxed) != 0) return Error{EBUSY};
  Pool& pool = owner->pool_;
  pool.arena().owners().remove(owner->id_);
  frames::displace(owner);
  pool.count_owner(-1);
  return {};
}

Pfn MovableOwner::find(const void* page) const {
  const Pfn frame = pool_.frame_at(page);
  if (frame.is_none()) return frame;
  const frames::Page& p = pool_.arena().page(frame);
  const frames::PageWord w = p.load();
  const bool ours = w.state() == frames::PageState::kAllocated &&
                    w.owner() == frames::FrameOwner::kDriver && p.owner() == id_;
  return ours ? frame : Pfn::none();
}

void* MovableOwner::data_of(Pfn page) const {
  return reinterpret_cast<void*>(
      pool_.arena().page(page).owner_word.load(std::memory_order_relaxed));
}

Result<void*> MovableOwner::allocate(ByteSize length) {
  if (length == 0 || length > kBlockSize) return Error{EINVAL};
  auto head = pool_.allocate_movable(order_covering(PageCount::covering(length)));
  if (!head) return head.error();
  pages_.fetch_add(1, std::memory_order_relaxed);
  // Not movable yet, so nobody but us looks at it.
  pool_.arena().page(*head).owner_id.store(id_, std::memory_order_relaxed);
  return static_cast<void*>(pool_.arena().pointer(*head));
}

Status MovableOwner::set_movable(void* page, void* data) {
  const Pfn head = find(page);
  if (head.is_none()) return Error{EINVAL};
  const SignalBlock signals;
  const GatePass pass(pool_.context().gate);
  // Taken back a moment ago, while it was isolated: who isolated it is about to let go.
  while (!pool_.arena().try_set_movable(head, id_, reinterpret_cast<std::uint64_t>(data)))
    sys::yield();
  return {};
}

Status MovableOwner::clear_movable(void* page) {
  const SignalBlock signals;
  const GatePass pass(pool_.context().gate);
  const Pfn head = find(page);
  if (head.is_none() || !pool_.arena().try_clear_movable(head, id_)) return Error{EINVAL};
  return {};
}

Status MovableOwner::free(void* page) {
  const SignalBlock signals;
  const GatePass pass(pool_.context().gate);
  const Pfn head = find(page);
  if (head.is_none() || !pool_.arena().try_release(head, id_)) return Error{EINVAL};
  pages_.fetch_sub(1, std::memory_order_relaxed);
  return {};
}

// ---- What the core asks ------------------------------------------------------------------------

bool MovableOwner::isolate(Pfn page, MigrateMode mode) {
  return ops_.isolate(ops_.context, pool_.arena().pointer(page), data_of(page), mode_of(mode)) != 0;
}

MigrateOutcome MovableOwner::migrate(Pfn from, Pfn to, MigrateMode mode) {
  const frames::Arena& arena = pool_.arena();
  switch (ops_.migrate(ops_.context, arena.pointer(to), arena.pointer(from), data_of(from),
                       mode_of(mode))) {
    case BUOY_MIGRATE_DONE:
      return MigrateOutcome::kDone;
    case BUOY_MIGRATE_AGAIN:
      return MigrateOutcome::kAgain;
    default:
      return MigrateOutcome::kFailed;
  }
}

void MovableOwner::put_back(Pfn page) {
  ops_.put_back(ops_.context, pool_.arena().pointer(page), data_of(page));
}

}  // namespace buoy
