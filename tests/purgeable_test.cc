// The C++ containers in volatile memory.
#include <gtest/gtest.h>
#include <buoy/purgeable.hpp>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <random>
#include <stdexcept>
#include <thread>

namespace {

constexpr std::size_t kMiB = std::size_t{1} << 20;

buoy::PoolOptions signals() {
  buoy::PoolOptions options;
  options.faults = BUOY_FAULTS_SIGNAL;
  return options;
}

class Purgeable : public testing::Test {
 protected:
  void purge_all() { pool.reclaim(1024 * kMiB); }
  buoy::Pool pool{32 * kMiB, signals()};
};

TEST(CxxLayer, ThrowsTheErrnoOfTheCall) {
  try {
    const buoy::Pool pool(1);
    FAIL();
  } catch (const std::system_error& e) {
    EXPECT_EQ(e.code().value(), EINVAL);
  }
}

TEST_F(Purgeable, RegionTellsWhetherItsContentsWereKept) {
  buoy::Region region(pool, 16 * 4096);
  std::memset(region.data(), 1, region.size());
  region.mark_volatile();
  EXPECT_EQ(region.mark_nonvolatile(), buoy::Kept::kYes);
  region.mark_volatile();
  {
    const buoy::Pin pin(region.data(), 4096, buoy::Pin::Access::kWrite);
    purge_all();
    EXPECT_EQ(std::to_integer<int>(region.data()[0]), 1);
  }
  EXPECT_EQ(region.mark_nonvolatile(), buoy::Kept::kNo);
  buoy::Region moved = std::move(region);
  EXPECT_EQ(moved.size(), 16U * 4096);
  EXPECT_THROW(moved.mark_volatile(0, 32 * 4096, 0), std::system_error);
}

TEST_F(Purgeable, BufferIsSafeWhileLockedAndSaysWhenItIsLost) {
  buoy::purgeable_buffer buffer(pool, 100'000);
  EXPECT_FALSE(buffer.lock().has_value());
  int fills = 0;
  const auto fill = [&](std::span<std::byte> room) {
    EXPECT_EQ(room.size(), 100'000U);
    std::fill(room.begin(), room.end(), std::byte{9});
    ++fills;
  };
  {
    const auto first = buffer.lock(fill);
    const auto second = buffer.lock();
    ASSERT_TRUE(second.has_value());
    purge_all();
    EXPECT_EQ(second->bytes()[99'999], std::byte{9});
  }
  { EXPECT_EQ(buffer.lock(fill).data()[5], std::byte{9}); }
  EXPECT_EQ(fills, 1);
  purge_all();
  EXPECT_FALSE(buffer.lock().has_value());
  EXPECT_EQ(buffer.lock(fill).data()[5], std::byte{9});
  EXPECT_EQ(fills, 2);
  buffer.discard();
  EXPECT_FALSE(buffer.lock().has_value());
}

TEST_F(Purgeable, ARefusedFillLeavesTheBufferLost) {
  buoy::purgeable_buffer buffer(pool, 4096);
  EXPECT_THROW((void)buffer.lock([](std::span<std::byte>) { throw std::runtime_error("no"); }),
               std::runtime_error);
  EXPECT_FALSE(buffer.lock().has_value());
}

using Words = std::vector<std::uint64_t>;
using WordCache = buoy::purgeable_cache<std::uint64_t, Words>;

// A value that tells its key in every word, and has a size of its own.
Words make(std::uint64_t key) { return Words(200 + key * 37 % 3000, key); }
bool is_right(std::uint64_t key, std::span<const std::uint64_t> words) {
  return words.size() == 200 + key * 37 % 3000 &&
         std::all_of(words.begin(), words.end(), [key](std::uint64_t w) { return w == key; });
}

TEST_F(Purgeable, CacheKeepsWhatFitsAndBuildsTheRestAgain) {
  WordCache cache(pool);
  std::mt19937_64 random(1);
  for (int i = 0; i < 60'000; ++i) {
    const std::uint64_t key = random() % 100 < 80 ? random() % 400 : random() % 20'000;
    const auto value = cache.get(key, &make);
    ASSERT_TRUE(is_right(key, value.view())) << key;
  }
  const auto stats = cache.stats();
  EXPECT_EQ(stats.hits + stats.misses, 60'000U);
  EXPECT_GT(stats.hits, 30'000U);
  EXPECT_GT(stats.lost, 0U);
  EXPECT_LT(pool.stat("resident_peak_bytes"), 32 * kMiB + 1);
  // What was purged was cleared away, by and by.
  EXPECT_LT(stats.value_bytes, 64 * kMiB);
}

TEST_F(Purgeable, CacheReusesTheOldestWhileMemoryIsShortAndGrowsWhenItIsNot) {
  WordCache cache(pool);
  constexpr std::uint64_t kKeys = 600;  // of 64 KiB: more than the budget
  const auto ask_for_all = [&cache] {
    for (std::uint64_t key = 0; key < kKeys; ++key) {
      const auto value = cache.get(key, [](std::uint64_t k) { return Words(8192, k); });
      ASSERT_EQ(value.view().front(), key);
      ASSERT_EQ(value.view().back(), key);
    }
  };
  for (int i = 0; i < 10; ++i) ask_for_all();
  const auto shorter = cache.stats();
  EXPECT_GT(shorter.lost, 0U);
  EXPECT_GT(shorter.reused, 4 * shorter.lost);
  ASSERT_EQ(buoy_pool_resize(pool.get(), 96 * kMiB), 0);
  for (int i = 0; i < 20; ++i) ask_for_all();
  const auto before = cache.stats();
  ask_for_all();
  EXPECT_EQ(cache.stats().hits - before.hits, kKeys);
}

TEST_F(Purgeable, CacheHandlesKeepTheirValues) {
  WordCache cache(pool);
  const auto held = cache.get(7, &make);
  for (std::uint64_t key = 100; key < 8000; ++key) (void)cache.get(key, &make);
  purge_all();
  EXPECT_TRUE(is_right(7, held.view()));
  EXPECT_FALSE(cache.find(5000).has_value());
  EXPECT_FALSE(cache.erase(7));
}

TEST_F(Purgeable, CacheLoadsAKeyOnceForAllWhoWaitAndPassesFailuresOn) {
  WordCache cache(pool);
  std::atomic<int> loads{0};
  std::atomic<int> failures{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 8; ++t)
    threads.emplace_back([&] {
      for (std::uint64_t key = 0; key < 50; ++key) {
        try {
          const auto value = cache.get(key, [&](std::uint64_t k) {
            std::this_thread::sleep_for(std::chrono::microseconds(200));
            if (k == 13) throw std::runtime_error("unlucky");
            ++loads;
            return make(k);
          });
          EXPECT_TRUE(is_right(key, value.view()));
        } catch (const std::runtime_error&) {
          EXPECT_EQ(key, 13U);
          ++failures;
        }
      }
    });
  for (std::thread& t : threads) t.join();
  EXPECT_EQ(loads, 49);
  EXPECT_EQ(failures, 8);
}

TEST_F(Purgeable, CacheIsSafeUnderThreadsAndReclaim) {
  WordCache cache(pool);
  std::atomic<bool> stop{false};
  std::thread reclaiming([&] {
    while (!stop) pool.reclaim(kMiB);
  });
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      std::mt19937_64 random(t);
      for (int i = 0; i < 5000; ++i) {
        const std::uint64_t key = random() % 600;
        if (random() % 50 == 0) cache.erase(key);
        const auto value = cache.get(key, &make);
        if (!is_right(key, value.view())) ++wrong;
      }
    });
  for (std::thread& t : threads) t.join();
  stop = true;
  reclaiming.join();
  EXPECT_EQ(wrong, 0);
}

TEST_F(Purgeable, CacheLoadersMayBuildInPlace) {
  WordCache cache(pool);
  const auto in_place = [](std::uint64_t key, WordCache::place& place) {
    const Words words = make(key);
    const auto room = place.allocate<std::uint64_t>(words.size());
    std::copy(words.begin(), words.end(), room.begin());
  };
  for (int round = 0; round < 3; ++round) {
    for (std::uint64_t key = 0; key < 300; ++key)
      EXPECT_TRUE(is_right(key, cache.get(key, in_place).view()));
    purge_all();
  }
  EXPECT_EQ(cache.stats().lost, 600U);
}

struct Small {
  int a;
  double b;
};

TEST_F(Purgeable, CacheTakesStringsAndPlainStructs) {
  buoy::purgeable_cache<std::string, std::string> strings(pool);
  EXPECT_EQ(strings.get("x", [](const std::string& k) { return k + "yz"; }).view(), "xyz");
  EXPECT_EQ(strings.get("", [](const std::string&) { return std::string(); }).view(), "");
  buoy::purgeable_cache<int, Small> structs(pool);
  EXPECT_EQ(structs.get(3, [](int k) { return Small{k, 1.5}; }).view().a, 3);
}

TEST(PageRuns, ClassesCoverEverySizeTightly) {
  const buoy::Pool pool(32 * kMiB, signals());
  buoy::detail::page_runs runs(pool, 0);
  for (std::size_t pages = 1; pages < 3000; ++pages) {
    const auto run = runs.allocate(pages * 4096);
    EXPECT_GE(run.pages, pages);
    EXPECT_LE(run.pages, pages + pages / 4);
    EXPECT_TRUE(runs.is_for(run, pages * 4096));
    runs.free(run);
    EXPECT_EQ(runs.allocate(pages * 4096).at, run.at);
    runs.free(run);
  }
}

}  // namespace
