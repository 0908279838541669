#include "churn_testing.h"

#include <algorithm>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "base/units.h"
#include "stamps_testing.h"

namespace buoy::testing {

std::size_t StampedBlock::pages() const {
  return std::max(PageCount::covering(bytes), PageCount(1)).value();
}

void StampedBlock::stamp() const {
  for (std::size_t i = 0; i < pages(); ++i) stamp_page(at + i * kPageSize, owner, i + 1);
}

bool StampedBlock::is_as_stamped() const {
  for (std::size_t i = 0; i < pages(); ++i)
    if (!holds_stamp(at + i * kPageSize, owner, i + 1)) return false;
  return true;
}

bool churn(const BlockSource& source, std::uint64_t seed, std::size_t most, int steps) {
  std::mt19937_64 random(seed);
  std::uint64_t owner = seed << 20;
  std::vector<StampedBlock> blocks;
  std::size_t held = 0;
  bool good = true;
  const auto free_one = [&] {
    std::swap(blocks[random() % blocks.size()], blocks.back());
    const StampedBlock b = blocks.back();
    blocks.pop_back();
    held -= b.bytes;
    good &= b.is_as_stamped();
    good &= source.free(b);
  };
  for (int i = 0; i < steps; ++i) {
    const std::size_t bytes = 1 + random() % (random() % 4 == 0 ? kMiB : 8 * kPageSize);
    const std::size_t alignment = std::size_t{1} << random() % 18;
    while (held + bytes > most) free_one();
    auto* const at = static_cast<std::byte*>(source.allocate(bytes, alignment));
    if (at == nullptr) return false;
    good &= reinterpret_cast<std::uintptr_t>(at) % alignment == 0;
    blocks.push_back({at, bytes, ++owner, alignment});
    blocks.back().stamp();
    held += bytes;
  }
  while (!blocks.empty()) free_one();
  return good;
}

bool churn_in_threads(const BlockSource& source, std::size_t most, int steps) {
  constexpr unsigned kThreads = 4;
  bool good[kThreads] = {};
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < kThreads; ++t)
    threads.emplace_back([&, t] { good[t] = churn(source, 10 + t, most / kThreads, steps); });
  for (std::thread& t : threads) t.join();
  return std::ranges::all_of(good, [](bool g) { return g; });
}

}  // namespace buoy::testing
