#include "mmu/call_cost.h"

#include <gtest/gtest.h>

namespace buoy::mmu {
namespace {

TEST(CallCost, IsNotMovedByTheCallsInWhichTheThreadWaited) {
  CallCost cost;
  for (unsigned i = 0; i < 3000; ++i) cost.sample(i % 3 == 0 ? 2'000'000 : 3000 + i % 7);
  EXPECT_GE(cost.ns(), 2500U);
  EXPECT_LE(cost.ns(), 4000U);
}

TEST(CallCost, FollowsThePresent) {
  CallCost cost;
  for (unsigned i = 0; i < 100; ++i) cost.sample(2000);
  for (unsigned i = 0; i < 40; ++i) cost.sample(8000);
  EXPECT_GE(cost.ns(), 7500U);
  EXPECT_LE(cost.ns(), 8600U);
  for (unsigned i = 0; i < 40; ++i) cost.sample(2000);
  EXPECT_LE(cost.ns(), 2200U);
}

TEST(CallCost, BeginsWithTheFirstCallHoweverItWent) {
  CallCost cost;
  cost.sample(5'000'000'000);
  for (unsigned i = 0; i < 100; ++i) cost.sample(1000);
  EXPECT_LE(cost.ns(), 1100U);
}

}  // namespace
}  // namespace buoy::mmu
