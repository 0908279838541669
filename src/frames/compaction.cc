#include "frames/compaction.h"

#include <algorithm>

#include "base/counters.h"

namespace buoy::frames {
namespace {
// Blocks that a request for a run looks at, sparsest first, and windows that it tries to empty.
constexpr unsigned kBlocksLookedAt = 16;
constexpr unsigned kWindowsTried = 4;
// A block is isolated anew so often for pages that were busy or came back through a cache.
constexpr unsigned kAsyncPasses = 2;
constexpr unsigned kSyncPasses = 8;
// In the background: a share of the budget (1/64, 1.6 %) may lie in half-empty blocks, and never
// less than what one block of each type takes for being the one that is filled at the moment.
constexpr std::uint64_t kLostShare = 64;
constexpr PageCount kAlwaysLost = PageCount(kPagesPerBlock);
}  // namespace

// ---------------------------------------------------------------- emptying a range

Compactor::Evacuation Compactor::evacuate(Pfn first, PageCount count, const MoveRequest& request,
                                          PageCount most_moved) {
  Evacuation result;
  const auto end = static_cast<std::uint32_t>(first.value() + count.value());
  const unsigned passes = request.mode == MigrateMode::kSync ? kSyncPasses : kAsyncPasses;
  std::uint64_t scanned = 0;
  for (unsigned pass = 0; pass < passes && !result.is_done; ++pass) {
    if (pass > 0 && request.mode == MigrateMode::kSync) sys::yield();
    result.in_the_way = Pfn::none();
    result.lacks_targets = false;
    // What lies in caches goes back to its block, and stays there: the block is isolated.
    blocks_.drain_caches();
    bool hopeless = false;
    // The first frame may be a tail: its head moves.
    for (std::uint32_t f = blocks_.head_of(first).value(); f < end && !hopeless;) {
      const Pfn head(f);
      const PageWord word = blocks_.page(head).load();
      const auto size = static_cast<std::uint32_t>(word.order().pages().value());
      ++scanned;
      f += word.state() == PageState::kTail ? 1 : size;
      if (word.state() != PageState::kAllocated) continue;
      if (result.moved >= most_moved) {
        result.in_the_way = head;
        hopeless = true;
        break;
      }
      switch (migrator_.move(head, request)) {
        case MoveOutcome::kMoved:
          result.moved += word.order().pages();
          break;
        case MoveOutcome::kNoTarget:
          result.lacks_targets = true;
          [[fallthrough]];
        case MoveOutcome::kRefused:
          hopeless = true;
          [[fallthrough]];
        case MoveOutcome::kNotTaken:
        case MoveOutcome::kBusy:
          if (result.in_the_way.is_none()) result.in_the_way = head;
          // One that stays in spite of all makes the rest useless.
          if (!blocks_.page(head).load().has(PageFlag::kMovable)) hopeless = true;
          break;
      }
    }
    if (hopeless) break;
    blocks_.drain_caches();
    result.is_done = blocks_.is_isolated_range_free(first, count);
  }
  blocks_.counters().add(Event::compact_migrate_scanned, scanned);
  return result;
}

// ---------------------------------------------------------------- whole blocks

bool Compactor::pick_block(const CompactionEffort& effort, std::uint32_t* block) {
  const ArenaUse use = blocks_.use();
  const std::uint8_t skip = effort.heeds_hints ? cycle() : std::uint8_t{0};
  std::uint64_t best_free = 0;
  for (const MigrateType type :
       {MigrateType::kMovable, MigrateType::kUnmovable, MigrateType::kReserve}) {
    std::uint32_t found[kBlocksLookedAt];
    const unsigned n = blocks_.find_sparse(type, effort.least_free, skip, found, kBlocksLookedAt);
    for (unsigned i = 0; i < n; ++i) {
      const BlockPicture picture = blocks_.look_at(found[i], effort.callers);
      if (!picture.in_the_way.is_none()) {
        blocks_.set_skip_hint(found[i], cycle());
        continue;
      }
      // The others must have room for what it holds, whole blocks not counted.
      const std::uint64_t elsewhere =
          use.partly_free.value() - std::min<std::uint64_t>(use.partly_free.value(), picture.free);
      if (picture.free <= best_free || elsewhere < picture.movable) continue;
      best_free = picture.free;
      *block = found[i];
    }
  }
  return best_free != 0;
}

void Compactor::compact_block(std::uint32_t block, const CompactionEffort& effort,
                              PageCount* moved) {
  if (!blocks_.try_isolate_block(block)) return;  // somebody else's
  const MoveRequest request{effort.mode, effort.callers, Targets::kPartialBlocks};
  const Pfn first(block * static_cast<std::uint32_t>(kPagesPerBlock));
  const PageCount left = effort.most_moved - *moved;
  const Evacuation e = evacuate(first, PageCount(kPagesPerBlock), request, left);
  blocks_.end_isolation(block);
  *moved += e.moved;
  if (!e.is_done && *moved < effort.most_moved) blocks_.set_skip_hint(block, cycle());
}

PageCount Compactor::compact(const CompactionEffort& effort) {
  const PageCount before = blocks_.block_pages();
  blocks_.drain_caches();
  PageCount moved;
  if (!effort.heeds_hints) begin_new_cycle();
  CompactionEffort now = effort;
  now.heeds_hints = true;  // those of this cycle: no block is tried twice
  std::uint32_t block = 0;
  while (moved < effort.most_moved && pick_block(now, &block)) compact_block(block, now, &moved);
  blocks_.trim();
  const PageCount after = blocks_.block_pages();
  return after < before ? before - after : PageCount();
}

PageCount Compactor::lost_frames() { return blocks_.use().partly_free; }

PageCount Compactor::background_step(Pace pace) {
  const PageCount bearable =
      std::max(kAlwaysLost, PageCount(blocks_.budget().limit().value() / kLostShare));
  if (lost_frames() <= bearable || background_.is_deferred()) return {};
  blocks_.counters().add(Event::compact_daemon_wake);
  CompactionEffort effort;
  if (pace == Pace::kIdle) effort.least_free = 1;
  const std::uint64_t before = blocks_.counters().read(Event::pgmigrate_success);
  const PageCount freed = compact(effort);
  const bool moved = blocks_.counters().read(Event::pgmigrate_success) != before;
  if (moved || !freed.is_zero()) {
    background_.note_success();
  } else if (pace == Pace::kIdle) {
    background_.note_failure();
    begin_new_cycle();
  }
  return freed;
}

unsigned Compactor::fragmentation_score(Order order) {
  const ArenaStats s = blocks_.stats();
  std::uint64_t useless = 0;
  std::uint64_t all = 0;
  for (unsigned t = 0; t < kMigrateTypes; ++t) {
    for (unsigned o = 0; o <= kMaxOrder; ++o) {
      const std::uint64_t frames = s.free_runs[t][o] << o;
      all += frames;
      if (o < order.value()) useless += frames;
    }
  }
  all += s.cached.value();
  useless += s.cached.value();
  return all == 0 ? 0 : static_cast<unsigned>(useless * 100 / all);
}

// ---------------------------------------------------------------- runs, for who needs one now

// The window of the order that costs least to empty; to_move above the window's size: none can be.
Compactor::Window Compactor::best_window_of(std::uint32_t block, Order order,
                                            Callers callers) const {
  const auto size = static_cast<std::uint32_t>(order.pages().value());
  const std::uint32_t start = block * static_cast<std::uint32_t>(kPagesPerBlock);
  Window best{Pfn(start), order.pages(), size + 1};
  for (std::uint32_t w = 0; w < kPagesPerBlock; w += size) {
    unsigned to_move = 0;
    for (std::uint32_t f = w; f < w + size;) {
      const PageWord word = blocks_.page(Pfn(start + f)).load();
      const auto run = static_cast<std::uint32_t>(word.order().pages().value());
      if (word.state() == PageState::kTail) {
        // Of a run that began before the window: as large as a window, so nothing would be won.
        to_move = size + 1;
        break;
      }
      if (word.state() == PageState::kAllocated) {
        const bool goes = run < size && blocks_.can_move(Pfn(start + f), callers);
        to_move += goes ? run : size + 1;
        if (!goes) break;
      }
      f += run;
    }
    if (to_move < best.to_move) best = {Pfn(start + w), order.pages(), to_move};
  }
  return best;
}

bool Compactor::find_window(const FrameRequest& request, Callers callers, Window* window) {
  const std::uint8_t skip = cycle();
  bool found_any = false;
  const auto look = [&](MigrateType type, Order order, unsigned most_to_move) {
    std::uint32_t found[kBlocksLookedAt];
    const unsigned n = blocks_.find_sparse(type, 1, skip, found, kBlocksLookedAt);
    for (unsigned i = 0; i < n; ++i) {
      const Window best = best_window_of(found[i], order, callers);
      const bool can_be = best.to_move <= order.pages().value();
      if (!can_be && order == request.order) blocks_.set_skip_hint(found[i], skip);
      if (!can_be || best.to_move > most_to_move) continue;
      if (found_any && best.to_move >= window->to_move) continue;
      *window = best;
      found_any = true;
    }
    return found_any;
  };
  const auto size = static_cast<unsigned>(request.order.pages().value());
  if (request.type == MigrateType::kMovable) {
    (void)look(MigrateType::kReserve, request.order, size);
    (void)look(MigrateType::kMovable, request.order, size);
    return found_any || look(MigrateType::kUnmovable, request.order, size);
  }
  // What stays belongs among others that stay; next best is a block of its own, if that does not
  // cost too many copies; a place among pages that move comes last.
  constexpr unsigned kMostForABlock = kPagesPerBlock * 3 / 4;
  return look(MigrateType::kUnmovable, request.order, size) ||
         look(MigrateType::kMovable, Order(kMaxOrder), kMostForABlock) ||
         look(MigrateType::kMovable, request.order, size);
}

Pfn Compactor::make_run_at(const Window& window, const FrameRequest& request,
                           const MoveRequest& move) {
  const std::uint32_t block = window.first.block();
  if (!blocks_.try_isolate_block(block)) return Pfn::none();
  const Evacuation e = evacuate(window.first, window.size, move);
  const bool claimed =
      e.is_done && blocks_.try_claim_isolated(window.first, request.order.pages(), request);
  if (claimed) {
    blocks_.end_isolation(block, request.type);
    return window.first;
  }
  blocks_.end_isolation(block);
  blocks_.set_skip_hint(block, cycle());
  return Pfn::none();
}

Pfn Compactor::try_make_run(const FrameRequest& request) {
  Deferral& deferral = direct_[request.order.value()];
  const bool waits = request.compaction == Compaction::kSync;
  if (!waits && deferral.is_deferred()) return Pfn::none();
  const Callers callers = waits ? Callers::kUser : Callers::kEngine;
  const MoveRequest move{waits ? MigrateMode::kSync : MigrateMode::kAsync, callers,
                         Targets::kPartialBlocks};
  blocks_.counters().add(Event::compact_stall);
  blocks_.drain_caches();
  for (unsigned cycles = 0; cycles < (waits ? 2U : 1U); ++cycles) {
    Window window;
    for (unsigned i = 0; i < kWindowsTried && find_window(request, callers, &window); ++i) {
      const Pfn run = make_run_at(window, request, move);
      if (run.is_none()) continue;
      deferral.note_success();
      blocks_.counters().add(Event::compact_success);
      return run;
    }
    // What was in the way may have gone since it was noted.
    begin_new_cycle();
  }
  deferral.note_failure();
  blocks_.counters().add(Event::compact_fail);
  return Pfn::none();
}

}  // namespace buoy::frames
