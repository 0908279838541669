// Context: the parts of one pool that reclaim and vm work on together. Plain references to the
// layers below; owned by the pool.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>

#include "base/counters.h"
#include "base/gate.h"
#include "frames/arena.h"
#include "frames/budget.h"
#include "mmu/mmu.h"
#include "pagetable/page_table.h"
#include "reclaim/lru.h"
#include "reclaim/notifier.h"
#include "swap/swap_stack.h"

namespace buoy {

struct Context {
  mmu::Mmu* mmu = nullptr;
  swap::SwapStack* swap = nullptr;
  frames::Arena* arena = nullptr;  // what the swap stack stands on
  // Turns to kUnknown once and for all where the kernel may come to hold pages (Vm::expect_pins).
  std::atomic<mmu::Pins> pins{mmu::Pins::kKnown};
  // Stored bytes a page up to which a page that was only read keeps its compressed copy: it is
  // memory that the page's own frame costs on top, for the sake of one compression (about 4 us).
  ByteSize most_kept = 512;
  // How often a fault that finds no memory waits 5 ms for others, who hold leaves isolated: a second,
  // by when every thread has had a CPU, on a machine that is worth running on.
  unsigned most_waits_for_others = 200;
  Budget budget;
  Counters counters;
  PageTable table;
  Lru lru;
  Notifier notifier;
  // Every operation on pages passes; fork closes it.
  Gate gate;
  // Pages in each PTE state, and stale or standby frames in shadows. Kept by LockedLeaf.
  std::array<std::atomic<std::int64_t>, static_cast<std::size_t>(PteState::kCount)> pages{};
  std::atomic<std::int64_t> shadow_frames{0};
  std::atomic<std::int64_t> held_pages{0};

  [[nodiscard]] std::uint64_t pages_in(PteState s) const {
    const auto n = pages[static_cast<std::size_t>(s)].load(std::memory_order_relaxed);
    return n < 0 ? 0 : static_cast<std::uint64_t>(n);
  }
  // Pages that are neither compressed nor in anybody else's frames.
  [[nodiscard]] PageCount resident() const {
    const PageCount used = budget.used();
    return used - std::min(used, arena->taken());
  }
  [[nodiscard]] std::uint64_t lazyfree_pages() const {
    return pages_in(PteState::kLazyFree) + pages_in(PteState::kLazyAway);
  }
};

// Pages charged to the budget ahead of their use. What is not consumed goes back.
class Precharge {
 public:
  explicit Precharge(Budget& budget) : budget_(budget) {}
  ~Precharge() { give_back(); }
  Precharge(const Precharge&) = delete;
  Precharge& operator=(const Precharge&) = delete;

  [[nodiscard]] bool try_add(PageCount n, Charge kind = Charge::kOrdinary) {
    if (!budget_.try_charge(n, kind)) return false;
    held_ += n;
    return true;
  }
  [[nodiscard]] PageCount held() const { return held_; }
  void consume(PageCount n) {
    BUOY_CHECK(n <= held_);
    held_ -= n;
  }
  void give_back() {
    if (!held_.is_zero()) budget_.uncharge(held_);
    held_ = PageCount();
  }

 private:
  Budget& budget_;
  PageCount held_;
};

}  // namespace buoy
