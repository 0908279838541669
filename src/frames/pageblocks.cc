#include "frames/pageblocks.h"

#include <algorithm>

namespace buoy::frames {
namespace {
// The largest naturally aligned run that starts at a frame and has at most `most` frames.
Order largest_piece(Pfn at, std::uint32_t most) {
  const std::uint32_t in_block = at.value() % static_cast<std::uint32_t>(kPagesPerBlock);
  unsigned o = in_block == 0 ? kMaxOrder : static_cast<unsigned>(__builtin_ctz(in_block));
  while ((1U << o) > most) --o;
  return Order(o);
}

// body(block, first frame in block, frames) for each block's part of a range.
template <typename Body>
void for_each_part(Pfn first, PageCount count, Body body) {
  auto at = first.value();
  const auto end = static_cast<std::uint32_t>(at + count.value());
  while (at < end) {
    const std::uint32_t block = at / kPagesPerBlock;
    const std::uint32_t in_block = at % kPagesPerBlock;
    const std::uint32_t n =
        std::min(end - at, static_cast<std::uint32_t>(kPagesPerBlock) - in_block);
    body(block, in_block, n);
    at += n;
  }
}
}  // namespace

// ---------------------------------------------------------------- looking

Pfn Pageblocks::head_of(Pfn frame) const {
  for (unsigned o = 0; o <= kMaxOrder; ++o) {
    const Pfn at(frame.value() & ~((1U << o) - 1));
    const PageWord w = page(at).load();
    if (w.state() != PageState::kTail && w.order().value() >= o) return at;
  }
  return frame;
}

BlockPicture Pageblocks::look_at(std::uint32_t block, Callers callers) const {
  BlockPicture picture;
  const std::uint32_t start = block * static_cast<std::uint32_t>(kPagesPerBlock);
  for (std::uint32_t f = 0; f < kPagesPerBlock;) {
    const Pfn head(start + f);
    const PageWord w = page(head).load();
    const auto run =
        w.state() == PageState::kTail ? 1U : static_cast<unsigned>(w.order().pages().value());
    if (w.state() != PageState::kAllocated)
      picture.free += run;
    else if (pages_.can_move(head, callers))
      picture.movable += run;
    else if (picture.in_the_way.is_none())
      picture.in_the_way = head;
    f += run;
  }
  return picture;
}

ArenaUse Pageblocks::use() {
  const Guard guard(core_.lock());
  ArenaUse u;
  const std::uint64_t whole = std::uint64_t{core_.zone().whole_blocks()} * kPagesPerBlock;
  u.free = core_.zone().free_frames();
  u.partly_free = PageCount(u.free.value() - std::min(u.free.value(), whole));
  return u;
}

unsigned Pageblocks::find_sparse(MigrateType type, unsigned least_free, std::uint8_t skip,
                                 std::uint32_t* out, unsigned most) {
  const Guard guard(core_.lock());
  return core_.zone().find_sparse(type, least_free, skip, out, most);
}

PageCount Pageblocks::free_frames_of(std::uint32_t block) {
  const Guard guard(core_.lock());
  return PageCount(core_.block(block).free_frames);
}

void Pageblocks::set_skip_hint(std::uint32_t block, std::uint8_t cycle) {
  const Guard guard(core_.lock());
  core_.block(block).skip_hint = cycle;
}

// ---------------------------------------------------------------- emptying

void Pageblocks::isolate_locked(std::uint32_t block) {
  Pageblock& b = core_.block(block);
  b.type_before = b.type;
  core_.zone().set_type(block, MigrateType::kIsolate);
  b.is_isolated.store(true, std::memory_order_relaxed);
}

bool Pageblocks::try_isolate_block(std::uint32_t block) {
  const Guard guard(core_.lock());
  if (availability_locked(block) != Availability::kPresent) return false;
  isolate_locked(block);
  return true;
}

bool Pageblocks::try_isolate_blocks(std::uint32_t begin, std::uint32_t end, std::uint32_t* absent) {
  const Guard guard(core_.lock());
  *absent = 0;
  for (std::uint32_t b = begin; b < end; ++b)
    if (availability_locked(b) == Availability::kBusy) return false;
  for (std::uint32_t b = begin; b < end; ++b) {
    if (core_.block(b).state == BlockState::kPresent) {
      isolate_locked(b);
      continue;
    }
    core_.block(b).state = BlockState::kArriving;
    ++*absent;
  }
  core_.span_up_to_locked(end);
  return true;
}

Pageblocks::Availability Pageblocks::availability_locked(std::uint32_t block) const {
  const Pageblock& b = core_.block(block);
  if (b.state == BlockState::kAbsent) return Availability::kAbsent;
  if (b.state != BlockState::kPresent || b.type == MigrateType::kIsolate)
    return Availability::kBusy;
  return Availability::kPresent;
}

Pageblocks::Availability Pageblocks::availability_of(std::uint32_t block) {
  // A block that was never taken has no metadata yet, and none is made by asking.
  if (block >= block_span()) return Availability::kAbsent;
  const Guard guard(core_.lock());
  return availability_locked(block);
}

bool Pageblocks::try_bring_in_isolated(std::uint32_t begin, std::uint32_t end, PageCount* charged) {
  PageCount own;
  if (!core_.try_charge_block(Charge::kOrdinary, charged, &own)) return false;
  const Guard guard(core_.lock());
  for (std::uint32_t b = begin; b < end; ++b) {
    if (core_.block(b).state != BlockState::kArriving) continue;
    core_.bring_in_locked(b, MigrateType::kUnmovable);
    isolate_locked(b);
    return true;
  }
  BUOY_CHECK(false && "no block of the range is missing");
  return false;
}

void Pageblocks::end_isolation_locked(std::uint32_t block, MigrateType type) {
  Pageblock& b = core_.block(block);
  BUOY_CHECK(b.type == MigrateType::kIsolate);
  b.is_isolated.store(false, std::memory_order_relaxed);
  core_.zone().set_type(block, core_.type_of_block(block, type));
}

void Pageblocks::end_isolation(std::uint32_t block) {
  const Guard guard(core_.lock());
  end_isolation_locked(block, core_.block(block).type_before);
}

void Pageblocks::end_isolation_for_locked(std::uint32_t block, MigrateType used_for) {
  const Pageblock& b = core_.block(block);
  // A block turns where it is nearly empty otherwise, or has one run: pages of the other type that
  // are left in it keep it what it was.
  const Pfn first(block * static_cast<std::uint32_t>(kPagesPerBlock));
  const bool turns =
      page(first).load().order() == Order(kMaxOrder) || b.free_frames >= kPagesPerBlock / 2;
  end_isolation_locked(block, turns ? used_for : b.type_before);
}

void Pageblocks::end_isolation(std::uint32_t block, MigrateType used_for) {
  const Guard guard(core_.lock());
  end_isolation_for_locked(block, used_for);
}

void Pageblocks::end_isolation_of(std::uint32_t begin, std::uint32_t end) {
  const Guard guard(core_.lock());
  for (std::uint32_t b = begin; b < end; ++b) {
    if (core_.block(b).state == BlockState::kPresent) {
      end_isolation_locked(b, core_.block(b).type_before);
      continue;
    }
    BUOY_CHECK(core_.block(b).state == BlockState::kArriving);
    core_.make_absent_locked(b);
  }
}

void Pageblocks::end_isolation_of(std::uint32_t begin, std::uint32_t end, MigrateType used_for) {
  const Guard guard(core_.lock());
  for (std::uint32_t b = begin; b < end; ++b) end_isolation_for_locked(b, used_for);
}

bool Pageblocks::is_isolated_range_free(Pfn first, PageCount count) {
  const Guard guard(core_.lock());
  return is_isolated_range_free_locked(first, count);
}

bool Pageblocks::is_isolated_range_free_locked(Pfn first, PageCount count) {
  bool all = true;
  for_each_part(first, count, [&](std::uint32_t block, std::uint32_t in_block, std::uint32_t n) {
    core_.lock().assert_held();
    all = all && core_.zone().is_range_free(block, in_block, n);
  });
  return all;
}

bool Pageblocks::try_claim_isolated(Pfn first, PageCount count, const FrameRequest& request) {
  const Guard guard(core_.lock());
  if (!is_isolated_range_free_locked(first, count)) return false;
  for_each_part(first, count, [&](std::uint32_t block, std::uint32_t in_block, std::uint32_t n) {
    core_.lock().assert_held();
    core_.zone().take_range(block, in_block, n);
    mark_pieces_locked(Pfn(block * static_cast<std::uint32_t>(kPagesPerBlock) + in_block), n,
                       request);
  });
  return true;
}

// Tiles a range within a block with aligned runs, so that the block can still be parsed from its
// first frame.
void Pageblocks::mark_pieces_locked(Pfn first, std::uint32_t count, const FrameRequest& request) {
  for (std::uint32_t done = 0; done < count;) {
    FrameRequest piece = request;
    const Pfn at = first + PageCount(done);
    piece.order = largest_piece(at, count - done);
    core_.mark_allocated(at, piece);
    done += static_cast<std::uint32_t>(piece.order.pages().value());
  }
}

void Pageblocks::shorten(Pfn head, PageCount count, const FrameRequest& request) {
  const PageCount all = page(head).load().order().pages();
  if (count == all) return;
  const Guard guard(core_.lock());
  mark_pieces_locked(head, static_cast<std::uint32_t>(count.value()), request);
  for (PageCount at = count; at < all;) {
    const Pfn piece = head + at;
    const Order order = largest_piece(piece, static_cast<std::uint32_t>((all - at).value()));
    core_.zone().give(piece, order);
    at += order.pages();
  }
}

}  // namespace buoy::frames
