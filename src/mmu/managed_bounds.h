// Where managed memory lies at all: an address outside of these bounds is never managed.
//
// Two words, compared with by the gate's stubs at each system call; hence one object for all Mmus of
// the process, and no function. They grow with each reservation and never shrink.
#pragma once

#include <atomic>
#include <cstdint>

#include "base/units.h"

namespace buoy::mmu {

struct ManagedBounds {
  std::atomic<std::uintptr_t> low{UINTPTR_MAX};
  std::atomic<std::uintptr_t> end{0};

  [[nodiscard]] bool may_hold(std::uintptr_t address) const {
    return address >= low.load(std::memory_order_relaxed) &&
           address < end.load(std::memory_order_relaxed);
  }
  void include(PageRun run) {
    widen(low, run.first.address(), [](std::uintptr_t a, std::uintptr_t b) { return a < b; });
    widen(end, run.end().address(), [](std::uintptr_t a, std::uintptr_t b) { return a > b; });
  }

 private:
  template <typename Beyond>
  static void widen(std::atomic<std::uintptr_t>& bound, std::uintptr_t to, Beyond beyond) {
    std::uintptr_t now = bound.load(std::memory_order_relaxed);
    while (beyond(to, now) && !bound.compare_exchange_weak(now, to, std::memory_order_release)) {
    }
  }
};
static_assert(sizeof(ManagedBounds) == 16);

extern constinit ManagedBounds managed_bounds;

}  // namespace buoy::mmu
