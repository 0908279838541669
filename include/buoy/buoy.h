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
  BUOY_FAULTS_AUTO = 0,   /* signal: needs no rights */
  BUOY_FAULTS_SIGNAL = 1, /* SIGBUS in the faulting thread; system calls need buoy_pin() */
  BUOY_FAULTS_THREAD = 2  /* handler threads; serves system calls too, needs kernel-mode faults */
};
/* options.on_exhausted: what happens when every tier is full. */
enum {
  BUOY_EXHAUSTED_SIGBUS = 0, /* the toucher gets SIGBUS, and stderr one line */
  BUOY_EXHAUSTED_WAIT = 1    /* the toucher waits until memory is freed */
};

struct buoy_options {
  size_t struct_size;       /* sizeof(struct buoy_options): room to grow */
  size_t budget;            /* bytes; at least 16 MiB */
  const char* backing_file; /* NULL or "none": no file tier; "auto": unlinked, in $TMPDIR; a path */
  const char* compressor;   /* NULL or "lz4"; "zstd"; "none" */
  int faults;               /* BUOY_FAULTS_* */
  int on_exhausted;         /* BUOY_EXHAUSTED_* */
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
  BUOY_WILLNEED = 6  /* bring these in now */
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
enum { BUOY_RESERVE_AREA = 1 /* out of the reserve that is lent out to movable pages */ };

/* Creates a pool. EINVAL: a bad field; ENOSYS/EPERM: the kernel cannot serve (see `buoy info`);
 * the backing file's own errno if it cannot be used; EBUSY: the process has the most pools it can
 * have. */
BUOY_API int buoy_pool_create(const struct buoy_options* options, buoy_pool** pool);
/* EBUSY while regions are mapped. */
BUOY_API int buoy_pool_destroy(buoy_pool* pool);
/* The balloon. Growing is at once; shrinking reclaims first: EAGAIN if not enough could be (the
 * budget then stays as it was), EINVAL below the minimum. */
BUOY_API int buoy_pool_resize(buoy_pool* pool, size_t budget);
/* Reclaims about `bytes` ahead of need; the bytes freed. */
BUOY_API ssize_t buoy_pool_reclaim(buoy_pool* pool, size_t bytes);
/* One counter or gauge by its name, as in `buoy run --stats`. ENOENT: no such name.
 * Async-signal-safe. */
BUOY_API int buoy_pool_stat(buoy_pool* pool, const char* name, uint64_t* value);
/* An eventfd (non-blocking, close-on-exec) that tells of purges and of rising pressure. A read gives
 * what happened since the last; BUOY_EVENT_* take the value apart. Moderate: ordinary memory is
 * being compressed. Critical: nothing is left to reclaim, or nearly; a program that can shrink
 * should. Each level is told once when it is reached, and again only after it was left; the present
 * one is buoy_pool_stat "pressure_level" (0 none, 1 moderate, 2 critical). The descriptor is the
 * pool's; do not close it. A fork child has one of its own under the same number. */
BUOY_API int buoy_pool_eventfd(buoy_pool* pool);
#define BUOY_EVENT_PURGES(value) ((uint64_t)(value)&0xfffffU)           /* batches purged */
#define BUOY_EVENT_MODERATE(value) ((uint64_t)(value) >> 20 & 0xfffffU) /* times reached */
#define BUOY_EVENT_CRITICAL(value) ((uint64_t)(value) >> 40)
/* Moves arena pages together and gives empty blocks back. 0. */
BUOY_API int buoy_compact(buoy_pool* pool);

/* Maps `length` bytes (rounded up to pages) of zeros, managed. Costs nothing until touched. */
BUOY_API void* buoy_map(buoy_pool* pool, size_t length, unsigned flags);
/* Unmaps a range, in whole or in part of what was mapped. */
BUOY_API int buoy_unmap(void* address, size_t length);
/* Resizes a mapping, moving it if it must; contents stay. The old range must be one mapping's. */
BUOY_API void* buoy_remap(void* address, size_t old_length, size_t new_length);
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
 * page of it was lost, else 0; lost pages then read zeros. Bytes unmarked, as above: also those that
 * were not marked. May be called in a handler of the SIGBUS that a purged page raised. */
BUOY_API ssize_t buoy_mark_nonvolatile(void* address, size_t length, int* purged);

/* Makes the range resident and keeps it in place until buoy_unpin: for system calls and devices.
 * Pins nest. EAGAIN if the budget cannot hold it, EIO if a page is lost or purged. */
BUOY_API int buoy_pin(void* address, size_t length, unsigned flags);
BUOY_API int buoy_unpin(void* address, size_t length, unsigned flags);
/* One byte a page of [address, address + length): BUOY_PAGE_*. */
BUOY_API int buoy_residency(void* address, size_t length, unsigned char* vec);

/* Physically unmovable, page-aligned memory in the arena (2 MiB-aligned from 2 MiB), usable
 * directly. ENOMEM if no such run can be made; EINVAL for zero or more than the pool. */
BUOY_API void* buoy_alloc_contiguous(buoy_pool* pool, size_t length, unsigned flags);
BUOY_API int buoy_free_contiguous(buoy_pool* pool, void* address);

#ifdef __cplusplus
}
#endif

#endif /* BUOY_BUOY_H */
