// ctest: labels=soft
//
// Populating: a range is there without faults, and nothing beside it.

#include <gtest/gtest.h>

#include <atomic>
#include <cerrno>
#include <thread>
#include <vector>

#include "vm/vm_testing.h"

namespace buoy {
namespace {

class SoftPopulate : public testing::Test {
 protected:
  static PageRun part(PageRun run, std::uint64_t first, std::uint64_t count) {
    return {run.first + PageCount(first), PageCount(count)};
  }
  // How many faults the stores to the run would take: none is what populating promises.
  unsigned untouchable(PageRun run) {
    unsigned n = 0;
    for (Vpn page = run.first; page < run.end(); ++page)
      if (!soft_.try_store_part(page, 1, 7)) ++n;
    return n;
  }
  SoftVm soft_;
};

TEST_F(SoftPopulate, FillsExactlyTheRange) {
  const PageRun run = soft_.map(2000);
  for (const auto& [first, count] : {std::pair{5U, 1U}, {17U, 16U}, {100U, 800U}, {1984U, 16U}}) {
    ASSERT_TRUE(soft_.vm().populate(part(run, first, count), PinFor::kWriting).ok());
    EXPECT_EQ(untouchable(part(run, first, count)), 0U) << first;
  }
  EXPECT_EQ(soft_.pte(run.first + PageCount(4)).state(), PteState::kEmpty);
  EXPECT_EQ(soft_.pte(run.first + PageCount(6)).state(), PteState::kEmpty);
  EXPECT_EQ(soft_.pte(run.first + PageCount(900)).state(), PteState::kEmpty);
  EXPECT_EQ(soft_.context().budget.used(), PageCount(1 + 16 + 800 + 16));
  EXPECT_EQ(soft_.count(Event::pgfault), 0U);
  soft_.validate();
}

TEST_F(SoftPopulate, KeepsWhatIsThereAndMakesItStorable) {
  const PageRun run = soft_.map(300);
  soft_.fill(run);
  const PageRun lazy = part(run, 0, 64);
  const PageRun idle = part(run, 64, 64);
  const PageRun out = part(run, 128, 64);
  ASSERT_TRUE(soft_.vm().page_out(out).ok());
  ASSERT_TRUE(soft_.vm().free_lazily(lazy).ok());
  ASSERT_TRUE(soft_.vm().free_lazily(idle, Vm::Until::kReuse).ok());
  ASSERT_TRUE(soft_.vm().discard(part(run, 200, 10)).ok());
  ASSERT_TRUE(soft_.vm().populate(run, PinFor::kWriting).ok());
  EXPECT_EQ(soft_.context().lazyfree_pages(), 0U);
  for (Vpn page = run.first; page < run.end(); ++page) {
    EXPECT_EQ(soft_.pte(page).state(), PteState::kMapped);
    const bool is_discarded = part(run, 200, 10).contains(page);
    EXPECT_TRUE(soft_.holds(page, is_discarded ? PageImage() : SoftVm::image_of(page)));
  }
  EXPECT_EQ(untouchable(run), 0U);
  soft_.validate();
}

TEST_F(SoftPopulate, ForReadingLeavesLazilyFreedPagesSo) {
  const PageRun run = soft_.map(64);
  soft_.fill(part(run, 0, 32));
  ASSERT_TRUE(soft_.vm().free_lazily(part(run, 0, 32)).ok());
  ASSERT_TRUE(soft_.vm().populate(run, PinFor::kReading).ok());
  EXPECT_EQ(soft_.context().lazyfree_pages(), 32U);
  EXPECT_EQ(soft_.pte(run.first + PageCount(63)).state(), PteState::kMapped);
  soft_.validate();
}

TEST_F(SoftPopulate, MoreThanTheBudgetTakesTurns) {
  const PageRun run = soft_.map(10'000);  // the budget is 4096
  soft_.fill(part(run, 0, 100));
  ASSERT_TRUE(soft_.vm().populate(run, PinFor::kWriting).ok());
  EXPECT_LE(soft_.context().budget.peak(), soft_.context().budget.limit());
  for (std::uint64_t i = 0; i < 10'000; ++i) {
    const Vpn page = run.first + PageCount(i);
    ASSERT_TRUE(soft_.holds(page, i < 100 ? SoftVm::image_of(page) : PageImage())) << i;
  }
  soft_.validate();
}

TEST_F(SoftPopulate, WithoutRoomSaysSo) {
  SoftVmOptions options;
  options.budget = PageCount(300);
  SoftVm soft(options);
  const PageRun run = soft.map(400);
  ASSERT_TRUE(soft.vm().lock(run, true).ok());  // what is populated stays
  EXPECT_EQ(soft.vm().populate(run, PinFor::kWriting).code(), EAGAIN);
  EXPECT_LE(soft.context().budget.used(), PageCount(300));
  ASSERT_TRUE(soft.vm().unlock(run).ok());
  ASSERT_TRUE(soft.vm().discard(run).ok());
  EXPECT_TRUE(soft.vm().populate(part(run, 0, 200), PinFor::kWriting).ok());
  soft.validate();
}

// What another thread holds isolated is on no list: memory to be had in a moment.
TEST_F(SoftPopulate, WhatOthersHoldIsolatedIsWaitedFor) {
  SoftVmOptions options;
  options.budget = PageCount(5000);
  options.most_waits_for_others = 200;
  SoftVm soft(options);
  const PageRun run = soft.map(10'000);
  soft.fill(part(run, 0, 4000));
  std::vector<Leaf*> held;
  for (const LeafList list : {LeafList::kResident, LeafList::kStandby})
    while (Leaf* leaf = soft.context().lru.isolate_oldest(list)) held.push_back(leaf);
  const PageRun more = part(run, 4000, 1500);
  ASSERT_TRUE(soft.vm().lock(more, true).ok());  // what is populated is not what makes room
  std::atomic<int> populated{-1};
  std::thread program([&] { populated = soft.vm().populate(more, PinFor::kWriting).code(); });
  while (soft.count(Event::oom_stall) < 10 && populated < 0) std::this_thread::yield();
  constexpr std::uint8_t kBoth = Lru::bit(LeafList::kResident) | Lru::bit(LeafList::kStandby);
  for (Leaf* leaf : held) soft.context().lru.put_back(*leaf, kBoth);
  program.join();
  EXPECT_EQ(populated, 0);
  soft.validate();
}

// As MADV_POPULATE_*: such pages could be touched at no time.
TEST_F(SoftPopulate, WhatMayNotBeTouchedIsRefused) {
  const PageRun run = soft_.map(100);
  ASSERT_TRUE(soft_.vm().protect(part(run, 40, 10), mmu::Access::kRead).ok());
  EXPECT_EQ(soft_.vm().populate(run, PinFor::kWriting).code(), EINVAL);
  EXPECT_EQ(soft_.context().budget.used(), PageCount());
  EXPECT_TRUE(soft_.vm().populate(run, PinFor::kReading).ok());
  ASSERT_TRUE(soft_.vm().protect(part(run, 40, 10), mmu::Access::kNone).ok());
  EXPECT_EQ(soft_.vm().populate(run, PinFor::kReading).code(), EINVAL);
  EXPECT_TRUE(soft_.vm().populate(part(run, 50, 50), PinFor::kWriting).ok());
  soft_.validate();
}

TEST_F(SoftPopulate, AHoleChangesNothing) {
  const PageRun run = soft_.map(100);
  ASSERT_TRUE(soft_.vm().unmap(part(run, 50, 1)).ok());
  EXPECT_EQ(soft_.vm().populate(run, PinFor::kWriting).code(), ENOMEM);
  EXPECT_EQ(soft_.context().budget.used(), PageCount());
  soft_.validate();
}

TEST_F(SoftPopulate, APurgedPageIsToldUnlessItsMarkIsWithdrawn) {
  const PageRun run = soft_.map(64);
  soft_.fill(run);
  ASSERT_EQ(soft_.vm().mark_volatile(run, 0).done, run.count);
  EXPECT_EQ(soft_.reclaim(64), run.count);
  EXPECT_EQ(soft_.vm().populate(run, PinFor::kWriting).code(), EIO);
  ASSERT_TRUE(soft_.vm().mark_nonvolatile(run).lost);
  ASSERT_TRUE(soft_.vm().populate(run, PinFor::kWriting).ok());
  EXPECT_EQ(untouchable(run), 0U);
  soft_.validate();
}

TEST_F(SoftPopulate, AHugeRegionIsFilledByBlocks) {
  const PageRun run = soft_.map(1024, RegionFlags::kHuge);
  ASSERT_TRUE(soft_.vm().populate(part(run, 3, 2), PinFor::kWriting).ok());
  EXPECT_EQ(soft_.count(Event::thp_fault_alloc), 1U);
  EXPECT_EQ(untouchable(part(run, 3, 2)), 0U);
  soft_.validate();
}

TEST_F(SoftPopulate, LosesNothingWhereAnInstallFails) {
  for (std::uint64_t skip = 0; skip < 6; ++skip) {
    const PageRun run = soft_.map(200);
    soft_.fill(part(run, 0, 20));
    soft_.mmu().inject({mmu::SoftMmu::Primitive::kInstallZeros, skip, PageCount(1)});
    (void)soft_.vm().populate(run, PinFor::kWriting);  // another try inside may have saved it
    soft_.mmu().clear_failures();
    soft_.validate();
    ASSERT_TRUE(soft_.vm().populate(run, PinFor::kWriting).ok());
    EXPECT_EQ(untouchable(part(run, 20, 180)), 0U);
    for (Vpn page = run.first; page < run.first + PageCount(20); ++page)
      EXPECT_TRUE(soft_.holds(page, SoftVm::image_of(page)));
  }
}

}  // namespace
}  // namespace buoy
