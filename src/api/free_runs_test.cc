#include "api/free_runs.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <random>
#include <set>
#include <vector>

namespace buoy {
namespace {

constexpr std::uint64_t kSpace = 4096;
constexpr PageRun kAll{Vpn(0), PageCount(kSpace)};

PageRun run_of(std::uint64_t first, std::uint64_t count) { return {Vpn(first), PageCount(count)}; }

class FreeRunsTest : public testing::Test {
 protected:
  FreeRunsTest() { EXPECT_TRUE(runs_.create(kSpace).ok()); }
  ~FreeRunsTest() override { runs_.validate(); }
  void free(PageRun run) { ASSERT_TRUE(runs_.insert(run, kAll).ok()); }
  std::optional<PageRun> take(std::uint64_t count, std::uint64_t alignment = 1) {
    return runs_.take(PageCount(count), PageCount(alignment));
  }
  FreeRuns runs_;
};

TEST_F(FreeRunsTest, TheLowestRunThatHoldsItIsCut) {
  free(run_of(10, 2));
  free(run_of(20, 8));
  free(run_of(40, 100));
  EXPECT_EQ(take(3), run_of(20, 3));
  EXPECT_EQ(take(5), run_of(23, 5));
  EXPECT_EQ(take(5), run_of(40, 5));
  EXPECT_EQ(take(2), run_of(10, 2));
  EXPECT_EQ(runs_.pages(), PageCount(95));
  EXPECT_EQ(take(96), std::nullopt);
}

TEST_F(FreeRunsTest, NeighboursJoinOnBothSides) {
  free(run_of(10, 5));
  free(run_of(20, 5));
  EXPECT_EQ(runs_.runs(), 2U);
  free(run_of(15, 5));
  EXPECT_EQ(runs_.runs(), 1U);
  EXPECT_EQ(take(15), run_of(10, 15));
  EXPECT_EQ(runs_.runs(), 0U);
}

TEST_F(FreeRunsTest, NothingJoinsAcrossABorder) {
  ASSERT_TRUE(runs_.insert(run_of(10, 10), run_of(10, 10)).ok());
  ASSERT_TRUE(runs_.insert(run_of(0, 10), run_of(0, 10)).ok());
  ASSERT_TRUE(runs_.insert(run_of(20, 10), run_of(20, 10)).ok());
  EXPECT_EQ(runs_.runs(), 3U);
  EXPECT_EQ(take(11), std::nullopt);
}

TEST_F(FreeRunsTest, AnAlignedRunLeavesItsHeadAndTail) {
  free(run_of(3, 30));
  EXPECT_EQ(take(8, 16), run_of(16, 8));
  EXPECT_EQ(runs_.runs(), 2U);
  EXPECT_EQ(take(13), run_of(3, 13));
  EXPECT_EQ(take(9), run_of(24, 9));
}

TEST_F(FreeRunsTest, AnAlignedRunPassesOverLowerOnesThatAreLongEnough) {
  free(run_of(1, 16));
  free(run_of(20, 11));
  free(run_of(31 + 1, 16));
  EXPECT_EQ(take(16, 16), run_of(32, 16));
  EXPECT_EQ(take(16, 16), std::nullopt);
}

TEST_F(FreeRunsTest, WhatIsFreeCannotBeFreed) {
  free(run_of(10, 10));
  for (const PageRun run :
       {run_of(10, 10), run_of(5, 6), run_of(19, 5), run_of(12, 2), run_of(0, 99)})
    EXPECT_EQ(runs_.insert(run, kAll).code(), EINVAL);
  EXPECT_EQ(take(10), run_of(10, 10));
}

TEST_F(FreeRunsTest, AGivenPlaceIsTakenIfAllOfItIsFree) {
  free(run_of(10, 10));
  EXPECT_FALSE(runs_.take_at(run_of(9, 2)));
  EXPECT_FALSE(runs_.take_at(run_of(15, 6)));
  EXPECT_FALSE(runs_.take_at(run_of(30, 1)));
  EXPECT_TRUE(runs_.take_at(run_of(12, 3)));
  EXPECT_FALSE(runs_.take_at(run_of(11, 2)));
  EXPECT_TRUE(runs_.take_at(run_of(10, 2)));
  EXPECT_TRUE(runs_.take_at(run_of(15, 5)));
  EXPECT_EQ(runs_.runs(), 0U);
}

TEST_F(FreeRunsTest, OnlyAWholeRunIsRemoved) {
  free(run_of(10, 10));
  EXPECT_FALSE(runs_.remove(run_of(10, 9)));
  EXPECT_FALSE(runs_.remove(run_of(11, 9)));
  EXPECT_FALSE(runs_.remove(run_of(30, 1)));
  EXPECT_TRUE(runs_.remove(run_of(10, 10)));
  EXPECT_TRUE(runs_.pages().is_zero());
}

TEST_F(FreeRunsTest, WithoutANodeNothingChanges) {
  FreeRuns few;
  ASSERT_TRUE(few.create(1).ok());
  ASSERT_TRUE(few.insert(run_of(0, 100), kAll).ok());
  EXPECT_EQ(few.insert(run_of(200, 1), kAll).code(), ENOMEM);
  EXPECT_EQ(few.insert(run_of(100, 20), kAll).code(), 0);  // it joins
  EXPECT_EQ(few.take(PageCount(16), PageCount(16)), run_of(0, 16));
  EXPECT_EQ(few.take(PageCount(8), PageCount(32)), std::nullopt);  // would leave two
  EXPECT_EQ(few.pages(), PageCount(104));
  few.validate();
}

// Against a set of free pages.
TEST_F(FreeRunsTest, AgreesWithASetOfPages) {
  std::mt19937_64 random(7);
  std::set<std::uint64_t> pages;
  std::vector<PageRun> taken;
  free(kAll);
  for (std::uint64_t p = 0; p < kSpace; ++p) pages.insert(p);
  const auto is_free = [&pages](std::uint64_t first, std::uint64_t n) {
    for (std::uint64_t p = first; p < first + n; ++p)
      if (pages.count(p) == 0) return false;
    return true;
  };
  for (int i = 0; i < 20'000; ++i) {
    if (random() % 2 == 0) {
      const std::uint64_t n = 1 + random() % (random() % 8 == 0 ? 200 : 20);
      const std::uint64_t alignment = std::uint64_t{1} << (random() % 5);
      std::uint64_t wanted = kSpace;
      for (std::uint64_t at = 0; at + n <= kSpace && wanted == kSpace; at += alignment)
        if (is_free(at, n)) wanted = at;
      const auto got = take(n, alignment);
      ASSERT_EQ(got.has_value(), wanted != kSpace);
      if (!got) continue;
      ASSERT_EQ(*got, run_of(wanted, n));
      for (std::uint64_t p = wanted; p < wanted + n; ++p) pages.erase(p);
      taken.push_back(*got);
    } else if (!taken.empty()) {
      const std::size_t which = random() % taken.size();
      const PageRun run = taken[which];
      taken[which] = taken.back();
      taken.pop_back();
      free(run);
      for (Vpn v = run.first; v < run.end(); ++v) pages.insert(v.value());
    }
    ASSERT_EQ(runs_.pages().value(), pages.size());
    if (i % 100 == 0) runs_.validate();
  }
}

}  // namespace
}  // namespace buoy
