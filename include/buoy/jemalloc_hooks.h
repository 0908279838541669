/* jemalloc over a pool: extent hooks that give an arena its memory from Buoy.
 *
 * What the arena purges, whenever its decay says so, is lazily freed (BUOY_FREE): it costs nothing
 * more until the pool wants the memory or the program stores to it again. So decay may be set to
 * purge early or at once.
 *
 *   static struct buoy_extent_hooks hooks;
 *   buoy_extent_hooks_init(&hooks, pool, 0);
 *   extent_hooks_t *h = &hooks.hooks;
 *   unsigned arena;
 *   size_t size = sizeof arena;
 *   mallctl("arenas.create", &arena, &size, &h, sizeof h);
 *   void *p = mallocx(1 << 20, MALLOCX_ARENA(arena) | MALLOCX_TCACHE_NONE);
 *   ...
 *   buoy_arena_destroy(&hooks, arena);
 *
 * Address space stays with the arena until it is destroyed, as it does with jemalloc's own hooks
 * (opt.retain). After mallctl("arena.<i>.destroy") in place of buoy_arena_destroy() the arena's
 * bookkeeping stays mapped, and buoy_pool_destroy() is refused (EBUSY). There is no forced purge: jemalloc would prefer it to the lazy one wherever it
 * thinks that memory goes for good, at dirty_decay_ms:0 on every free. Who wants contents gone at
 * once sets hooks.purge_forced = buoy_extent_purge_forced, or hooks.dalloc = buoy_extent_dalloc,
 * after buoy_extent_hooks_init().
 *
 * `hooks` must live as long as the arena, and the pool longer than both. Many arenas may share one
 * `hooks`. Header only; needs jemalloc 5. The pool's rules apply to what the arena hands out:
 * system calls need buoy_pin() in signal delivery. */
#ifndef BUOY_JEMALLOC_HOOKS_H
#define BUOY_JEMALLOC_HOOKS_H

#include <jemalloc/jemalloc.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "buoy/buoy.h"

#ifdef __cplusplus
extern "C" {
#endif

struct buoy_extent_hooks {
  extent_hooks_t hooks; /* first: jemalloc hands back a pointer to it */
  buoy_pool* pool;
  unsigned map_flags; /* of buoy_map; BUOY_DROPPABLE is of no use to an allocator */
  uint64_t ending;    /* the arena that is being destroyed, plus 1; 0: none */
};

/* jemalloc's convention below: true is failure. */

static inline void* buoy_extent_alloc(extent_hooks_t* hooks, void* wanted, size_t size,
                                      size_t alignment, bool* zero, bool* commit, unsigned arena) {
  const struct buoy_extent_hooks* self = (const struct buoy_extent_hooks*)hooks;
  const size_t page = 4096;
  /* Room to cut an aligned extent out of; a mapping is aligned to a page at least. */
  const size_t room = alignment > page ? alignment - page : 0;
  (void)arena;
  if (wanted != NULL || size > SIZE_MAX - room) return NULL; /* places cannot be chosen */
  char* mapped = (char*)buoy_map(self->pool, size + room, self->map_flags);
  if (mapped == NULL) return NULL;
  const size_t before = (alignment - (uintptr_t)mapped % alignment) % alignment;
  const size_t behind = room - before;
  if (before != 0) (void)buoy_unmap(mapped, before);
  if (behind != 0) (void)buoy_unmap(mapped + before + size, behind);
  *zero = true;
  *commit = true;
  return mapped + before;
}

static inline bool buoy_extent_dalloc(extent_hooks_t* hooks, void* address, size_t size,
                                      bool committed, unsigned arena) {
  (void)hooks, (void)committed, (void)arena;
  return buoy_unmap(address, size) != 0;
}

/* Keeps address space, and so lets what is freed be lazily freed, until the arena ends: jemalloc
 * returns the blocks of an arena's bookkeeping through `dalloc` alone. */
static inline bool buoy_extent_dalloc_at_end(extent_hooks_t* hooks, void* address, size_t size,
                                             bool committed, unsigned arena) {
  const struct buoy_extent_hooks* self = (const struct buoy_extent_hooks*)hooks;
  if (__atomic_load_n(&self->ending, __ATOMIC_ACQUIRE) != (uint64_t)arena + 1) return true;
  return buoy_extent_dalloc(hooks, address, size, committed, arena);
}

static inline void buoy_extent_destroy(extent_hooks_t* hooks, void* address, size_t size,
                                       bool committed, unsigned arena) {
  (void)buoy_extent_dalloc(hooks, address, size, committed, arena);
}

static inline bool buoy_extent_purge_lazy(extent_hooks_t* hooks, void* address, size_t size,
                                          size_t offset, size_t length, unsigned arena) {
  (void)hooks, (void)size, (void)arena;
  return buoy_advise((char*)address + offset, length, BUOY_FREE) != 0;
}

static inline bool buoy_extent_purge_forced(extent_hooks_t* hooks, void* address, size_t size,
                                            size_t offset, size_t length, unsigned arena) {
  (void)hooks, (void)size, (void)arena;
  return buoy_advise((char*)address + offset, length, BUOY_DONTNEED) != 0;
}

/* Mappings may be cut anywhere, and neighbours unmapped and advised as one. */
static inline bool buoy_extent_split(extent_hooks_t* hooks, void* address, size_t size,
                                     size_t size_a, size_t size_b, bool committed, unsigned arena) {
  (void)hooks, (void)address, (void)size, (void)size_a, (void)size_b, (void)committed, (void)arena;
  return false;
}

static inline bool buoy_extent_merge(extent_hooks_t* hooks, void* a, size_t size_a, void* b,
                                     size_t size_b, bool committed, unsigned arena) {
  (void)hooks, (void)a, (void)size_a, (void)b, (void)size_b, (void)committed, (void)arena;
  return false;
}

/* `map_flags`: of buoy_map. BUOY_HUGE pays for arenas of large, short-lived allocations: stores
 * over a lazily freed part of a huge page are allowed again for a fraction of what scattered small
 * pages cost. */
static inline void buoy_extent_hooks_init(struct buoy_extent_hooks* self, buoy_pool* pool,
                                          unsigned map_flags) {
  self->hooks.alloc = buoy_extent_alloc;
  self->hooks.dalloc = buoy_extent_dalloc_at_end; /* address space is kept until then */
  self->hooks.destroy = buoy_extent_destroy;
  self->hooks.commit = NULL; /* all of an extent is usable always */
  self->hooks.decommit = NULL;
  self->hooks.purge_lazy = buoy_extent_purge_lazy;
  self->hooks.purge_forced = NULL;
  self->hooks.split = buoy_extent_split;
  self->hooks.merge = buoy_extent_merge;
  self->pool = pool;
  self->map_flags = map_flags;
  self->ending = 0;
}

/* Destroys an arena of these hooks, and all that was allocated from it, and unmaps all of its memory.
 * 0, or the error number of mallctl; the arena then lives on. No thread may use the arena; others
 * of the same hooks may be in use, but are destroyed one at a time. Not async-signal-safe. */
static inline int buoy_arena_destroy(struct buoy_extent_hooks* self, unsigned arena) {
  size_t mib[3];
  size_t parts = 3;
  int error = mallctlnametomib("arena.0.destroy", mib, &parts);
  if (error != 0) return error;
  mib[1] = arena;
  __atomic_store_n(&self->ending, (uint64_t)arena + 1, __ATOMIC_RELEASE);
  error = mallctlbymib(mib, parts, NULL, NULL, NULL, 0);
  __atomic_store_n(&self->ending, 0, __ATOMIC_RELEASE);
  return error;
}

#ifdef __cplusplus
}
#endif

#endif /* BUOY_JEMALLOC_HOOKS_H */
