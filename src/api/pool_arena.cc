// What a pool gives out of its arena: contiguous memory, pages of movable owners, compaction; and
// the balloon: memory that goes back to the system and comes again as the budget says.

#include <algorithm>
#include <cerrno>

#include "api/pool.h"
#include "base/signals.h"

namespace buoy {

namespace {
// Each time the budget had room and somebody else was quicker, or more turned out to be needed.
constexpr unsigned kBudgetTries = 8;
// What the last steps of a shrink may need beyond what is to go.
constexpr PageCount kBalloonSlack = PageCount(32);
}  // namespace

void Pool::compact() {
  const SignalBlock signals;
  const GatePass pass(context_.gate);
  (void)swap_->compact();
  (void)arena_->compactor().compact(frames::CompactionEffort::thorough(frames::Callers::kUser));
}

frames::ContiguousResult Pool::allocate_run(PageCount count, frames::Area area) {
  frames::ContiguousRequest request;
  request.count = count;
  request.area = area;
  Precharge precharge(context_.budget);
  for (unsigned tries = 1;; ++tries) {
    request.charged = precharge.held();
    const frames::ContiguousResult result = arena_->contiguous().try_allocate(request);
    precharge.consume(result.consumed);
    if (result.refusal != frames::Refusal::kBudget || tries == kBudgetTries) return result;
    if (result.short_of > precharge.held() &&
        !vm_.reclaimer().charge(precharge, result.short_of - precharge.held()))
      return result;
  }
}

void Pool::note_blocked(const frames::ContiguousResult& result) {
  BlockedBy by = BlockedBy::kPlace;
  std::uintptr_t at = 0;
  if (result.refusal == frames::Refusal::kBudget) {
    by = BlockedBy::kBudget;
    context_.counters.add(Event::cma_fail_budget);
  } else if (result.refusal == frames::Refusal::kInTheWay && !result.in_the_way.is_none()) {
    at = reinterpret_cast<std::uintptr_t>(arena_->pointer(result.in_the_way));
    switch (arena_->page(result.in_the_way).load().owner()) {
      case frames::FrameOwner::kZpool:
        by = BlockedBy::kCompressed;
        break;
      case frames::FrameOwner::kContiguous:
        by = BlockedBy::kContiguous;
        break;
      default:
        by = BlockedBy::kDriver;
        break;
    }
    context_.counters.add(Event::cma_fail_pinned);
  }
  blocked_by_.store(by, std::memory_order_relaxed);
  blocked_at_.store(at, std::memory_order_relaxed);
  context_.counters.add(Event::cma_alloc_fail);
}

Result<void*> Pool::allocate_contiguous(ByteSize length, frames::Area area) {
  const PageCount count = PageCount::covering(length);
  if (count.is_zero() || count > context_.budget.limit()) return Error{EINVAL};
  const SignalBlock signals;
  const GatePass pass(context_.gate);
  frames::ContiguousResult result = allocate_run(count, area);
  if (result.head.is_none() && area == frames::Area::kReserve) {
    const frames::ContiguousResult elsewhere = allocate_run(count, frames::Area::kGeneral);
    // Who is in the way of the reserve tells more than what is short elsewhere.
    if (!elsewhere.head.is_none() || result.refusal == frames::Refusal::kNoPlace)
      result = elsewhere;
  }
  if (result.head.is_none()) {
    note_blocked(result);
    return Error{ENOMEM};
  }
  context_.counters.add(Event::cma_alloc_success);
  return static_cast<void*>(arena_->pointer(result.head));
}

Pfn Pool::frame_at(const void* address) const {
  if (reinterpret_cast<std::uintptr_t>(address) % kPageSize != 0 || !arena_->contains(address))
    return Pfn::none();
  const Pfn frame = arena_->pfn_of(address);
  return frame.block() < arena_->block_span() ? frame : Pfn::none();
}

Status Pool::free_contiguous(void* address) {
  const Pfn head = frame_at(address);
  if (head.is_none()) return Error{EINVAL};
  const SignalBlock signals;
  const GatePass pass(context_.gate);
  return arena_->contiguous().try_free(head) ? Status() : Error{EINVAL};
}

Result<Pfn> Pool::allocate_movable(Order order) {
  const SignalBlock signals;
  const GatePass pass(context_.gate);
  const frames::FrameRequest request{order, frames::MigrateType::kMovable,
                                     frames::FrameOwner::kDriver, Charge::kOrdinary,
                                     frames::Compaction::kSync};
  Precharge precharge(context_.budget);
  for (unsigned tries = 0; tries < kBudgetTries; ++tries) {
    const Pfn head = arena_->try_allocate(request);
    if (!head.is_none()) return head;
    if (!vm_.reclaimer().charge(precharge, PageCount(kPagesPerBlock))) break;
    PageCount charged = precharge.held();
    const bool grown = arena_->blocks().try_grow_by(frames::MigrateType::kMovable, &charged);
    precharge.consume(precharge.held() - charged);
    if (!grown) break;
  }
  return Error{ENOMEM};
}

// ---- The balloon ------------------------------------------------------------------------------

PageCount Pool::give_back_whole_blocks() {
  const SignalBlock signals;
  const GatePass pass(context_.gate);
  return arena_->compactor().compact(frames::CompactionEffort::thorough(frames::Callers::kUser));
}

Status Pool::resize(ByteSize budget) {
  if (budget < Budget::kMinimum) return Error{EINVAL};
  const PageCount target = PageCount::whole_in(budget);
  if (target >= context_.budget.limit()) {
    const Status grown = vm_.resize(target);
    const SignalBlock signals;
    const GatePass pass(context_.gate);
    (void)arena_->balloon().deflate(PageCount(UINT64_MAX), Charge::kOrdinary);
    return grown;
  }
  // What the arena has lost to half-empty blocks costs a copy; all else, a compression.
  if (context_.budget.used() > target) (void)give_back_whole_blocks();
  Status shrunk = vm_.resize(target);
  if (shrunk.code() != EAGAIN) return shrunk;
  {
    const SignalBlock signals;
    const GatePass pass(context_.gate);
    const PageCount used = context_.budget.used();
    (void)arena_->balloon().inflate(used - std::min(used, target) + kBalloonSlack);
  }
  shrunk = vm_.resize(target);
  if (!shrunk) {
    const SignalBlock signals;
    const GatePass pass(context_.gate);
    (void)arena_->balloon().deflate(PageCount(UINT64_MAX), Charge::kOrdinary);
  }
  return shrunk;
}

ByteSize Pool::reclaim(ByteSize bytes) {
  const PageCount goal = PageCount::covering(bytes);
  PageCount freed;
  if (!goal.is_zero()) freed += give_back_whole_blocks();
  const SignalBlock signals;
  while (freed < goal) {
    const GatePass pass(context_.gate);
    const PageCount n = vm_.reclaimer().reclaim(goal - freed, ReclaimKind::kProactive);
    if (n.is_zero()) break;
    freed += n;
  }
  return freed.bytes();
}

}  // namespace buoy
