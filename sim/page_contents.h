// What the simulated program stores in its pages: for the engine, whose pool and file hold what is in
// them. Each page differs, all alike in how well they compress, and says whose it is.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "base/random.h"
#include "trace.h"

namespace buoy::sim {

class PageContents {
 public:
  using Bytes = std::array<std::byte, 4096>;
  // `stored`: the part of a page that a compressor leaves, 0 (one word, again and again: no memory at
  // all when compressed) to 1.
  explicit PageContents(double stored) : noise_words_(static_cast<std::size_t>(stored * kWords)) {}

  [[nodiscard]] bool are_uniform() const { return noise_words_ == 0; }
  [[nodiscard]] static std::uint64_t stamp(Page page) {
    return (page + std::uint64_t{1}) * 0x9e3779b97f4a7c15U;
  }
  void fill(Page page, Bytes& out) const {
    const std::uint64_t word = stamp(page);
    Random noise(page);
    for (std::size_t i = 0; i < kWords; ++i) {
      const std::uint64_t value = i == 0 || i >= noise_words_ ? word : noise.next();
      std::memcpy(out.data() + i * sizeof value, &value, sizeof value);
    }
  }

 private:
  static constexpr std::size_t kWords = 512;
  std::size_t noise_words_;
};

}  // namespace buoy::sim
