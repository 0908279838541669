#include "base/lock.h"

#include <gtest/gtest.h>

#include <thread>
#include <vector>

namespace buoy {
namespace {

using Leaf = Mutex<LockRank::kLeaf>;
using Lru = Mutex<LockRank::kLru>;
using Slab = Mutex<LockRank::kSlab>;

TEST(Lock, ExcludesOthers) {
  Lru lock;
  std::uint64_t plain = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&] {
      for (int i = 0; i < 20'000; ++i) {
        const Guard guard(lock);
        ++plain;
      }
    });
  for (std::thread& t : threads) t.join();
  EXPECT_EQ(plain, 80'000U);
}

TEST(Lock, TryLockDoesNotWait) {
  Lru lock;
  ASSERT_TRUE(lock.try_lock());
  bool taken = true;
  std::thread([&] {
    taken = lock.try_lock();
    if (taken) lock.unlock();
  }).join();
  EXPECT_FALSE(taken);
  lock.unlock();
}

TEST(Lock, RisingRanksAndSeveralLeavesNest) {
  Leaf low;
  Leaf high;
  Lru lru;
  Slab slab;
  const Guard a(low);
  const Guard b(high);
  const Guard c(lru);
  const Guard d(slab);
}

#ifdef BUOY_DEBUG_CHECKS
TEST(LockDeathTest, FallingRanksAbort) {
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  Leaf leaf;
  Lru lru;
  EXPECT_DEATH(
      {
        const Guard a(lru);
        const Guard b(leaf);
      },
      "lock rank order");
}

TEST(LockDeathTest, TwoLocksOfOneRankAbort) {
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  Lru one;
  Lru other;
  EXPECT_DEATH(
      {
        const Guard a(one);
        const Guard b(other);
      },
      "two locks of one rank");
}

TEST(LockDeathTest, AWaitWithALockHeldAborts) {
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  lock_order::assert_none_held();
  Slab slab;
  EXPECT_DEATH(
      {
        const Guard a(slab);
        lock_order::assert_none_held();
      },
      "a lock is held");
}
#endif

}  // namespace
}  // namespace buoy
