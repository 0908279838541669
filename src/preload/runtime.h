// Runtime: the one pool of the process, and what belongs to the process rather than to a call.
//
// The pool comes into being at the first call that needs it, which is malloc's first mmap, long
// before main and possibly before any constructor: creating it uses no libc facility. If it cannot
// be created, the process ends with one line and status 2: a program that was to run within a
// budget never runs without one.
#pragma once

#include <atomic>

#include "api/pool.h"
#include "preload/settings.h"

namespace buoy::preload {

// The pool, created if need be. Never null. Async-signal-safe.
[[nodiscard]] Pool& pool();
namespace detail {
extern constinit std::atomic<Pool*> the_pool __attribute__((visibility("hidden")));
}
// The pool if there is one already. One load, which every free() makes; async-signal-safe.
[[nodiscard]] inline Pool* pool_if_started() {
  return detail::the_pool.load(std::memory_order_acquire);
}
// What the pool was created with. Only after pool().
[[nodiscard]] const Settings& settings();

// Is the caller the process that the pool belongs to? Not so in a vfork child, which runs in our
// memory but is another process.
[[nodiscard]] bool is_own_process();

// That process's id, without a system call, which a filter of the program's might forbid.
[[nodiscard]] int own_process();

// Around a clone that copies the address space: no other thread's engine work is half done in
// between. Calls do not nest; the caller has signals blocked and runs on unmanaged stack.
// Refused with a line, and nothing changed, where the child could not set up its memory.
[[nodiscard]] Status before_fork();
// `child`: what the clone answered.
void after_fork_in_parent(long child);
// The child cannot live without its memory: ends the process if the ranges cannot be set up.
void after_fork_in_child();

}  // namespace buoy::preload
