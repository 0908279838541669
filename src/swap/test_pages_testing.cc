#include "swap/test_pages_testing.h"

#include <cstring>

namespace buoy::swap::test {
namespace {

// A quick generator: tests make hundreds of thousands of pages.
class SplitMix {
 public:
  explicit SplitMix(std::uint64_t seed) : state_(seed * 0x9E3779B97F4A7C15U + 1) {}
  std::uint64_t next() {
    std::uint64_t z = (state_ += 0x9E3779B97F4A7C15U);
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9U;
    z = (z ^ z >> 27) * 0x94D049BB133111EBU;
    return z ^ z >> 31;
  }

 private:
  std::uint64_t state_;
};

void randomise(Page& page, std::size_t bytes, std::uint64_t seed) {
  SplitMix random(seed);
  for (std::size_t i = 0; i + 8 <= bytes; i += 8) {
    const std::uint64_t w = random.next();
    std::memcpy(&page[i], &w, sizeof w);
  }
}

}  // namespace

Page make_page(Fill fill, unsigned number) {
  Page page{};
  switch (fill) {
    case Fill::kZero:
      break;
    case Fill::kPattern: {
      const std::uint64_t w = 0xF0E1D2C3B4A59687U ^ number;
      for (std::size_t i = 0; i < kPageSize; i += 8) std::memcpy(&page[i], &w, sizeof w);
      break;
    }
    case Fill::kQuarter:
      randomise(page, kPageSize / 4, number);
      break;
    case Fill::kHalf:
      randomise(page, kPageSize / 2, number);
      break;
    case Fill::kMostly:
      randomise(page, kPageSize / 4 * 3, number);
      break;
    case Fill::kText:
      for (std::size_t i = 0; i < kPageSize; ++i)
        page[i] =
            static_cast<std::byte>("the quick brown fox "[i % 20] + (i == number % 4096 ? 1 : 0));
      break;
    case Fill::kRandom:
      randomise(page, kPageSize, number);
      break;
  }
  return page;
}

}  // namespace buoy::swap::test
