#include "api/pool.h"

#include <algorithm>
#include <cerrno>

#include "base/signals.h"
#include "frames/place.h"

namespace buoy {

namespace {
PageRun pages_of(const void* address, ByteSize length) {
  return {Vpn::containing(address), PageCount::covering(length)};
}
}  // namespace

Result<Pool*> Pool::create(const PoolOptions& options) {
  if (options.budget < Budget::kMinimum || options.contiguous_reserve > options.budget / 2)
    return Error{EINVAL};
  auto pool = frames::place<Pool>(options);
  if (!pool) return pool.error();
  if (Status s = (*pool)->open(); !s) {
    (*pool)->close();
    frames::displace(*pool);
    return s.error();
  }
  return *pool;
}

Status Pool::open() {
  context_.budget.set_limit(PageCount::whole_in(options_.budget));
  context_.pins = options_.pins_are_known ? mmu::Pins::kKnown : mmu::Pins::kUnknown;
  if (Status s = context_.table.create(); !s) return s;
  if (Status s = vm_.create(); !s) return s;
  mmu::UffdOptions mmu_options;
  const bool by_thread =
      options_.faults == Faults::kThread || options_.faults == Faults::kThreadWhateverRights;
  mmu_options.delivery = by_thread ? mmu::Delivery::kThread : mmu::Delivery::kSignal;
  if (options_.faults == Faults::kThreadWhateverRights)
    mmu_options.kernel_faults = mmu::KernelFaults::kWhereAllowed;
  mmu_options.sink = &vm_;
  mmu_options.counters = &context_.counters;
  mmu_options.pins = context_.pins.load();
  auto real = mmu::UffdMmu::create(mmu_options);
  if (!real) return real.error();
  context_.mmu = mmu_ = *real;
  // Where address space is scarce: no more than compressed pages may come to, rather than what a
  // budget may be raised to.
  const std::uint64_t room = sys::most_address_space();
  const bool is_scarce = room != UINT64_MAX;
  const ByteSize span = std::max<ByteSize>(
      {std::min<ByteSize>(options_.budget, room / 8), options_.contiguous_reserve, kBlockSize});
  auto arena = frames::Arena::create(
      context_.budget, context_.counters,
      frames::ArenaOptions{is_scarce ? span : options_.budget, options_.contiguous_reserve,
                           is_scarce ? frames::Span::kFixed : frames::Span::kGenerous});
  if (!arena) return arena.error();
  context_.arena = arena_ = *arena;
  swap::SwapOptions swap_options;
  swap_options.compressor = options_.compressor;
  swap_options.backing_file = options_.backing_file;
  swap_options.disk_ledger = options_.disk_ledger;
  swap_options.encryption = options_.encryption;
  swap_options.most_compressed = options_.most_compressed;
  auto stack = swap::SwapStack::create(swap_options, *arena_, context_.counters);
  if (!stack) return stack.error();
  context_.swap = swap_ = *stack;
  vm_.reclaimer().set_heartbeat(options_.heartbeat);
  vm_.reclaimer().set_more_room(options_.more_room);
  return vm_.reclaimer().start_background();
}

void Pool::close() {
  vm_.reclaimer().stop_background();
  if (swap_ != nullptr) swap::SwapStack::destroy(swap_);
  if (arena_ != nullptr) frames::Arena::destroy(arena_);
  if (mmu_ != nullptr) mmu_->destroy();
}

Status Pool::destroy(Pool* pool) {
  if (pool->vm_.has_mappings() || pool->owners_.load(std::memory_order_relaxed) != 0 ||
      !pool->arena_->contiguous().frames().is_zero())
    return Error{EBUSY};
  pool->close();
  frames::displace(pool);
  return {};
}

// ---- Mappings ---------------------------------------------------------------------------------

Result<void*> Pool::map(ByteSize length, MapFlags flags, mmu::Access access, void* hint) {
  if (length > SIZE_MAX - kPageSize) return Error{ENOMEM};
  if (hint != nullptr)
    if (auto there = map_at(hint, length, flags, access); there) return there;
  auto at = vm_.map(PageCount::covering(length), flags, access);
  if (!at) return at.error();
  return static_cast<void*>(at->pointer());
}

Result<void*> Pool::map_at(void* address, ByteSize length, MapFlags flags, mmu::Access access) {
  auto at = vm_.map_at(pages_of(address, length), flags, access);
  if (!at) return at.error();
  return static_cast<void*>(at->pointer());
}

Status Pool::unmap(void* address, ByteSize length) { return vm_.unmap(pages_of(address, length)); }

Status Pool::map_over(void* address, ByteSize length, mmu::Access access) {
  return vm_.map_over(pages_of(address, length), access);
}

Status Pool::carve_out(void* address, ByteSize length) {
  return vm_.carve_out(pages_of(address, length));
}

Status Pool::take_over(void* address, ByteSize length) {
  return vm_.take_over(pages_of(address, length));
}

Result<void*> Pool::remap_leaving(void* address, ByteSize length, void* target) {
  auto at = vm_.remap_leaving(pages_of(address, length), Vpn::containing(target));
  if (!at) return at.error();
  return static_cast<void*>(at->pointer());
}

Result<void*> Pool::remap(void* address, ByteSize old_length, ByteSize new_length, Move move) {
  auto at = vm_.remap(pages_of(address, old_length), PageCount::covering(new_length),
                      move == Move::kIfNeeded);
  if (!at) return at.error();
  return static_cast<void*>(at->pointer());
}

Result<void*> Pool::remap_onto(void* address, ByteSize old_length, ByteSize new_length,
                               void* target) {
  auto at = vm_.remap_onto(pages_of(address, old_length), Vpn::containing(target),
                           PageCount::covering(new_length));
  if (!at) return at.error();
  return static_cast<void*>(at->pointer());
}

Status Pool::protect(void* address, ByteSize length, mmu::Access access) {
  return vm_.protect(pages_of(address, length), access);
}

Status Pool::seal(void* address, ByteSize length) { return vm_.seal(pages_of(address, length)); }

// ---- The whole --------------------------------------------------------------------------------

void Pool::validate() {
  vm_.validate(arena_->taken());
  swap_->validate();
  arena_->validate();
}

Status Pool::before_fork() { return fork_status_ = vm_.before_fork(); }

void Pool::after_fork_in_parent() {
  if (fork_status_) vm_.after_fork_in_parent();
}

Status Pool::after_fork_in_child() {
  // The ranges were not inherited.
  if (!fork_status_) return fork_status_;
  if (Status s = vm_.after_fork_in_child(); !s) return s;
  return vm_.reclaimer().start_background();
}

}  // namespace buoy
