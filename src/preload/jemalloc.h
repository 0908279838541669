// jemalloc as it is linked into the preload library: under names of ours (jemalloc_names.txt), which
// nobody outside the library sees. The interface that jemalloc adds to libc's (mallocx and so on)
// keeps its names and is exported.
#pragma once

#include <atomic>
#include <cstddef>

#define BUOY_JEMALLOC extern "C" __attribute__((visibility("hidden")))

BUOY_JEMALLOC void* buoy_je_malloc(std::size_t size);
BUOY_JEMALLOC void* buoy_je_calloc(std::size_t count, std::size_t size);
BUOY_JEMALLOC void* buoy_je_realloc(void* old, std::size_t size);
BUOY_JEMALLOC void buoy_je_free(void* p);
BUOY_JEMALLOC void* buoy_je_memalign(std::size_t alignment, std::size_t size);
BUOY_JEMALLOC void* buoy_je_aligned_alloc(std::size_t alignment, std::size_t size);
BUOY_JEMALLOC int buoy_je_posix_memalign(void** out, std::size_t alignment, std::size_t size);
BUOY_JEMALLOC void* buoy_je_valloc(std::size_t size);
BUOY_JEMALLOC std::size_t buoy_je_malloc_usable_size(void* p);

// How it is configured, and what it asks of libc.
BUOY_JEMALLOC const char* buoy_je_malloc_conf;
BUOY_JEMALLOC const char* buoy_je_malloc_conf_2;

// Results are errno values.
BUOY_JEMALLOC int buoy_je_mallctl(const char* name, void* old, std::size_t* old_size, void* fresh,
                                  std::size_t size);
BUOY_JEMALLOC int buoy_je_mallctlnametomib(const char* name, std::size_t* mib, std::size_t* parts);
BUOY_JEMALLOC int buoy_je_mallctlbymib(const std::size_t* mib, std::size_t parts, void* old,
                                       std::size_t* old_size, void* fresh, std::size_t size);

namespace buoy::preload {

// Until the arenas have their extents, what jemalloc maps is tables of its own for the most part, far
// larger than what it touches of them: no promise to the program (vm/commitment.h).
extern constinit std::atomic<bool> arenas_are_set_up;

}  // namespace buoy::preload
