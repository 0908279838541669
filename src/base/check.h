// Checks in three tiers, by what they cost and what they guard:
//   BUOY_CHECK      always on: corruption. The process must not go on with wrong bytes.
//   BUOY_DCHECK     debug builds: logic that tests should have caught.
//   BUOY_EXPENSIVE  only with -DBUOY_EXPENSIVE_CHECKS: a statement, a walk over a whole structure
//                   that aborts where it finds it broken.
// A failed check writes one line to stderr by a raw system call and aborts; it allocates nothing.
#pragma once

namespace buoy {
[[noreturn]] void check_failed(const char* condition, const char* file, int line);
}  // namespace buoy

#define BUOY_CHECK(cond) \
  (__builtin_expect(!!(cond), 1) ? (void)0 : ::buoy::check_failed(#cond, __FILE__, __LINE__))

#ifdef BUOY_DEBUG_CHECKS
#define BUOY_DCHECK(cond) BUOY_CHECK(cond)
#else
#define BUOY_DCHECK(cond) ((void)sizeof(!(cond)))
#endif

#ifdef BUOY_EXPENSIVE_CHECKS
#define BUOY_EXPENSIVE(walk) walk
#else
#define BUOY_EXPENSIVE(walk) ((void)0)
#endif
