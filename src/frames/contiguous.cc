#include "frames/contiguous.h"

#include <sys/mman.h>

#include <algorithm>

#include "base/check.h"
#include "base/sys.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

namespace buoy::frames {
namespace {
constexpr auto kBlockFrames = static_cast<std::uint32_t>(kPagesPerBlock);
// Prices, in moves of one frame (a microsecond or so): a block that must be taken costs 2 MiB of
// zeroing, and where the budget is short, 512 pages to reclaim.
constexpr std::uint64_t kFreshBlockPrice = 256;
constexpr std::uint64_t kDearBlockPrice = 4096;
// The first piece of a range that is in use says so, and how long it is.
constexpr std::uint64_t kRangeMark = std::uint64_t{1} << 63;

FrameRequest pieces_of_range() {
  return {Order(0), MigrateType::kUnmovable, FrameOwner::kContiguous, Charge::kOrdinary,
          Compaction::kSync};
}
unsigned order_covering(PageCount n) {
  unsigned o = 0;
  while ((std::uint64_t{1} << o) < n.value()) ++o;
  return o;
}
}  // namespace

Pfn ContiguousRanges::Obstacles::find(Pfn first, PageCount n) const {
  for (unsigned i = 0; i < count; ++i)
    if (pages[i] >= first && pages[i] < first + n) return pages[i];
  return Pfn::none();
}

// ---------------------------------------------------------------- choosing a window

ContiguousRanges::Price ContiguousRanges::look_at(Pfn first, PageCount n, Callers callers,
                                                  const Obstacles& obstacles) const {
  Price price;
  price.in_the_way = obstacles.find(first, n);
  if (!price.in_the_way.is_none()) return price;
  switch (blocks_.availability_of(first.block())) {
    case Pageblocks::Availability::kBusy:
      price.in_the_way = first;
      return price;
    case Pageblocks::Availability::kAbsent:
      price.absent = n.value();
      return price;
    case Pageblocks::Availability::kPresent:
      break;
  }
  const auto end = static_cast<std::uint32_t>(first.value() + n.value());
  for (std::uint32_t f = blocks_.head_of(first).value(); f < end;) {
    const Pfn head(f);
    const PageWord w = blocks_.page(head).load();
    const auto run =
        w.state() == PageState::kTail ? 1U : static_cast<std::uint32_t>(w.order().pages().value());
    if (w.state() == PageState::kAllocated) {
      if (!blocks_.can_move(head, callers)) {
        price.in_the_way = head;
        return price;
      }
      price.moves += run;
    }
    f += run;
  }
  return price;
}

void ContiguousRanges::reckon(Price* price, PageCount range, PageCount free) const {
  const auto blocks_for = [](std::uint64_t frames) {
    return (frames + kPagesPerBlock - 1) / kPagesPerBlock;
  };
  const std::uint64_t present = range.value() - std::min(range.value(), price->absent);
  const std::uint64_t free_inside = present - std::min(present, price->moves);
  const std::uint64_t elsewhere = free.value() - std::min(free.value(), free_inside);
  const std::uint64_t homeless = price->moves - std::min(price->moves, elsewhere);
  price->blocks = blocks_for(price->absent) + blocks_for(homeless);
  const bool is_ample = blocks_.budget().free() > blocks_.budget().high_watermark() +
                                                      PageCount(price->blocks * kPagesPerBlock);
  price->cost = price->moves + price->blocks * (is_ample ? kFreshBlockPrice : kDearBlockPrice);
}

// Windows that begin at a block, over as many as it takes.
ContiguousRanges::Window ContiguousRanges::choose(const ContiguousRequest& request,
                                                  const Obstacles& obstacles,
                                                  Pfn* in_the_way) const {
  const Pageblocks::BlockRange area = blocks_.blocks_of(request.area);
  const auto full = static_cast<std::uint32_t>((request.count.value() - 1) / kPagesPerBlock);
  const PageCount rest(request.count.value() - std::uint64_t{full} * kPagesPerBlock);
  const PageCount free = blocks_.use().free;
  const auto look = [&](std::uint32_t block, PageCount n) {
    return look_at(Pfn(block * kBlockFrames), n, request.callers, obstacles);
  };
  Window best;
  // A window slides over the area: `sum` is for the full blocks [start, next).
  Price sum;
  std::uint32_t start = area.begin;
  std::uint32_t next = area.begin;
  while (start + full < area.end && best.price.cost != 0) {
    bool stuck = false;
    for (; next < start + full && !stuck; ++next) {
      const Price p = look(next, PageCount(kPagesPerBlock));
      stuck = !p.in_the_way.is_none();
      if (stuck) *in_the_way = p.in_the_way;
      sum.moves += p.moves;
      sum.absent += p.absent;
    }
    if (stuck) {
      start = next;
      sum = {};
      continue;
    }
    Price all = look(start + full, rest);
    if (all.in_the_way.is_none()) {
      all.moves += sum.moves;
      all.absent += sum.absent;
      reckon(&all, request.count, free);
      if (all.cost < best.price.cost) best = {Pfn(start * kBlockFrames), all};
    } else {
      *in_the_way = all.in_the_way;
    }
    // Beyond what was ever taken every place is as good as the next.
    if (start > blocks_.block_span() && best.is_found()) break;
    if (full > 0) {
      const Price first = look(start, PageCount(kPagesPerBlock));
      sum.moves -= std::min(sum.moves, first.moves);
      sum.absent -= std::min(sum.absent, first.absent);
    } else {
      next = start + 1;
    }
    ++start;
  }
  return best;
}

// Windows within a block, at multiples of their size rounded up to a power of two.
ContiguousRanges::Window ContiguousRanges::choose_within_blocks(const ContiguousRequest& request,
                                                                const Obstacles& obstacles,
                                                                Pfn* in_the_way) const {
  const Pageblocks::BlockRange area = blocks_.blocks_of(request.area);
  const std::uint32_t step = 1U << order_covering(request.count);
  const PageCount free = blocks_.use().free;
  Window best;
  for (std::uint32_t b = area.begin; b < area.end && best.price.cost != 0; ++b) {
    for (std::uint32_t w = 0; w < kBlockFrames; w += step) {
      const Pfn first(b * kBlockFrames + w);
      Price p = look_at(first, request.count, request.callers, obstacles);
      if (!p.in_the_way.is_none()) {
        *in_the_way = p.in_the_way;
        continue;
      }
      reckon(&p, request.count, free);
      if (p.cost < best.price.cost) best = {first, p};
    }
    if (b > blocks_.block_span() && best.is_found()) break;
  }
  return best;
}

// ---------------------------------------------------------------- claiming it

ContiguousResult ContiguousRanges::claim(const Window& window, const ContiguousRequest& request) {
  ContiguousResult result;
  const Pfn first = window.first;
  // What the caller has to charge is said before anything is touched.
  const PageCount needed(window.price.blocks * kPagesPerBlock);
  const PageCount room =
      blocks_.budget().free() - std::min(blocks_.budget().free(), blocks_.budget().reserve());
  if (needed > request.charged + room) {
    result.refusal = Refusal::kBudget;
    result.short_of = needed;
    return result;
  }
  const std::uint32_t begin = first.block();
  const std::uint32_t end = (first + request.count + PageCount(kPagesPerBlock - 1)).block();
  PageCount charged = request.charged;
  const auto settle = [&] { result.consumed = request.charged - charged; };
  // The blocks are ours from here on; those that are absent are paid for before they come.
  std::uint32_t missing = 0;
  if (!blocks_.try_isolate_blocks(begin, end, &missing)) {
    result.refusal = Refusal::kInTheWay;
    result.in_the_way = first;
    return result;
  }
  const auto give_up = [&](Refusal why) {
    blocks_.end_isolation_of(begin, end);
    (void)blocks_.trim(1);
    result.refusal = why;
    settle();
    return result;
  };
  for (std::uint32_t i = 0; i < missing; ++i) {
    if (blocks_.try_bring_in_isolated(begin, end, &charged)) continue;
    result.short_of = needed;  // others were quicker with the budget's room
    return give_up(Refusal::kBudget);
  }
  // Where the pages go that are there now: whole new blocks, as many as the others lack room.
  MoveRequest move{request.mode, request.callers, Targets::kPresentBlocks};
  for (;;) {
    const Compactor::Evacuation e = compactor_.evacuate(first, request.count, move);
    if (e.is_done && blocks_.try_claim_isolated(first, request.count, pieces_of_range())) break;
    if (e.lacks_targets) {
      if (blocks_.try_grow_by(MigrateType::kMovable, &charged)) continue;
      result.short_of = needed + PageCount(kPagesPerBlock);
      return give_up(Refusal::kBudget);
    }
    result.in_the_way = e.in_the_way.is_none() ? first : e.in_the_way;
    return give_up(Refusal::kInTheWay);
  }
  blocks_.end_isolation_of(begin, end, MigrateType::kUnmovable);
  result.head = first;
  settle();
  return result;
}

// Less than half a block, anywhere: the allocator's own business.
ContiguousResult ContiguousRanges::allocate_small(const ContiguousRequest& request) {
  ContiguousResult result;
  PageCount charged = request.charged;
  FrameRequest run = pieces_of_range();
  run.order = Order(order_covering(request.count));
  result.head = allocator_.try_allocate(run);
  if (result.head.is_none() && charged >= PageCount(kPagesPerBlock) &&
      blocks_.try_grow_by(MigrateType::kUnmovable, &charged))
    result.head = allocator_.try_allocate(run);
  result.consumed = request.charged - charged;
  if (result.head.is_none()) {
    // The watermark keeps back a few more than one block has.
    result.refusal = charged < PageCount(kPagesPerBlock) && result.consumed.is_zero()
                         ? Refusal::kBudget
                         : Refusal::kInTheWay;
    result.short_of = PageCount(kPagesPerBlock);
    return result;
  }
  blocks_.shorten(result.head, request.count, run);
  return result;
}

ContiguousResult ContiguousRanges::try_allocate(const ContiguousRequest& request) {
  BUOY_CHECK(!request.count.is_zero());
  const bool is_small = request.count.value() <= kPagesPerBlock / 2;
  ContiguousResult result;
  if (is_small && request.area == Area::kGeneral) {
    result = allocate_small(request);
  } else {
    Obstacles obstacles;
    ContiguousRequest rest = request;
    PageCount consumed;
    do {
      Pfn in_the_way = Pfn::none();
      const Window window = is_small ? choose_within_blocks(rest, obstacles, &in_the_way)
                                     : choose(rest, obstacles, &in_the_way);
      if (!window.is_found()) {
        result.refusal = in_the_way.is_none() ? Refusal::kNoPlace : Refusal::kInTheWay;
        result.in_the_way = in_the_way;
        break;
      }
      result = claim(window, rest);
      consumed += result.consumed;
      rest.charged -= result.consumed;
      if (result.refusal == Refusal::kInTheWay) obstacles.add(result.in_the_way);
    } while (result.refusal == Refusal::kInTheWay && !obstacles.is_full());
    result.consumed = consumed;
  }
  if (!result.head.is_none()) hand_out(result.head, request.count);
  return result;
}

void ContiguousRanges::hand_out(Pfn head, PageCount count) {
  frames_.fetch_add(count.value(), std::memory_order_relaxed);
  blocks_.page(head).owner_word.store(kRangeMark | count.value(), std::memory_order_release);
  if (count.value() < kPagesPerBlock) return;
  // Hints: where they are refused, the memory comes page by page, when it is touched.
  const ByteSize whole = count.value() / kPagesPerBlock * kBlockSize;
  (void)sys::advise(blocks_.pointer(head), whole, MADV_POPULATE_WRITE);
  (void)sys::advise(blocks_.pointer(head), whole, MADV_COLLAPSE);
}

bool ContiguousRanges::try_free(Pfn head) {
  Page& page = blocks_.page(head);
  const PageWord w = page.load();
  if (w.state() != PageState::kAllocated || w.owner() != FrameOwner::kContiguous) return false;
  // Of two who free the same range at once, one finds the mark.
  std::uint64_t mark = page.owner_word.load(std::memory_order_acquire);
  if ((mark & kRangeMark) == 0 ||
      !page.owner_word.compare_exchange_strong(mark, 0, std::memory_order_acq_rel))
    return false;
  const std::uint64_t count = mark & ~kRangeMark;
  for (std::uint64_t done = 0; done < count;) {
    const Pfn piece = head + PageCount(done);
    done += blocks_.page(piece).load().order().pages().value();
    blocks_.release(piece);
  }
  frames_.fetch_sub(count, std::memory_order_relaxed);
  return true;
}

}  // namespace buoy::frames
