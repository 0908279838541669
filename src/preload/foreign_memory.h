// Memory that another malloc of the process gave out, and that the program hands to ours: libc's own
// (`__libc_malloc`, and whatever was bound to it past us), which libc gets back.
//
// All of our malloc's memory is the pool's, and none of libc's is: libc maps without our mmap. The
// exceptions are arenas without extents of ours (interpose_arenas.cc), such as those that a program
// makes through jemalloc's interface: from then on, everything is taken to be ours.
#pragma once

#include <atomic>
#include <cstddef>

#include "preload/runtime.h"

namespace buoy::preload::foreign {

// False: jemalloc has memory that the pool does not know.
extern constinit std::atomic<bool> can_tell;

[[nodiscard]] inline bool is_foreign(const void* p) {
  const Pool* pool = pool_if_started();
  return (pool == nullptr || !pool->holds(p)) && can_tell.load(std::memory_order_relaxed);
}

// libc's own, for memory that is foreign.
void free(void* p);
[[nodiscard]] std::size_t usable_size(void* p);

}  // namespace buoy::preload::foreign
