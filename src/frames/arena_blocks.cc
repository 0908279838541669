// The arena's pageblocks as compaction and contiguous claims see them: what is in one, keeping
// others from allocating there meanwhile, and taking an exact range of it.

#include <algorithm>

#include "frames/arena.h"

namespace buoy::frames {
namespace {
constexpr PageCount kBlockPages = PageCount(kPagesPerBlock);

// The largest naturally aligned run that starts at a frame and has at most `most` frames.
Order largest_piece(Pfn at, std::uint32_t most) {
  const std::uint32_t in_block = at.value() % static_cast<std::uint32_t>(kPagesPerBlock);
  unsigned o = in_block == 0 ? kMaxOrder : static_cast<unsigned>(__builtin_ctz(in_block));
  while ((1U << o) > most) --o;
  return Order(o);
}
}  // namespace

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

void Arena::isolate_locked(std::uint32_t block) {
  Pageblock& b = blocks_[block];
  b.type_before = b.type;
  zone_.set_type(block, MigrateType::kIsolate);
  b.is_isolated.store(true, std::memory_order_relaxed);
}

bool Arena::try_isolate_block(std::uint32_t block) {
  const Guard guard(lock_);
  if (availability_locked(block) != Availability::kPresent) return false;
  isolate_locked(block);
  return true;
}

bool Arena::try_isolate_blocks(std::uint32_t begin, std::uint32_t end, std::uint32_t* absent) {
  const Guard guard(lock_);
  *absent = 0;
  for (std::uint32_t b = begin; b < end; ++b)
    if (availability_locked(b) == Availability::kBusy) return false;
  for (std::uint32_t b = begin; b < end; ++b) {
    if (blocks_[b].state == BlockState::kPresent) {
      isolate_locked(b);
      continue;
    }
    blocks_[b].state = BlockState::kArriving;
    ++*absent;
  }
  if (end > block_span_.load(std::memory_order_relaxed))
    block_span_.store(end, std::memory_order_release);
  return true;
}

Arena::Availability Arena::availability_locked(std::uint32_t block) const {
  const Pageblock& b = blocks_[block];
  if (b.state == BlockState::kAbsent) return Availability::kAbsent;
  if (b.state != BlockState::kPresent || b.type == MigrateType::kIsolate)
    return Availability::kBusy;
  return Availability::kPresent;
}

Arena::Availability Arena::availability_of(std::uint32_t block) {
  // A block that was never taken has no metadata yet, and none is made by asking.
  if (block >= block_span()) return Availability::kAbsent;
  const Guard guard(lock_);
  return availability_locked(block);
}

bool Arena::try_charge_block(PageCount* charged, PageCount* own) {
  *own = std::min(*charged, kBlockPages);
  if (*own < kBlockPages && !budget_.try_charge(kBlockPages - *own)) return false;
  *charged -= *own;
  taken_blocks_.fetch_add(1, std::memory_order_relaxed);
  return true;
}

bool Arena::try_bring_in_isolated(std::uint32_t begin, std::uint32_t end, PageCount* charged) {
  PageCount own;
  if (!try_charge_block(charged, &own)) return false;
  const Guard guard(lock_);
  for (std::uint32_t b = begin; b < end; ++b) {
    if (blocks_[b].state != BlockState::kArriving) continue;
    count_arrival_locked(b);
    zone_.add_block(b, type_of_new_block(b, MigrateType::kUnmovable));
    isolate_locked(b);
    return true;
  }
  BUOY_CHECK(false && "no block of the range is missing");
  return false;
}

bool Arena::try_grow_by(MigrateType type, PageCount* charged) {
  PageCount own;
  if (!try_charge_block(charged, &own)) return false;
  const Guard guard(lock_);
  std::uint32_t block = 0;
  if (!pick_absent_locked(type, &block)) {
    taken_blocks_.fetch_sub(1, std::memory_order_relaxed);
    budget_.uncharge(kBlockPages - own);
    *charged += own;
    return false;
  }
  count_arrival_locked(block);
  zone_.add_block(block, type_of_new_block(block, type));
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

void Arena::end_isolation_for_locked(std::uint32_t block, MigrateType used_for) {
  const Pageblock& b = blocks_[block];
  // A block turns where it is nearly empty otherwise, or has one run: pages of the other type that
  // are left in it keep it what it was.
  const Pfn first(block * static_cast<std::uint32_t>(kPagesPerBlock));
  const bool turns =
      page(first).load().order() == Order(kMaxOrder) || b.free_frames >= kPagesPerBlock / 2;
  end_isolation_locked(block, turns ? used_for : b.type_before);
}

void Arena::end_isolation(std::uint32_t block, MigrateType used_for) {
  const Guard guard(lock_);
  end_isolation_for_locked(block, used_for);
}

void Arena::end_isolation_of(std::uint32_t begin, std::uint32_t end) {
  const Guard guard(lock_);
  for (std::uint32_t b = begin; b < end; ++b) {
    if (blocks_[b].state == BlockState::kPresent) {
      end_isolation_locked(b, blocks_[b].type_before);
      continue;
    }
    BUOY_CHECK(blocks_[b].state == BlockState::kArriving);
    blocks_[b].state = BlockState::kAbsent;
    lowest_absent_ = std::min(lowest_absent_, b);
  }
}

void Arena::end_isolation_of(std::uint32_t begin, std::uint32_t end, MigrateType used_for) {
  const Guard guard(lock_);
  for (std::uint32_t b = begin; b < end; ++b) end_isolation_for_locked(b, used_for);
}

bool Arena::is_isolated_range_free(Pfn first, PageCount count) {
  const Guard guard(lock_);
  return is_isolated_range_free_locked(first, count);
}

bool Arena::is_isolated_range_free_locked(Pfn first, PageCount count) {
  bool all = true;
  for_each_part(first, count, [&](std::uint32_t block, std::uint32_t in_block, std::uint32_t n) {
    lock_.assert_held();
    all = all && zone_.is_range_free(block, in_block, n);
  });
  return all;
}

bool Arena::try_claim_isolated(Pfn first, PageCount count, const FrameRequest& request) {
  const Guard guard(lock_);
  if (!is_isolated_range_free_locked(first, count)) return false;
  for_each_part(first, count, [&](std::uint32_t block, std::uint32_t in_block, std::uint32_t n) {
    lock_.assert_held();
    zone_.take_range(block, in_block, n);
    mark_pieces_locked(Pfn(block * static_cast<std::uint32_t>(kPagesPerBlock) + in_block), n,
                       request);
  });
  return true;
}

// Tiles a range within a block with aligned runs, so that the block can still be parsed from its
// first frame.
void Arena::mark_pieces_locked(Pfn first, std::uint32_t count, const FrameRequest& request) {
  for (std::uint32_t done = 0; done < count;) {
    FrameRequest piece = request;
    const Pfn at = first + PageCount(done);
    piece.order = largest_piece(at, count - done);
    mark_allocated(at, piece);
    done += static_cast<std::uint32_t>(piece.order.pages().value());
  }
}

void Arena::shorten(Pfn head, PageCount count, const FrameRequest& request) {
  const PageCount all = page(head).load().order().pages();
  if (count == all) return;
  const Guard guard(lock_);
  mark_pieces_locked(head, static_cast<std::uint32_t>(count.value()), request);
  for (PageCount at = count; at < all;) {
    const Pfn piece = head + at;
    const Order order = largest_piece(piece, static_cast<std::uint32_t>((all - at).value()));
    zone_.give(piece, order);
    at += order.pages();
  }
}

}  // namespace buoy::frames
