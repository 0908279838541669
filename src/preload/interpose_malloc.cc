// malloc: libc's family over jemalloc's, with glibc's promises, and how jemalloc is set up here.
//
// jemalloc's undefined munmap, madvise and mprotect resolve to ours in this very library, its mmap
// to buoy_je_mmap below: its extents are managed memory, its metadata too. It calls them with locks
// of its own held, which is why nothing behind them may allocate.
//
// What differs from jemalloc: every block is aligned to 16 bytes, as the ABI has it and compilers
// take for granted (jemalloc aligns 8 bytes to 8); alignments are taken as glibc takes them; a block
// that is libc's goes back to libc (foreign_memory.h).
#include <malloc.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "base/units.h"
#include "preload/address_space.h"
#include "preload/environment.h"
#include "preload/foreign_memory.h"
#include "preload/interpose.h"
#include "preload/jemalloc.h"
#include "preload/mapping_policy.h"
#include "preload/runtime.h"
#include "preload/settings.h"

namespace foreign = buoy::preload::foreign;

// Read by jemalloc when it starts; BUOY_MALLOC_CONF comes on top. MALLOC_CONF, /etc/malloc.conf and
// the program's malloc_conf are not read: they are meant for another jemalloc.
//   dss:disabled            the heap by sbrk would lie outside the budget (and see sbrk below)
//   background_thread:false no threads of libc's in strangers' processes; decay runs in free()
//   retain:false            arenas keep no address space of their own: what they let go of is
//                           lazily freed, and kept, by Extents (interpose_arenas.cc), which also
//                           extend an extent in place, for realloc
//   dirty_decay_ms:100      freed pages are given up after a tenth of a second instead of ten:
//                           within a budget they would be compressed for nobody. At once would be
//                           better still where memory is short and costs churn a fifth
//                           (docs/performance.md)
//   muzzy_decay_ms:0        and given up at once, not in two steps
//   narenas:4               an arena is a set of half-filled extents; more of them than threads
//                           that really run at a time spread the same data over more pages
//   metadata_thp:disabled,thp:default  page sizes are the pool's business; jemalloc gives no advice
const char* buoy_je_malloc_conf =
    "dss:disabled,background_thread:false,retain:false,dirty_decay_ms:100,muzzy_decay_ms:0,"
    "narenas:4,metadata_thp:disabled,thp:default";
const char* buoy_je_malloc_conf_2 = nullptr;

// A declaration hides a name only where it is used.
asm(".hidden buoy_je_posix_memalign; .hidden buoy_je_aligned_alloc; .hidden buoy_je_valloc");

// ---- What jemalloc asks of libc, and nobody else -----------------------------------------------
// What is refused here leaves errno alone: it is jemalloc's start that asks, before main.

#define BUOY_FOR_JEMALLOC extern "C" __attribute__((visibility("hidden"), used))

BUOY_FOR_JEMALLOC const char* buoy_je_getenv(const char* name) {
  if (std::strcmp(name, "MALLOC_CONF") != 0) return nullptr;
  return buoy::preload::initial_environment(buoy::preload::environment::kMallocConf);
}

// /etc/malloc.conf, a symbolic link to settings.
BUOY_FOR_JEMALLOC ssize_t buoy_je_readlink(const char* /*path*/, char* /*into*/, size_t /*size*/) {
  return -1;
}

// Whatever its configuration says, there is no dss.
BUOY_FOR_JEMALLOC void* buoy_je_sbrk(intptr_t /*increment*/) {
  return reinterpret_cast<void*>(-1);  // NOLINT(performance-no-int-to-ptr)
}

// Small mappings too, which are few (those before the arenas have their extents), so that the pool
// knows all of the memory, and tells it from libc's.
BUOY_FOR_JEMALLOC void* buoy_je_mmap(void* address, size_t length, int prot, int flags, int fd,
                                     off_t offset) {
  const buoy::preload::MapRequest r{address, length, prot, flags};
  const bool are_tables = !buoy::preload::arenas_are_set_up.load(std::memory_order_relaxed) &&
                          buoy::preload::pool().vm().commitment().is_kept();
  const bool is_large = length >= buoy::preload::kManagedFrom && !are_tables;
  if (is_large || (flags & MAP_FIXED) != 0 || !is_ordinary(r) ||
      !foreign::can_tell.load(std::memory_order_relaxed))
    return mmap(address, length, prot, flags, fd, offset);
  const auto got =
      buoy::preload::pool().map(buoy::PageCount::covering(length).bytes(),
                                are_tables ? buoy::MapFlags::kOwnersPromise : buoy::MapFlags::kNone,
                                buoy::preload::access_of(prot), address);
  if (got) return *got;
  errno = got.code();
  return MAP_FAILED;
}

// ---- libc's family -----------------------------------------------------------------------------

namespace {

// malloc's alignment on x86-64. Of jemalloc's size classes, all but the first (8) keep it.
constexpr size_t kAlignment = 16;

inline size_t at_least_one_unit(size_t size) { return size < kAlignment ? kAlignment : size; }

// glibc's: rounded up to a power of two. 0: there is none.
size_t rounded_alignment(size_t alignment) {
  constexpr size_t kLargest = SIZE_MAX / 2 + 1;
  if (alignment <= kAlignment) return kAlignment;
  return alignment > kLargest ? 0 : std::bit_ceil(alignment);
}

void* allocate_aligned(size_t alignment, size_t size) {
  const size_t rounded = rounded_alignment(alignment);
  if (rounded == 0) {
    errno = EINVAL;
    return nullptr;
  }
  if (rounded == kAlignment) return buoy_je_malloc(at_least_one_unit(size));
  void* const p = buoy_je_memalign(rounded, at_least_one_unit(size));
  if (p == nullptr) errno = ENOMEM;
  return p;
}

void* allocate(size_t size) { return buoy_je_malloc(at_least_one_unit(size)); }

void* allocate_zeroed(size_t count, size_t size) {
  size_t bytes = 0;
  if (__builtin_mul_overflow(count, size, &bytes)) {
    errno = ENOMEM;
    return nullptr;
  }
  return buoy_je_calloc(1, at_least_one_unit(bytes));
}

void* allocate_whole_pages(size_t size) {
  const size_t rounded = buoy::PageCount::covering(size).bytes();
  if (rounded < size) {
    errno = ENOMEM;
    return nullptr;
  }
  return allocate_aligned(buoy::kPageSize, std::max<size_t>(rounded, buoy::kPageSize));
}

void release(void* p) {
  if (p == nullptr) return;
  if (__builtin_expect(foreign::is_foreign(p), 0)) return foreign::free(p);
  buoy_je_free(p);
}

// libc's block becomes one of ours.
__attribute__((noinline)) void* take_over(void* old, size_t size) {
  const size_t held = foreign::usable_size(old);
  void* fresh = allocate(size);
  if (fresh == nullptr) return nullptr;
  std::memcpy(fresh, old, std::min(held, size));
  foreign::free(old);
  return fresh;
}

void* resize(void* old, size_t size) {
  if (old == nullptr) return allocate(size);
  if (size == 0) {
    release(old);
    return nullptr;
  }
  if (__builtin_expect(foreign::is_foreign(old), 0)) return take_over(old, size);
  void* const p = buoy_je_realloc(old, at_least_one_unit(size));
  if (p == nullptr) errno = ENOMEM;
  return p;
}

}  // namespace

BUOY_EXPORT void* malloc(size_t size) { return allocate(size); }
BUOY_EXPORT void* calloc(size_t count, size_t size) { return allocate_zeroed(count, size); }
BUOY_EXPORT void* realloc(void* old, size_t size) { return resize(old, size); }
BUOY_EXPORT void free(void* p) { release(p); }

BUOY_EXPORT void* memalign(size_t alignment, size_t size) {
  return allocate_aligned(alignment, size);
}
// As lenient as glibc before 2.38, which refuses no alignment here either.
BUOY_EXPORT void* aligned_alloc(size_t alignment, size_t size) {
  return allocate_aligned(alignment, size);
}
BUOY_EXPORT void* valloc(size_t size) { return allocate_aligned(buoy::kPageSize, size); }
BUOY_EXPORT void* pvalloc(size_t size) { return allocate_whole_pages(size); }

BUOY_EXPORT int posix_memalign(void** out, size_t alignment, size_t size) {
  if (alignment % sizeof(void*) != 0 || !std::has_single_bit(alignment)) return EINVAL;
  void* const p = allocate_aligned(alignment, size);
  if (p == nullptr) return ENOMEM;
  *out = p;
  return 0;
}

BUOY_EXPORT size_t malloc_usable_size(void* p) {
  if (p == nullptr) return 0;
  if (__builtin_expect(foreign::is_foreign(p), 0)) return foreign::usable_size(p);
  return buoy_je_malloc_usable_size(p);
}

// These two by the names that the program sees: a program with an allocator of its own in it keeps
// to that one.
BUOY_EXPORT void* reallocarray(void* old, size_t count, size_t size) {
  size_t bytes = 0;
  if (__builtin_mul_overflow(count, size, &bytes)) {
    errno = ENOMEM;
    return nullptr;
  }
  return ::realloc(old, bytes);
}
BUOY_EXPORT void cfree(void* p) { ::free(p); }

// ---- jemalloc's control ------------------------------------------------------------------------

namespace {

// Arenas of the program's own, or with hooks of its own, may hold memory that the pool does not
// know.
void note_arenas_of_the_program(const char* name) {
  if (std::strcmp(name, "arenas.create") == 0 || std::strstr(name, ".extent_hooks") != nullptr)
    foreign::can_tell.store(false, std::memory_order_relaxed);
}

}  // namespace

BUOY_EXPORT int mallctl(const char* name, void* old, size_t* old_size, void* fresh, size_t size) {
  note_arenas_of_the_program(name);
  return buoy_je_mallctl(name, old, old_size, fresh, size);
}
BUOY_EXPORT int mallctlnametomib(const char* name, size_t* mib, size_t* parts) {
  note_arenas_of_the_program(name);
  return buoy_je_mallctlnametomib(name, mib, parts);
}
BUOY_EXPORT int mallctlbymib(const size_t* mib, size_t parts, void* old, size_t* old_size,
                             void* fresh, size_t size) {
  return buoy_je_mallctlbymib(mib, parts, old, old_size, fresh, size);
}

// ---- libc's own names for the same, which allocators and old programs call ---------------------

// NOLINTBEGIN(bugprone-reserved-identifier)
BUOY_EXPORT void* __libc_malloc(size_t size) { return allocate(size); }
BUOY_EXPORT void* __libc_calloc(size_t count, size_t size) { return allocate_zeroed(count, size); }
BUOY_EXPORT void* __libc_realloc(void* old, size_t size) { return resize(old, size); }
BUOY_EXPORT void __libc_free(void* p) { release(p); }
BUOY_EXPORT void* __libc_memalign(size_t alignment, size_t size) {
  return allocate_aligned(alignment, size);
}
BUOY_EXPORT void* __libc_valloc(size_t size) { return allocate_aligned(buoy::kPageSize, size); }
BUOY_EXPORT void* __libc_pvalloc(size_t size) { return allocate_whole_pages(size); }
// NOLINTEND(bugprone-reserved-identifier)
