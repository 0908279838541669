#include "frames/arena_core.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>

namespace buoy::frames {
namespace {
// Wholly free blocks that are kept for the next allocation: taking a block costs a system call
// and 2 MiB of zeroing, so an owner that swings around a block's edge must not pay it each time.
constexpr std::uint32_t kKeptBlocks = 1;
// Reserved beyond what is asked for, where the process has room; a Pfn and this arena's metadata
// allow far more, but page tables of the reservation's metadata are not free either.
constexpr ByteSize kGenerousBytes = ByteSize{64} << 30;

constexpr PageCount kBlockPages = PageCount(kPagesPerBlock);
}  // namespace

Status ArenaCore::reserve(const ArenaOptions& options) {
  if (options.max_bytes == 0 || options.max_bytes > (ByteSize{1} << 43) ||
      options.reserve_bytes > options.max_bytes)
    return Error{EINVAL};
  const ByteSize least = (options.max_bytes + kBlockSize - 1) & ~(kBlockSize - 1);
  ByteSize bytes = options.span == Span::kFixed ? least : std::max(kGenerousBytes, least * 4);
  auto range = sys::reserve(bytes, kBlockSize, PROT_READ | PROT_WRITE);
  while (!range && bytes > least) {
    bytes = std::max(least, (bytes / 2) & ~(kBlockSize - 1));
    range = sys::reserve(bytes, kBlockSize, PROT_READ | PROT_WRITE);
  }
  if (!range) return range.error();
  base_ = *range;
  bytes_ = bytes;
  block_count_ = static_cast<std::uint32_t>(bytes / kBlockSize);
  reserve_blocks_ =
      static_cast<std::uint32_t>((options.reserve_bytes + kBlockSize - 1) / kBlockSize);
  if (const Status s = pages_.create(bytes / kPageSize); !s) return s;
  if (const Status s = blocks_.create(block_count_); !s) return s;
  // A hint. Where huge pages are off, blocks are backed page by page and all else stays true.
  (void)sys::advise(base_, bytes_, MADV_HUGEPAGE);
  return {};
}

// ---------------------------------------------------------------- taking

bool ArenaCore::may_take_locked(const FrameRequest& request) {
  return request.charge == Charge::kReclaim ||
         zone_.usable_frames() >= request.order.pages() + watermarks().min;
}

bool ArenaCore::may_take(const FrameRequest& request) {
  const Guard guard(lock_);
  return may_take_locked(request);
}

Pfn ArenaCore::take_locked(const FrameRequest& request) {
  // Movable pages fill the reserve first: it must not lie idle, and they can leave it.
  if (request.type == MigrateType::kMovable && reserve_blocks_ != 0) {
    const Pfn lent = zone_.try_take(MigrateType::kReserve, request.order);
    if (!lent.is_none()) return lent;
  }
  const Pfn own = zone_.try_take(request.type, request.order);
  if (!own.is_none()) return own;
  return zone_.try_steal(request.type, request.order, Zone::Steal::kWholeBlocks);
}

Pfn ArenaCore::refill(const FrameRequest& request) {
  FrameBatch batch;
  {
    const Guard guard(lock_);
    while (!batch.is_full() && may_take_locked(request)) {
      const Pfn f = take_locked(request);
      if (f.is_none()) break;
      page(f).store(PageWord(PageState::kCached, Order(0), request.type));
      batch.push(f);
    }
  }
  if (batch.count == 0) return Pfn::none();
  // Reversed, so that frames leave the cache in the order they were taken.
  const Pfn head = batch.frames[0];
  while (batch.count > 1) give_to_cache(request.type, batch.pop());
  mark_allocated(head, request);
  return head;
}

// Marked under the lock: every run of a present block says what it is.
Pfn ArenaCore::try_take_run(const FrameRequest& request, Frames which) {
  const Guard guard(lock_);
  if (which == Frames::kAboveMin && !may_take_locked(request)) return Pfn::none();
  const Pfn head = take_locked(request);
  if (!head.is_none()) mark_allocated(head, request);
  return head;
}

Pfn ArenaCore::try_take_any_run(const FrameRequest& request) {
  const Guard guard(lock_);
  if (!may_take_locked(request)) return Pfn::none();
  Pfn head = zone_.try_steal(request.type, request.order, Zone::Steal::kAnyBlock);
  // Reclaim frees more than it takes: it may spoil what another thread is emptying.
  const bool takes_any = request.order == Order(0) && request.type == MigrateType::kMovable;
  if (head.is_none() && takes_any && request.charge == Charge::kReclaim)
    head = zone_.try_take(MigrateType::kIsolate, request.order);
  if (!head.is_none()) mark_allocated(head, request);
  return head;
}

unsigned ArenaCore::take_frames(const FrameRequest& request, std::span<Pfn> out) {
  const Guard guard(lock_);
  unsigned got = 0;
  for (; got < out.size() && may_take_locked(request); ++got) {
    out[got] = take_locked(request);
    if (out[got].is_none()) break;
    mark_allocated(out[got], request);
  }
  return got;
}

// ---------------------------------------------------------------- giving back

void ArenaCore::release(Pfn head) {
  const PageWord w = page(head).load();
  BUOY_CHECK(w.state() == PageState::kAllocated && "a frame is released twice, or is not ours");
  if (w.has(PageFlag::kMovable)) clear_movable(head);
  put(head);
}

void ArenaCore::clear_movable(Pfn head) {
  Page& p = page(head);
  p.lock.lock(LockRank::kPage);
  p.store(p.load().without(PageFlag::kMovable));
  p.lock.unlock(LockRank::kPage);
}

void ArenaCore::free_run(Pfn head) {
  Page& p = page(head);
  const PageWord w = p.load();
  if (w.order() == Order(0) && !blocks_[head.block()].is_isolated.load(std::memory_order_relaxed)) {
    p.store(PageWord(PageState::kCached, Order(0), w.type()));
    give_to_cache(w.type(), head);
    return;
  }
  {
    const Guard guard(lock_);
    zone_.give(head, w.order());
  }
  while (return_block(kKeptBlocks)) {
  }
}

void ArenaCore::release_frames(std::span<const Pfn> frames) {
  if (frames.size() == 1) {
    release(frames[0]);
    return;
  }
  FrameBatch batch;
  for (const Pfn frame : frames) {
    const PageWord w = page(frame).load();
    BUOY_CHECK(w.state() == PageState::kAllocated && "a frame is released twice, or is not ours");
    if (w.has(PageFlag::kMovable)) clear_movable(frame);
    if (page(frame).put()) batch.push(frame);
  }
  if (batch.count > 0) give_batch(batch);
}

void ArenaCore::give_to_cache(MigrateType type, Pfn frame) {
  FrameBatch overflow;
  cache().push(type, frame, overflow);
  if (overflow.count > 0) give_batch(overflow);
}

void ArenaCore::give_batch(const FrameBatch& batch) {
  bool has_whole = false;
  {
    const Guard guard(lock_);
    for (unsigned i = 0; i < batch.count; ++i) zone_.give(batch.frames[i], Order(0));
    has_whole = zone_.whole_blocks() > kKeptBlocks;
  }
  while (has_whole && return_block(kKeptBlocks)) {
  }
}

void ArenaCore::drain_caches() {
  for (FrameCache& c : caches_) {
    for (;;) {
      FrameBatch batch;
      if (!c.drain(batch)) break;
      const Guard guard(lock_);
      for (unsigned i = 0; i < batch.count; ++i) zone_.give(batch.frames[i], Order(0));
    }
  }
}

PageCount ArenaCore::trim(std::uint32_t keep) {
  drain_caches();
  PageCount returned;
  while (return_block(keep)) returned += kBlockPages;
  return returned;
}

// ---------------------------------------------------------------- blocks come and go

bool ArenaCore::pick_absent_locked(MigrateType type, std::uint32_t* block) {
  const std::uint32_t span = block_span_.load(std::memory_order_relaxed);
  // Pages that stay keep out of the reserve.
  const std::uint32_t first = type == MigrateType::kMovable ? 0 : reserve_blocks_;
  for (std::uint32_t n = std::max(lowest_absent_, first); n < block_count_; ++n) {
    if (n < span && blocks_[n].state != BlockState::kAbsent) continue;
    blocks_[n].state = BlockState::kArriving;
    if (lowest_absent_ >= first) lowest_absent_ = n + 1;
    span_up_to_locked(n + 1);
    *block = n;
    return true;
  }
  return false;
}

bool ArenaCore::try_charge_block(Charge charge, PageCount* charged, PageCount* own) {
  *own = std::min(*charged, kBlockPages);
  if (*own < kBlockPages && !budget_.try_charge(kBlockPages - *own, charge)) return false;
  *charged -= *own;
  taken_blocks_.fetch_add(1, std::memory_order_relaxed);
  return true;
}

bool ArenaCore::try_grow(MigrateType type, Charge charge, PageCount* charged) {
  PageCount own;
  if (!try_charge_block(charge, charged, &own)) return false;
  const Guard guard(lock_);
  std::uint32_t block = 0;
  if (!pick_absent_locked(type, &block)) {
    taken_blocks_.fetch_sub(1, std::memory_order_relaxed);
    budget_.uncharge(kBlockPages - own);
    *charged += own;
    return false;
  }
  bring_in_locked(block, type);
  return true;
}

void ArenaCore::bring_in_locked(std::uint32_t block, MigrateType type) {
  if (blocks_[block].was_returned) {
    blocks_[block].was_returned = false;
    counters_.add(Event::balloon_deflate, kPagesPerBlock);
  }
  zone_.add_block(block, type_of_block(block, type));
}

void ArenaCore::make_absent_locked(std::uint32_t block) {
  blocks_[block].state = BlockState::kAbsent;
  lowest_absent_ = std::min(lowest_absent_, block);
}

bool ArenaCore::return_block(std::uint32_t keep) {
  std::uint32_t block = 0;
  MigrateType type{};
  {
    const Guard guard(lock_);
    if (zone_.whole_blocks() <= keep || !zone_.find_whole_block(&block)) return false;
    type = blocks_[block].type;
    zone_.remove_block(block);
  }
  // Outside the lock: this flushes TLBs. A block in kLeaving is nobody's but ours.
  std::byte* const start = base_ + std::size_t{block} * kBlockSize;
  const bool discarded = sys::advise(start, kBlockSize, MADV_DONTNEED) == 0;
  if (discarded) {
    taken_blocks_.fetch_sub(1, std::memory_order_relaxed);
    budget_.uncharge(kBlockPages);
  }
  const Guard guard(lock_);
  if (!discarded) {
    // Locked in memory (mlockall): the block stays, free.
    zone_.add_block(block, type);
    return false;
  }
  counters_.add(Event::balloon_inflate, kPagesPerBlock);
  blocks_[block].was_returned = true;
  make_absent_locked(block);
  return true;
}

// ---------------------------------------------------------------- looking at it

Watermarks ArenaCore::watermarks() {
  // A zspage's worth of frames for each of a few threads that squeeze at once.
  return {PageCount(32), PageCount(kKeptBlocks * kPagesPerBlock)};
}

ArenaStats ArenaCore::stats() {
  ArenaStats s;
  const Guard guard(lock_);
  s.blocks = zone_.present_blocks();
  s.taken = PageCount(std::uint64_t{s.blocks} * kPagesPerBlock);
  s.free = zone_.free_frames();
  s.whole_free_blocks = zone_.whole_blocks();
  for (unsigned t = 0; t < kMigrateTypes; ++t)
    for (unsigned o = 0; o <= kMaxOrder; ++o)
      s.free_runs[t][o] = zone_.free_runs(static_cast<MigrateType>(t), Order(o));
  // Cached frames are told apart by their word; a walk, for a moment's snapshot.
  const std::uint32_t span = block_span_.load(std::memory_order_relaxed);
  std::uint64_t cached = 0;
  for (std::uint32_t n = 0; n < span; ++n) {
    if (blocks_[n].state != BlockState::kPresent) continue;
    for (std::size_t f = 0; f < kPagesPerBlock; ++f)
      cached += pages_[n * kPagesPerBlock + f].load().state() == PageState::kCached ? 1 : 0;
  }
  s.cached = PageCount(cached);
  s.allocated = s.taken - s.free - s.cached;
  return s;
}

ByteSize ArenaCore::map_bytes() const {
  const std::size_t span = block_span();
  const ByteSize mem_map = span * kPagesPerBlock * sizeof(Page);
  const ByteSize block_map = PageCount::covering(span * sizeof(Pageblock)).bytes();
  return mem_map + block_map;
}

void ArenaCore::validate() {
  const Guard guard(lock_);
  const std::uint32_t span = block_span_.load(std::memory_order_relaxed);
  zone_.validate(span);
  BUOY_CHECK(taken_blocks_.load(std::memory_order_relaxed) == zone_.present_blocks());
  for (std::uint32_t n = 0; n < span; ++n) {
    const Pageblock& b = blocks_[n];
    BUOY_CHECK(b.state == BlockState::kPresent || b.state == BlockState::kAbsent);
    if (b.state == BlockState::kAbsent) {
      BUOY_CHECK(n >= lowest_absent_);
      continue;
    }
    BUOY_CHECK((b.type == MigrateType::kReserve) == (n < reserve_blocks_));
    BUOY_CHECK(b.type != MigrateType::kIsolate && !b.is_isolated);
    for (std::uint32_t f = 0; f < kPagesPerBlock;) {
      const Page& p = pages_[std::size_t{n} * kPagesPerBlock + f];
      const PageWord w = p.load();
      // Quiet: whoever isolated a page has put it back, and holds no reference.
      if (w.state() == PageState::kAllocated)
        BUOY_CHECK(p.refs.load(std::memory_order_relaxed) == 1 && !w.has(PageFlag::kIsolated));
      f += static_cast<std::uint32_t>(w.order().pages().value());
    }
  }
}

}  // namespace buoy::frames
