#include "base/slab.h"

#include <gtest/gtest.h>

#include <atomic>
#include <random>
#include <set>
#include <thread>
#include <vector>

namespace buoy {
namespace {

struct Thing {
  std::uint64_t stamp = 7;
  std::atomic<std::uint32_t> owner{0};
};

TEST(Slab, IndicesAreNeverZeroAndDistinct) {
  Slab<Thing> slab;
  ASSERT_TRUE(slab.create(100).ok());
  std::set<std::uint32_t> given;
  for (int i = 0; i < 100; ++i) {
    const std::uint32_t index = slab.try_allocate();
    ASSERT_NE(index, 0U);
    EXPECT_TRUE(given.insert(index).second);
    EXPECT_EQ(slab.index_of(slab.at(index)), index);
  }
  EXPECT_EQ(slab.try_allocate(), 0U);
  EXPECT_EQ(slab.live(), 100U);
  slab.release(*given.begin());
  EXPECT_EQ(slab.try_allocate(), *given.begin());
}

TEST(Slab, RecyclingDoesNotConstruct) {
  Slab<Thing> slab;
  ASSERT_TRUE(slab.create(10).ok());
  const std::uint32_t index = slab.try_allocate();
  EXPECT_EQ(slab.at(index).stamp, 7U);
  slab.at(index).stamp = 9;
  slab.release(index);
  EXPECT_EQ(slab.at(index).stamp, 9U);  // type-stable: a stale reader finds a Thing
  ASSERT_EQ(slab.try_allocate(), index);
  EXPECT_EQ(slab.at(index).stamp, 9U);
}

TEST(Slab, OnlyWhatWasGivenIsTouched) {
  Slab<Thing> slab;
  ASSERT_TRUE(slab.create(1U << 24).ok());
  EXPECT_LE(slab.touched_bytes(), kPageSize);
  for (int i = 0; i < 1000; ++i) (void)slab.try_allocate();
  EXPECT_LE(slab.touched_bytes(), 1001 * 32 + kPageSize);
}

TEST(Slab, ThreadsNeverShareAnObject) {
  Slab<Thing> slab;
  ASSERT_TRUE(slab.create(64).ok());
  std::atomic<int> shared{0};
  std::vector<std::thread> threads;
  for (std::uint32_t id = 1; id <= 4; ++id)
    threads.emplace_back([&slab, &shared, id] {
      std::mt19937 random(id);
      std::vector<std::uint32_t> mine;
      for (int i = 0; i < 20'000; ++i) {
        if (!mine.empty() && random() % 2 == 0) {
          const std::uint32_t index = mine.back();
          mine.pop_back();
          if (slab.at(index).owner.exchange(0) != id) ++shared;
          slab.release(index);
        } else if (const std::uint32_t index = slab.try_allocate(); index != 0) {
          if (slab.at(index).owner.exchange(id) != 0) ++shared;
          mine.push_back(index);
        }
      }
      for (const std::uint32_t index : mine) {
        slab.at(index).owner.store(0);
        slab.release(index);
      }
    });
  for (std::thread& t : threads) t.join();
  EXPECT_EQ(shared.load(), 0);
  EXPECT_EQ(slab.live(), 0U);
}

}  // namespace
}  // namespace buoy
