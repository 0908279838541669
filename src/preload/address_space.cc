#include "preload/address_space.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>

#include "base/sys.h"
#include "gate/call.h"
#include "gate/known_data.h"
#include "preload/kernel_result.h"
#include "preload/mapping_policy.h"
#include "preload/memory_locks.h"
#include "preload/runtime.h"

namespace buoy::preload::address_space {
namespace {

// The end of user space on x86-64 with four page-table levels, which is all that mmap hands out
// without being asked for more.
constexpr std::uintptr_t kUserEnd = (std::uintptr_t{1} << 47) - kPageSize;

// Below this an address is no wish (vm.mmap_min_addr) but a small number.
constexpr std::uintptr_t kLowestWish = std::uintptr_t{1} << 16;

constexpr int kDontUnmap = 4;  // MREMAP_DONTUNMAP

void* pointer_to(std::uintptr_t address) {
  return reinterpret_cast<void*>(address);  // NOLINT(performance-no-int-to-ptr)
}

// A page-aligned range of user space.
struct Range {
  std::uintptr_t begin = 0;
  std::uintptr_t end = 0;
  [[nodiscard]] bool is_empty() const { return begin == end; }
  [[nodiscard]] std::size_t bytes() const { return end - begin; }
  [[nodiscard]] void* pointer() const { return pointer_to(begin); }
};

// The pages of [address, address + length), as the kernel counts them.
// EINVAL: misaligned or wrapping; ENOMEM: beyond user space.
Result<Range> range_of(const void* address, std::size_t length) {
  const auto begin = reinterpret_cast<std::uintptr_t>(address);
  if (begin % kPageSize != 0) return Error{EINVAL};
  const std::size_t rounded = PageCount::covering(length).bytes();
  if (length != 0 && rounded < length) return Error{EINVAL};
  if (begin > kUserEnd || rounded > kUserEnd - begin) return Error{ENOMEM};
  return Range{begin, begin + rounded};
}

// The pages that [address, address + length) touches: mlock and munlock round the address down.
Result<Range> range_touching(const void* address, std::size_t length) {
  const std::size_t into_page = reinterpret_cast<std::uintptr_t>(address) % kPageSize;
  return range_of(static_cast<const std::byte*>(address) - into_page, length + into_page);
}

// Whose pages a stretch is: the pool's, nobody's (free, inside a reservation of ours), the kernel's.
enum class Owner { kPool, kNobody, kKernel };

struct Stretch {
  Range range;
  Owner owner = Owner::kKernel;
};

// The longest stretch of one owner at the start of a range that is not empty; it ends where a region
// of the pool does.
Stretch first_stretch(const Pool& pool, Range rest) {
  const Vm::Stretch s = pool.first_stretch(rest.pointer(), rest.bytes());
  Owner owner = Owner::kKernel;
  if (s.owner == Vm::Owner::kProgram) owner = Owner::kPool;
  if (s.owner == Vm::Owner::kNobody) owner = Owner::kNobody;
  return {Range{rest.begin, rest.begin + s.count.bytes()}, owner};
}

// Is any of it in a reservation of ours?
bool overlaps_managed(const Pool& pool, Range range) {
  if (range.is_empty()) return false;
  const Stretch first = first_stretch(pool, range);
  return first.owner != Owner::kKernel || first.range.end != range.end;
}

// Is all of it?
bool is_inside_managed(const Pool& pool, Range range) {
  while (!range.is_empty()) {
    const Stretch s = first_stretch(pool, range);
    if (s.owner == Owner::kKernel) return false;
    range.begin = s.range.end;
  }
  return true;
}

// Calls body(stretch) -> long for each stretch until one answers other than 0; that answer.
template <typename Body>
long for_each_stretch(const Pool& pool, Range range, Body body) {
  while (!range.is_empty()) {
    const Stretch s = first_stretch(pool, range);
    if (const long r = body(s); r != 0) return r;
    range.begin = s.range.end;
  }
  return 0;
}

long address_or_error(const Result<void*>& r) {
  return r ? reinterpret_cast<long>(*r) : -static_cast<long>(r.code());
}

long kernel_mmap(void* address, std::size_t length, int prot, int flags, int fd, off_t offset) {
  return sys::call(SYS_mmap, sys::ptr(address), static_cast<long>(length), prot, flags, fd, offset);
}

// MAP_NORESERVE: nothing is reserved anyway.
MapFlags map_flags(const MapRequest& r) {
  return is_droppable(r) ? MapFlags::kDroppable : MapFlags::kNone;
}

// Does a seal keep any of it as it is?
bool is_sealed(const Pool& pool, Range range) {
  return pool.unsealed_prefix(range.pointer(), range.bytes()) != range.bytes();
}

// Advice after which contents, or what a child finds, are gone (the kernel's is_discard()).
bool discards(int advice) {
  constexpr int kDontNeedLocked = 24;
  constexpr int kGuardInstall = 102;
  return advice == MADV_DONTNEED || advice == MADV_FREE || advice == MADV_REMOVE ||
         advice == MADV_DONTFORK || advice == MADV_WIPEONFORK || advice == kDontNeedLocked ||
         advice == kGuardInstall;
}

// Static data may not be what it was.
void forget_data(const void* address, std::size_t length) {
  gate::known_data::forget(reinterpret_cast<std::uintptr_t>(address), length);
}

// Of the pool's; up to where a seal forbids it.
long advise_pool(Pool& pool, Range range, int advice) {
  const std::size_t all = range.bytes();
  const std::size_t allowed =
      discards(advice) ? pool.discardable_prefix(range.pointer(), all) : all;
  const Status s = allowed == 0 ? Status() : pool.madvise(range.pointer(), allowed, advice);
  return s.ok() && allowed != all ? -EPERM : kernel_result(s);
}

long protect_pool(Pool& pool, Range range, int prot) {
  const std::size_t allowed = pool.unsealed_prefix(range.pointer(), range.bytes());
  if (allowed != 0)
    if (const Status s = pool.protect(range.pointer(), allowed, access_of(prot)); !s)
      return kernel_result(s);
  (void)memory_locks::lock_new(range.pointer(), allowed, prot);
  return allowed == range.bytes() ? 0 : -EPERM;
}

long carve_out(Pool& pool, Range range) {
  return for_each_stretch(pool, range, [&](const Stretch& s) -> long {
    if (s.owner == Owner::kKernel) return 0;
    return kernel_result(pool.carve_out(s.range.pointer(), s.range.bytes()));
  });
}

// Tries it elsewhere: what the kernel refuses, for a bad descriptor say, must change nothing.
long kernels_refusal(const MapRequest& r, int fd, off_t offset) {
  constexpr int kNotInATrial = MAP_FIXED | MAP_FIXED_NOREPLACE | MAP_POPULATE | MAP_LOCKED;
  const long trial = kernel_mmap(nullptr, r.length, r.prot, r.flags & ~kNotInATrial, fd, offset);
  if (trial < 0 && trial > -4096) return trial;
  sys::call(SYS_munmap, trial, static_cast<long>(r.length));
  return 0;
}

// A stack grows into address space that is free to the kernel, which our reservations are not: what is
// nobody's right below it becomes the kernel's, as far as the stack may grow.
long make_room_to_grow(Pool& pool, Range stack) {
  constexpr std::size_t kGuardGap = std::size_t{1} << 20;  // that the kernel keeps below a stack
  constexpr std::size_t kMost = std::size_t{64} << 20;
  struct rlimit limit {};
  if (sys::call(SYS_prlimit64, 0, RLIMIT_STACK, 0, sys::ptr(&limit)) != 0) return 0;
  const std::size_t below = std::min<std::size_t>(limit.rlim_cur, kMost) + kGuardGap;
  Range free{stack.begin, stack.begin};
  for_each_stretch(pool, {stack.begin - std::min(stack.begin, below), stack.begin},
                   [&free, stack](const Stretch& s) -> long {
                     if (s.owner != Owner::kNobody)
                       free = {stack.begin, stack.begin};
                     else if (free.is_empty())
                       free = s.range;
                     else
                       free.end = s.range.end;
                     return 0;
                   });
  if (free.is_empty()) return 0;
  if (const long let_go = carve_out(pool, free); let_go != 0) return let_go;
  return sys::call(SYS_munmap, sys::ptr(free.pointer()), static_cast<long>(free.bytes()));
}

// Something foreign comes to where memory of ours is, or was.
long map_foreign(Pool& pool, const MapRequest& r, Range range, int fd, off_t offset) {
  if (const long refused = kernels_refusal(r, fd, offset); refused != 0) return refused;
  if ((r.flags & MAP_GROWSDOWN) != 0)
    if (const long refused = make_room_to_grow(pool, range); refused != 0) return refused;
  if (const long let_go = carve_out(pool, range); let_go != 0) return let_go;
  const int flags = (r.flags & ~MAP_FIXED_NOREPLACE) | MAP_FIXED;
  return kernel_mmap(r.address, r.length, r.prot, flags, fd, offset);
}

// MAP_FIXED: over managed memory, over other memory, or over some of both.
long map_fixed(Pool& pool, const MapRequest& r, int fd, off_t offset) {
  const Result<Range> range = range_of(r.address, r.length);
  // What the kernel refuses anyway must not cost the program what was there.
  if (!range || range->is_empty() || !overlaps_managed(pool, *range))
    return kernel_mmap(r.address, r.length, r.prot, r.flags, fd, offset);
  if (is_sealed(pool, *range)) return -EPERM;
  if (is_ordinary(r) && is_inside_managed(pool, *range)) {
    const long placed = for_each_stretch(pool, *range, [&](const Stretch& s) {
      return kernel_result(pool.map_over(s.range.pointer(), s.range.bytes(), access_of(r.prot)));
    });
    if (placed != -EINVAL) return placed == 0 ? reinterpret_cast<long>(r.address) : placed;
    // Among what may be dropped: only the kernel can keep it there.
  }
  return map_foreign(pool, r, *range, fd, offset);
}

void unclaim_kernels_part(const Pool& pool, Range range) {
  for_each_stretch(pool, range, [](const Stretch& s) -> long {
    if (s.owner == Owner::kKernel)
      sys::call(SYS_munmap, sys::ptr(s.range.pointer()), static_cast<long>(s.range.bytes()));
    return 0;
  });
}

// Takes the kernel's part of a range, if that is free, so that nobody else does meanwhile. EEXIST.
long claim_kernels_part(const Pool& pool, Range range) {
  constexpr int kClaim = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE;
  std::uintptr_t claimed = range.begin;  // up to there
  const long r = for_each_stretch(pool, range, [&](const Stretch& s) -> long {
    if (s.owner == Owner::kPool) return -EEXIST;
    const long at = s.owner == Owner::kNobody
                        ? 0
                        : kernel_mmap(s.range.pointer(), s.range.bytes(), PROT_NONE, kClaim, -1, 0);
    if (at < 0) return at;
    claimed = s.range.end;
    return 0;
  });
  if (r != 0) unclaim_kernels_part(pool, Range{range.begin, claimed});
  return r;
}

// MAP_FIXED_NOREPLACE: to the kernel our reservations are taken everywhere.
long map_where_free(Pool& pool, const MapRequest& r, int fd, off_t offset) {
  const Result<Range> range = range_of(r.address, r.length);
  if (!range || range->is_empty() || !overlaps_managed(pool, *range))
    return kernel_mmap(r.address, r.length, r.prot, r.flags, fd, offset);
  // A bad descriptor is told before what is in the way.
  if ((r.flags & MAP_ANONYMOUS) == 0)
    if (const long refused = kernels_refusal(r, fd, offset); refused == -EBADF) return refused;
  const Stretch first = first_stretch(pool, *range);
  const bool is_free_inside = first.owner == Owner::kNobody && first.range.end == range->end;
  if (is_free_inside && (is_ordinary(r) || is_droppable(r))) {
    const Result<void*> at =
        pool.map_at(r.address, range->bytes(), map_flags(r), access_of(r.prot));
    if (at || at.code() != EEXIST) return address_or_error(at);
    if (first_stretch(pool, *range).owner == Owner::kPool) return -EEXIST;
  }
  if (const long claimed = claim_kernels_part(pool, *range); claimed != 0) return claimed;
  const long placed = map_foreign(pool, r, *range, fd, offset);
  if (placed < 0) unclaim_kernels_part(pool, *range);
  return placed;
}

// Is it /dev/zero, open for reading? A private mapping of that is private and anonymous.
bool is_zeros(int fd) {
  struct stat st {};
  if (sys::call(SYS_fstat, fd, sys::ptr(&st)) != 0 || !S_ISCHR(st.st_mode)) return false;
  if (st.st_rdev != makedev(1, 5)) return false;
  const long how = sys::call(SYS_fcntl, fd, F_GETFL);
  return how >= 0 && (how & O_ACCMODE) != O_WRONLY;
}

// Where the kernel puts MAP_32BIT.
constexpr Range kLow{std::uintptr_t{1} << 30, std::uintptr_t{1} << 31};

// MAP_32BIT: in a gap of ours there, else where the kernel would put it. kKernel's, if neither can be.
long map_low(Pool& pool, const MapRequest& r, std::size_t bytes) {
  for (Range rest = kLow; !rest.is_empty();) {
    const Stretch s = first_stretch(pool, rest);
    rest.begin = s.range.end;
    if (s.owner != Owner::kNobody || s.range.bytes() < bytes) continue;
    const Result<void*> at = pool.map_at(s.range.pointer(), bytes, map_flags(r), access_of(r.prot));
    if (at) return reinterpret_cast<long>(*at);
    if (at.code() != EEXIST) return -static_cast<long>(at.code());
  }
  constexpr int kTrial = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_32BIT;
  const std::size_t wanted = (bytes + 2 * kBlockSize - 1) & ~(kBlockSize - 1);
  const long trial = kernel_mmap(nullptr, wanted, PROT_NONE, kTrial, -1, 0);
  if (trial > 0) {
    sys::call(SYS_munmap, trial, static_cast<long>(wanted));
    const std::uintptr_t block =
        (static_cast<std::uintptr_t>(trial) + kBlockSize - 1) & ~(kBlockSize - 1);
    const Result<void*> at = pool.map_at(pointer_to(block), bytes, map_flags(r), access_of(r.prot));
    if (at) return reinterpret_cast<long>(*at);
    if (at.code() != EEXIST) return -static_cast<long>(at.code());
  }
  return kernel_mmap(r.address, r.length, r.prot, r.flags, -1, 0);
}

long map_unlocked(void* address, std::size_t length, int prot, int flags, int fd, off_t offset) {
  if (offset % static_cast<off_t>(kPageSize) != 0) return -EINVAL;
  const bool may_be_zeros =
      (flags & (MAP_TYPE | MAP_ANONYMOUS)) == MAP_PRIVATE && length >= kManagedFrom;
  if (may_be_zeros && is_zeros(fd)) {
    flags |= MAP_ANONYMOUS;
    fd = -1;
    offset = 0;
  }
  const MapRequest r{address, length, prot, flags};
  if ((flags & MAP_FIXED) != 0) forget_data(address, length);
  if ((flags & (MAP_FIXED | MAP_FIXED_NOREPLACE)) == MAP_FIXED) {
    Pool* started = pool_if_started();
    if (started == nullptr) return kernel_mmap(address, length, prot, flags, fd, offset);
    return map_fixed(*started, r, fd, offset);
  }
  if ((flags & MAP_FIXED_NOREPLACE) != 0) {
    Pool* started = pool_if_started();
    if (started == nullptr) return kernel_mmap(address, length, prot, flags, fd, offset);
    return map_where_free(*started, r, fd, offset);
  }
  if (keeper_of(r) == Keeper::kKernel) return kernel_mmap(address, length, prot, flags, fd, offset);
  const std::size_t rounded = PageCount::covering(length).bytes();
  if (rounded < length || rounded > kUserEnd) return -ENOMEM;
  // A hint need not be a page's first byte, nor free.
  const auto wished = reinterpret_cast<std::uintptr_t>(address) & ~(kPageSize - 1);
  const bool is_possible = wished >= kLowestWish && range_of(pointer_to(wished), rounded).ok();
  void* hint = is_possible ? pointer_to(wished) : nullptr;
  const bool is_low = (flags & MAP_32BIT) != 0;
  if (is_low && hint != nullptr) return kernel_mmap(address, length, prot, flags, fd, offset);
  return is_low ? map_low(pool(), r, rounded)
                : address_or_error(pool().map(rounded, map_flags(r), access_of(prot), hint));
}

// What is to be there at once, of what is the pool's. Neither fails the call, as natively: mlock would.
void make_present(Pool& pool, Range range, int flags) {
  const bool is_locked = (flags & MAP_LOCKED) != 0;
  if (!is_locked && (flags & (MAP_POPULATE | MAP_NONBLOCK)) != MAP_POPULATE) return;
  for_each_stretch(pool, range, [&pool, is_locked](const Stretch& s) -> long {
    if (s.owner != Owner::kPool) return 0;
    if (is_locked) (void)pool.lock(s.range.pointer(), s.range.bytes(), Pool::Lock::kNow);
    pool.prefill(s.range.pointer(), s.range.bytes());
    return 0;
  });
}

}  // namespace

long map(void* address, std::size_t length, int prot, int flags, int fd, off_t offset) {
  const long placed = map_unlocked(address, length, prot, flags, fd, offset);
  if (placed < 0) return placed;
  void* const at = pointer_to(static_cast<std::uintptr_t>(placed));
  if (Pool* started = pool_if_started(); started != nullptr)
    if (const Result<Range> range = range_of(at, length); range)
      make_present(*started, *range, flags);
  if (memory_locks::lock_new(at, length, prot)) return placed;
  (void)unmap(at, length);
  return -EAGAIN;
}

long unmap(void* address, std::size_t length) {
  forget_data(address, length);
  Pool* pool = pool_if_started();
  const Result<Range> range = range_of(address, length);
  if (pool == nullptr || !range || range->is_empty() || !overlaps_managed(*pool, *range))
    return sys::call(SYS_munmap, sys::ptr(address), static_cast<long>(length));
  if (is_sealed(*pool, *range)) return -EPERM;
  return for_each_stretch(*pool, *range, [&](const Stretch& s) -> long {
    if (s.owner == Owner::kPool)
      return kernel_result(pool->unmap(s.range.pointer(), s.range.bytes()));
    if (s.owner == Owner::kNobody) return 0;
    return sys::call(SYS_munmap, sys::ptr(s.range.pointer()), static_cast<long>(s.range.bytes()));
  });
}

namespace {

// What is wrong with a request to remap, wherever it points.
long check_remap(Range from, std::size_t old_length, std::size_t new_length, int flags,
                 const void* target) {
  if ((flags & ~(MREMAP_MAYMOVE | MREMAP_FIXED | kDontUnmap)) != 0) return -EINVAL;
  const std::size_t old_bytes = PageCount::covering(old_length).bytes();
  const std::size_t new_bytes = PageCount::covering(new_length).bytes();
  if (new_bytes == 0 || new_bytes < new_length || new_bytes > kUserEnd) return -EINVAL;
  if ((flags & (MREMAP_FIXED | kDontUnmap)) == 0) return 0;
  if ((flags & MREMAP_MAYMOVE) == 0) return -EINVAL;
  if ((flags & kDontUnmap) != 0 && old_bytes != new_bytes) return -EINVAL;
  if ((flags & MREMAP_FIXED) == 0) return 0;
  const Result<Range> to = range_of(target, new_bytes);
  return !to || (to->begin < from.end && from.begin < to->end) ? -EINVAL : 0;
}

struct RemapRequest {
  std::size_t old_length;
  std::size_t new_length;
  int flags;
};

// The kernel's memory comes to where ours is, or was. It goes to a place in between first: if the kernel
// refuses, it does so before anything of ours is lost.
long remap_foreign(Pool& pool, std::uintptr_t source, const RemapRequest& r, Range to) {
  const auto kernel_mremap = [](long from, std::size_t old_length, const RemapRequest& request,
                                long target) {
    return sys::call(SYS_mremap, from, static_cast<long>(old_length),
                     static_cast<long>(request.new_length), request.flags, target);
  };
  // Linux 6.17 moves over holes, behind which something of ours would show.
  const auto whole = static_cast<long>(PageCount::covering(r.old_length).bytes());
  if (sys::call(SYS_msync, static_cast<long>(source), whole, MS_ASYNC) != 0) return -EFAULT;
  constexpr int kPlace = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  const long between =
      to.is_empty() ? -EINVAL : kernel_mmap(nullptr, to.bytes(), PROT_NONE, kPlace, -1, 0);
  if (between < 0) return between;
  const long moved = kernel_mremap(static_cast<long>(source), r.old_length, r, between);
  if (moved < 0) {
    sys::call(SYS_munmap, between, static_cast<long>(to.bytes()));
    return moved;
  }
  if (const long let_go = carve_out(pool, to); let_go != 0) return let_go;
  return kernel_mremap(between, to.bytes(), {to.bytes(), to.bytes(), MREMAP_MAYMOVE | MREMAP_FIXED},
                       static_cast<long>(to.begin));
}

}  // namespace

long remap(void* old_address, std::size_t old_length, std::size_t new_length, int flags,
           void* new_address) {
  forget_data(old_address, old_length);
  if ((flags & MREMAP_FIXED) != 0) forget_data(new_address, new_length);
  const auto kernel_mremap = [&] {
    return sys::call(SYS_mremap, sys::ptr(old_address), static_cast<long>(old_length),
                     static_cast<long>(new_length), flags, sys::ptr(new_address));
  };
  Pool* pool = pool_if_started();
  const Result<Range> from = range_of(old_address, std::max(old_length, kPageSize));
  const bool is_fixed = (flags & MREMAP_FIXED) != 0;
  if (pool == nullptr || !from) return kernel_mremap();
  if (!overlaps_managed(*pool, *from)) {
    const Result<Range> to = range_of(new_address, new_length);
    if (is_fixed && to && is_sealed(*pool, *to)) return -EPERM;
    if (!is_fixed || !to || !overlaps_managed(*pool, *to)) return kernel_mremap();
    const long refused = check_remap(*from, old_length, new_length, flags, new_address);
    return refused != 0 ? refused
                        : remap_foreign(*pool, from->begin, {old_length, new_length, flags}, *to);
  }
  if (const long refused = check_remap(*from, old_length, new_length, flags, new_address);
      refused != 0)
    return refused;
  // A mapping never spans two owners.
  const Stretch first = first_stretch(*pool, *from);
  const std::size_t old_bytes = PageCount::covering(old_length).bytes();
  const std::size_t new_bytes = PageCount::covering(new_length).bytes();
  const bool stays = (flags & (MREMAP_FIXED | kDontUnmap)) == 0 && new_bytes <= old_bytes;
  if (stays) {
    if (first.owner == Owner::kNobody) return -EFAULT;
    constexpr auto kPage = static_cast<long>(kPageSize);
    if (first.owner == Owner::kKernel)  // Is it mapped?
      if (const long at = sys::call(SYS_mremap, sys::ptr(old_address), kPage, kPage, 0, 0); at < 0)
        return at;
    // Whatever lies there is unmapped, as natively.
    const long r = new_bytes == old_bytes
                       ? 0
                       : unmap(pointer_to(from->begin + new_bytes), old_bytes - new_bytes);
    return r == 0 ? reinterpret_cast<long>(old_address) : r;
  }
  if (first.owner != Owner::kPool || first.range.end != from->end) return -EFAULT;
  if (old_bytes == 0) return -EINVAL;
  if (is_fixed && is_sealed(*pool, *range_of(new_address, new_bytes))) return -EPERM;
  if (is_sealed(*pool, *from)) return -EPERM;
  // Where it is to go it must be ours, as far as a region of ours can lie there.
  if (is_fixed) {
    const Range to = *range_of(new_address, new_bytes);
    // What is there now must not be lost to a request that is refused.
    const PageRun run{Vpn::containing(old_address), PageCount::covering(old_length)};
    if (const Status s = pool->vm().check_one_mapping(run); !s) return kernel_result(s);
    if (!is_inside_managed(*pool, to))
      if (const Status s = pool->take_over(to.pointer(), to.bytes()); !s) return kernel_result(s);
  }
  if ((flags & kDontUnmap) != 0)
    return address_or_error(
        pool->remap_leaving(old_address, old_bytes, is_fixed ? new_address : nullptr));
  if (is_fixed)
    return address_or_error(pool->remap_onto(old_address, old_bytes, new_bytes, new_address));
  return address_or_error(
      pool->remap(old_address, old_bytes, new_bytes,
                  (flags & MREMAP_MAYMOVE) != 0 ? Pool::Move::kIfNeeded : Pool::Move::kNever));
}

namespace {

// PROT_GROWSDOWN and PROT_GROWSUP want a stack there, and ours are none.
long refuse_to_grow(const Pool& pool, Range range, int prot) {
  // The first mapping in it is what counts; for PROT_GROWSUP it must begin there.
  if ((prot & PROT_GROWSUP) != 0) range = first_stretch(pool, range).range;
  const long r = for_each_stretch(pool, range, [prot](const Stretch& s) -> long {
    if (s.owner == Owner::kPool) return -EINVAL;
    if (s.owner == Owner::kNobody) return 0;
    const long one = sys::call(SYS_mprotect, sys::ptr(s.range.pointer()),
                               static_cast<long>(s.range.bytes()), prot);
    return one == -ENOMEM ? 0 : one;
  });
  return r == 0 ? -ENOMEM : r;
}

}  // namespace

long protect(void* address, std::size_t length, int prot, int pkey) {
  forget_data(address, length);
  const auto kernel_protect = [&](void* p, std::size_t bytes) {
    return pkey == -1
               ? sys::call(SYS_mprotect, sys::ptr(p), static_cast<long>(bytes), prot)
               : sys::call(SYS_pkey_mprotect, sys::ptr(p), static_cast<long>(bytes), prot, pkey);
  };
  Pool* pool = pool_if_started();
  const Result<Range> range = range_of(address, length);
  if (pool == nullptr || !range || !overlaps_managed(*pool, *range))
    return kernel_protect(address, length);
  // PROT_SEM is for other machines, which have memory without atomics: here it changes nothing.
  constexpr int kProtSem = 8;
  constexpr int kKnownProt = PROT_READ | PROT_WRITE | PROT_EXEC | kProtSem;
  const int unknown = prot & ~kKnownProt;
  if (unknown == PROT_GROWSDOWN || unknown == PROT_GROWSUP)
    return refuse_to_grow(*pool, *range, prot);
  if (unknown != 0) return -EINVAL;
  // Before anything is changed. (0 is the key that memory has anyway.)
  if (pkey != -1 && pkey != 0) return -EINVAL;
  return for_each_stretch(*pool, *range, [&](const Stretch& s) -> long {
    if (s.owner == Owner::kKernel) return kernel_protect(s.range.pointer(), s.range.bytes());
    if (s.owner == Owner::kNobody) return -ENOMEM;
    return protect_pool(*pool, s.range, prot);
  });
}

long advise(void* address, std::size_t length, int advice) {
  if (discards(advice)) forget_data(address, length);
  Pool* pool = pool_if_started();
  const Result<Range> range = range_of(address, length);
  if (pool == nullptr || !range || !overlaps_managed(*pool, *range))
    return sys::call(SYS_madvise, sys::ptr(address), static_cast<long>(length), advice);
  // Does this kernel know it? It says so of an empty range, too.
  if (advice != MADV_DONTNEED && advice != MADV_FREE)
    if (const long known = sys::call(SYS_madvise, 0, 0, advice); known != 0) return known;
  // All but these go on behind a hole.
  const bool ends_at_hole = advice == MADV_POPULATE_READ || advice == MADV_POPULATE_WRITE;
  bool met_hole = false;
  const long r = for_each_stretch(*pool, *range, [&](const Stretch& s) -> long {
    long one = -ENOMEM;
    if (s.owner == Owner::kPool) one = advise_pool(*pool, s.range, advice);
    if (s.owner == Owner::kKernel)
      one = sys::call(SYS_madvise, sys::ptr(s.range.pointer()), static_cast<long>(s.range.bytes()),
                      advice);
    if (one != -ENOMEM || ends_at_hole) return one;
    met_hole = true;
    return 0;
  });
  return r == 0 && met_hole ? -ENOMEM : r;
}

long advise_vector(const iovec* ranges, std::size_t count, int advice) {
  long done = 0;
  for (std::size_t i = 0; i < count; ++i) {
    const long r = advise(ranges[i].iov_base, ranges[i].iov_len, advice);
    if (r != 0) return done != 0 ? done : r;
    done += static_cast<long>(ranges[i].iov_len);
  }
  return done;
}

long seal(void* address, std::size_t length, unsigned long flags) {
  const auto kernel_seal = [flags](const void* p, std::size_t bytes) {
    return sys::call(kMseal, sys::ptr(p), static_cast<long>(bytes), static_cast<long>(flags));
  };
  Pool* pool = pool_if_started();
  const Result<Range> range = range_of(address, length);
  if (pool == nullptr || !range || flags != 0 || !overlaps_managed(*pool, *range))
    return kernel_seal(address, length);
  // Does this kernel know it? It says so of an empty range, too.
  if (const long known = kernel_seal(nullptr, 0); known != 0) return known;
  const long holes = for_each_stretch(*pool, *range, [&](const Stretch& s) -> long {
    const bool is_ours =
        s.owner == Owner::kKernel && pool->is_own(s.range.pointer(), s.range.bytes());
    return s.owner == Owner::kNobody || is_ours ? -ENOMEM : 0;
  });
  if (holes != 0) return holes;
  // The kernel's part first, which may have holes of its own.
  for (const Owner owner : {Owner::kKernel, Owner::kPool}) {
    const long r = for_each_stretch(*pool, *range, [&](const Stretch& s) -> long {
      if (s.owner != owner) return 0;
      if (owner == Owner::kKernel) return kernel_seal(s.range.pointer(), s.range.bytes());
      return kernel_result(pool->seal(s.range.pointer(), s.range.bytes()));
    });
    if (r != 0) return r;
  }
  return 0;
}

long lock(void* address, std::size_t length, int mlock2_flags) {
  const auto kernel_lock = [&](void* p, std::size_t bytes) {
    return sys::call(SYS_mlock2, sys::ptr(p), static_cast<long>(bytes), mlock2_flags);
  };
  Pool* pool = pool_if_started();
  const Result<Range> range = range_touching(address, length);
  if (pool == nullptr || !range) return kernel_lock(address, length);
  if ((mlock2_flags & ~MLOCK_ONFAULT) != 0) return -EINVAL;
  return for_each_stretch(*pool, *range, [&](const Stretch& s) -> long {
    // To the program our own memory is not there: the kernel would make all of it resident.
    const bool is_nobodys =
        s.owner == Owner::kNobody ||
        (s.owner == Owner::kKernel && pool->is_own(s.range.pointer(), s.range.bytes()));
    if (is_nobodys) return -ENOMEM;
    if (s.owner == Owner::kKernel) return kernel_lock(s.range.pointer(), s.range.bytes());
    return kernel_result(
        pool->lock(s.range.pointer(), s.range.bytes(),
                   (mlock2_flags & MLOCK_ONFAULT) != 0 ? Pool::Lock::kOnFault : Pool::Lock::kNow));
  });
}

long unlock(void* address, std::size_t length) {
  Pool* pool = pool_if_started();
  const Result<Range> range = range_touching(address, length);
  if (pool == nullptr || !range || !overlaps_managed(*pool, *range))
    return sys::call(SYS_munlock, sys::ptr(address), static_cast<long>(length));
  return for_each_stretch(*pool, *range, [&](const Stretch& s) -> long {
    if (s.owner == Owner::kPool)
      return kernel_result(pool->unlock(s.range.pointer(), s.range.bytes()));
    if (s.owner == Owner::kNobody) return -ENOMEM;
    return sys::call(SYS_munlock, sys::ptr(s.range.pointer()), static_cast<long>(s.range.bytes()));
  });
}

long residency(void* address, std::size_t length, unsigned char* vec) {
  Pool* pool = pool_if_started();
  const Result<Range> range = range_of(address, length);
  if (pool == nullptr || !range || !overlaps_managed(*pool, *range))
    return gate::call(SYS_mincore, sys::ptr(address), static_cast<long>(length), sys::ptr(vec));
  return for_each_stretch(*pool, *range, [&](const Stretch& s) -> long {
    if (s.owner == Owner::kNobody) return -ENOMEM;
    const std::size_t pages = s.range.bytes() / kPageSize;
    // The kernel first, whoever knows the answer: it finds out whether `vec` can be written to.
    long r = gate::call(SYS_mincore, sys::ptr(s.range.pointer()),
                        static_cast<long>(s.range.bytes()), sys::ptr(vec));
    if (r == 0 && s.owner == Owner::kPool)
      r = kernel_result(pool->residency(s.range.pointer(), s.range.bytes(), vec));
    vec += pages;
    return r;
  });
}

long sync(void* address, std::size_t length, int flags) {
  Pool* pool = pool_if_started();
  const Result<Range> range = range_of(address, length);
  if (pool == nullptr || !range || !overlaps_managed(*pool, *range))
    return sys::call(SYS_msync, sys::ptr(address), static_cast<long>(length), flags);
  constexpr int kBoth = MS_ASYNC | MS_SYNC;
  if ((flags & ~(kBoth | MS_INVALIDATE)) != 0 || (flags & kBoth) == kBoth) return -EINVAL;
  bool met_hole = false;
  const long r = for_each_stretch(*pool, *range, [&](const Stretch& s) -> long {
    long one = -ENOMEM;
    if (s.owner == Owner::kPool) {  // nothing behind it to write to
      const bool is_held =
          (flags & MS_INVALIDATE) != 0 && pool->has_mlocked(s.range.pointer(), s.range.bytes());
      one = is_held ? -EBUSY : 0;
    }
    if (s.owner == Owner::kKernel)
      one = sys::call(SYS_msync, sys::ptr(s.range.pointer()), static_cast<long>(s.range.bytes()),
                      flags);
    if (one != -ENOMEM) return one;
    met_hole = true;
    return 0;
  });
  return r == 0 && met_hole ? -ENOMEM : r;
}

}  // namespace buoy::preload::address_space
