#include "base/extent_map.h"

#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <chrono>
#include <optional>
#include <random>
#include <thread>

namespace buoy {
namespace {

constexpr std::uint64_t kSpace = 200;

PageRun run_of(std::uint64_t first, std::uint64_t count) { return {Vpn(first), PageCount(count)}; }

// One value a page, or none: what an ExtentMap means.
class Reference {
 public:
  void assign(PageRun run, std::optional<int> value) {
    for (Vpn v = run.first; v < run.end(); ++v) values_[v.value()] = value;
  }
  [[nodiscard]] std::optional<int> at(std::uint64_t page) const { return values_[page]; }
  [[nodiscard]] std::uint64_t covered_prefix(PageRun run) const {
    std::uint64_t n = 0;
    while (n < run.count.value() && values_[run.first.value() + n]) ++n;
    return n;
  }
  [[nodiscard]] std::size_t extents() const {
    std::size_t n = 0;
    std::optional<int> last;
    for (const auto& value : values_) {
      if (value && value != last) ++n;
      last = value;
    }
    return n;
  }
  [[nodiscard]] std::optional<std::uint64_t> find_gap(PageRun within, std::uint64_t n,
                                                      std::uint64_t align) const {
    for (std::uint64_t at = within.first.value(); at + n <= within.end().value(); ++at) {
      if (at % align != 0) continue;
      std::uint64_t free = 0;
      while (free < n && !values_[at + free]) ++free;
      if (free == n) return at;
    }
    return std::nullopt;
  }

 private:
  std::array<std::optional<int>, kSpace> values_;
};

void expect_equal(const ExtentMap<int>& map, const Reference& reference) {
  ASSERT_EQ(map.size(), reference.extents());
  for (std::uint64_t page = 0; page < kSpace; ++page) {
    const auto* found = map.find(Vpn(page));
    ASSERT_EQ(found != nullptr, reference.at(page).has_value()) << page;
    if (found != nullptr) {
      ASSERT_EQ(found->value, *reference.at(page)) << page;
    }
  }
  for (std::size_t i = 0; i < map.size(); ++i) {
    ASSERT_LT(map[i].first, map[i].end);
    if (i != 0) {
      ASSERT_LE(map[i - 1].end, map[i].first);
    }
  }
}

TEST(ExtentMap, AgreesWithAnArray) {
  for (std::uint64_t seed = 1; seed <= 200; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937_64 random(seed);
    ExtentMap<int> map;
    Reference reference;
    for (int step = 0; step < 200; ++step) {
      const std::uint64_t first = random() % kSpace;
      const PageRun run = run_of(first, 1 + random() % std::min<std::uint64_t>(kSpace - first, 40));
      ASSERT_TRUE(map.prepare().ok());
      switch (random() % 6) {
        case 0:
        case 1:
        case 2: {
          const int value = static_cast<int>(random() % 3);
          map.assign(run, value);
          reference.assign(run, value);
          break;
        }
        case 3:
        case 4:
          map.erase(run);
          reference.assign(run, std::nullopt);
          break;
        default:
          if (random() % 20 != 0) break;
          map.clear();
          reference = {};
      }
      ASSERT_EQ(map.covered_prefix(run).value(), reference.covered_prefix(run));
      ASSERT_EQ(map.covers(run), reference.covered_prefix(run) == run.count.value());
      const std::uint64_t n = 1 + random() % 20;
      const std::uint64_t align = std::uint64_t{1} << random() % 4;
      Vpn at;
      const auto gap = reference.find_gap(run, n, align);
      ASSERT_EQ(map.find_gap(run, PageCount(n), PageCount(align), &at), gap.has_value());
      if (gap) {
        ASSERT_EQ(at.value(), *gap);
      }
      std::uint64_t visited = run.first.value();
      map.for_each_in(run, [&](PageRun part, int value) {
        for (; visited < part.first.value(); ++visited) EXPECT_FALSE(reference.at(visited));
        for (; visited < part.end().value(); ++visited) EXPECT_EQ(reference.at(visited), value);
      });
    }
    expect_equal(map, reference);
  }
}

TEST(ExtentMap, NeighboursOfOneValueMerge) {
  ExtentMap<int> map;
  ASSERT_TRUE(map.prepare(3).ok());
  map.assign(run_of(0, 10), 1);
  map.assign(run_of(20, 10), 1);
  EXPECT_EQ(map.size(), 2U);
  map.assign(run_of(10, 10), 1);
  EXPECT_EQ(map.size(), 1U);
  EXPECT_EQ(map[0].end, Vpn(30));
}

TEST(ExtentMap, PreparedChangesNeverFail) {
  ExtentMap<int> map;
  for (std::uint64_t i = 0; i < 20'000; ++i) {
    ASSERT_TRUE(map.prepare().ok());
    map.assign(run_of(i * 2, 1), 1);  // each an extent of its own
  }
  EXPECT_EQ(map.size(), 20'000U);
  ASSERT_TRUE(map.prepare().ok());
  map.erase(run_of(0, 40'000));
  EXPECT_EQ(map.size(), 0U);
}

// A reader without a lock sees a state that was, never a mixture of two.
TEST(ExtentMap, UnlockedPrefixIsOneThatWas) {
  ExtentMap<int> map;
  ASSERT_TRUE(map.prepare(4).ok());
  map.assign(run_of(0, 1'000'000), 0);
  std::atomic<bool> stop{false};
  std::atomic<std::uint64_t> changes{0};
  std::thread writer([&] {
    for (std::uint64_t i = 0; !stop.load(); ++i, ++changes) {
      // Cuts and joins far behind what the reader asks about move the array and outgrow it.
      const PageRun run = run_of(1000 + i % 4000 * 2, 1);
      EXPECT_TRUE(map.prepare().ok());
      i / 4000 % 2 == 0 ? map.assign(run, 1) : map.assign(run, 0);
      // A reader needs a moment without a change, however slow a sanitizer makes its walk.
      if (i % 16 == 15) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  });
  for (int i = 0; i < 20'000 || changes.load() < 8'500; ++i) {
    EXPECT_EQ(map.covered_prefix_unlocked(run_of(10, 500)), PageCount(500));
    EXPECT_EQ(map.covered_prefix_unlocked(run_of(5, 900'000)), PageCount(900'000));
  }
  stop.store(true);
  writer.join();
}

}  // namespace
}  // namespace buoy
