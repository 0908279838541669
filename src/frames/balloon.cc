#include "frames/balloon.h"

#include <sys/mman.h>

#include "base/check.h"
#include "base/counters.h"
#include "base/sys.h"

namespace buoy::frames {
namespace {
// Free frames that the balloon leaves: what squeezing needs before it frees anything.
constexpr PageCount kLeft = PageCount(64);
}  // namespace

Status Balloon::create() {
  auto id = movable_.owners().add(*this, Callers::kEngine);
  if (!id) return id.error();
  id_ = *id;
  return {};
}

void Balloon::link_locked(Pfn head) {
  Page& p = blocks_.page(head);
  p.owner_word.store(1, std::memory_order_relaxed);
  p.prev = 0;
  p.next = head_;
  if (head_ != 0) blocks_.page(Pfn(head_ - 1)).prev = head.value() + 1;
  head_ = head.value() + 1;
}

void Balloon::unlink_locked(Pfn head) {
  Page& p = blocks_.page(head);
  p.owner_word.store(0, std::memory_order_relaxed);
  if (p.prev != 0)
    blocks_.page(Pfn(p.prev - 1)).next = p.next;
  else
    head_ = p.next;
  if (p.next != 0) blocks_.page(Pfn(p.next - 1)).prev = p.prev;
}

bool Balloon::try_discard(Pfn head) {
  const ByteSize bytes = blocks_.page(head).load().order().pages().bytes();
  return sys::advise(blocks_.pointer(head), bytes, MADV_DONTNEED) == 0;
}

PageCount Balloon::inflate(PageCount goal) {
  blocks_.drain_caches();
  PageCount given;
  for (unsigned o = kMaxOrder; o-- > 0 && given < goal;) {
    const PageWord like(PageState::kAllocated, Order(o), MigrateType::kMovable,
                        FrameOwner::kBalloon);
    const PageCount size = Order(o).pages();
    while (given < goal && blocks_.use().free > kLeft + size) {
      const Pfn head = movable_.try_take_target(like, Targets::kPartialBlocks);
      if (head.is_none()) break;
      if (!try_discard(head)) {  // locked in memory
        blocks_.release(head);
        return given;
      }
      {
        const Guard guard(lock_);
        link_locked(head);
      }
      pages_.fetch_add(size.value(), std::memory_order_relaxed);
      blocks_.budget().uncharge(size);
      const bool set = movable_.try_set_movable(head, id_, 1);
      BUOY_DCHECK(set);
      given += size;
      blocks_.counters().add(Event::balloon_inflate, size.value());
    }
  }
  return given;
}

PageCount Balloon::deflate(PageCount goal, Charge charge) {
  PageCount back;
  while (back < goal) {
    Pfn head = Pfn::none();
    PageCount size;
    {
      const Guard guard(lock_);
      if (head_ == 0) break;
      head = Pfn(head_ - 1);
      size = blocks_.page(head).load().order().pages();
      if (!blocks_.budget().try_charge(size, charge)) break;
      unlink_locked(head);
    }
    // From here on migrate() leaves it alone, and this waits for one that is under way.
    pages_.fetch_sub(size.value(), std::memory_order_relaxed);
    blocks_.release(head);
    back += size;
    blocks_.counters().add(Event::balloon_deflate, size.value());
  }
  return back;
}

MigrateOutcome Balloon::migrate(Pfn from, Pfn to, MigrateMode) {
  // The new place goes before the old one, which is charged already, may be used.
  if (!try_discard(to)) return MigrateOutcome::kFailed;
  const Guard guard(lock_);
  if (blocks_.page(from).owner_word.load(std::memory_order_relaxed) == 0)
    return MigrateOutcome::kFailed;  // being deflated
  unlink_locked(from);
  link_locked(to);
  blocks_.counters().add(Event::balloon_migrate, blocks_.page(to).load().order().pages().value());
  return MigrateOutcome::kDone;
}

void Balloon::validate() {
  const Guard guard(lock_);
  std::uint64_t found = 0;
  std::uint32_t prev = 0;
  for (std::uint32_t at = head_; at != 0; at = blocks_.page(Pfn(at - 1)).next) {
    const Page& p = blocks_.page(Pfn(at - 1));
    BUOY_CHECK(p.prev == prev && p.load().owner() == FrameOwner::kBalloon &&
               p.load().has(PageFlag::kMovable));
    found += p.load().order().pages().value();
    prev = at;
  }
  BUOY_CHECK(found == pages_.load(std::memory_order_relaxed));
}

}  // namespace buoy::frames
