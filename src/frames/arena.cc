#include "frames/arena.h"

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

// ---------------------------------------------------------------- life

Result<Arena*> Arena::create(Budget& budget, Counters& counters, const ArenaOptions& options) {
  if (options.max_bytes == 0 || options.max_bytes > (ByteSize{1} << 43) ||
      options.reserve_bytes > options.max_bytes)
    return Error{EINVAL};
  auto arena = place<Arena>(budget, counters);
  if (!arena) return arena;
  if (const Status s = (*arena)->reserve(options); !s) {
    displace(*arena);
    return s.error();
  }
  return arena;
}

Status Arena::reserve(const ArenaOptions& options) {
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
  if (const Status s = balloon_.create(); !s) return s;
  // A hint. Where huge pages are off, blocks are backed page by page and all else stays true.
  (void)sys::advise(base_, bytes_, MADV_HUGEPAGE);
  return {};
}

void Arena::destroy(Arena* arena) {
  if (arena->base_ != nullptr) sys::unmap(arena->base_, arena->bytes_);
  arena->budget_.uncharge(arena->taken());
  displace(arena);
}

// ---------------------------------------------------------------- allocation

void Arena::mark_allocated(Pfn head, const FrameRequest& request) {
  Page& p = page(head);
  p.owner_word.store(0, std::memory_order_relaxed);
  p.owner_id.store(0, std::memory_order_relaxed);
  p.refs.store(1, std::memory_order_release);
  p.store(PageWord(PageState::kAllocated, request.order, request.type, request.owner));
}

bool Arena::may_take_locked(const FrameRequest& request) {
  return request.charge == Charge::kReclaim ||
         zone_.usable_frames() >= request.order.pages() + watermarks().min;
}

Pfn Arena::take_locked(const FrameRequest& request) {
  return may_take_locked(request) ? take_any_locked(request) : Pfn::none();
}

Pfn Arena::take_any_locked(const FrameRequest& request) {
  // Movable pages fill the reserve first: it must not lie idle, and they can leave it.
  if (request.type == MigrateType::kMovable && reserve_blocks_ != 0) {
    const Pfn lent = zone_.try_take(MigrateType::kReserve, request.order);
    if (!lent.is_none()) return lent;
  }
  const Pfn own = zone_.try_take(request.type, request.order);
  if (!own.is_none()) return own;
  return zone_.try_steal(request.type, request.order, Zone::Steal::kWholeBlocks);
}

Pfn Arena::try_allocate(const FrameRequest& request) {
  BUOY_DCHECK(request.order.value() <= kMaxOrder && request.type != MigrateType::kReserve);
  Pfn head = Pfn::none();
  if (request.order == Order(0)) {
    head = cache().try_pop(request.type);
    if (head.is_none()) {
      // Refill: one for the caller, the rest for the cache.
      FrameBatch batch;
      {
        const Guard guard(lock_);
        while (!batch.is_full()) {
          const Pfn f = take_locked(request);
          if (f.is_none()) break;
          page(f).store(PageWord(PageState::kCached, Order(0), request.type));
          batch.push(f);
        }
      }
      if (batch.count > 0) {
        // Reversed, so that frames leave the cache in the order they were taken.
        head = batch.frames[0];
        while (batch.count > 1) give_to_cache(request.type, batch.pop());
      }
    }
  } else {
    const Guard guard(lock_);
    head = take_locked(request);
    // Said under the lock: every run of a present block says what it is.
    if (!head.is_none()) page(head).store(PageWord(PageState::kAllocated, request.order));
  }
  if (head.is_none()) head = try_allocate_slow(request);
  if (!head.is_none()) mark_allocated(head, request);
  return head;
}

// Nothing at hand: grow; else gather what the caches hold; else make room by moving; else share
// another type's blocks.
Pfn Arena::try_allocate_slow(const FrameRequest& request) {
  bool drained = false;
  for (;;) {
    const bool grown = try_grow(request);
    if (!grown && !drained) {
      drain_caches();
      drained = true;
    } else if (!grown) {
      return try_allocate_last(request);
    }
    const Guard guard(lock_);
    // Having grown, it leaves what there was before.
    const Pfn head = grown ? take_any_locked(request) : take_locked(request);
    if (head.is_none()) continue;  // another thread was quicker
    page(head).store(PageWord(PageState::kAllocated, request.order));
    return head;
  }
}

Pfn Arena::try_allocate_last(const FrameRequest& request) {
  // A single frame that can move may as well take any that is free. All else is worth moving others
  // for: a run has no other way, and a page that stays should not spread into others' blocks.
  const bool takes_any = request.order == Order(0) && request.type == MigrateType::kMovable;
  if (!takes_any && request.compaction != Compaction::kNever && may_take(request)) {
    const Pfn made = compactor_.try_make_run(request);
    if (!made.is_none()) return made;
  }
  // What the balloon gave back comes one run at a time, as the budget has room.
  while (!balloon_.deflate(request.order.pages(), request.charge).is_zero()) {
    drain_caches();
    const Guard guard(lock_);
    const Pfn head = take_locked(request);
    if (head.is_none()) continue;
    page(head).store(PageWord(PageState::kAllocated, request.order));
    return head;
  }
  const Guard guard(lock_);
  if (!may_take_locked(request)) return Pfn::none();
  Pfn head = zone_.try_steal(request.type, request.order, Zone::Steal::kAnyBlock);
  // Reclaim frees more than it takes: it may spoil what another thread is emptying.
  if (head.is_none() && takes_any && request.charge == Charge::kReclaim)
    head = zone_.try_take(MigrateType::kIsolate, request.order);
  if (!head.is_none()) page(head).store(PageWord(PageState::kAllocated, request.order));
  return head;
}

bool Arena::may_take(const FrameRequest& request) {
  const Guard guard(lock_);
  return may_take_locked(request);
}

bool Arena::try_allocate_frames(const FrameRequest& request, Pfn* out, unsigned count) {
  BUOY_DCHECK(request.order == Order(0) && count <= FrameBatch::kCapacity);
  unsigned got = 0;
  if (count > 1) {
    const Guard guard(lock_);
    for (; got < count; ++got) {
      out[got] = take_locked(request);
      if (out[got].is_none()) break;
      page(out[got]).store(PageWord(PageState::kAllocated, Order(0)));
    }
  }
  for (unsigned i = 0; i < got; ++i) mark_allocated(out[i], request);
  for (; got < count; ++got) {
    out[got] = try_allocate(request);
    if (out[got].is_none()) {
      release_frames(out, got);
      return false;
    }
  }
  std::sort(out, out + count);
  return true;
}

void Arena::release(Pfn head) {
  const PageWord w = page(head).load();
  BUOY_CHECK(w.state() == PageState::kAllocated && "a frame is released twice, or is not ours");
  if (w.has(PageFlag::kMovable)) clear_movable(head);
  put(head);
}

void Arena::free_run(Pfn head) {
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

void Arena::release_frames(const Pfn* frames, unsigned count) {
  if (count == 1) {
    release(frames[0]);
    return;
  }
  FrameBatch batch;
  for (unsigned i = 0; i < count; ++i) {
    const PageWord w = page(frames[i]).load();
    BUOY_CHECK(w.state() == PageState::kAllocated && "a frame is released twice, or is not ours");
    if (w.has(PageFlag::kMovable)) clear_movable(frames[i]);
    if (page(frames[i]).put()) batch.push(frames[i]);
  }
  if (batch.count > 0) give_batch(batch);
}

void Arena::give_to_cache(MigrateType type, Pfn frame) {
  FrameBatch overflow;
  cache().push(type, frame, overflow);
  if (overflow.count > 0) give_batch(overflow);
}

void Arena::give_batch(const FrameBatch& batch) {
  bool has_whole = false;
  {
    const Guard guard(lock_);
    for (unsigned i = 0; i < batch.count; ++i) zone_.give(batch.frames[i], Order(0));
    has_whole = zone_.whole_blocks() > kKeptBlocks;
  }
  while (has_whole && return_block(kKeptBlocks)) {
  }
}

// ---------------------------------------------------------------- blocks

bool Arena::pick_absent_locked(MigrateType type, std::uint32_t* block) {
  const std::uint32_t span = block_span_.load(std::memory_order_relaxed);
  // Pages that stay keep out of the reserve.
  const std::uint32_t first = type == MigrateType::kMovable ? 0 : reserve_blocks_;
  for (std::uint32_t n = std::max(lowest_absent_, first); n < block_count_; ++n) {
    if (n < span && blocks_[n].state != BlockState::kAbsent) continue;
    blocks_[n].state = BlockState::kArriving;
    if (lowest_absent_ >= first) lowest_absent_ = n + 1;
    if (n >= span) block_span_.store(n + 1, std::memory_order_release);
    *block = n;
    return true;
  }
  return false;
}

bool Arena::try_grow(const FrameRequest& request) {
  if (!budget_.try_charge(kBlockPages, request.charge)) return false;
  taken_blocks_.fetch_add(1, std::memory_order_relaxed);
  const Guard guard(lock_);
  std::uint32_t block = 0;
  if (!pick_absent_locked(request.type, &block)) {
    taken_blocks_.fetch_sub(1, std::memory_order_relaxed);
    budget_.uncharge(kBlockPages);
    return false;
  }
  count_arrival_locked(block);
  zone_.add_block(block, type_of_new_block(block, request.type));
  return true;
}

void Arena::count_arrival_locked(std::uint32_t block) {
  if (!blocks_[block].was_returned) return;
  blocks_[block].was_returned = false;
  counters_.add(Event::balloon_deflate, kPagesPerBlock);
}

bool Arena::return_block(std::uint32_t keep) {
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
  blocks_[block].state = BlockState::kAbsent;
  blocks_[block].was_returned = true;
  lowest_absent_ = std::min(lowest_absent_, block);
  return true;
}

// ---------------------------------------------------------------- movable pages

bool Arena::try_set_movable(Pfn head, OwnerId owner) {
  return try_set_movable(head, owner, page(head).owner_word.load(std::memory_order_relaxed));
}

bool Arena::try_set_movable(Pfn head, OwnerId owner, std::uint64_t owner_word) {
  Page& p = page(head);
  p.lock.lock(LockRank::kPage);
  const PageWord w = p.load();
  const bool free_to = !w.has(PageFlag::kIsolated);
  if (free_to) {
    p.owner_id.store(owner, std::memory_order_relaxed);
    p.owner_word.store(owner_word, std::memory_order_relaxed);
    p.store(w.with(PageFlag::kMovable));
  }
  p.lock.unlock(LockRank::kPage);
  return free_to;
}

void Arena::clear_movable(Pfn head) {
  Page& p = page(head);
  p.lock.lock(LockRank::kPage);
  p.store(p.load().without(PageFlag::kMovable));
  p.lock.unlock(LockRank::kPage);
}

bool Arena::try_clear_movable(Pfn head, OwnerId owner) {
  Page& p = page(head);
  p.lock.lock(LockRank::kPage);
  const PageWord w = p.load();
  const bool is_owners = w.state() == PageState::kAllocated && p.owner() == owner;
  if (is_owners) p.store(w.without(PageFlag::kMovable));
  p.lock.unlock(LockRank::kPage);
  return is_owners;
}

bool Arena::try_release(Pfn head, OwnerId owner) {
  Page& p = page(head);
  p.lock.lock(LockRank::kPage);
  const PageWord w = p.load();
  const bool is_owners = w.state() == PageState::kAllocated && p.owner() == owner;
  if (is_owners) {
    p.owner_id.store(0, std::memory_order_relaxed);
    p.store(w.without(PageFlag::kMovable));
  }
  p.lock.unlock(LockRank::kPage);
  if (is_owners) put(head);
  return is_owners;
}

Pfn Arena::try_take_target(PageWord like, Targets targets) {
  const FrameRequest request{like.order(), MigrateType::kMovable, like.owner(), Charge::kOrdinary};
  const Zone::Blocks which =
      targets == Targets::kPartialBlocks ? Zone::Blocks::kPartial : Zone::Blocks::kAny;
  for (;;) {
    {
      const Guard guard(lock_);
      // Blocks of pages that stay come last: what can move does them no harm, but wins nothing.
      for (const MigrateType type :
           {MigrateType::kReserve, MigrateType::kMovable, MigrateType::kUnmovable}) {
        const Pfn head = zone_.try_take(type, request.order, which);
        if (head.is_none()) continue;
        mark_allocated(head, request);
        counters_.add(Event::compact_free_scanned, request.order.pages().value());
        return head;
      }
    }
    if (targets != Targets::kMayGrow || !try_grow(request)) return Pfn::none();
  }
}

void Arena::drain_caches() {
  for (FrameCache& c : caches_) {
    for (;;) {
      FrameBatch batch;
      if (!c.drain(batch)) break;
      const Guard guard(lock_);
      for (unsigned i = 0; i < batch.count; ++i) zone_.give(batch.frames[i], Order(0));
    }
  }
}

PageCount Arena::trim(std::uint32_t keep) {
  drain_caches();
  PageCount returned;
  while (return_block(keep)) returned += kBlockPages;
  return returned;
}

// ---------------------------------------------------------------- looking at it

Watermarks Arena::watermarks() const {
  // A zspage's worth of frames for each of a few threads that squeeze at once.
  return {PageCount(32), PageCount(kKeptBlocks * kPagesPerBlock)};
}

ArenaStats Arena::stats() {
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

PageCount Arena::block_free_frames(std::uint32_t block) {
  const Guard guard(lock_);
  return PageCount(blocks_[block].free_frames);
}

ByteSize Arena::metadata_bytes() const {
  const std::size_t span = block_span();
  const ByteSize mem_map = span * kPagesPerBlock * sizeof(Page);
  const ByteSize block_map = PageCount::covering(span * sizeof(Pageblock)).bytes();
  return mem_map + block_map + kPlacedBytes<Arena>;
}

void Arena::validate() {
  balloon_.validate();
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
  BUOY_CHECK(budget_.used() >= taken());
}

}  // namespace buoy::frames
