// Gate: many pass at once, one may close it. What fork needs: every engine operation passes the
// gate, and the forking thread closes it, so that no half-done transition is copied.
//
// Passing costs one atomic add on a line of this CPU. A closer waits until all who passed left.
// Not reentrant for the closer; a passer may pass again while inside (nesting), even when a closer
// waits, if it says so (enter_nested), so that an operation never deadlocks against a close.
#pragma once

#include <atomic>
#include <cstdint>

#include "base/sys.h"

namespace buoy {

class Gate {
 public:
  // Returns the shard to leave by. Waits while the gate is closed.
  [[nodiscard]] unsigned enter() {
    for (;;) {
      const unsigned shard = enter_nested();
      if (closed_.load(std::memory_order_seq_cst) == 0) return shard;
      leave(shard);
      sys::futex_wait(&closed_, 1);
    }
  }
  [[nodiscard]] unsigned enter_nested() {
    const unsigned shard = sys::current_cpu() % kShards;
    inside_[shard].count.fetch_add(1, std::memory_order_seq_cst);
    return shard;
  }
  void leave(unsigned shard) { inside_[shard].count.fetch_sub(1, std::memory_order_release); }

  // The caller must be the only closer, and must not be inside.
  void close() {
    closed_.store(1, std::memory_order_seq_cst);
    for (Shard& s : inside_)
      while (s.count.load(std::memory_order_acquire) != 0) __builtin_ia32_pause();
  }
  void open() {
    closed_.store(0, std::memory_order_seq_cst);
    sys::futex_wake(&closed_, INT32_MAX);
  }

 private:
  static constexpr unsigned kShards = 16;
  struct alignas(64) Shard {
    std::atomic<std::int64_t> count{0};
  };
  Shard inside_[kShards];
  std::atomic<std::uint32_t> closed_{0};
};

class GatePass {
 public:
  explicit GatePass(Gate& gate) : gate_(gate), shard_(gate.enter()) {}
  ~GatePass() { gate_.leave(shard_); }
  GatePass(const GatePass&) = delete;
  GatePass& operator=(const GatePass&) = delete;

 private:
  Gate& gate_;
  unsigned shard_;
};

}  // namespace buoy
