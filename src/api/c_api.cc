// The C API: validates, finds the pool of an address, translates errors to errno.

#include <pthread.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>

#include "api/extents.h"
#include "api/movable_owner.h"
#include "api/pool.h"
#include "api/pool_registry.h"
#include "api/program_signals.h"
#include "buoy/buoy.h"

namespace buoy {
namespace {

Pool* unwrap(buoy_pool* p) { return reinterpret_cast<Pool*>(p); }
Extents* unwrap(buoy_extents* e) { return reinterpret_cast<Extents*>(e); }
MovableOwner* unwrap(buoy_movable_owner* o) { return reinterpret_cast<MovableOwner*>(o); }

int fail(int code) {
  errno = code;
  return -1;
}
int result(Status s) { return s.ok() ? 0 : fail(s.code()); }

void* unwrap_allocated(const Result<Extents::Allocated>& got, int* zeroed) {
  if (!got) {
    errno = got.code();
    return nullptr;
  }
  if (zeroed != nullptr) *zeroed = got->is_zeroed ? 1 : 0;
  return got->address;
}

// A page-aligned, non-empty, non-wrapping range, whose first page is of one pool.
Status find_pool(void* address, size_t length, Pool** pool) {
  const auto start = reinterpret_cast<std::uintptr_t>(address);
  if (start % kPageSize != 0 || length == 0 || length > SIZE_MAX - kPageSize) return Error{EINVAL};
  if (start + PageCount::covering(length).bytes() < start) return Error{EINVAL};
  *pool = PoolRegistry::find(address);
  if (*pool == nullptr) return Error{ENOMEM};
  return {};
}
// The same, and all of it is mapped.
Status find_mapped(void* address, size_t length, Pool** pool) {
  if (Status s = find_pool(address, length, pool); !s) return s;
  if (!(*pool)->is_mapped(address, length)) return Error{ENOMEM};
  return {};
}

Result<Pool::Advice> advice_of(int advice) {
  switch (advice) {
    case BUOY_FREE:
      return Pool::Advice::kFree;
    case BUOY_FREE_UNTIL_REUSE:
      return Pool::Advice::kFreeUntilReuse;
    case BUOY_REUSE:
      return Pool::Advice::kReuse;
    case BUOY_DONTNEED:
      return Pool::Advice::kDontNeed;
    case BUOY_COLD:
      return Pool::Advice::kCold;
    case BUOY_PAGEOUT:
      return Pool::Advice::kPageOut;
    case BUOY_WILLNEED:
      return Pool::Advice::kWillNeed;
    case BUOY_POPULATE:
      return Pool::Advice::kPopulate;
    default:
      return Error{EINVAL};
  }
}

// As much as was done, in bytes of the length asked for; -1 if nothing was.
ssize_t short_count(PageCount done, int error, size_t length) {
  if (error != 0) errno = error;
  if (done.is_zero()) return -1;
  return static_cast<ssize_t>(std::min(done.bytes(), length));
}

Status read_options(const buoy_options& o, PoolOptions* out) {
  // The size before contiguous_reserve was added.
  constexpr std::size_t kFirstSize = offsetof(buoy_options, contiguous_reserve);
  if (o.struct_size < sizeof(buoy_options) && o.struct_size != kFirstSize) return Error{EINVAL};
  if (o.struct_size >= sizeof(buoy_options)) out->contiguous_reserve = o.contiguous_reserve;
  out->budget = o.budget;
  out->backing_file = o.backing_file;
  if (o.compressor == nullptr || std::strcmp(o.compressor, "lz4") == 0)
    out->compressor = swap::CompressorKind::kLz4;
  else if (std::strcmp(o.compressor, "zstd") == 0)
    out->compressor = swap::CompressorKind::kZstd;
  else if (std::strcmp(o.compressor, "none") == 0)
    out->compressor = swap::CompressorKind::kNone;
  else
    return Error{EINVAL};
  switch (o.faults) {
    case BUOY_FAULTS_AUTO:
      // What replaces our SIGBUS action unseen would leave every fault to itself.
      out->faults = program_signals::reach_us() ? Faults::kAuto : Faults::kThreadWhateverRights;
      break;
    case BUOY_FAULTS_SIGNAL:
      out->faults = Faults::kSignal;
      break;
    case BUOY_FAULTS_THREAD:
      out->faults = Faults::kThread;
      break;
    default:
      return Error{EINVAL};
  }
  switch (o.on_exhausted) {
    case BUOY_EXHAUSTED_SIGBUS:
      out->on_exhausted = OnExhausted::kSigbus;
      break;
    case BUOY_EXHAUSTED_WAIT:
      out->on_exhausted = OnExhausted::kWait;
      break;
    case BUOY_EXHAUSTED_ENOMEM:
      out->on_exhausted = OnExhausted::kEnomem;
      break;
    default:
      return Error{EINVAL};
  }
  if (out->budget < Budget::kMinimum || out->contiguous_reserve > out->budget / 2)
    return Error{EINVAL};
  return {};
}

}  // namespace
}  // namespace buoy

using namespace buoy;  // NOLINT(google-build-using-namespace): the C names live outside

extern "C" {

int buoy_pool_create(const buoy_options* options, buoy_pool** pool) {
  if (options == nullptr || pool == nullptr) return fail(EINVAL);
  PoolOptions o;
  if (Status s = read_options(*options, &o); !s) return fail(s.code());
  auto made = Pool::create(o);
  if (!made) return fail(made.code());
  if (Status s = PoolRegistry::add(**made); !s) {
    (void)Pool::destroy(*made);
    return fail(s.code());
  }
  *pool = reinterpret_cast<buoy_pool*>(*made);
  return 0;
}

int buoy_pool_destroy(buoy_pool* pool) {
  if (pool == nullptr || !PoolRegistry::has(*unwrap(pool))) return fail(EINVAL);
  if (unwrap(pool)->has_mappings()) return fail(EBUSY);
  PoolRegistry::remove(*unwrap(pool));
  const Status s = Pool::destroy(unwrap(pool));
  if (!s) (void)PoolRegistry::add(*unwrap(pool));
  return result(s);
}

int buoy_pool_resize(buoy_pool* pool, size_t budget) {
  if (pool == nullptr) return fail(EINVAL);
  return result(unwrap(pool)->resize(budget));
}

ssize_t buoy_pool_reclaim(buoy_pool* pool, size_t bytes) {
  if (pool == nullptr) return fail(EINVAL);
  return static_cast<ssize_t>(unwrap(pool)->reclaim(bytes));
}

int buoy_pool_stat(buoy_pool* pool, const char* name, uint64_t* value) {
  if (pool == nullptr || name == nullptr || value == nullptr) return fail(EINVAL);
  std::uint64_t v = 0;
  if (!unwrap(pool)->stat(name, &v)) return fail(ENOENT);
  *value = v;
  return 0;
}

const char* buoy_stat_name(size_t index) { return Pool::stat_name(index); }

void* buoy_map(buoy_pool* pool, size_t length, unsigned flags) {
  constexpr unsigned kKnown =
      BUOY_DROPPABLE | BUOY_HUGE | BUOY_PURGED_READS_ZERO | BUOY_VOLATILE_MAY_COMPRESS;
  if (pool == nullptr || length == 0 || (flags & ~kKnown) != 0) {
    errno = EINVAL;
    return nullptr;
  }
  static_assert(static_cast<unsigned>(RegionFlags::kDroppable) == BUOY_DROPPABLE);
  static_assert(static_cast<unsigned>(RegionFlags::kHuge) == BUOY_HUGE);
  static_assert(static_cast<unsigned>(RegionFlags::kPurgedReadsZero) == BUOY_PURGED_READS_ZERO);
  static_assert(static_cast<unsigned>(RegionFlags::kVolatileMayCompress) ==
                BUOY_VOLATILE_MAY_COMPRESS);
  auto at =
      unwrap(pool)->map(length, static_cast<RegionFlags>(flags), mmu::Access::kReadWrite, nullptr);
  if (!at) {
    errno = at.code();
    return nullptr;
  }
  return *at;
}

int buoy_unmap(void* address, size_t length) {
  Pool* pool = nullptr;
  if (Status s = find_mapped(address, length, &pool); !s) return fail(s.code());
  return result(pool->unmap(address, length));
}

void* buoy_remap(void* address, size_t old_length, size_t new_length) {
  Pool* pool = nullptr;
  Status s = find_mapped(address, old_length, &pool);
  if (s.ok() && (new_length == 0 || new_length > SIZE_MAX - kPageSize)) s = Error{EINVAL};
  if (s.ok()) {
    auto at = pool->remap(address, old_length, new_length, Pool::Move::kIfNeeded);
    if (at) return *at;
    s = at.error();
  }
  errno = s.code() == EFAULT ? ENOMEM : s.code();
  return nullptr;
}

int buoy_advise(void* address, size_t length, int advice) {
  Pool* pool = nullptr;
  const Result<Pool::Advice> known = advice_of(advice);
  if (!known) return fail(known.code());
  if (Status s = find_mapped(address, length, &pool); !s) return fail(s.code());
  return result(pool->advise(address, length, *known));
}

int buoy_pin(void* address, size_t length, unsigned flags) {
  Pool* pool = nullptr;
  if ((flags & ~static_cast<unsigned>(BUOY_WRITE)) != 0) return fail(EINVAL);
  if (Status s = find_mapped(address, length, &pool); !s) return fail(s.code());
  return result(
      pool->pin(address, length, (flags & BUOY_WRITE) != 0 ? PinFor::kWriting : PinFor::kReading));
}

int buoy_unpin(void* address, size_t length, unsigned flags) {
  Pool* pool = nullptr;
  if ((flags & ~static_cast<unsigned>(BUOY_DIRTIED)) != 0) return fail(EINVAL);
  if (Status s = find_mapped(address, length, &pool); !s) return fail(s.code());
  return result(
      pool->unpin(address, length, (flags & BUOY_DIRTIED) != 0 ? Dirtied::kYes : Dirtied::kNo));
}

ssize_t buoy_mark_volatile(void* address, size_t length, int priority) {
  Pool* pool = nullptr;
  if (priority < 0 || priority >= static_cast<int>(Pool::kVolatilePriorities)) return fail(EINVAL);
  if (Status s = find_pool(address, length, &pool); !s) return fail(s.code());
  const Vm::Marked marked = pool->mark_volatile(address, length, static_cast<unsigned>(priority));
  return short_count(marked.done, marked.error, length);
}

ssize_t buoy_mark_nonvolatile(void* address, size_t length, int* purged) {
  Pool* pool = nullptr;
  if (Status s = find_pool(address, length, &pool); !s) return fail(s.code());
  const Vm::Unmarked unmarked = pool->mark_nonvolatile(address, length);
  if (purged != nullptr && !unmarked.done.is_zero()) *purged = unmarked.lost ? 1 : 0;
  return short_count(unmarked.done, unmarked.error, length);
}

int buoy_pool_eventfd(buoy_pool* pool) {
  if (pool == nullptr || !PoolRegistry::has(*unwrap(pool))) return fail(EINVAL);
  auto fd = unwrap(pool)->eventfd();
  return fd ? *fd : fail(fd.code());
}

int buoy_residency(void* address, size_t length, unsigned char* vec) {
  Pool* pool = nullptr;
  if (vec == nullptr) return fail(EINVAL);
  if (Status s = find_mapped(address, length, &pool); !s) return fail(s.code());
  return result(pool->page_states(address, length, vec));
}

int buoy_compact(buoy_pool* pool) {
  if (pool == nullptr) return fail(EINVAL);
  unwrap(pool)->compact();
  return 0;
}

void* buoy_alloc_contiguous(buoy_pool* pool, size_t length, unsigned flags) {
  if (pool == nullptr || (flags & ~unsigned{BUOY_RESERVE_AREA}) != 0) {
    errno = EINVAL;
    return nullptr;
  }
  auto at = unwrap(pool)->allocate_contiguous(
      length, (flags & BUOY_RESERVE_AREA) != 0 ? frames::Area::kReserve : frames::Area::kGeneral);
  if (at) return *at;
  errno = at.code();
  return nullptr;
}

int buoy_free_contiguous(buoy_pool* pool, void* address) {
  if (pool == nullptr) return fail(EINVAL);
  return result(unwrap(pool)->free_contiguous(address));
}

int buoy_extents_create(buoy_pool* pool, size_t chunk, unsigned flags, buoy_extents** extents) {
  constexpr unsigned kKnown = BUOY_HUGE | BUOY_PURGED_READS_ZERO | BUOY_VOLATILE_MAY_COMPRESS;
  constexpr std::size_t kDefaultChunk = std::size_t{64} << 20;
  if (pool == nullptr || extents == nullptr || (flags & ~kKnown) != 0) return fail(EINVAL);
  auto made = Extents::create(*unwrap(pool), chunk == 0 ? kDefaultChunk : chunk,
                              static_cast<RegionFlags>(flags));
  if (!made) return fail(made.code());
  *extents = reinterpret_cast<buoy_extents*>(*made);
  return 0;
}

int buoy_extents_destroy(buoy_extents* extents) {
  if (extents == nullptr) return fail(EINVAL);
  return result(Extents::destroy(unwrap(extents)));
}

void* buoy_extents_alloc(buoy_extents* extents, size_t length, size_t alignment, int* zeroed) {
  return unwrap_allocated(extents == nullptr ? Result<Extents::Allocated>(Error{EINVAL})
                                             : unwrap(extents)->allocate(length, alignment),
                          zeroed);
}

void* buoy_extents_alloc_at(buoy_extents* extents, void* address, size_t length, int* zeroed) {
  return unwrap_allocated(extents == nullptr ? Result<Extents::Allocated>(Error{EINVAL})
                                             : unwrap(extents)->allocate_at(address, length),
                          zeroed);
}

int buoy_extents_free(buoy_extents* extents, void* address, size_t length) {
  if (extents == nullptr) return fail(EINVAL);
  return result(unwrap(extents)->free(address, length));
}

int buoy_extents_trim(buoy_extents* extents) {
  if (extents == nullptr) return fail(EINVAL);
  return result(unwrap(extents)->trim());
}

size_t buoy_extents_allocated(buoy_extents* extents) {
  return extents == nullptr ? 0 : unwrap(extents)->allocated_bytes();
}

int buoy_movable_owner_create(buoy_pool* pool, const buoy_movable_ops* ops,
                              buoy_movable_owner** owner) {
  if (pool == nullptr || ops == nullptr || owner == nullptr) return fail(EINVAL);
  auto made = MovableOwner::create(*unwrap(pool), *ops);
  if (!made) return fail(made.code());
  *owner = reinterpret_cast<buoy_movable_owner*>(*made);
  return 0;
}

int buoy_movable_owner_destroy(buoy_movable_owner* owner) {
  if (owner == nullptr) return fail(EINVAL);
  return result(MovableOwner::destroy(unwrap(owner)));
}

void* buoy_movable_alloc(buoy_movable_owner* owner, size_t length) {
  if (owner == nullptr) {
    errno = EINVAL;
    return nullptr;
  }
  auto at = unwrap(owner)->allocate(length);
  if (at) return *at;
  errno = at.code();
  return nullptr;
}

int buoy_movable_set(buoy_movable_owner* owner, void* page, void* data) {
  if (owner == nullptr) return fail(EINVAL);
  return result(unwrap(owner)->set_movable(page, data));
}

int buoy_movable_clear(buoy_movable_owner* owner, void* page) {
  if (owner == nullptr) return fail(EINVAL);
  return result(unwrap(owner)->clear_movable(page));
}

int buoy_movable_free(buoy_movable_owner* owner, void* page) {
  if (owner == nullptr) return fail(EINVAL);
  return result(unwrap(owner)->free(page));
}

}  // extern "C"
