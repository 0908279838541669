// Which mappings of a program become managed memory, and which stay the kernel's.
//
// Managed: private anonymous memory from kManagedFrom upwards, anywhere or below 2 GiB (MAP_32BIT),
// whatever its access: PROT_NONE reservations and MAP_NORESERVE giants included, which are committed
// later by mprotect or MAP_FIXED. MAP_DROPPABLE too, which is then dropped under our pressure. Private
// mappings of /dev/zero are anonymous by another name.
//
// The kernel's: files and shared memory (not ours to forget), stacks (MAP_STACK, MAP_GROWSDOWN:
// signal frames and the guard's growth need them there), huge-page pools (MAP_HUGETLB), fixed
// addresses outside managed memory, and everything small.
#pragma once

#include <sys/mman.h>

#include <cstddef>

#include "base/units.h"
#include "mmu/mmu.h"

namespace buoy::preload {

// Below this a mapping costs us more than it can give back: smaller ones are guard pages, signal stacks,
// thread control blocks and trampolines, which are few and hot. From here on they are a program's
// pieces of heap, of which there may be thousands; they share spans of address space and leaves.
inline constexpr ByteSize kManagedFrom = ByteSize{16} << 10;

enum class Keeper { kPool, kKernel };

struct MapRequest {
  void* address;
  std::size_t length;
  int prot;
  int flags;
};

// MAP_DROPPABLE of Linux 6.11, a type beside MAP_PRIVATE and MAP_SHARED; older kernels refuse it.
inline constexpr int kMapDroppable = 8;

// Private, anonymous, of no special kind.
[[nodiscard]] constexpr bool is_plain(const MapRequest& r) {
  constexpr int kSpecial = MAP_STACK | MAP_GROWSDOWN | MAP_HUGETLB;
  // Of the protection mmap ignores what it does not know.
  return (r.flags & MAP_ANONYMOUS) != 0 && (r.flags & kSpecial) == 0;
}
// Memory that the pool could hold.
[[nodiscard]] constexpr bool is_ordinary(const MapRequest& r) {
  return (r.flags & MAP_TYPE) == MAP_PRIVATE && is_plain(r);
}
// The same, to be dropped rather than kept. Locked at once, it is for the kernel to refuse.
[[nodiscard]] constexpr bool is_droppable(const MapRequest& r) {
  return (r.flags & MAP_TYPE) == kMapDroppable && (r.flags & MAP_LOCKED) == 0 && is_plain(r);
}

// For a request that names no fixed address.
[[nodiscard]] constexpr Keeper keeper_of(const MapRequest& r) {
  const bool fixed = (r.flags & (MAP_FIXED | MAP_FIXED_NOREPLACE)) != 0;
  return (is_ordinary(r) || is_droppable(r)) && !fixed && r.length >= kManagedFrom
             ? Keeper::kPool
             : Keeper::kKernel;
}

// What PROT_* comes to on x86-64, where writable and executable memory is readable.
[[nodiscard]] constexpr mmu::Access access_of(int prot) {
  if ((prot & PROT_EXEC) != 0)
    return (prot & PROT_WRITE) != 0 ? mmu::Access::kReadWriteExec : mmu::Access::kReadExec;
  if ((prot & PROT_WRITE) != 0) return mmu::Access::kReadWrite;
  return (prot & PROT_READ) != 0 ? mmu::Access::kRead : mmu::Access::kNone;
}

}  // namespace buoy::preload
