/* jemalloc over a pool: extent hooks that give an arena its memory from Buoy.
 *
 * What the arena lets go of, whenever its decay says so, is lazily freed and handed out again by
 * buoy_extents: that costs no system call for the memory, no fault and no zeroing, until the pool
 * wants the memory. So decay may be set to let go at once.
 *
 *   static struct buoy_extent_hooks hooks;
 *   if (buoy_extent_hooks_init(&hooks, pool, 0) != 0) ...
 *   extent_hooks_t *h = &hooks.hooks;
 *   unsigned arena;
 *   size_t size = sizeof arena;
 *   mallctl("arenas.create", &arena, &size, &h, sizeof h);
 *   ssize_t at_once = 0;
 *   mallctl("arena.<arena>.dirty_decay_ms", NULL, NULL, &at_once, sizeof at_once);
 *   void *p = mallocx(1 << 20, MALLOCX_ARENA(arena) | MALLOCX_TCACHE_NONE);
 *   ...
 *   buoy_arena_destroy(&hooks, arena);
 *   buoy_extent_hooks_destroy(&hooks);
 *
 * With muzzy_decay_ms above 0, jemalloc keeps extents to itself for longer, lazily freed by
 * BUOY_FREE: it has no hook for reuse, so the first store takes that back, at the cost of a fault a
 * window. Leave it at 0. Who wants contents gone at once sets hooks.dalloc =
 * buoy_extent_dalloc_forced after buoy_extent_hooks_init().
 *
 * One arena each: jemalloc takes for granted (opt.retain) that memory side by side is of one arena,
 * but for where a mapping begins, and would join the extents of two. A second arena is refused.
 * `hooks` must live as long as its arena, and the pool longer than both. Header only; needs
 * jemalloc 5. The pool's rules apply to what the arena hands out: system calls need buoy_pin() in
 * signal delivery. */
#ifndef BUOY_JEMALLOC_HOOKS_H
#define BUOY_JEMALLOC_HOOKS_H

#include <errno.h>
#include <jemalloc/jemalloc.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include "buoy/buoy.h"

#ifdef __cplusplus
extern "C" {
#endif

struct buoy_extent_hooks {
  extent_hooks_t hooks; /* first: jemalloc hands back a pointer to it */
  buoy_extents* extents;
  unsigned owner; /* its arena, plus 1; 0: none yet */
};

/* jemalloc's convention below: true is failure. */

/* jemalloc asks for memory that need not be committed when it wants more than it needs, to cut from
 * later. Refused, it asks for exactly what it needs: what it kept, the pool could not have. */
static inline void* buoy_extent_alloc(extent_hooks_t* hooks, void* wanted, size_t size,
                                      size_t alignment, bool* zero, bool* commit, unsigned arena) {
  struct buoy_extent_hooks* self = (struct buoy_extent_hooks*)hooks;
  const size_t cheaper_to_fill = (size_t)1 << 20; /* than to fault in again */
  int zeroed = 0;
  unsigned nobody = 0;
  if (!*commit) return NULL;
  if (!__atomic_compare_exchange_n(&self->owner, &nobody, arena + 1, false, __ATOMIC_RELAXED,
                                   __ATOMIC_RELAXED) &&
      nobody != arena + 1)
    return NULL;
  void* const at = wanted != NULL ? buoy_extents_alloc_at(self->extents, wanted, size, &zeroed)
                                  : buoy_extents_alloc(self->extents, size, alignment, &zeroed);
  if (at == NULL) return NULL;
  if (*zero && !zeroed) {
    if (size <= cheaper_to_fill || buoy_advise(at, size, BUOY_DONTNEED) != 0) memset(at, 0, size);
    zeroed = 1;
  }
  *zero = zeroed != 0;
  return at;
}

static inline bool buoy_extent_dalloc(extent_hooks_t* hooks, void* address, size_t size,
                                      bool committed, unsigned arena) {
  const struct buoy_extent_hooks* self = (const struct buoy_extent_hooks*)hooks;
  (void)committed, (void)arena;
  return buoy_extents_free(self->extents, address, size) != 0;
}

static inline bool buoy_extent_dalloc_forced(extent_hooks_t* hooks, void* address, size_t size,
                                             bool committed, unsigned arena) {
  (void)buoy_advise(address, size, BUOY_DONTNEED);
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

/* Extents may be freed in any parts, and neighbours as one. */
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

/* `map_flags`: of buoy_extents_create. BUOY_HUGE pays for arenas of large allocations. 0, or the
 * error number of buoy_extents_create. */
static inline int buoy_extent_hooks_init(struct buoy_extent_hooks* self, buoy_pool* pool,
                                         unsigned map_flags) {
  if (buoy_extents_create(pool, 0, map_flags, &self->extents) != 0) return errno;
  self->owner = 0;
  self->hooks.alloc = buoy_extent_alloc;
  self->hooks.dalloc = buoy_extent_dalloc;
  self->hooks.destroy = buoy_extent_destroy;
  self->hooks.commit = NULL; /* all of an extent is usable always */
  self->hooks.decommit = NULL;
  self->hooks.purge_lazy = buoy_extent_purge_lazy;
  self->hooks.purge_forced = NULL; /* extents go to dalloc instead */
  self->hooks.split = buoy_extent_split;
  self->hooks.merge = buoy_extent_merge;
  return 0;
}

/* After its arena was destroyed; before the pool. */
static inline void buoy_extent_hooks_destroy(struct buoy_extent_hooks* self) {
  (void)buoy_extents_destroy(self->extents);
  self->extents = NULL;
}

/* Destroys the arena of these hooks, and all that was allocated from it, and unmaps its memory; the
 * hooks may serve another then. 0, or the error number of mallctl; the arena then lives on. EINVAL:
 * not the arena of these hooks. No thread may use the arena. Not async-signal-safe. */
static inline int buoy_arena_destroy(struct buoy_extent_hooks* self, unsigned arena) {
  size_t mib[3];
  size_t parts = 3;
  int error = self->owner == arena + 1 ? 0 : EINVAL;
  if (error != 0) return error;
  error = mallctlnametomib("arena.0.destroy", mib, &parts);
  if (error != 0) return error;
  mib[1] = arena;
  error = mallctlbymib(mib, parts, NULL, NULL, NULL, 0);
  if (error != 0) return error;
  self->owner = 0;
  (void)buoy_extents_trim(self->extents);
  return 0;
}

#ifdef __cplusplus
}
#endif

#endif /* BUOY_JEMALLOC_HOOKS_H */
