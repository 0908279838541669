// Latencies in ticks of a fast clock, counted in buckets at most 1/64 wide of their value.
#pragma once

#include <array>
#include <bit>
#include <chrono>
#include <cstddef>
#include <cstdint>
#if defined(__x86_64__)
#include <x86intrin.h>
#endif

namespace buoy::bench {

// The cheapest steady clock there is; its rate is measured once a process.
inline std::uint64_t ticks() {
#if defined(__x86_64__)
  return __rdtsc();
#else
  return static_cast<std::uint64_t>(std::chrono::steady_clock::now().time_since_epoch() /
                                    std::chrono::nanoseconds(1));
#endif
}

inline double ticks_per_microsecond() {
  static const double rate = [] {
    using Clock = std::chrono::steady_clock;
    const auto start = Clock::now();
    const std::uint64_t first = ticks();
    while (Clock::now() - start < std::chrono::milliseconds(20)) continue;
    const std::uint64_t last = ticks();
    return static_cast<double>(last - first) /
           std::chrono::duration<double, std::micro>(Clock::now() - start).count();
  }();
  return rate;
}

class Histogram {
 public:
  void add(std::uint64_t value) { ++counts_[bucket_of(value)]; }

  void merge(const Histogram& other) {
    for (std::size_t i = 0; i < counts_.size(); ++i) counts_[i] += other.counts_[i];
  }

  [[nodiscard]] std::uint64_t count() const {
    std::uint64_t sum = 0;
    for (const std::uint64_t c : counts_) sum += c;
    return sum;
  }

  // The value that `part` (0 to 1) of all values do not exceed; 0 if there are none.
  [[nodiscard]] std::uint64_t quantile(double part) const {
    const double wanted = part * static_cast<double>(count());
    std::uint64_t seen = 0;
    for (std::size_t i = 0; i < counts_.size(); ++i) {
      seen += counts_[i];
      if (counts_[i] != 0 && static_cast<double>(seen) >= wanted) return floor_of(i);
    }
    return 0;
  }

 private:
  static constexpr unsigned kSubBits = 6;
  static constexpr std::uint64_t kSub = 1U << kSubBits;

  // Values below 2 * kSub have a bucket each; above, kSub buckets for each power of two.
  static std::size_t bucket_of(std::uint64_t value) {
    if (value < 2 * kSub) return value;
    const auto shift = static_cast<unsigned>(std::bit_width(value)) - kSubBits - 1;
    return shift * kSub + (value >> shift);
  }
  static std::uint64_t floor_of(std::size_t bucket) {
    if (bucket < 2 * kSub) return bucket;
    const std::size_t shift = bucket / kSub - 1;
    return (bucket % kSub + kSub) << shift;
  }

  std::array<std::uint64_t, (64 - kSubBits + 1) * kSub> counts_{};
};

}  // namespace buoy::bench
