// The index of extents against std::map: by address, and by exact run.
#include "vm/extent_index.h"

#include <gtest/gtest.h>

#include <map>
#include <random>

namespace buoy {
namespace {

class ExtentIndexTest : public testing::Test {
 protected:
  ExtentIndexTest() { EXPECT_TRUE(index_.create().ok()); }
  static PageRun run_of(std::uint64_t first, std::uint64_t count) {
    return {Vpn(first), PageCount(count)};
  }
  std::uint32_t add(PageRun run) {
    const std::uint32_t i = index_.try_allocate();
    EXPECT_NE(i, 0U);
    index_.insert(i, run);
    return i;
  }
  void remove(std::uint32_t i) {
    index_.take_out(i);
    index_.release(i);
  }
  ExtentIndex index_;
};

TEST_F(ExtentIndexTest, AFreeObjectIsSeized) {
  EXPECT_EQ(index_.at(index_.try_allocate()).mark.load().state(), MarkState::kSeized);
}

TEST_F(ExtentIndexTest, FindsTheExactRunOnly) {
  const std::uint32_t i = add(run_of(100, 20));
  EXPECT_EQ(index_.find_exact(run_of(100, 20)), i);
  EXPECT_EQ(index_.find_exact(run_of(100, 19)), 0U);
  EXPECT_EQ(index_.find_exact(run_of(101, 19)), 0U);
}

TEST_F(ExtentIndexTest, NewBoundsAreFoundAndOldOnesAreNot) {
  const std::uint32_t i = add(run_of(100, 20));
  const std::uint32_t behind = add(run_of(200, 1));
  index_.set_run(i, run_of(90, 40));
  EXPECT_EQ(index_.find_exact(run_of(90, 40)), i);
  EXPECT_EQ(index_.find_exact(run_of(100, 20)), 0U);
  index_.set_run(i, run_of(90, 10));
  EXPECT_EQ(index_.find_exact(run_of(90, 10)), i);
  EXPECT_EQ(index_.at_or_after(Vpn(99)), i);
  EXPECT_EQ(index_.at_or_after(Vpn(100)), behind);
  EXPECT_EQ(index_.validate(), 2U);
}

TEST_F(ExtentIndexTest, AgreesWithAMap) {
  std::mt19937_64 random(4);
  std::map<std::uint64_t, std::uint32_t> model;  // slots of 8 pages, of which 1 to 8 are used
  for (int step = 0; step < 6000; ++step) {
    const std::uint64_t slot = random() % 2000;
    if (const auto at = model.find(slot); at != model.end()) {
      remove(at->second);
      model.erase(at);
    } else {
      model[slot] = add(run_of(slot * 8, 1 + random() % 8));
    }
    const std::uint64_t page = random() % 16'000;
    auto next = model.lower_bound(page / 8);
    if (next != model.end() && index_.at(next->second).end_page() <= Vpn(page)) ++next;
    ASSERT_EQ(index_.at_or_after(Vpn(page)), next == model.end() ? 0 : next->second);
  }
  for (const auto& [slot, i] : model) ASSERT_EQ(index_.find_exact(index_.at(i).run()), i);
  EXPECT_EQ(index_.validate(), model.size());
  EXPECT_EQ(index_.live(), model.size());
}

}  // namespace
}  // namespace buoy
