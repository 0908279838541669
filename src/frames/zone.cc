#include "frames/zone.h"

#include "base/check.h"

namespace buoy::frames {
namespace {
constexpr unsigned type_index(MigrateType t) { return static_cast<unsigned>(t); }
}  // namespace

// ---------------------------------------------------------------- lists of blocks

void Zone::link(std::uint32_t number) {
  Pageblock& b = blocks_[number];
  BUOY_DCHECK(!b.is_linked);
  if (b.free_frames == 0) return;
  TypeLists& lists = lists_[type_index(b.type)];
  b.list_bin = static_cast<std::uint8_t>(bin_of(b.free_frames));
  b.list_order = static_cast<std::uint8_t>(b.largest_order());
  std::uint32_t& head = lists.head[b.list_bin][b.list_order];
  b.prev = 0;
  b.next = head;
  if (head != 0) blocks_[head - 1].prev = number + 1;
  head = number + 1;
  lists.mask[b.list_bin] = static_cast<std::uint16_t>(lists.mask[b.list_bin] | 1U << b.list_order);
  b.is_linked = true;
}

void Zone::unlink(std::uint32_t number) {
  Pageblock& b = blocks_[number];
  if (!b.is_linked) return;
  TypeLists& lists = lists_[type_index(b.type)];
  std::uint32_t& head = lists.head[b.list_bin][b.list_order];
  if (b.prev != 0)
    blocks_[b.prev - 1].next = b.next;
  else
    head = b.next;
  if (b.next != 0) blocks_[b.next - 1].prev = b.prev;
  if (head == 0)
    lists.mask[b.list_bin] =
        static_cast<std::uint16_t>(lists.mask[b.list_bin] & ~(1U << b.list_order));
  b.is_linked = false;
}

void Zone::relink(std::uint32_t number) {
  const Pageblock& b = blocks_[number];
  if (b.is_linked && b.free_frames != 0 && b.list_bin == bin_of(b.free_frames) &&
      b.list_order == b.largest_order())
    return;
  unlink(number);
  link(number);
}

bool Zone::find_block(MigrateType type, Order order, std::uint32_t* block) const {
  const TypeLists& lists = lists_[type_index(type)];
  for (unsigned bin = 0; bin < kBins; ++bin) {
    const unsigned able = lists.mask[bin] >> order.value();
    if (able == 0) continue;
    const unsigned largest = order.value() + static_cast<unsigned>(__builtin_ctz(able));
    *block = lists.head[bin][largest] - 1;
    return true;
  }
  return false;
}

bool Zone::find_whole_block(std::uint32_t* block) const {
  for (const MigrateType t :
       {MigrateType::kMovable, MigrateType::kUnmovable, MigrateType::kReserve}) {
    const std::uint32_t head = lists_[type_index(t)].head[kBins - 1][kMaxOrder];
    if (head == 0) continue;
    *block = head - 1;
    return true;
  }
  return false;
}

// ---------------------------------------------------------------- runs within a block

void Zone::account(Pageblock& b, long frames) {
  const bool was_whole = b.is_whole();
  b.free_frames = static_cast<std::uint16_t>(b.free_frames + frames);
  PageCount& of_type = free_by_type_[type_index(b.type)];
  of_type = PageCount(of_type.value() + static_cast<std::uint64_t>(frames));
  free_frames_ = PageCount(free_frames_.value() + static_cast<std::uint64_t>(frames));
  whole_blocks_ += static_cast<std::uint32_t>(b.is_whole()) - static_cast<std::uint32_t>(was_whole);
}

void Zone::push_run(std::uint32_t block, std::uint32_t in_block, unsigned order) {
  Pageblock& b = blocks_[block];
  Page& p = page(block, in_block);
  p.store(PageWord(PageState::kFree, Order(order)));
  p.prev = 0;
  p.next = b.free_head[order];
  if (p.next != 0) page(block, p.next - 1).prev = in_block + 1;
  b.free_head[order] = static_cast<std::uint16_t>(in_block + 1);
  b.order_mask = static_cast<std::uint16_t>(b.order_mask | 1U << order);
  ++free_runs_[type_index(b.type)][order];
}

void Zone::remove_run(std::uint32_t block, std::uint32_t in_block, unsigned order) {
  Pageblock& b = blocks_[block];
  Page& p = page(block, in_block);
  if (p.prev != 0)
    page(block, p.prev - 1).next = p.next;
  else
    b.free_head[order] = static_cast<std::uint16_t>(p.next);
  if (p.next != 0) page(block, p.next - 1).prev = p.prev;
  if (b.free_head[order] == 0)
    b.order_mask = static_cast<std::uint16_t>(b.order_mask & ~(1U << order));
  p.store(PageWord());
  --free_runs_[type_index(b.type)][order];
}

Pfn Zone::take_from(std::uint32_t block, Order order) {
  Pageblock& b = blocks_[block];
  unsigned have =
      order.value() + static_cast<unsigned>(__builtin_ctz(unsigned{b.order_mask} >> order.value()));
  const std::uint32_t head = b.free_head[have] - 1U;
  remove_run(block, head, have);
  // The lower half is taken, so that single frames taken one after another are neighbours.
  while (have > order.value()) {
    --have;
    push_run(block, head + (1U << have), have);
  }
  account(b, -static_cast<long>(order.pages().value()));
  relink(block);
  return Pfn(block * static_cast<std::uint32_t>(kPagesPerBlock) + head);
}

Pfn Zone::try_take(MigrateType type, Order order, Blocks blocks) {
  std::uint32_t block = 0;
  if (!find_block(type, order, &block)) return Pfn::none();
  // The fullest is found first: where it is wholly free, all that serve are.
  if (blocks == Blocks::kPartial && blocks_[block].is_whole()) return Pfn::none();
  return take_from(block, order);
}

bool Zone::find_run(std::uint32_t block, std::uint32_t in_block, std::uint32_t* head,
                    unsigned* order) const {
  for (unsigned o = 0; o <= kMaxOrder; ++o) {
    const std::uint32_t at = in_block & ~((1U << o) - 1);
    const PageWord w = page(block, at).load();
    if (w.state() != PageState::kFree || w.order().value() < o) continue;
    *head = at;
    *order = w.order().value();
    return true;
  }
  return false;
}

bool Zone::is_range_free(std::uint32_t block, std::uint32_t in_block, std::uint32_t count) const {
  if (blocks_[block].state != BlockState::kPresent) return false;
  std::uint32_t head = 0;
  unsigned order = 0;
  for (std::uint32_t f = in_block; f < in_block + count; f = head + (1U << order))
    if (!find_run(block, f, &head, &order)) return false;
  return true;
}

// Frees [from, to) as the largest aligned runs; their buddies are taken, or the next piece.
void Zone::push_pieces(std::uint32_t block, std::uint32_t from, std::uint32_t to) {
  while (from < to) {
    unsigned o = from == 0 ? kMaxOrder : static_cast<unsigned>(__builtin_ctz(from));
    while (from + (1U << o) > to) --o;
    push_run(block, from, o);
    from += 1U << o;
  }
}

void Zone::take_range(std::uint32_t block, std::uint32_t in_block, std::uint32_t count) {
  const std::uint32_t end = in_block + count;
  for (std::uint32_t f = in_block; f < end;) {
    std::uint32_t head = 0;
    unsigned order = 0;
    const bool is_free = find_run(block, f, &head, &order);
    BUOY_CHECK(is_free && "a range is taken that is not free");
    remove_run(block, head, order);
    f = head + (1U << order);
    if (head < in_block) push_pieces(block, head, in_block);
    if (f > end) push_pieces(block, end, f);
  }
  account(blocks_[block], -static_cast<long>(count));
  relink(block);
}

unsigned Zone::find_sparse(MigrateType type, unsigned least_free, std::uint8_t skip,
                           std::uint32_t* out, unsigned most) const {
  const TypeLists& lists = lists_[type_index(type)];
  unsigned n = 0;
  for (unsigned bin = kBins; bin-- > 0 && n < most;) {
    for (unsigned o = kOrders; o-- > 0;) {
      for (std::uint32_t b = lists.head[bin][o]; b != 0 && n < most; b = blocks_[b - 1].next) {
        const Pageblock& candidate = blocks_[b - 1];
        if (candidate.is_whole() || candidate.free_frames < least_free) continue;
        if (skip != 0 && candidate.skip_hint == skip) continue;
        out[n++] = b - 1;
      }
    }
  }
  return n;
}

Pfn Zone::try_steal(MigrateType type, Order order, Steal how) {
  // Unmovable pages never enter the reserve; movable ones borrow it last.
  const bool movable = type == MigrateType::kMovable;
  const MigrateType victims[] = {movable ? MigrateType::kUnmovable : MigrateType::kMovable,
                                 MigrateType::kReserve};
  const unsigned count = movable && how == Steal::kAnyBlock ? 2 : 1;
  for (unsigned i = 0; i < count; ++i) {
    // The largest run first: where much is free, the block can change its type as a whole.
    const unsigned lowest = how == Steal::kWholeBlocks ? kMaxOrder : order.value();
    for (unsigned o = kMaxOrder + 1; o-- > lowest;) {
      std::uint32_t block = 0;
      if (!find_block(victims[i], Order(o), &block)) continue;
      if (victims[i] != MigrateType::kReserve && blocks_[block].free_frames >= kPagesPerBlock / 2)
        set_type(block, type);
      return take_from(block, order);
    }
  }
  return Pfn::none();
}

void Zone::give(Pfn pfn, Order order) {
  const std::uint32_t block = pfn.block();
  Pageblock& b = blocks_[block];
  std::uint32_t head = pfn.value() % static_cast<std::uint32_t>(kPagesPerBlock);
  BUOY_CHECK(b.state == BlockState::kPresent &&
             page(block, head).load().state() != PageState::kFree);
  page(block, head).store(PageWord());
  unsigned o = order.value();
  while (o < kMaxOrder) {
    const std::uint32_t buddy = head ^ (1U << o);
    const PageWord w = page(block, buddy).load();
    if (w.state() != PageState::kFree || w.order() != Order(o)) break;
    remove_run(block, buddy, o);
    head &= ~(1U << o);
    ++o;
  }
  push_run(block, head, o);
  account(b, static_cast<long>(order.pages().value()));
  relink(block);
}

// ---------------------------------------------------------------- blocks

void Zone::add_block(std::uint32_t block, MigrateType type) {
  Pageblock& b = blocks_[block];
  BUOY_DCHECK(b.state == BlockState::kArriving || b.state == BlockState::kLeaving);
  b.state = BlockState::kPresent;
  b.type = type;
  ++present_blocks_;
  push_run(block, 0, kMaxOrder);
  account(b, static_cast<long>(kPagesPerBlock));
  link(block);
}

void Zone::remove_block(std::uint32_t block) {
  Pageblock& b = blocks_[block];
  BUOY_DCHECK(b.state == BlockState::kPresent && b.is_whole());
  unlink(block);
  remove_run(block, 0, kMaxOrder);
  account(b, -static_cast<long>(kPagesPerBlock));
  b.state = BlockState::kLeaving;
  --present_blocks_;
}

void Zone::set_type(std::uint32_t block, MigrateType type) {
  Pageblock& b = blocks_[block];
  if (b.type == type) return;
  unlink(block);
  const unsigned from = type_index(b.type);
  const unsigned to = type_index(type);
  for (unsigned o = 0; o <= kMaxOrder; ++o) {
    for (std::uint32_t f = b.free_head[o]; f != 0; f = page(block, f - 1).next) {
      --free_runs_[from][o];
      ++free_runs_[to][o];
    }
  }
  free_by_type_[from] -= PageCount(b.free_frames);
  free_by_type_[to] += PageCount(b.free_frames);
  b.type = type;
  link(block);
}

// ---------------------------------------------------------------- validation

void Zone::validate(std::uint32_t block_count) const {
  std::array<std::array<std::uint64_t, kOrders>, kMigrateTypes> runs{};
  std::array<std::uint64_t, kMigrateTypes> free{};
  std::uint32_t present = 0;
  std::uint32_t whole = 0;
  for (std::uint32_t n = 0; n < block_count; ++n) {
    const Pageblock& b = blocks_[n];
    if (b.state != BlockState::kPresent) {
      BUOY_CHECK(!b.is_linked && b.free_frames == 0 && b.order_mask == 0);
      continue;
    }
    ++present;
    // Parse the block head by head; runs tile it, and no two free buddies stand side by side.
    std::uint64_t found = 0;
    for (std::uint32_t f = 0; f < kPagesPerBlock;) {
      const PageWord w = page(n, f).load();
      BUOY_CHECK(w.state() != PageState::kTail);
      const auto size = static_cast<std::uint32_t>(w.order().pages().value());
      BUOY_CHECK(f % size == 0 && f + size <= kPagesPerBlock);
      if (w.state() == PageState::kFree) {
        found += size;
        ++runs[type_index(b.type)][w.order().value()];
        if (w.order().value() < kMaxOrder) {
          const PageWord buddy = page(n, f ^ size).load();
          BUOY_CHECK(buddy.state() != PageState::kFree || buddy.order() != w.order());
        }
      }
      for (std::uint32_t t = 1; t < size; ++t)
        BUOY_CHECK(page(n, f + t).load().state() == PageState::kTail);
      f += size;
    }
    std::uint64_t listed = 0;
    for (unsigned o = 0; o <= kMaxOrder; ++o) {
      BUOY_CHECK((b.free_head[o] != 0) == ((b.order_mask >> o & 1U) != 0));
      for (std::uint32_t f = b.free_head[o]; f != 0; f = page(n, f - 1).next) {
        BUOY_CHECK(page(n, f - 1).load().state() == PageState::kFree &&
                   page(n, f - 1).load().order() == Order(o));
        listed += std::uint64_t{1} << o;
      }
    }
    BUOY_CHECK(found == b.free_frames && listed == b.free_frames);
    BUOY_CHECK(b.is_linked == (b.free_frames != 0));
    if (b.is_linked)
      BUOY_CHECK(b.list_bin == bin_of(b.free_frames) && b.list_order == b.largest_order());
    free[type_index(b.type)] += found;
    whole += static_cast<std::uint32_t>(b.is_whole());
  }
  BUOY_CHECK(present == present_blocks_ && whole == whole_blocks_);
  std::uint64_t total = 0;
  for (unsigned t = 0; t < kMigrateTypes; ++t) {
    BUOY_CHECK(free[t] == free_by_type_[t].value());
    total += free[t];
    for (unsigned o = 0; o <= kMaxOrder; ++o) BUOY_CHECK(runs[t][o] == free_runs_[t][o]);
  }
  BUOY_CHECK(total == free_frames_.value());
}

}  // namespace buoy::frames
