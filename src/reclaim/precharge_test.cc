// The budget, and pages charged to it ahead of their use.

#include <gtest/gtest.h>

#include <atomic>
#include <random>
#include <thread>
#include <vector>

#include "reclaim/context.h"

namespace buoy {
namespace {

class BudgetTest : public testing::Test {
 protected:
  BudgetTest() { budget_.set_limit(PageCount(8000)); }
  Budget budget_;
};

TEST_F(BudgetTest, OnlyReclaimMayHaveTheReserve) {
  const PageCount ordinary = budget_.limit() - budget_.reserve();
  ASSERT_FALSE(budget_.reserve().is_zero());
  EXPECT_TRUE(budget_.try_charge(ordinary));
  EXPECT_FALSE(budget_.try_charge(PageCount(1)));
  EXPECT_TRUE(budget_.try_charge(budget_.reserve(), Charge::kReclaim));
  EXPECT_FALSE(budget_.try_charge(PageCount(1), Charge::kReclaim));
  EXPECT_EQ(budget_.used(), budget_.limit());
  EXPECT_TRUE(budget_.free().is_zero());
  budget_.uncharge(budget_.limit());
  EXPECT_EQ(budget_.used(), PageCount(0));
  EXPECT_EQ(budget_.peak(), PageCount(8000));
}

TEST_F(BudgetTest, WatermarksLieAboveTheReserve) {
  EXPECT_GT(budget_.low_watermark(), budget_.reserve());
  EXPECT_GT(budget_.high_watermark(), budget_.low_watermark());
  EXPECT_TRUE(budget_.is_above_high());
  ASSERT_TRUE(budget_.try_charge(budget_.limit() - budget_.low_watermark()));
  EXPECT_FALSE(budget_.is_below_low());
  ASSERT_TRUE(budget_.try_charge(PageCount(1)));
  EXPECT_TRUE(budget_.is_below_low());
}

TEST_F(BudgetTest, AShrinkWaitsUntilNoMoreIsUsed) {
  ASSERT_TRUE(budget_.try_charge(PageCount(5000)));
  budget_.begin_shrink(PageCount(4000));
  EXPECT_TRUE(budget_.is_shrinking());
  EXPECT_FALSE(budget_.finish_shrink());
  EXPECT_EQ(budget_.limit(), PageCount(8000));
  EXPECT_FALSE(budget_.try_charge(PageCount(1)));
  // Reclaim may go on taking what it frees more by.
  EXPECT_TRUE(budget_.try_charge(PageCount(512), Charge::kReclaim));
  budget_.uncharge(PageCount(1512));
  EXPECT_TRUE(budget_.finish_shrink());
  EXPECT_EQ(budget_.limit(), PageCount(4000));
  EXPECT_FALSE(budget_.try_charge(PageCount(1), Charge::kReclaim));
}

TEST_F(BudgetTest, ACancelledShrinkChangesNothing) {
  ASSERT_TRUE(budget_.try_charge(PageCount(5000)));
  budget_.begin_shrink(PageCount(4000));
  budget_.cancel_shrink();
  EXPECT_FALSE(budget_.is_shrinking());
  EXPECT_EQ(budget_.limit(), PageCount(8000));
  EXPECT_TRUE(budget_.try_charge(PageCount(1)));
}

TEST_F(BudgetTest, AForkChildIsNotHalfWayThroughAShrink) {
  ASSERT_TRUE(budget_.try_charge(PageCount(5000)));
  budget_.begin_shrink(PageCount(4000));
  budget_.after_fork_in_child();
  EXPECT_FALSE(budget_.is_shrinking());
  EXPECT_EQ(budget_.limit(), PageCount(8000));
  EXPECT_TRUE(budget_.try_charge(PageCount(1)));
}

TEST_F(BudgetTest, UsedIsNeverAboveTheLimitWhoeverChargesAndShrinks) {
  std::atomic<bool> stop{false};
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < 2; ++t)
    threads.emplace_back([&, t] {
      std::mt19937 random(t);
      PageCount mine;
      while (!stop.load()) {
        const PageCount n(1 + random() % 512);
        const Charge kind = random() % 2 == 0 ? Charge::kOrdinary : Charge::kReclaim;
        if (random() % 2 == 0 && budget_.try_charge(n, kind)) mine += n;
        if (random() % 2 == 0 && mine >= n) {
          budget_.uncharge(n);
          mine -= n;
        }
      }
      budget_.uncharge(mine);
    });
  std::mt19937 random(9);
  for (int i = 0; i < 5000; ++i) {
    budget_.set_limit(PageCount(8000));
    budget_.begin_shrink(PageCount(2000 + random() % 4000));
    bool finished = false;
    for (int k = 0; k < 20 && !finished; ++k) finished = budget_.finish_shrink();
    if (!finished) budget_.cancel_shrink();
  }
  stop.store(true);
  for (std::thread& t : threads) t.join();
  EXPECT_EQ(budget_.used(), PageCount(0));
  EXPECT_LE(budget_.peak(), PageCount(8000));
}

TEST_F(BudgetTest, APrechargeGivesBackWhatWasNotUsed) {
  {
    Precharge precharge(budget_);
    ASSERT_TRUE(precharge.try_add(PageCount(10)));
    ASSERT_TRUE(precharge.try_add(PageCount(5)));
    EXPECT_EQ(precharge.held(), PageCount(15));
    EXPECT_FALSE(precharge.try_add(PageCount(100'000)));
    precharge.consume(PageCount(4));
    EXPECT_EQ(budget_.used(), PageCount(15));
  }
  EXPECT_EQ(budget_.used(), PageCount(4));
}

}  // namespace
}  // namespace buoy
