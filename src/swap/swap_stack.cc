#include "swap/swap_stack.h"

#include <cerrno>
#include <string_view>
#include <utility>

#include "base/check.h"
#include "frames/arena.h"
#include "swap/compressor.h"
#include "swap/page_codec.h"
#include "swap/work_area.h"
#include "swap/zram.h"
#include "zpool/zpool.h"

namespace buoy::swap {

using zpool::Handle;
using zpool::PutOutcome;
using zpool::Zpool;

struct SwapStack::Tiers {
  Tiers(frames::Arena& the_arena, Zpool& the_pool, const Compressor& compressor)
      : arena(the_arena), pool(the_pool), codec(compressor), zram(the_pool, codec, areas) {}

  frames::Arena& arena;
  Zpool& pool;
  PageCodec codec;
  WorkAreas areas;
  Zram zram;
};

namespace {
Handle handle_of(SwapEntry e) { return Handle(e.bits()); }
}  // namespace

// ---------------------------------------------------------------- life

Result<SwapStack*> SwapStack::create(const SwapOptions& options, frames::Arena& arena,
                                     Counters& counters) {
  (void)counters;
  const bool wants_file =
      options.backing_file != nullptr && std::string_view(options.backing_file) != "none";
  if (wants_file) return Error{ENOSYS};
  auto stack = frames::place<SwapStack>();
  if (!stack) return stack;
  auto pool = Zpool::create(arena);
  if (!pool) {
    destroy(*stack);
    return pool.error();
  }
  const Compressor& compressor = Compressor::of(options.compressor);
  auto tiers = frames::place<Tiers>(arena, **pool, compressor);
  if (!tiers) {
    Zpool::destroy(*pool);
    destroy(*stack);
    return tiers.error();
  }
  (*stack)->tiers_ = *tiers;
  if (const Status s = (*tiers)->areas.create(compressor); !s) {
    destroy(*stack);
    return s.error();
  }
  return stack;
}

void SwapStack::destroy(SwapStack* stack) {
  if (Tiers* t = stack->tiers_; t != nullptr) {
    Zpool& pool = t->pool;
    frames::displace(t);
    Zpool::destroy(&pool);
  }
  frames::displace(stack);
}

// ---------------------------------------------------------------- pages

StoreOutcome SwapStack::store(const std::byte* page, SwapEntry* entry) {
  Tiers& t = *tiers_;
  Handle handle;
  PutOutcome outcome = t.zram.store(page, &handle);
  if (outcome == PutOutcome::kNoRoom && !t.pool.compact().is_zero())
    outcome = t.zram.store(page, &handle);
  if (outcome != PutOutcome::kPut) return StoreOutcome::kFull;
  *entry = SwapEntry(handle.index());
  return StoreOutcome::kStored;
}

LoadOutcome SwapStack::load(SwapEntry entry, std::byte* out) {
  Tiers& t = *tiers_;
  const Zpool::Pinned object = t.pool.pin(handle_of(entry));
  return t.zram.load(object, out) ? LoadOutcome::kLoaded : LoadOutcome::kCorrupt;
}

void SwapStack::free(SwapEntry entry) {
  Tiers& t = *tiers_;
  t.zram.free(t.pool.pin(handle_of(entry)));
}

bool SwapStack::is_slow(SwapEntry) const { return false; }
bool SwapStack::is_backed(SwapEntry) const { return false; }
bool SwapStack::has_file() const { return false; }

PageCount SwapStack::write_back(PageCount) { return {}; }

PageCount SwapStack::compact() {
  const PageCount freed = tiers_->pool.compact();
  tiers_->arena.trim();
  return freed;
}

// ---------------------------------------------------------------- looking at it

SwapStats SwapStack::stats() const {
  const Tiers& t = *tiers_;
  const zpool::ZpoolStats pool = t.pool.stats();
  SwapStats s;
  s.compressed_pages = t.zram.pages();
  s.compressed_bytes = pool.object_bytes + pool.objects * zpool::kHeaderBytes;
  s.compressed_original_bytes = s.compressed_pages * kPageSize;
  s.pool_bytes = pool.frames.bytes();
  s.same_filled_pages = t.zram.same_filled();
  s.incompressible_pages = t.zram.incompressible();
  s.metadata_bytes = pool.metadata_bytes + t.areas.bytes() + frames::kPlacedBytes<Tiers> +
                     frames::kPlacedBytes<SwapStack>;
  return s;
}

void SwapStack::validate() {
  Tiers& t = *tiers_;
  t.pool.validate();
  BUOY_CHECK(t.zram.pages() == t.pool.live_handles());
}

// ---------------------------------------------------------------- fork

void SwapStack::before_fork() {}
void SwapStack::after_fork_in_parent() {}
void SwapStack::after_fork_in_child() {}

}  // namespace buoy::swap
