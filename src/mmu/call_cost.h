// CallCost: what a kind of call costs, in nanoseconds, as an average that follows the present.
//
// Timed by the time-stamp counter (10 ns a reading). Racy updates lose a sample, never more.
// Outliers (the thread was preempted in the call) are cut, so that one does not decide for long.
#pragma once

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
    if (units == 0) return;
    const std::uint64_t measured = TscScale::to_ns(read_tsc() - start) / units;
    const std::uint64_t old = ns();
    const std::uint64_t ceiling = 4 * old + kSlackNs;
    const std::uint64_t cut = measured < ceiling ? measured : ceiling;
    ns_.store(static_cast<std::uint32_t>(old == 0 ? cut : (old * 7 + cut) / 8),
              std::memory_order_relaxed);
  }

 private:
  static constexpr std::uint64_t kSlackNs = 10'000;
  std::atomic<std::uint32_t> ns_{0};
};

}  // namespace buoy::mmu
