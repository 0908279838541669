// Locks: futex-sized, annotated for Clang's thread-safety analysis, ranked.
//
// Usable inside a fault: no libc, no allocation, no errno. Not recursive. A holder must have
// signals blocked (SignalBlock) or be a bare thread, because a signal handler of the program may
// fault on managed memory at any instant.
//
// THE RANK TABLE. A thread takes locks in rising rank only; equal ranks never nest, except
// kLeaf, of which a range operation holds several by rising address, and kPage, of which a
// migration holds two: the page that moves, then the fresh one, which nobody else knows yet. Debug
// builds check it.
//
//   rank            guards                                   may be held while taking
//   kRegions        the set of regions and their mappings    kLeaf and below
//   kLeaf           512 PTEs of one 2 MiB block              all below
//   kLru            the lists of leaves                      kSlab
//   kVolatile       extents of volatile marks                kSlab
//   kExtents        an allocator's free runs                 kSlab
//   kSwapFile       the backing file's slots and batches     kPage and below
//   kPage           a movable page's owner against migration kZclass and below
//   kZclass         one size class of the zpool; the balloon kZone, kSlab
//   kZone           the arena's buddy lists and pageblocks   kSlab
//   kSlab           a metadata slab's growth                 nothing
//   kSignals        the program's actions for signals        kMmu
//   kMmu            the Mmu's scratch block, access rights   nothing
#pragma once

#include <atomic>
#include <cstdint>

#include "base/check.h"
#include "base/sys.h"

#if defined(__clang__)
#define BUOY_TSA(x) __attribute__((x))
#else
#define BUOY_TSA(x)
#endif
#define BUOY_CAPABILITY(x) BUOY_TSA(capability(x))
#define BUOY_SCOPED_CAPABILITY BUOY_TSA(scoped_lockable)
#define BUOY_GUARDED_BY(x) BUOY_TSA(guarded_by(x))
#define BUOY_PT_GUARDED_BY(x) BUOY_TSA(pt_guarded_by(x))
#define BUOY_REQUIRES(...) BUOY_TSA(requires_capability(__VA_ARGS__))
#define BUOY_EXCLUDES(...) BUOY_TSA(locks_excluded(__VA_ARGS__))
#define BUOY_ACQUIRE(...) BUOY_TSA(acquire_capability(__VA_ARGS__))
#define BUOY_TRY_ACQUIRE(...) BUOY_TSA(try_acquire_capability(__VA_ARGS__))
#define BUOY_RELEASE(...) BUOY_TSA(release_capability(__VA_ARGS__))
#define BUOY_ASSERT_HELD(x) BUOY_TSA(assert_capability(x))
#define BUOY_RETURN_CAPABILITY(x) BUOY_TSA(lock_returned(x))
#define BUOY_NO_TSA BUOY_TSA(no_thread_safety_analysis)

namespace buoy {

enum class LockRank : std::uint8_t {
  kRegions,
  kLeaf,
  kLru,
  kVolatile,
  kExtents,
  kSwapFile,
  kPage,
  kZclass,
  kZone,
  kSlab,
  kSignals,
  kMmu,
};

namespace lock_order {
#ifdef BUOY_DEBUG_CHECKS
void acquired(LockRank rank);
void released(LockRank rank);
// Aborts if this thread holds any lock: for places that may block for long or call the user.
void assert_none_held();
#else
inline void acquired(LockRank) {}
inline void released(LockRank) {}
inline void assert_none_held() {}
#endif
}  // namespace lock_order

class BUOY_CAPABILITY("mutex") SpinMutex {
 public:
  constexpr SpinMutex() = default;
  SpinMutex(const SpinMutex&) = delete;
  SpinMutex& operator=(const SpinMutex&) = delete;

  void lock(LockRank rank) BUOY_ACQUIRE() {
    std::uint32_t expected = kFree;
    if (!word_.compare_exchange_strong(expected, kHeld, std::memory_order_acquire,
                                       std::memory_order_relaxed))
      lock_slow();
    lock_order::acquired(rank);
  }
  [[nodiscard]] bool try_lock(LockRank rank) BUOY_TRY_ACQUIRE(true) {
    std::uint32_t expected = kFree;
    if (!word_.compare_exchange_strong(expected, kHeld, std::memory_order_acquire,
                                       std::memory_order_relaxed))
      return false;
    lock_order::acquired(rank);
    return true;
  }
  void unlock(LockRank rank) BUOY_RELEASE() {
    lock_order::released(rank);
    if (word_.exchange(kFree, std::memory_order_release) == kContended) sys::futex_wake(&word_, 1);
  }
  [[nodiscard]] bool is_locked() const { return word_.load(std::memory_order_relaxed) != kFree; }
  void assert_held() const BUOY_ASSERT_HELD(this) { BUOY_DCHECK(is_locked()); }

 private:
  static constexpr std::uint32_t kFree = 0;
  static constexpr std::uint32_t kHeld = 1;
  static constexpr std::uint32_t kContended = 2;
  void lock_slow();

  std::atomic<std::uint32_t> word_{kFree};
};

// A mutex whose rank is part of its type.
template <LockRank kRank>
class BUOY_CAPABILITY("mutex") Mutex {
 public:
  void lock() BUOY_ACQUIRE() BUOY_NO_TSA { inner_.lock(kRank); }
  [[nodiscard]] bool try_lock() BUOY_TRY_ACQUIRE(true) BUOY_NO_TSA {
    return inner_.try_lock(kRank);
  }
  void unlock() BUOY_RELEASE() BUOY_NO_TSA { inner_.unlock(kRank); }
  void assert_held() const BUOY_ASSERT_HELD(this) { BUOY_DCHECK(inner_.is_locked()); }

 private:
  SpinMutex inner_;
};

// The only way to hold a Mutex for a scope.
template <typename M>
class BUOY_SCOPED_CAPABILITY Guard {
 public:
  explicit Guard(M& mutex) BUOY_ACQUIRE(mutex) : mutex_(mutex) { mutex_.lock(); }
  ~Guard() BUOY_RELEASE() { mutex_.unlock(); }
  Guard(const Guard&) = delete;
  Guard& operator=(const Guard&) = delete;

 private:
  M& mutex_;
};

}  // namespace buoy
