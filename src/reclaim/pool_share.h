// PoolShare: how much of the budget the compressed pool may have where there is a file below it.
//
// A frame in the pool holds c pages, one that is resident holds one: the pool is worth its loads of
// those pages that would be on the disk without it, (c - 1) of c; a little more resident memory is
// worth the pages that came back right after they had left. The share moves, a step each tick of the
// clock, to where a frame is worth more:
//
//   resident   pages that came back within a tick / frames of a tick       x a fault
//   pool       pages loaded from the pool x (1 - 1/c) / frames of the pool x a read of the file
//
// Data that does not compress leaves the pool by itself that way (c is about 1), and so does what
// nobody asks for again. (Two ghost lists against each other, as in Megiddo and Modha, "ARC", FAST
// 2003, without the lists: PTEs say since when a page is away.)
//
// Used by the background thread, asked by anybody.
#pragma once

#include <atomic>
#include <cstdint>

#include "reclaim/context.h"

namespace buoy {

class PoolShare {
 public:
  // Moves the share if the clock has ticked since the last call.
  void look(const Context& context);
  [[nodiscard]] PageCount most(PageCount budget) const {
    return PageCount(budget.value() * per_mille_.load(std::memory_order_relaxed) / 1000);
  }

 private:
  // What happened lately: a sum in which a tick counts half as much as the next.
  struct Recent {
    std::uint64_t seen = 0;  // the counter's last value
    std::uint64_t sum = 0;
    void add(std::uint64_t now);
  };

  static constexpr unsigned kMost = 300;  // per mille; more starves what is mapped
  static constexpr unsigned kLeast = 10;  // what write-back needs to work in batches
  static constexpr unsigned kFirst = 150;

  std::atomic<unsigned> per_mille_{kFirst};
  unsigned tick_ = 0;
  Recent near_;
  Recent loads_;
  Recent reads_;  // of them, from the file
};

}  // namespace buoy
