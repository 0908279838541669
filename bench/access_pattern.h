// The order in which a thread touches the pages of a working set.
#pragma once

#include <cmath>
#include <cstdint>
#include <numeric>
#include <optional>
#include <string>
#include <string_view>

namespace buoy::bench {

enum class Pattern {
  kRandomWrite,  // uniform; each access loads and stores
  kRandomRead,   // uniform; loads only
  kZipf,         // zipfian 0.99, hot pages scattered; every second access stores
  kSequential,   // page after page, again and again; each access stores
};

[[nodiscard]] inline std::string_view name_of(Pattern pattern) {
  switch (pattern) {
    case Pattern::kRandomWrite:
      return "random-write";
    case Pattern::kRandomRead:
      return "random-read";
    case Pattern::kZipf:
      return "zipf";
    case Pattern::kSequential:
      return "sequential";
  }
  return "";
}

inline constexpr Pattern kPatterns[] = {Pattern::kRandomWrite, Pattern::kRandomRead, Pattern::kZipf,
                                        Pattern::kSequential};

[[nodiscard]] inline std::optional<Pattern> pattern_named(std::string_view name) {
  for (const Pattern pattern : kPatterns)
    if (name_of(pattern) == name) return pattern;
  return std::nullopt;
}

// xorshift64*: cheap, and its state is eight bytes.
class FastRandom {
 public:
  explicit FastRandom(std::uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15U + 1) {}
  std::uint64_t next() {
    state_ ^= state_ >> 12;
    state_ ^= state_ << 25;
    state_ ^= state_ >> 27;
    return state_ * 0x2545f4914f6cdd1dU;
  }
  std::uint64_t below(std::uint64_t n) {
    return static_cast<std::uint64_t>((static_cast<unsigned __int128>(next()) * n) >> 64);
  }
  double unit() { return static_cast<double>(next() >> 11) * 0x1p-53; }

 private:
  std::uint64_t state_;
};

// Zipfian ranks in constant time after Gray et al., "Quickly Generating Billion-Record Synthetic
// Databases" (SIGMOD 1994), as YCSB does; ranks are spread over the set by a fixed stride.
class Zipf {
 public:
  Zipf(std::uint64_t n, double theta) : n_(n), theta_(theta) {
    double zeta_n = 0;
    for (std::uint64_t i = 1; i <= n; ++i) zeta_n += std::pow(static_cast<double>(i), -theta);
    zeta_n_ = zeta_n;
    const double zeta_2 = 1 + std::pow(2.0, -theta);
    alpha_ = 1 / (1 - theta);
    eta_ = (1 - std::pow(2.0 / static_cast<double>(n), 1 - theta)) / (1 - zeta_2 / zeta_n);
    stride_ = static_cast<std::uint64_t>(static_cast<double>(n) * 0.6180339887);
    while (std::gcd(stride_, n) != 1) ++stride_;
  }
  [[nodiscard]] std::uint64_t next(FastRandom& random) const {
    const double u = random.unit();
    const double uz = u * zeta_n_;
    std::uint64_t rank = 0;
    if (uz >= 1 + std::pow(0.5, theta_))
      rank = static_cast<std::uint64_t>(static_cast<double>(n_) *
                                        std::pow(eta_ * u - eta_ + 1, alpha_));
    else if (uz >= 1)
      rank = 1;
    return (rank < n_ ? rank : n_ - 1) * stride_ % n_;
  }

 private:
  std::uint64_t n_;
  double theta_;
  double zeta_n_ = 0;
  double alpha_ = 0;
  double eta_ = 0;
  std::uint64_t stride_ = 0;
};

struct Access {
  std::uint64_t page;
  bool store;
};

// One thread's accesses to a set of `pages` pages that `threads` threads share: all of it, or for
// kSequential a contiguous part of its own.
class AccessStream {
 public:
  AccessStream(Pattern pattern, std::uint64_t pages, unsigned thread, unsigned threads)
      : pattern_(pattern), pages_(pages), random_(thread + 1) {
    if (pattern == Pattern::kZipf) zipf_.emplace(pages, 0.99);
    if (pattern == Pattern::kSequential) {
      first_ = pages * thread / threads;
      pages_ = pages * (thread + 1) / threads - first_;
    }
  }
  Access next() {
    switch (pattern_) {
      case Pattern::kRandomWrite:
        return {random_.below(pages_), true};
      case Pattern::kRandomRead:
        return {random_.below(pages_), false};
      case Pattern::kZipf:
        return {zipf_->next(random_), (++count_ & 1) != 0};
      case Pattern::kSequential:
        break;
    }
    return {first_ + count_++ % pages_, true};
  }

 private:
  Pattern pattern_;
  std::uint64_t pages_;
  FastRandom random_;
  std::optional<Zipf> zipf_;
  std::uint64_t first_ = 0;
  std::uint64_t count_ = 0;
};

}  // namespace buoy::bench
