// ctest: labels=soft
//
// Memory is refused ahead of need, and what was not refused can be had.

#include <gtest/gtest.h>

#include <cerrno>
#include <vector>

#include "vm/vm_testing.h"

namespace buoy {
namespace {

using mmu::Access;
using mmu::SoftMmu;

constexpr std::uint64_t kBudget = 8192;

class SoftCommitment : public testing::Test {
 protected:
  static SoftVmOptions options() {
    SoftVmOptions o;
    o.budget = PageCount(kBudget);
    o.on_exhausted = OnExhausted::kEnomem;
    o.compressor = swap::CompressorKind::kNone;
    return o;
  }
  Result<Vpn> try_map(std::uint64_t pages, Access access = Access::kReadWrite) {
    return soft_.vm().map(PageCount(pages), RegionFlags::kNone, access);
  }
  void expect_refused(std::uint64_t pages) {
    const auto at = try_map(pages);
    ASSERT_FALSE(at.ok());
    EXPECT_EQ(at.code(), ENOMEM);
  }
  SoftVm soft_{options()};
};

TEST_F(SoftCommitment, WhatFitsIsPromisedOnceAndComesBack) {
  expect_refused(kBudget);
  const auto first = try_map(kBudget / 2);
  ASSERT_TRUE(first.ok());
  expect_refused(kBudget / 2);
  const PageRun run{*first, PageCount(kBudget / 2)};
  ASSERT_TRUE(soft_.vm().unmap(run).ok());
  EXPECT_TRUE(try_map(kBudget / 2).ok());
}

TEST_F(SoftCommitment, AddressSpaceCostsNothingUntilItIsAccessible) {
  const auto reserved = try_map(16 * kBudget, Access::kNone);
  ASSERT_TRUE(reserved.ok());
  const PageRun half{*reserved, PageCount(kBudget / 2)};
  ASSERT_TRUE(soft_.vm().protect(half, Access::kReadWrite).ok());
  const PageRun more{half.end(), PageCount(kBudget / 2)};
  EXPECT_EQ(soft_.vm().protect(more, Access::kRead).code(), ENOMEM);
  // Promised once; taking the access away takes no promise back, mapping anew does.
  ASSERT_TRUE(soft_.vm().protect(half, Access::kNone).ok());
  EXPECT_TRUE(soft_.vm().protect(half, Access::kReadWrite).ok());
  EXPECT_EQ(soft_.vm().protect(more, Access::kRead).code(), ENOMEM);
  ASSERT_TRUE(soft_.vm().map_over(half, Access::kNone).ok());
  EXPECT_TRUE(soft_.vm().protect(more, Access::kRead).ok());
}

TEST_F(SoftCommitment, TouchedPagesAreNotOwedTwice) {
  std::vector<PageRun> runs;
  for (;;) {
    const auto at = try_map(64);
    if (!at.ok()) break;
    runs.push_back({*at, PageCount(64)});
    soft_.fill(runs.back());
  }
  // Most of the budget, none of which compresses.
  EXPECT_GT(runs.size() * 64, kBudget * 3 / 4);
  for (const PageRun run : runs)
    for (Vpn page = run.first; page < run.end(); ++page)
      ASSERT_TRUE(soft_.holds(page, SoftVm::image_of(page)));
}

TEST_F(SoftCommitment, WhatWasPromisedCanBeStoredToLater) {
  std::vector<PageRun> runs;
  for (auto at = try_map(64); at.ok(); at = try_map(64)) runs.push_back({*at, PageCount(64)});
  EXPECT_GT(runs.size() * 64, kBudget * 3 / 4);
  for (const PageRun run : runs) soft_.fill(run);  // aborts where a page cannot be had
}

TEST_F(SoftCommitment, MovingCountsWhatIsNew) {
  const auto at = try_map(kBudget / 2);
  ASSERT_TRUE(at.ok());
  const auto grown = soft_.vm().remap({*at, PageCount(kBudget / 2)}, PageCount(kBudget / 2 + 64),
                                      /*may_move=*/true);
  ASSERT_TRUE(grown.ok());
  const auto refused = soft_.vm().remap({*grown, PageCount(kBudget / 2 + 64)}, PageCount(kBudget),
                                        /*may_move=*/true);
  ASSERT_FALSE(refused.ok());
  EXPECT_EQ(refused.code(), ENOMEM);
  const auto shrunk =
      soft_.vm().remap({*grown, PageCount(kBudget / 2 + 64)}, PageCount(64), /*may_move=*/true);
  ASSERT_TRUE(shrunk.ok());
  EXPECT_TRUE(try_map(kBudget / 2).ok());
}

TEST_F(SoftCommitment, GuardsKeepTheirPromise) {
  const auto at = try_map(kBudget / 2);
  ASSERT_TRUE(at.ok());
  const PageRun run{*at, PageCount(kBudget / 2)};
  ASSERT_TRUE(soft_.vm().install_guards(run).ok());
  expect_refused(kBudget / 2);
  ASSERT_TRUE(soft_.vm().remove_guards(run).ok());
  expect_refused(kBudget / 2);
}

TEST(SoftCommitmentOff, NothingIsCounted) {
  SoftVm soft;
  EXPECT_TRUE(soft.vm().map(PageCount(1U << 20), RegionFlags::kNone, Access::kReadWrite).ok());
}

}  // namespace
}  // namespace buoy
