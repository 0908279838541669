// The order in which a thread touches the pages of a working set.
#pragma once

#include <cstdint>
#include <numeric>
#include <optional>
#include <string>
#include <string_view>

#include "base/random.h"

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

// Zipfian pages: ranks are spread over the set by a fixed stride, as YCSB does.
class ScatteredZipf {
 public:
  ScatteredZipf(std::uint64_t n, double theta) : n_(n), ranks_(n, theta) {
    stride_ = static_cast<std::uint64_t>(static_cast<double>(n) * 0.6180339887);
    while (std::gcd(stride_, n) != 1) ++stride_;
  }
  [[nodiscard]] std::uint64_t next(Random& random) const {
    return ranks_.next(random) * stride_ % n_;
  }

 private:
  std::uint64_t n_;
  Zipf ranks_;
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
  Random random_;
  std::optional<ScatteredZipf> zipf_;
  std::uint64_t first_ = 0;
  std::uint64_t count_ = 0;
};

}  // namespace buoy::bench
