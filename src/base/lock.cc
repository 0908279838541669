#include "base/lock.h"

namespace buoy {

void SpinMutex::lock_slow() {
  // A holder that runs gives the lock back within a microsecond or so, except when it is in a
  // system call with a TLB shootdown; spin about that long, then sleep.
  for (int spin = 0; spin < 200; ++spin) {
    std::uint32_t expected = kFree;
    if (word_.load(std::memory_order_relaxed) == kFree &&
        word_.compare_exchange_weak(expected, kHeld, std::memory_order_acquire,
                                    std::memory_order_relaxed))
      return;
    __builtin_ia32_pause();
  }
  while (word_.exchange(kContended, std::memory_order_acquire) != kFree)
    sys::futex_wait(&word_, kContended);
}

#ifdef BUOY_DEBUG_CHECKS
namespace lock_order {
namespace {
// Held locks of this thread, by rank. Initial-exec TLS: bare threads have zeroed room for it.
thread_local std::uint16_t held[16];
}  // namespace

void acquired(LockRank rank) {
  const auto mine = static_cast<unsigned>(rank);
  for (unsigned r = mine + 1; r < 16; ++r) BUOY_CHECK(held[r] == 0 && "lock rank order");
  BUOY_CHECK((held[mine] == 0 || rank == LockRank::kLeaf || rank == LockRank::kPage) &&
             "two locks of one rank");
  ++held[mine];
}

void released(LockRank rank) {
  BUOY_CHECK(held[static_cast<unsigned>(rank)] > 0);
  --held[static_cast<unsigned>(rank)];
}

void assert_none_held() {
  for (const std::uint16_t n : held) BUOY_CHECK(n == 0 && "a lock is held across a long wait");
}
}  // namespace lock_order
#endif

}  // namespace buoy
