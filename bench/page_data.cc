#include "page_data.h"

#include <fmt/format.h>
#include <lz4.h>

#include <array>
#include <cmath>
#include <cstring>
#include <random>

#include "machine.h"

namespace buoy::bench {
namespace {

constexpr std::size_t kKinds = 256;
constexpr std::size_t kLine = 64;
constexpr double kSpread = 0.3;  // sizes lie within this part of the mean
constexpr double kTolerance = 0.03;

using Page = std::array<std::uint64_t, kPageWords>;
using Random = std::mt19937_64;

// A page whose lines hold `random_bytes` of noise on average, the rest a repeated phrase.
Page make_page(Random& random, double random_bytes) {
  constexpr std::string_view kPhrase =
      "the quick brown fox jumps over the lazy dog; pack my box with five dozen jugs.";
  Page page{};
  auto* bytes = reinterpret_cast<unsigned char*>(page.data());
  double owed = 0;
  for (std::size_t line = 0; line < kPageBytes; line += kLine) {
    owed += random_bytes;
    const auto noise = static_cast<std::size_t>(owed);
    owed -= static_cast<double>(noise);
    for (std::size_t i = 0; i < kLine; ++i)
      bytes[line + i] =
          i < noise ? static_cast<unsigned char>(random()) : static_cast<unsigned char>(kPhrase[i]);
  }
  std::memset(page.data(), 0, kFirstFill * sizeof(std::uint64_t));
  return page;
}

double stored_part(const Page& page) {
  std::array<char, LZ4_COMPRESSBOUND(kPageBytes)> out{};
  const int size = LZ4_compress_default(reinterpret_cast<const char*>(page.data()), out.data(),
                                        static_cast<int>(kPageBytes), static_cast<int>(out.size()));
  return size / static_cast<double>(kPageBytes);
}

// A page that LZ4 stores in about `stored` of its size.
Page find_page(Random& random, double stored) {
  double low = 0;
  double high = kLine;
  Page page{};
  for (int step = 0; step < 12; ++step) {
    const double middle = (low + high) / 2;
    page = make_page(random, middle);
    (stored_part(page) < stored ? low : high) = middle;
  }
  return page;
}

}  // namespace

PageData::PageData(double stored) : kinds_(kKinds * kPageWords) {
  Random random(20240229);  // the same data on both sides
  double total = 0;
  for (std::size_t kind = 0; kind < kKinds; ++kind) {
    const double place = 2.0 * static_cast<double>(kind) / (kKinds - 1) - 1;  // -1 to 1
    const Page page = find_page(random, stored * (1 + kSpread * place));
    total += stored_part(page);
    std::memcpy(&kinds_[kind * kPageWords], page.data(), kPageBytes);
  }
  const double mean = total / kKinds;
  if (std::fabs(mean / stored - 1) > kTolerance)
    throw Unavailable(fmt::format("LZ4 stores the data in {:.3f}, not {:.3f}", mean, stored));
}

const std::uint64_t* PageData::kind_of(std::uint64_t number) const {
  // Neighbours are of unrelated kinds.
  return &kinds_[number * 0x9e3779b97f4a7c15U / (UINT64_MAX / kKinds + 1) * kPageWords];
}

void PageData::fill(std::uint64_t* page, std::uint64_t number) const {
  std::memcpy(page, kind_of(number), kPageBytes);
  page[0] = number;
}

bool PageData::matches(const std::uint64_t* page, std::uint64_t number) const {
  return page[0] == number && std::memcmp(page + kFirstFill, kind_of(number) + kFirstFill,
                                          kPageBytes - kFirstFill * sizeof page[0]) == 0;
}

}  // namespace buoy::bench
