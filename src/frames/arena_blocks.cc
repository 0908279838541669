// The arena's pageblocks as compaction and contiguous claims see them: what is in one, keeping
// others from allocating there meanwhile, and taking an exact range of it.

#include <algorithm>

#include "frames/arena.h"

namespace buoy::frames {

// ---------------------------------------------------------------- looking

Pfn Arena::head_of(Pfn frame) const {
  for (unsigned o = 0; o <= kMaxOrder; ++o) {
    const Pfn at(frame.value() & ~((1U << o) - 1));
    const PageWord w = page(at).load();
    if (w.state() != PageState::kTail && w.order().value() >= o) return at;
  }
  return frame;
}

bool Arena::can_move(Pfn head, Callers callers) const {
  const Page& p = page(head);
  const PageWord w = p.load();
  return w.has(PageFlag::kMovable) && !w.has(PageFlag::kIsolated) &&
         owners_.may_call(p.owner(), callers);
}

BlockPicture Arena::look_at(std::uint32_t block, Callers callers) const {
  BlockPicture picture;
  const std::uint32_t start = block * static_cast<std::uint32_t>(kPagesPerBlock);
  for (std::uint32_t f = 0; f < kPagesPerBlock;) {
    const Pfn head(start + f);
    const PageWord w = page(head).load();
    const auto run =
        w.state() == PageState::kTail ? 1U : static_cast<unsigned>(w.order().pages().value());
    if (w.state() != PageState::kAllocated)
      picture.free += run;
    else if (can_move(head, callers))
      picture.movable += run;
    else if (picture.in_the_way.is_none())
      picture.in_the_way = head;
    f += run;
  }
  return picture;
}

ArenaUse Arena::use() {
  const Guard guard(lock_);
  ArenaUse u;
  const std::uint64_t whole = std::uint64_t{zone_.whole_blocks()} * kPagesPerBlock;
  u.free = zone_.free_frames();
  u.partly_free = PageCount(u.free.value() - std::min(u.free.value(), whole));
  return u;
}

unsigned Arena::find_sparse(MigrateType type, unsigned least_free, std::uint8_t skip,
                            std::uint32_t* out, unsigned most) {
  const Guard guard(lock_);
  return zone_.find_sparse(type, least_free, skip, out, most);
}

void Arena::set_skip_hint(std::uint32_t block, std::uint8_t cycle) {
  const Guard guard(lock_);
  blocks_[block].skip_hint = cycle;
}

// ---------------------------------------------------------------- emptying

bool Arena::try_isolate_block(std::uint32_t block) {
  const Guard guard(lock_);
  Pageblock& b = blocks_[block];
  if (b.state != BlockState::kPresent || b.type == MigrateType::kIsolate) return false;
  b.type_before = b.type;
  zone_.set_type(block, MigrateType::kIsolate);
  b.is_isolated.store(true, std::memory_order_relaxed);
  return true;
}

void Arena::end_isolation_locked(std::uint32_t block, MigrateType type) {
  Pageblock& b = blocks_[block];
  BUOY_CHECK(b.type == MigrateType::kIsolate);
  b.is_isolated.store(false, std::memory_order_relaxed);
  zone_.set_type(block, type_of_new_block(block, type));
}

void Arena::end_isolation(std::uint32_t block) {
  const Guard guard(lock_);
  end_isolation_locked(block, blocks_[block].type_before);
}

void Arena::end_isolation(std::uint32_t block, MigrateType used_for) {
  const Guard guard(lock_);
  const Pageblock& b = blocks_[block];
  // A block turns where it is nearly empty otherwise, or has one run: pages of the other type that
  // are left in it keep it what it was.
  const bool one_run =
      page(Pfn(block * static_cast<std::uint32_t>(kPagesPerBlock))).load().order() ==
      Order(kMaxOrder);
  const bool turns = one_run || b.free_frames >= kPagesPerBlock / 2;
  end_isolation_locked(block, turns ? used_for : b.type_before);
}

bool Arena::is_isolated_range_free(Pfn first, PageCount count) {
  const Guard guard(lock_);
  return is_isolated_range_free_locked(first, count);
}

bool Arena::is_isolated_range_free_locked(Pfn first, PageCount count) {
  bool all = true;
  for_each_part(first, count, [&](std::uint32_t block, std::uint32_t in_block, std::uint32_t n) {
    all = all && zone_.is_range_free(block, in_block, n);
  });
  return all;
}

bool Arena::try_claim_isolated(Pfn first, PageCount count, const FrameRequest& request) {
  const Guard guard(lock_);
  if (!is_isolated_range_free_locked(first, count)) return false;
  for_each_part(first, count, [&](std::uint32_t block, std::uint32_t in_block, std::uint32_t n) {
    zone_.take_range(block, in_block, n);
    // Tiled with aligned runs, so that the block can still be parsed from its first frame.
    for (std::uint32_t f = in_block; f < in_block + n;) {
      unsigned o = f == 0 ? kMaxOrder : static_cast<unsigned>(__builtin_ctz(f));
      while (f + (1U << o) > in_block + n) --o;
      FrameRequest piece = request;
      piece.order = Order(o);
      mark_allocated(Pfn(block * static_cast<std::uint32_t>(kPagesPerBlock) + f), piece);
      f += 1U << o;
    }
  });
  return true;
}

}  // namespace buoy::frames
