// Random numbers for benchmarks and the simulator: cheap, and the same everywhere (the standard library's
// distributions are not). The engine itself draws none.
#pragma once

#include <cmath>
#include <cstdint>
#include <numeric>
#include <vector>

namespace buoy {

// xorshift64* (Vigna, "An experimental exploration of Marsaglia's xorshift generators, scrambled", 2016).
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15U + 1) {
    for (int i = 0; i < 8; ++i) next();
  }
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
  bool with_probability(double p) { return unit() < p; }

 private:
  std::uint64_t state_;
};

// 0..n-1 in a random order.
inline std::vector<std::uint32_t> shuffled(std::uint32_t n, Random& random) {
  std::vector<std::uint32_t> order(n);
  std::iota(order.begin(), order.end(), 0U);
  for (std::uint32_t i = n; i > 1; --i)
    std::swap(order[i - 1], order[static_cast<std::uint32_t>(random.below(i))]);
  return order;
}

// Ranks 0..n-1 with probability proportional to (rank + 1)^-theta: Gray et al., "Quickly Generating
// Billion-Record Synthetic Databases", SIGMOD 1994. 0 < theta < 1.
class Zipf {
 public:
  Zipf(std::uint64_t n, double theta) : n_(n), theta_(theta) {
    for (std::uint64_t i = 1; i <= n; ++i) zeta_n_ += std::pow(static_cast<double>(i), -theta);
    const double zeta_2 = 1 + std::pow(2.0, -theta);
    alpha_ = 1 / (1 - theta);
    eta_ = (1 - std::pow(2.0 / static_cast<double>(n), 1 - theta)) / (1 - zeta_2 / zeta_n_);
  }
  [[nodiscard]] std::uint64_t next(Random& random) const {
    const double u = random.unit();
    const double uz = u * zeta_n_;
    if (uz < 1) return 0;
    if (uz < 1 + std::pow(0.5, theta_)) return n_ > 1 ? 1 : 0;
    const auto rank =
        static_cast<std::uint64_t>(static_cast<double>(n_) * std::pow(eta_ * u - eta_ + 1, alpha_));
    return rank < n_ ? rank : n_ - 1;
  }

 private:
  std::uint64_t n_;
  double theta_;
  double zeta_n_ = 0;
  double alpha_ = 0;
  double eta_ = 0;
};

}  // namespace buoy
