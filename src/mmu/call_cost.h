// CallCost: what a kind of call costs, in nanoseconds: about the median of the recent calls.
//
// Timed by the time-stamp counter (10 ns a reading). Racy updates lose a sample, never more. Each
// sample moves the estimate by a sixteenth towards itself, however far away it is: so it comes to
// rest where as many are above as below, and calls in which the thread was preempted (a third of them
// on a busy machine, by milliseconds) weigh no more than others.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

#include "base/sys.h"

namespace buoy::mmu {

inline std::uint64_t read_tsc() { return __builtin_ia32_rdtsc(); }

// Nanoseconds in `cycles`. Calibrated once a process, in about 100 microseconds.
class TscScale {
 public:
  static std::uint64_t to_ns(std::uint64_t cycles) {
    const std::uint64_t scale = scale_.load(std::memory_order_relaxed);
    return (cycles * scale) >> kShift;  // exact up to about an hour at 4 GHz
  }
  static void calibrate() {
    if (scale_.load(std::memory_order_relaxed) != 0) return;
    const std::uint64_t t0 = sys::monotonic_ns();
    const std::uint64_t c0 = read_tsc();
    std::uint64_t t1 = t0;
    while (t1 - t0 < 100'000) t1 = sys::monotonic_ns();
    const std::uint64_t cycles = read_tsc() - c0;
    scale_.store(cycles == 0 ? 1 : ((t1 - t0) << kShift) / cycles, std::memory_order_relaxed);
  }

 private:
  static constexpr unsigned kShift = 20;
  static inline std::atomic<std::uint64_t> scale_{0};
};

class CallCost {
 public:
  [[nodiscard]] std::uint32_t ns() const { return ns_.load(std::memory_order_relaxed); }
  void set(std::uint32_t ns) { ns_.store(ns, std::memory_order_relaxed); }

  // A call that began at `start` (read_tsc) and counts as `units` of this cost.
  void sample_since(std::uint64_t start, std::uint64_t units = 1) {
    if (units != 0) sample(TscScale::to_ns(read_tsc() - start) / units);
  }
  void sample(std::uint64_t measured) {
    const std::uint32_t old = ns();
    const std::uint32_t step = old / kSteps + 1;
    if (old == 0)
      set(static_cast<std::uint32_t>(std::min<std::uint64_t>(measured, kMostFirst)));
    else if (measured > old)
      set(old + step);
    else if (measured < old)
      set(old - step);
  }

 private:
  static constexpr std::uint32_t kSteps = 16;
  static constexpr std::uint64_t kMostFirst = 100'000;  // more is no call's cost
  std::atomic<std::uint32_t> ns_{0};
};

}  // namespace buoy::mmu
