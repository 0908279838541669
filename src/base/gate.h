// Gate: many pass at once, one may close it. What fork needs: every engine operation passes the
// gate, and the forking thread closes it, so that no half-done transition is copied.
//
// Passing costs one atomic add on a line of this CPU. A closer waits until all who passed left.
// The closing thread itself may still pass (what it runs before it forks may fault), and so may
// a handler that works for it: both name its thread id.
#pragma once

#include <atomic>
#include <cstdint>

#include "base/sys.h"

namespace buoy {

class Gate {
 public:
  // Returns the shard to leave by. Waits while the gate is closed, except for the closer. `tid`:
  // the thread on whose behalf this is; 0 for the calling thread.
  [[nodiscard]] unsigned enter(int tid = 0) {
    for (;;) {
      const unsigned shard = sys::current_cpu() % kShards;
      inside_[shard].count.fetch_add(1, std::memory_order_seq_cst);
      const int closer = closer_.load(std::memory_order_seq_cst);
      if (closer == 0 || closer == (tid == 0 ? sys::gettid() : tid)) return shard;
      leave(shard);
      sys::futex_wait(&closer_, static_cast<std::uint32_t>(closer));
    }
  }
  void leave(unsigned shard) { inside_[shard].count.fetch_sub(1, std::memory_order_release); }

  // The caller must not be inside. Waits for another closer to open first.
  void close() {
    const int mine = sys::gettid();
    for (int other = 0; !closer_.compare_exchange_strong(other, mine, std::memory_order_seq_cst);
         other = 0)
      sys::futex_wait(&closer_, static_cast<std::uint32_t>(other));
    wait_until_empty();
  }
  // Once more by the closer, before it copies memory: a handler that worked for it meanwhile is out
  // again, and holds nothing. (Others only count themselves for a moment, to find the gate closed.)
  void wait_until_empty() {
    for (Shard& s : inside_)
      while (s.count.load(std::memory_order_acquire) != 0) __builtin_ia32_pause();
  }
  // First thing in a fork child, by the copy of the closer: the counts hold those who were about to
  // find the gate closed, and who do not exist here to leave again. The gate stays closed.
  void after_fork_in_child() {
    for (Shard& s : inside_) s.count.store(0, std::memory_order_relaxed);
    closer_.store(sys::gettid(), std::memory_order_seq_cst);
  }
  void open() {
    closer_.store(0, std::memory_order_seq_cst);
    sys::futex_wake(&closer_, INT32_MAX);
  }

 private:
  static constexpr unsigned kShards = 16;
  struct alignas(64) Shard {
    std::atomic<std::int64_t> count{0};
  };
  Shard inside_[kShards];
  std::atomic<int> closer_{0};  // thread id of who closed it; 0: open
};

class GatePass {
 public:
  explicit GatePass(Gate& gate, int tid = 0) : gate_(gate), shard_(gate.enter(tid)) {}
  ~GatePass() { gate_.leave(shard_); }
  GatePass(const GatePass&) = delete;
  GatePass& operator=(const GatePass&) = delete;

 private:
  Gate& gate_;
  unsigned shard_;
};

}  // namespace buoy
