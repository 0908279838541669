// malloc: what jemalloc's archive lacks of libc's family, and how jemalloc is set up here.
//
// jemalloc's undefined mmap, munmap, madvise and mprotect resolve to ours in this very library: its
// extents are managed memory, its metadata too. It calls them with locks of its own held, which is
// why nothing behind them may allocate.
#include <malloc.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>

#include "base/units.h"
#include "preload/interpose.h"

extern "C" int mallctl(const char* name, void* old, size_t* old_size, void* fresh, size_t size);

// Read by jemalloc when it starts; the program's own malloc_conf and MALLOC_CONF come on top.
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
extern "C" __attribute__((visibility("default"))) const char* malloc_conf;
const char* malloc_conf =
    "dss:disabled,background_thread:false,retain:false,dirty_decay_ms:100,muzzy_decay_ms:0,"
    "narenas:4,metadata_thp:disabled,thp:default";

// jemalloc's sbrk, and nobody else's: whatever its configuration says, there is no dss.
extern "C" __attribute__((visibility("hidden"), used)) void* sbrk(intptr_t /*increment*/) {
  errno = ENOMEM;
  return reinterpret_cast<void*>(-1);  // NOLINT(performance-no-int-to-ptr)
}

// operator new and delete stay those of the program's own libstdc++, which call malloc and free:
// jemalloc's would throw a bad_alloc, and call a new_handler, of the libstdc++ linked in here.
#define BUOY_HIDE(name) asm(".globl " #name "\n.hidden " #name)
BUOY_HIDE(_Znwm);
BUOY_HIDE(_Znam);
BUOY_HIDE(_ZnwmRKSt9nothrow_t);
BUOY_HIDE(_ZnamRKSt9nothrow_t);
BUOY_HIDE(_ZnwmSt11align_val_t);
BUOY_HIDE(_ZnamSt11align_val_t);
BUOY_HIDE(_ZnwmSt11align_val_tRKSt9nothrow_t);
BUOY_HIDE(_ZnamSt11align_val_tRKSt9nothrow_t);
BUOY_HIDE(_ZdlPv);
BUOY_HIDE(_ZdaPv);
BUOY_HIDE(_ZdlPvm);
BUOY_HIDE(_ZdaPvm);
BUOY_HIDE(_ZdlPvRKSt9nothrow_t);
BUOY_HIDE(_ZdaPvRKSt9nothrow_t);
BUOY_HIDE(_ZdlPvSt11align_val_t);
BUOY_HIDE(_ZdaPvSt11align_val_t);
BUOY_HIDE(_ZdlPvmSt11align_val_t);
BUOY_HIDE(_ZdaPvmSt11align_val_t);
BUOY_HIDE(_ZdlPvSt11align_val_tRKSt9nothrow_t);
BUOY_HIDE(_ZdaPvSt11align_val_tRKSt9nothrow_t);
#undef BUOY_HIDE

BUOY_EXPORT void* reallocarray(void* old, size_t count, size_t size) {
  size_t bytes = 0;
  if (__builtin_mul_overflow(count, size, &bytes)) {
    errno = ENOMEM;
    return nullptr;
  }
  return realloc(old, bytes);
}

BUOY_EXPORT void* pvalloc(size_t size) {
  const size_t rounded = buoy::PageCount::covering(size).bytes();
  if (rounded < size) {
    errno = ENOMEM;
    return nullptr;
  }
  return valloc(rounded == 0 ? buoy::kPageSize : rounded);
}

BUOY_EXPORT void cfree(void* p) { free(p); }

// What jemalloc keeps of freed pages goes back to the pool. 1: something may have been released.
BUOY_EXPORT int malloc_trim(size_t /*pad*/) {
  // 4096: jemalloc's MALLCTL_ARENAS_ALL.
  return mallctl("arena.4096.purge", nullptr, nullptr, nullptr, 0) == 0 ? 1 : 0;
}
