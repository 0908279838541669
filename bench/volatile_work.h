// What the benchmark `volatile` does in its processes: marking, purging, and a cache of things that
// are built again.
#pragma once

#include <cstddef>
#include <string>

#include "bench.h"
#include "samples.h"

namespace buoy::bench {

// ---- Making memory discardable and taking that back --------------------------------------------

enum class MarkBy {
  kBuoy,      // buoy_mark_volatile, buoy_mark_nonvolatile of what was marked by one call
  kBuoyPart,  // the same of 64 KiB inside of it, another each time; marked whole in between
  kFree,      // madvise(MADV_FREE), a store in every page
  kProtect,   // mprotect(PROT_NONE), mprotect(PROT_READ | PROT_WRITE)
  kDiscard,   // madvise(MADV_DONTNEED), a store in every page
};

// Nanoseconds for both together: "ns".
[[nodiscard]] Sample measure_marks(MarkBy by, std::size_t bytes);

// ---- Reclaiming it ------------------------------------------------------------------------------

// Volatile memory by buoy_pool_reclaim, in a process of its own: "ns" a page.
[[nodiscard]] Sample measure_purge(std::size_t bytes, unsigned flags);
// Clean lazily freed 4 KiB pages by MADV_PAGEOUT.
[[nodiscard]] Sample measure_kernel_reclaim(std::size_t bytes);

// ---- A cache ------------------------------------------------------------------------------------

// 64 KiB objects that compress by half, asked for by two threads, zipfian 0.99.
struct CacheWork {
  std::size_t set_bytes = 0;     // all objects together
  std::size_t memory_bytes = 0;  // the pool's budget, or the LRU's capacity
  double rebuild_us = 0;         // what building one takes, besides filling it
  double seconds = 1;            // measured; it is warm before
};
[[nodiscard]] Arguments to_arguments(const CacheWork& work);
[[nodiscard]] CacheWork cache_work_of(const Arguments& arguments);

// "requests_per_second", "hit_percent".
[[nodiscard]] Sample run_purgeable_cache(const CacheWork& work, bool may_compress);
[[nodiscard]] Sample run_fixed_lru(const CacheWork& work);

}  // namespace buoy::bench
