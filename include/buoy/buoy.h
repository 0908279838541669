/* Buoy: a virtual memory manager inside the process. The C API.
 *
 * All lengths are bytes; addresses and lengths of ranges are multiples of 4096 unless a function
 * says otherwise. Errors are POSIX's: -1 or NULL, with errno. A call that fails has changed
 * nothing, unless its description says so. Every function is thread-safe; those that may be
 * called in a signal handler say so. No function may be called with SIGBUS blocked.
 *
 * Common errors: EINVAL a misaligned address, a zero or wrapping length, an unknown flag;
 * ENOMEM the range is not (wholly) managed memory, or the system gives none. */
#ifndef BUOY_BUOY_H
#define BUOY_BUOY_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define BUOY_API __attribute__((visibility("default")))
#else
#define BUOY_API
#endif

/* A budget, the regions inside it, and the tiers below it. */
typedef struct buoy_pool buoy_pool;

/* options.faults: how a touch of a missing page reaches Buoy. */
enum {
  /* signal: needs no rights. Where the library came by dlopen (ctypes, JNI, plugins), so that it does
   * not see the program replace the SIGBUS action: handler threads, which need no rights either
   * and serve system calls where they may */
  BUOY_FAULTS_AUTO = 0,
  BUOY_FAULTS_SIGNAL = 1, /* SIGBUS in the faulting thread; system calls need buoy_pin() */
  BUOY_FAULTS_THREAD = 2  /* handler threads; serves system calls too, needs kernel-mode faults */
};
/* options.on_exhausted: what happens when every tier is full. */
enum {
  BUOY_EXHAUSTED_SIGBUS = 0, /* the toucher gets SIGBUS, and stderr one line */
  BUOY_EXHAUSTED_WAIT = 1,   /* the toucher waits until memory is freed */
  /* what maps or allocates fails with ENOMEM where the pages might not be had later; else as SIGBUS */
  BUOY_EXHAUSTED_ENOMEM = 2
};

struct buoy_options {
  size_t struct_size;       /* sizeof(struct buoy_options): room to grow */
  size_t budget;            /* bytes; at least 16 MiB */
  const char* backing_file; /* NULL or "none": no file tier; "auto": unlinked, in $TMPDIR; a path */
  const char* compressor;   /* NULL or "lz4"; "zstd"; "none" */
  int faults;               /* BUOY_FAULTS_* */
  int on_exhausted;         /* BUOY_EXHAUSTED_* */
  /* Bytes (rounded up to 2 MiB) set aside for BUOY_RESERVE_AREA, at most half of the budget; 0:
   * none. Costs nothing while idle: movable arena pages borrow it, and what is not borrowed is
   * ordinary budget. A caller built before this field was added gets none. */
  size_t contiguous_reserve;
};

/* buoy_map flags. */
enum {
  BUOY_DROPPABLE = 1,            /* may be dropped at any time; reads zeros then; wiped on fork */
  BUOY_HUGE = 2,                 /* prefer folios of 2 MiB on huge pages */
  BUOY_PURGED_READS_ZERO = 4,    /* touching a purged page reads zeros instead of SIGBUS */
  BUOY_VOLATILE_MAY_COMPRESS = 8 /* volatile pages may be compressed under mild pressure */
};

/* buoy_advise advice. */
enum {
  BUOY_FREE = 1,     /* contents may vanish until the next store (lazily freed) */
  BUOY_REUSE = 2,    /* about to write all of this: lazily freed pages are ordinary again */
  BUOY_DONTNEED = 3, /* contents are gone now; reads give zeros */
  BUOY_COLD = 4,     /* reclaim these first */
  BUOY_PAGEOUT = 5,  /* reclaim these now */
  BUOY_WILLNEED = 6, /* bring these in now, as far as there is room */
  /* Lazily freed as by BUOY_FREE, and the caller promises: no store before BUOY_REUSE. For what
   * an allocator holds free. Nothing has to be trapped, so that neither call is a system call for
   * resident pages. A store that breaks the promise may be lost with its page. */
  BUOY_FREE_UNTIL_REUSE = 16,
  /* All of these are there and may be stored to, without a fault each: empty pages of the range, and
   * no others, are filled with zeros. Room is made by reclaim. EAGAIN: there is none (with
   * BUOY_EXHAUSTED_WAIT it is waited for); EIO: a page is lost or purged. Those before it are done. */
  BUOY_POPULATE = 17
};

/* buoy_pin / buoy_unpin flags. */
enum {
  BUOY_WRITE = 1,  /* pin: a writer will come */
  BUOY_DIRTIED = 2 /* unpin: it was written to */
};

/* buoy_residency: one byte a page. */
enum {
  BUOY_PAGE_EMPTY = 0,
  BUOY_PAGE_MAPPED = 1,
  BUOY_PAGE_LAZYFREE = 2,
  BUOY_PAGE_STANDBY = 3,
  BUOY_PAGE_COMPRESSED = 4,
  BUOY_PAGE_BACKED = 5,
  BUOY_PAGE_PURGED = 6,
  BUOY_PAGE_VOLATILE = 0x80 /* or'ed in */
};

/* buoy_alloc_contiguous flags. */
enum {
  BUOY_RESERVE_AREA = 1 /* out of the reserve that is lent out to movable pages, if it can be */
};

/* Movable pages: what an owner's callbacks are told and answer. */
enum {
  BUOY_MIGRATE_ASYNC = 0, /* mode: must not wait for anything that takes long */
  BUOY_MIGRATE_SYNC = 1   /* mode: may wait for users of the page to finish */
};
enum {
  BUOY_MIGRATE_DONE = 0,  /* the contents are copied, and the owner's data names the new page */
  BUOY_MIGRATE_AGAIN = 1, /* in use at the moment; nothing has changed */
  BUOY_MIGRATE_FAILED = 2 /* do not ask again now; nothing has changed */
};
/* buoy_movable_ops.flags: the callbacks make no libc calls but memcpy and its like, and may run on
 * any thread, in the middle of a fault too. Without it they run only in threads that call
 * buoy_compact, buoy_alloc_contiguous, buoy_movable_alloc, buoy_pool_resize, buoy_pool_reclaim. */
enum { BUOY_MOVABLE_ANY_THREAD = 1 };

/* How pages of an owner are moved: the contract of Linux's movable pages of 2016. `data` is what
 * buoy_movable_set was given. All three are called with the page locked and signals blocked: they
 * must not call Buoy, must not touch memory from buoy_map, and must only TRY for a lock under which
 * the owner calls buoy_movable_clear or buoy_movable_free (which wait for a callback of that
 * page). */
struct buoy_movable_ops {
  size_t struct_size; /* sizeof(struct buoy_movable_ops) */
  unsigned flags;     /* BUOY_MOVABLE_* */
  void* context;      /* the callbacks' first argument */
  /* 1: the page may be moved now, and the owner keeps it so until migrate is done or put_back is
   * called; 0: not now. Asked once at a time. */
  int (*isolate)(void* context, void* page, void* data, int mode);
  /* Copies `from` to `to`, which is as large, and makes the owner's data name `to`.
   * BUOY_MIGRATE_*. Asked again a bounded number of times. */
  int (*migrate)(void* context, void* to, void* from, void* data, int mode);
  /* The page was isolated and stays where it is. Not called for pages that were freed meanwhile. */
  void (*put_back)(void* context, void* page, void* data);
};
typedef struct buoy_movable_owner buoy_movable_owner;

/* Creates a pool. EINVAL: a bad field; ENOSYS/EPERM: the kernel cannot serve (see `buoy info`);
 * the backing file's own errno if it cannot be used; EBUSY: the process has the most pools it can
 * have. */
BUOY_API int buoy_pool_create(const struct buoy_options* options, buoy_pool** pool);
/* EBUSY while regions are mapped, contiguous memory is allocated, or movable owners or extents
 * exist. */
BUOY_API int buoy_pool_destroy(buoy_pool* pool);
/* The balloon. Growing is at once; shrinking reclaims first: EAGAIN if not enough could be (the
 * budget then stays as it was), EINVAL below the minimum. */
BUOY_API int buoy_pool_resize(buoy_pool* pool, size_t budget);
/* Reclaims about `bytes` ahead of need; the bytes freed. */
BUOY_API ssize_t buoy_pool_reclaim(buoy_pool* pool, size_t bytes);
/* One counter or gauge by its name, as in `buoy run --stats`. ENOENT: no such name.
 * Async-signal-safe. */
BUOY_API int buoy_pool_stat(buoy_pool* pool, const char* name, uint64_t* value);
/* The names that buoy_pool_stat knows, by indices from 0 on; NULL past the last. The strings live as
 * long as the library. Async-signal-safe. */
BUOY_API const char* buoy_stat_name(size_t index);
/* An eventfd (non-blocking, close-on-exec) that tells of purges and of rising pressure. A read
 * gives what happened since the last; BUOY_EVENT_* take the value apart. Moderate: ordinary memory
 * is being compressed. Critical: nothing is left to reclaim, or nearly; a program that can shrink
 * should. Each level is told once when it is reached, and again only after it was left; the present
 * one is buoy_pool_stat "pressure_level" (0 none, 1 moderate, 2 critical). The descriptor is the
 * pool's; do not close it. A fork child has one of its own under the same number. */
BUOY_API int buoy_pool_eventfd(buoy_pool* pool);
#define BUOY_EVENT_PURGES(value) ((uint64_t)(value)&0xfffffU)           /* batches purged */
#define BUOY_EVENT_MODERATE(value) ((uint64_t)(value) >> 20 & 0xfffffU) /* times reached */
#define BUOY_EVENT_CRITICAL(value) ((uint64_t)(value) >> 40)
/* Moves arena pages together and gives empty blocks back, as far as that goes; waits for users of
 * movable pages. 0. */
BUOY_API int buoy_compact(buoy_pool* pool);

/* Maps `length` bytes (rounded up to pages) of zeros, managed. Costs nothing until touched. */
BUOY_API void* buoy_map(buoy_pool* pool, size_t length, unsigned flags);
/* Unmaps a range, in whole or in part of what was mapped. */
BUOY_API int buoy_unmap(void* address, size_t length);
/* Resizes a mapping, moving it if it must; contents stay. The old range must be one mapping's. */
BUOY_API void* buoy_remap(void* address, size_t old_length, size_t new_length);
/* BUOY_FREE, BUOY_DONTNEED, BUOY_COLD and BUOY_PAGEOUT: EINVAL, and nothing changed, if the range has
 * mlocked pages. BUOY_FREE_UNTIL_REUSE does not ask: locked pages keep their contents until they are
 * unlocked. */
BUOY_API int buoy_advise(void* address, size_t length, int advice);

/* The range may be purged from now on: lower priorities (0 to 3) first, then the oldest mark. Until
 * then it can be read and written as before. A touch of a purged page raises SIGBUS (si_code
 * BUS_ADRERR, si_addr the address), whose handler may unmark, refill and return; a system call on
 * it fails with EFAULT, buoy_pin with EIO. In regions with BUOY_PURGED_READS_ZERO it reads zeros.
 * Marks may overlap and be withdrawn in parts; the last call counts for each page.
 * Bytes marked: short, with errno ENOMEM, where a hole ends the range; -1 if nothing was marked.
 * EINVAL, and nothing is marked: a bad priority, or the range has mlocked pages (asked when it is
 * marked for the first time). EDEADLK, and nothing is marked: called in a signal handler that
 * interrupted a marking of its own thread, for a range not marked in this form before.
 * A range that was marked by one call is marked and unmarked again in constant time, without a
 * system call, and async-signal-safely unless it was purged. */
BUOY_API ssize_t buoy_mark_volatile(void* address, size_t length, int priority);
/* The range is to be kept again. *purged (may be NULL; set if anything was unmarked) is 1 if any
 * page of it was lost, else 0; lost pages then read zeros. Bytes unmarked, as above: also those
 * that were not marked. May be called in a handler of the SIGBUS that a purged page raised. */
BUOY_API ssize_t buoy_mark_nonvolatile(void* address, size_t length, int* purged);

/* Makes the range resident and keeps it in place until buoy_unpin: for system calls and devices.
 * Pins nest. EAGAIN if the budget cannot hold it, EIO if a page is lost or purged. */
BUOY_API int buoy_pin(void* address, size_t length, unsigned flags);
BUOY_API int buoy_unpin(void* address, size_t length, unsigned flags);
/* One byte a page of [address, address + length): BUOY_PAGE_*. */
BUOY_API int buoy_residency(void* address, size_t length, unsigned char* vec);

/* Page-aligned memory in the arena (2 MiB-aligned from 2 MiB, and then backed by huge pages where
 * the system has them) that stays in place and resident until it is freed: fit for system calls,
 * io_uring registered buffers and devices, without a pin. Contents are undefined. Moves what is
 * movable out of the way, and reclaims where the budget is short.
 * BUOY_RESERVE_AREA: out of the reserve if it has room, else from elsewhere.
 * EINVAL: zero, more than the budget, an unknown flag. ENOMEM: no such run can be made; who is in
 * the way is then buoy_pool_stat "cma_blocked_by" (1 the budget, 2 compressed pages, 3 contiguous
 * memory, 4 a movable owner's page, 5 too short a range) and "cma_blocked_at" (its address, or
 * 0). */
BUOY_API void* buoy_alloc_contiguous(buoy_pool* pool, size_t length, unsigned flags);
/* EINVAL, and nothing changed: not the start of such memory, or freed already. */
BUOY_API int buoy_free_contiguous(buoy_pool* pool, void* address);

/* Extents: runs of whole pages for allocators, out of regions of a pool. What is freed keeps its
 * address, and its contents until the pool wants the memory (BUOY_FREE_UNTIL_REUSE); what is
 * allocated again before that costs no fault and no zeroing. Neither makes a system call for
 * resident pages, but for signal masks. The lowest run that fits is taken. Thread-safe, not
 * async-signal-safe. */
typedef struct buoy_extents buoy_extents;
/* `chunk`: address space to map at a time, 0 for 64 MiB; costs nothing until used. `flags`: of
 * buoy_map. EINVAL: BUOY_DROPPABLE (what is allocated must not vanish) or an unknown flag.
 * ENOMEM. */
BUOY_API int buoy_extents_create(buoy_pool* pool, size_t chunk, unsigned flags,
                                 buoy_extents** extents);
/* Unmaps everything, what is allocated included. */
BUOY_API int buoy_extents_destroy(buoy_extents* extents);
/* `length` bytes, rounded up to pages, at a multiple of `alignment` (a power of two). *zeroed (may
 * be NULL): 1 if they are known to be zeros; otherwise contents are undefined. EINVAL, ENOMEM. */
BUOY_API void* buoy_extents_alloc(buoy_extents* extents, size_t length, size_t alignment,
                                  int* zeroed);
/* The same at that very place, to extend what lies before it. ENOMEM: not all of it is free. */
BUOY_API void* buoy_extents_alloc_at(buoy_extents* extents, void* address, size_t length,
                                     int* zeroed);
/* Any whole pages of what is allocated, of one allocation or of several that lie side by side.
 * EINVAL, and nothing is freed: misaligned, zero, not all of it allocated. ENOMEM: the most runs
 * there can be; the pages stay allocated, their contents may be gone. */
BUOY_API int buoy_extents_free(buoy_extents* extents, void* address, size_t length);
/* Unmaps the chunks of which nothing is allocated. */
BUOY_API int buoy_extents_trim(buoy_extents* extents);
/* Bytes allocated, in whole pages. Async-signal-safe. */
BUOY_API size_t buoy_extents_allocated(buoy_extents* extents);

/* Registers an owner of movable pages. EINVAL: a missing function, a bad size or an unknown flag;
 * EBUSY: the pool has the most owners it can have (253). */
BUOY_API int buoy_movable_owner_create(buoy_pool* pool, const struct buoy_movable_ops* ops,
                                       buoy_movable_owner** owner);
/* EBUSY while it has pages. */
BUOY_API int buoy_movable_owner_destroy(buoy_movable_owner* owner);
/* A naturally aligned run of `length` bytes, rounded up to a power of two of pages, 2 MiB at most,
 * contents undefined. It is resident and stays where it is until buoy_movable_set. EINVAL: zero or
 * too long; ENOMEM. */
BUOY_API void* buoy_movable_alloc(buoy_movable_owner* owner, size_t length);
/* The page may be moved from now on: any moment, it is at another address, and `data` says to the
 * callbacks which page it is. EINVAL: not a page of this owner. */
BUOY_API int buoy_movable_set(buoy_movable_owner* owner, void* page, void* data);
/* The page stays where it is from now on. Waits for a callback that is under way; the address is
 * the one that the owner's data names when this is called. EINVAL: not a page of this owner (any
 * more): it moved just before. */
BUOY_API int buoy_movable_clear(buoy_movable_owner* owner, void* page);
/* The page, movable or not, isolated or not, goes. EINVAL as above. */
BUOY_API int buoy_movable_free(buoy_movable_owner* owner, void* page);

#ifdef __cplusplus
}
#endif

#endif /* BUOY_BUOY_H */
