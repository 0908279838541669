#include "api/pool.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>

#include "base/signals.h"
#include "frames/place.h"

// Advice that newer kernels know and older headers lack.
#ifndef MADV_COLD
#define MADV_COLD 20
#define MADV_PAGEOUT 21
#endif
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24
#endif
#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#define MADV_GUARD_REMOVE 103
#endif
#ifndef MADV_SOFT_OFFLINE
#define MADV_SOFT_OFFLINE 101
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

namespace buoy {

namespace {
PageRun pages_of(const void* address, ByteSize length) {
  return {Vpn::containing(address), PageCount::covering(length)};
}
int negative(Status s) { return -s.code(); }
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

Result<void*> Pool::remap(void* address, ByteSize old_length, ByteSize new_length, bool may_move,
                          void* fixed_target) {
  const PageRun run = pages_of(address, old_length);
  const PageCount pages = PageCount::covering(new_length);
  auto at = fixed_target != nullptr ? vm_.remap_onto(run, Vpn::containing(fixed_target), pages)
                                    : vm_.remap(run, pages, may_move);
  if (!at) return at.error();
  return static_cast<void*>(at->pointer());
}

Status Pool::protect(void* address, ByteSize length, mmu::Access access) {
  return vm_.protect(pages_of(address, length), access);
}

Status Pool::seal(void* address, ByteSize length) { return vm_.seal(pages_of(address, length)); }

int Pool::advise(void* address, ByteSize length, int madvise_advice) {
  const PageRun run = pages_of(address, length);
  if (run.count.is_zero()) return 0;
  switch (madvise_advice) {
    case MADV_DONTNEED:
      return negative(vm_.discard(run));
    case MADV_FREE:
      return negative(vm_.free_lazily(run));
    case MADV_COLD:
      return negative(vm_.cold(run));
    case MADV_PAGEOUT:
      return negative(vm_.page_out(run));
    case MADV_WILLNEED:
      return negative(vm_.will_need(run));
    case MADV_POPULATE_READ:
      return negative(vm_.populate(run, PinFor::kReading));
    case MADV_POPULATE_WRITE:
      return negative(vm_.populate(run, PinFor::kWriting));
    case MADV_NORMAL:
    case MADV_RANDOM:
    case MADV_SEQUENTIAL:
    case MADV_HUGEPAGE:
    case MADV_NOHUGEPAGE:
    case MADV_DODUMP:
    case MADV_DONTDUMP:
    case MADV_MERGEABLE:
    case MADV_UNMERGEABLE:
    case MADV_COLLAPSE:
      return vm_.mapped_prefix(run) == run.count ? 0 : -ENOMEM;
    case MADV_DONTNEED_LOCKED:
      return negative(vm_.discard(run, Vm::LockedPages::kToo));
    case MADV_DONTFORK:
      return negative(vm_.promise(run, Vm::InChild::kNothing));
    case MADV_DOFORK:
      return negative(vm_.withdraw(run, Vm::InChild::kNothing));
    case MADV_WIPEONFORK:
      return negative(vm_.promise(run, Vm::InChild::kZeros));
    case MADV_KEEPONFORK:
      return negative(vm_.withdraw(run, Vm::InChild::kZeros));
    case MADV_GUARD_INSTALL:
      return negative(vm_.install_guards(run));
    case MADV_GUARD_REMOVE:
      return negative(vm_.remove_guards(run));
    case MADV_HWPOISON:
    case MADV_SOFT_OFFLINE:
      return -EPERM;
    default:
      return -EINVAL;  // MADV_REMOVE, which is for shared memory, and what nobody knows
  }
}

void Pool::prefill(void* address, ByteSize length) { vm_.prefill(pages_of(address, length)); }

int Pool::lock(void* address, ByteSize length, int mlock2_flags) {
  constexpr int kOnFault = 1;  // MLOCK_ONFAULT
  return negative(vm_.lock(pages_of(address, length), (mlock2_flags & kOnFault) != 0));
}

int Pool::unlock(void* address, ByteSize length) {
  return negative(vm_.unlock(pages_of(address, length)));
}

int Pool::residency(void* address, ByteSize length, unsigned char* vec) {
  const PageRun run = pages_of(address, length);
  for (PageCount done; done < run.count;) {
    unsigned char chunk[512];
    const PageCount n(std::min<std::uint64_t>(sizeof chunk, (run.count - done).value()));
    if (const Status s = vm_.residency({run.first + done, n}, chunk); !s) return negative(s);
    for (std::uint64_t i = 0; i < n.value(); ++i) {
      const auto r = static_cast<Residency>(chunk[i]);
      const bool resident =
          r == Residency::kMapped || r == Residency::kLazyFree || r == Residency::kStandby;
      vec[done.value() + i] = resident ? 1 : 0;
    }
    done += n;
  }
  return 0;
}

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
