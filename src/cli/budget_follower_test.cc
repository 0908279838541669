// How the room is shared out, and how the need of a program is found, on a program that is made up.
#include "cli/budget_follower.h"

#include <gtest/gtest.h>

#include <numeric>

namespace buoy::cli {
namespace {

using std::chrono::milliseconds;

constexpr ByteSize kMega = ByteSize{1} << 20;

ByteSize sum(const std::vector<ByteSize>& all) {
  return std::accumulate(all.begin(), all.end(), ByteSize{0});
}

TEST(ShareOut, WhatIsFreeIsSharedAndTheSumFits) {
  const std::vector<ByteSize> resident = {100 * kMega, 20 * kMega, 30 * kMega};
  const auto budgets = share_out(resident, 76 * kMega, 16 * kMega, 16 * kMega);
  EXPECT_EQ(budgets, (std::vector<ByteSize>{120 * kMega, 40 * kMega, 50 * kMega}));
  EXPECT_EQ(sum(budgets), sum(resident) + 60 * kMega);
}

TEST(ShareOut, WhatIsLackingIsTakenFromTheLargest) {
  const std::vector<ByteSize> resident = {200 * kMega, 100 * kMega};
  const auto budgets = share_out(resident, 0, 30 * kMega, 16 * kMega);
  EXPECT_EQ(budgets, (std::vector<ByteSize>{180 * kMega, 90 * kMega}));
  // No less than the floor, whatever is lacking.
  EXPECT_EQ(share_out(resident, 0, 1000 * kMega, 16 * kMega),
            (std::vector<ByteSize>{16 * kMega, 16 * kMega}));
  EXPECT_TRUE(share_out({}, 0, kMega, 16 * kMega).empty());
}

// Touches so much again and again, of the larger whole that it holds; each megabyte that it lacks
// costs faults.
struct Program {
  ByteSize touches;
  ByteSize holds;
  std::uint64_t faults = 0;
  milliseconds time{0};

  [[nodiscard]] NeedSeeker::Seen run(ByteSize budget, ByteSize most) {
    time += milliseconds(500);
    if (budget < touches) faults += (touches - budget) / kMega * 100;
    return {std::min(holds, budget), most, faults, time};
  }
};

TEST(NeedSeeker, FindsWhatAProgramTouches) {
  constexpr ByteSize kMost = 4096 * kMega;
  Program program{310 * kMega, 900 * kMega};
  NeedSeeker seeker(100);
  ByteSize budget = kMost;
  for (int i = 0; i < 400; ++i) {
    budget = seeker.next(program.run(budget, kMost), 16 * kMega);
    ASSERT_LE(budget, kMost);
  }
  EXPECT_NEAR(static_cast<double>(seeker.need()), static_cast<double>(310 * kMega),
              static_cast<double>(20 * kMega));
  EXPECT_NEAR(static_cast<double>(budget), static_cast<double>(310 * kMega),
              static_cast<double>(30 * kMega));
  // It touches more.
  program.touches = 600 * kMega;
  for (int i = 0; i < 400; ++i) budget = seeker.next(program.run(budget, kMost), 16 * kMega);
  EXPECT_NEAR(static_cast<double>(seeker.need()), static_cast<double>(600 * kMega),
              static_cast<double>(40 * kMega));
}

TEST(NeedSeeker, KeepsToTheFloorAndToWhatItMayHave) {
  Program idle{0, 200 * kMega};
  NeedSeeker seeker(100);
  ByteSize budget = 0;
  for (int i = 0; i < 400; ++i) budget = seeker.next(idle.run(budget, 300 * kMega), 32 * kMega);
  EXPECT_EQ(budget, 32 * kMega);
  EXPECT_EQ(seeker.need(), 32 * kMega);
  Program greedy{1000 * kMega, 1000 * kMega};
  NeedSeeker other(100);
  for (int i = 0; i < 400; ++i) budget = other.next(greedy.run(budget, 300 * kMega), 32 * kMega);
  EXPECT_EQ(budget, 300 * kMega);
}

}  // namespace
}  // namespace buoy::cli
