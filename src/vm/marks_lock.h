// MarksLock: orders changes to the structure of the volatile marks.
//
// The one lock of the engine that may be held with signals deliverable, because marking must make
// no system call. A signal handler of the program may therefore run, fault and block while the
// thread below it holds this lock. Three rules keep that harmless:
//
//   1. Nobody waits for it inside the gate or with another engine lock held: such a thread only
//      tries, for a moment, and backs out of everything when it fails (MarksPass). Purging, which
//      runs inside faults, never takes it.
//   2. The holder waits for nothing but a purge in progress, which is short and never waits for
//      a lock of this kind.
//   3. A thread that would wait for itself (a handler that interrupted its own thread's change) is
//      told so: lock() returns false.
//
// Hence it has no place in the rank table: it comes before all of it.
#pragma once

#include <atomic>
#include <cstdint>

#include "base/gate.h"
#include "base/lock.h"
#include "base/sys.h"

namespace buoy {

class BUOY_CAPABILITY("mutex") MarksLock {
 public:
  // False, without the lock, if this very thread has it.
  [[nodiscard]] bool lock() BUOY_TRY_ACQUIRE(true) {
    if (is_held_here()) return false;
    give_way();
    for (unsigned spin = 0; !try_take(kHeld); ++spin) {
      if (spin < kSpins) {
        __builtin_ia32_pause();
        continue;
      }
      while (word_.exchange(kContended, std::memory_order_acquire) != kFree)
        sys::futex_wait(&word_, kContended);
      break;
    }
    owner_.store(__builtin_thread_pointer(), std::memory_order_relaxed);
    return true;
  }
  [[nodiscard]] bool try_lock() BUOY_TRY_ACQUIRE(true) {
    if (!try_take(kHeld)) return false;
    owner_.store(__builtin_thread_pointer(), std::memory_order_relaxed);
    return true;
  }
  // Tries for as long as a change takes: false if the holder was interrupted or others came first.
  [[nodiscard]] bool try_lock_for_a_change() BUOY_TRY_ACQUIRE(true) {
    for (unsigned spin = 0; !is_held_here() && spin < kSpins; ++spin) {
      if (try_lock()) return true;
      __builtin_ia32_pause();
    }
    return false;
  }
  void unlock() BUOY_RELEASE() {
    owner_.store(nullptr, std::memory_order_relaxed);
    if (word_.exchange(kFree, std::memory_order_release) == kContended) sys::futex_wake(&word_, 1);
  }
  [[nodiscard]] bool is_held_here() const {
    return owner_.load(std::memory_order_relaxed) == __builtin_thread_pointer();
  }
  // Between these, nobody begins to wait for the lock or takes it by lock(): who only tries would
  // else try for ever, where others change marks all the time.
  void begin_trying() { tryers_.fetch_add(1, std::memory_order_relaxed); }
  void end_trying() {
    if (tryers_.fetch_sub(1, std::memory_order_relaxed) == 1) sys::futex_wake(&tryers_, INT32_MAX);
  }
  // The other threads, and what they tried, are not here.
  void after_fork_in_child() { tryers_.store(0, std::memory_order_relaxed); }
  // Around fork and other stops of everything. While the thread holds it so, it may change
  // mappings. Also true if the thread itself was interrupted in a change: it will go on, in the
  // child too.
  [[nodiscard]] bool try_lock_for_all() {
    if (!is_held_here()) {
      if (!try_lock_silently()) return false;
      is_for_all_ = true;
    }
    return true;
  }
  void unlock_for_all() {
    if (!is_for_all_) return;
    is_for_all_ = false;
    unlock_silently();
  }
  [[nodiscard]] bool is_held_for_all_here() const { return is_held_here() && is_for_all_; }

 private:
  static constexpr std::uint32_t kFree = 0;
  static constexpr std::uint32_t kHeld = 1;
  static constexpr std::uint32_t kContended = 2;
  static constexpr unsigned kSpins = 200;  // a change takes less than this

  bool try_lock_silently() BUOY_NO_TSA { return try_lock_for_a_change(); }
  void unlock_silently() BUOY_NO_TSA { unlock(); }
  void give_way() {
    while (const std::uint32_t seen = tryers_.load(std::memory_order_relaxed))
      sys::futex_wait(&tryers_, seen, 1'000'000);
  }
  bool try_take(std::uint32_t as) {
    std::uint32_t expected = kFree;
    return word_.compare_exchange_strong(expected, as, std::memory_order_acquire,
                                         std::memory_order_relaxed);
  }

  std::atomic<std::uint32_t> word_{kFree};
  std::atomic<void*> owner_{nullptr};
  std::atomic<std::uint32_t> tryers_{0};  // that failed once
  bool is_for_all_ = false;               // the owner's
};

// The gate and the marks lock together, for operations that change mappings. Signals are blocked.
class BUOY_SCOPED_CAPABILITY MarksPass {
 public:
  MarksPass(Gate& gate, MarksLock& lock) BUOY_ACQUIRE(lock) BUOY_NO_TSA : gate_(gate), lock_(lock) {
    is_nested_ = lock.is_held_for_all_here();
    // A handler that changes mappings below a mark of its own thread would wait for ever.
    BUOY_CHECK(is_nested_ || !lock.is_held_here());
    if (enter()) return;
    lock_.begin_trying();
    while (!enter()) sys::yield();
    lock_.end_trying();
  }
  ~MarksPass() BUOY_RELEASE() BUOY_NO_TSA {
    if (!is_nested_) lock_.unlock();
    gate_.leave(shard_);
  }
  MarksPass(const MarksPass&) = delete;
  MarksPass& operator=(const MarksPass&) = delete;

 private:
  bool enter() BUOY_NO_TSA {
    shard_ = gate_.enter();
    if (is_nested_ || lock_.try_lock_for_a_change()) return true;
    gate_.leave(shard_);
    return false;
  }

  Gate& gate_;
  MarksLock& lock_;
  unsigned shard_ = 0;
  bool is_nested_ = false;
};

}  // namespace buoy
