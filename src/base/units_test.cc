#include "base/units.h"

#include <gtest/gtest.h>

#include <cstdint>

namespace buoy {
namespace {

TEST(Units, PagesCoverBytesWithoutOverflow) {
  EXPECT_EQ(PageCount::covering(0), PageCount(0));
  EXPECT_EQ(PageCount::covering(1), PageCount(1));
  EXPECT_EQ(PageCount::covering(kPageSize), PageCount(1));
  EXPECT_EQ(PageCount::covering(kPageSize + 1), PageCount(2));
  EXPECT_EQ(PageCount::covering(SIZE_MAX), PageCount(std::uint64_t{1} << 52));
  EXPECT_EQ(PageCount::whole_in(kPageSize * 2 - 1), PageCount(1));
}

TEST(Units, PlacesInABlock) {
  const Vpn page(kPagesPerBlock * 7 + 300);
  EXPECT_EQ(page.block(), 7U);
  EXPECT_EQ(page.in_block(), 300U);
  EXPECT_EQ(page.block_start(), Vpn(kPagesPerBlock * 7));
  EXPECT_EQ(page.aligned_down(Order(4)), Vpn(kPagesPerBlock * 7 + 288));
  EXPECT_EQ(Vpn::of_address(page.address() + 4095), page);
}

TEST(Units, AlignmentGoesUpToTheNextMultiple) {
  EXPECT_EQ(Vpn(13).aligned_up(PageCount(1)), Vpn(13));
  EXPECT_EQ(Vpn(13).aligned_up(PageCount(8)), Vpn(16));
  EXPECT_EQ(Vpn(16).aligned_up(PageCount(8)), Vpn(16));
  EXPECT_EQ(Vpn(17).aligned_up(PageCount(kPagesPerBlock)), Vpn(kPagesPerBlock));
  const Vpn last(UINT64_MAX);
  EXPECT_EQ(last.aligned_up(PageCount(1)), last);
  EXPECT_LT(last.aligned_up(PageCount(8)), last);
}

TEST(Units, RunsAreHalfOpen) {
  const PageRun run{Vpn(10), PageCount(5)};
  EXPECT_FALSE(run.contains(Vpn(9)));
  EXPECT_TRUE(run.contains(Vpn(10)));
  EXPECT_TRUE(run.contains(Vpn(14)));
  EXPECT_FALSE(run.contains(run.end()));
}

TEST(Units, OrdersArePowersOfTwo) {
  for (unsigned order = 0; order <= kMaxOrder; ++order)
    EXPECT_EQ(Order(order).pages().value(), std::uint64_t{1} << order);
  EXPECT_EQ(Order(kMaxOrder).pages(), PageCount(kPagesPerBlock));
}

}  // namespace
}  // namespace buoy
