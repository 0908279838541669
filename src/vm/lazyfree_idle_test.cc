// ctest: labels=soft
//
// Memory that is lazily freed until its owner says otherwise: nothing is trapped, and idle pages that
// are empty.

#include <gtest/gtest.h>

#include <cerrno>

#include "vm/lazyfree_testing.h"

namespace buoy {
namespace {

using Touch = SoftVm::Touch;
using SoftLazyFreeIdle = LazyFreeTest;
constexpr PageCount kOne(1);

// ---- Until reuse ------------------------------------------------------------------------------

TEST_F(SoftLazyFreeIdle, UntilReuseNothingIsTrapped) {
  const PageRun run = map_filled(8);
  free_until_reuse(run);
  EXPECT_EQ(soft_.drawn(run), repeated('l', 8));
  for (Vpn page = run.first; page < run.end(); ++page) EXPECT_FALSE(soft_.mmu().is_trapped(page));
  EXPECT_TRUE(soft_.holds(run.first, SoftVm::image_of(run.first)));
  EXPECT_EQ(soft_.count(Event::pglazyfree), 8U);
  discard_all();
  EXPECT_EQ(soft_.drawn(run), repeated('.', 8));
  EXPECT_TRUE(soft_.reads_zeros(run.first));
  EXPECT_EQ(soft_.count(Event::pswpout), 0U);
}

TEST_F(SoftLazyFreeIdle, WhatIsReusedIsKept) {
  const PageRun run = map_filled(64);
  free_until_reuse(run);
  const std::uint64_t faults = soft_.count(Event::pgfault);
  EXPECT_EQ(soft_.vm().reuse(sub(run, 16, 32)).code(), 0);
  EXPECT_EQ(soft_.drawn(run), repeated('l', 16) + repeated('m', 32) + repeated('l', 16));
  PageImage expected = SoftVm::image_of(run.first + PageCount(20));
  expected.set_part(3, kSeed);
  ASSERT_EQ(soft_.store_part(run.first + PageCount(20), 3, kSeed), Touch::kDone);
  EXPECT_EQ(soft_.count(Event::pgfault), faults);
  discard_all();
  EXPECT_EQ(soft_.drawn(run), repeated('.', 16) + repeated('m', 32) + repeated('.', 16));
  EXPECT_TRUE(soft_.holds(run.first + PageCount(20), expected));
}

TEST_F(SoftLazyFreeIdle, AnOrdinaryFreeEndsThePromise) {
  const PageRun run = map_filled(4);
  free_until_reuse(run);
  free(run);
  EXPECT_EQ(soft_.drawn(run), "llll");
  PageImage expected = SoftVm::image_of(run.first);
  expected.set_part(3, kSeed);
  for (Vpn page = run.first; page < run.end(); ++page) EXPECT_TRUE(soft_.mmu().is_trapped(page));
  ASSERT_EQ(soft_.store_part(run.first, 3, kSeed), Touch::kDone);
  discard_all();
  EXPECT_TRUE(soft_.holds(run.first, expected));
}

TEST_F(SoftLazyFreeIdle, APromiseAfterAnOrdinaryFreeLeavesTheTrap) {
  const PageRun run = map_filled(4);
  free(run);
  free_until_reuse(run);
  EXPECT_TRUE(soft_.mmu().is_trapped(run.first));
  EXPECT_EQ(soft_.count(Event::pglazyfree), 4U);
  EXPECT_EQ(soft_.vm().reuse(run).code(), 0);
  EXPECT_FALSE(soft_.mmu().is_trapped(run.first));
  EXPECT_EQ(soft_.drawn(run), "mmmm");
}

TEST_F(SoftLazyFreeIdle, AStoreBesideIdlePagesLeavesThemFree) {
  const PageRun run = map_filled(16);
  free(sub(run, 0, 8));
  free_until_reuse(sub(run, 8, 8));
  ASSERT_EQ(soft_.store_part(run.first + PageCount(7), 0, kSeed), Touch::kDone);
  EXPECT_EQ(soft_.drawn(sub(run, 8, 8)), repeated('l', 8));
  discard_all();
  EXPECT_TRUE(soft_.reads_zeros(run.first + PageCount(8)));
  EXPECT_FALSE(soft_.reads_zeros(run.first + PageCount(7)));
}

TEST_F(SoftLazyFreeIdle, ACleanPageKeepsItsTrapUntilReuse) {
  const PageRun run = map_filled(1);
  ASSERT_TRUE(soft_.vm().page_out(run).ok());
  ASSERT_TRUE(soft_.holds(run.first, SoftVm::image_of(run.first)));
  ASSERT_EQ(soft_.drawn(run), "c");
  free_until_reuse(run);
  EXPECT_EQ(soft_.drawn(run), "l");
  EXPECT_EQ(soft_.context().swap->stats().compressed_pages, 0U);
  EXPECT_EQ(soft_.vm().reuse(run).code(), 0);
  EXPECT_EQ(soft_.drawn(run), "m");
  EXPECT_FALSE(soft_.mmu().is_trapped(run.first));
  EXPECT_TRUE(soft_.holds(run.first, SoftVm::image_of(run.first)));
}

TEST_F(SoftLazyFreeIdle, APinForWritingEndsThePromise) {
  const PageRun run = map_filled(2);
  free_until_reuse(run);
  ASSERT_TRUE(soft_.vm().pin(run, PinFor::kWriting).ok());
  EXPECT_EQ(soft_.drawn(run), "mm");
  ASSERT_TRUE(soft_.vm().unpin(run, Dirtied::kYes).ok());
  discard_all();
  EXPECT_TRUE(soft_.holds(run.first, SoftVm::image_of(run.first)));
}

TEST_F(SoftLazyFreeIdle, APinThatSaysDirtiedEndsThePromise) {
  const PageRun run = map_filled(2);
  ASSERT_TRUE(soft_.vm().pin(run, PinFor::kReading).ok());
  free_until_reuse(run);  // pinned: stays ordinary
  EXPECT_EQ(soft_.drawn(run), "mm");
  ASSERT_TRUE(soft_.vm().unpin(run, Dirtied::kNo).ok());
  free_until_reuse(run);
  ASSERT_TRUE(soft_.vm().pin(run, PinFor::kReading).ok());
  discard_all();
  EXPECT_EQ(soft_.drawn(run), "ll");
  ASSERT_TRUE(soft_.vm().unpin(run, Dirtied::kYes).ok());
  discard_all();
  EXPECT_TRUE(soft_.holds(run.first, SoftVm::image_of(run.first)));
}

TEST_F(SoftLazyFreeIdle, AChildInheritsThePromise) {
  const PageRun run = map_filled(2);
  free_until_reuse(run);
  soft_.fork_and_become_child();
  EXPECT_EQ(soft_.drawn(run), "ll");
  EXPECT_FALSE(soft_.mmu().is_trapped(run.first));
  EXPECT_EQ(soft_.vm().reuse(sub(run, 0, 1)).code(), 0);
  discard_all();
  EXPECT_TRUE(soft_.holds(run.first, SoftVm::image_of(run.first)));
  EXPECT_TRUE(soft_.reads_zeros(run.first + kOne));
}

// ---- Idle and empty -----------------------------------------------------------------------------

// Memory that an allocator holds free costs nothing until it says that it stores there again, however
// many faults there are beside it.
TEST_F(SoftLazyFreeIdle, NobodyBringsInWhatIsIdleForTheSakeOfANeighbour) {
  const PageRun run = map_filled(64);
  const PageRun idle = sub(run, 4, 40);
  free_until_reuse(idle);
  discard_all();
  ASSERT_TRUE(soft_.vm().discard(sub(run, 0, 4)).ok());
  ASSERT_TRUE(soft_.vm().discard(sub(run, 44, 20)).ok());
  ASSERT_EQ(soft_.drawn(run), repeated('.', 64));
  for (const std::uint64_t page : {2U, 45U, 50U, 60U})
    ASSERT_EQ(soft_.store_part(run.first + PageCount(page), 0, kSeed), Touch::kDone);
  EXPECT_EQ(soft_.drawn(idle), repeated('.', 40));
  EXPECT_EQ(soft_.context().lazyfree_pages(), 0U);
  // In use again it is like any other memory.
  ASSERT_TRUE(soft_.vm().reuse(sub(idle, 0, 16)).ok());
  ASSERT_EQ(soft_.store_part(idle.first + PageCount(6), 0, kSeed), Touch::kDone);
  EXPECT_EQ(soft_.drawn(idle), repeated('m', 16) + repeated('.', 24));
}

TEST_F(SoftLazyFreeIdle, PagesThatWereNeverStoredToMayBeIdle) {
  const PageRun run = soft_.map(32);
  ASSERT_EQ(soft_.store_part(run.first + PageCount(31), 0, kSeed), Touch::kDone);
  const PageRun idle = sub(run, 0, 8);
  free_until_reuse(idle);
  EXPECT_EQ(soft_.count(Event::pglazyfree), 0U);
  ASSERT_EQ(soft_.store_part(run.first + PageCount(8), 0, kSeed), Touch::kDone);
  EXPECT_EQ(soft_.drawn(sub(run, 0, 10)), "........mm");
  // A load of one of them is the program's own affair, and brings in no other.
  EXPECT_TRUE(soft_.reads_zeros(idle.first + PageCount(3)));
  EXPECT_EQ(soft_.drawn(idle), "...m....");
  // Freed until a store, they are idle no more.
  free(idle);
  ASSERT_EQ(soft_.store_part(idle.first, 0, kSeed), Touch::kDone);
  EXPECT_EQ(soft_.drawn(sub(idle, 0, 4)), "mmml");
  EXPECT_EQ(soft_.count(Event::pglazyfree), 1U);
}

// But not worth bringing them in where there will be none: a page of the block is there, or there is
// no room.
TEST_F(SoftLazyFreeIdle, WhatCannotBeAHugePageIsNotWorthIdlePages) {
  const PageRun run = map_filled(kPagesPerBlock, RegionFlags::kHuge);
  const PageRun idle = sub(run, 100, 200);
  free_until_reuse(idle);
  ASSERT_TRUE(soft_.vm().discard(sub(run, 50, 50)).ok());
  discard_all();
  ASSERT_EQ(soft_.store_part(run.first + PageCount(70), 0, kSeed), Touch::kDone);
  EXPECT_EQ(soft_.drawn(sub(run, 50, 50)), repeated('m', 50));
  EXPECT_EQ(soft_.drawn(idle), repeated('.', 200));

  SoftVmOptions options;
  options.budget = PageCount(300);
  SoftVm small(options);
  const PageRun block = small.map(kPagesPerBlock, RegionFlags::kHuge);
  ASSERT_TRUE(small.reads_zeros(block.first + PageCount(500)));  // for the leaf
  ASSERT_TRUE(small.vm().discard(block).ok());
  ASSERT_TRUE(small.vm().free_lazily(sub(block, 4, 40), Vm::Until::kReuse).ok());
  ASSERT_EQ(small.store_part(block.first + PageCount(2), 0, kSeed), Touch::kDone);
  EXPECT_EQ(small.drawn(sub(block, 0, 44)), repeated('m', 4) + repeated('.', 40));
  small.validate();
}

// However reclaim or its owner gave it back: it is stored to after reuse, and not before.
TEST_F(SoftLazyFreeIdle, WhatIsDiscardedOrPurgedStaysIdle) {
  const PageRun run = map_filled(64);
  const PageRun idle = sub(run, 4, 40);
  free_until_reuse(idle);
  ASSERT_TRUE(soft_.vm().discard(sub(idle, 0, 20)).ok());
  {
    LockedLeaf locked(soft_.context(), *soft_.context().table.find_leaf(run.first));
    EXPECT_EQ(locked.purge(LeafRange::of(sub(idle, 20, 20))).frames, 20U);
  }
  ASSERT_TRUE(soft_.vm().discard(sub(run, 0, 4)).ok());
  ASSERT_TRUE(soft_.vm().discard(sub(run, 44, 20)).ok());
  ASSERT_EQ(soft_.drawn(run), repeated('.', 64));
  for (const std::uint64_t page : {2U, 45U})
    ASSERT_EQ(soft_.store_part(run.first + PageCount(page), 0, kSeed), Touch::kDone);
  EXPECT_EQ(soft_.drawn(idle), repeated('.', 40));
  ASSERT_TRUE(soft_.vm().reuse(sub(idle, 0, 12)).ok());
  ASSERT_EQ(soft_.store_part(idle.first, 0, kSeed), Touch::kDone);
  EXPECT_EQ(soft_.drawn(sub(idle, 0, 12)), repeated('m', 12));
}

// The promise was about another mapping.
TEST_F(SoftLazyFreeIdle, WhatIsMappedAnewIsNotIdle) {
  const PageRun run = map_filled(32);
  free_until_reuse(run);
  discard_all();
  free_until_reuse(sub(run, 16, 8));
  ASSERT_TRUE(soft_.vm().map_over(run, mmu::Access::kReadWrite).ok());
  ASSERT_EQ(soft_.store_part(run.first + PageCount(3), 0, kSeed), Touch::kDone);
  EXPECT_EQ(soft_.drawn(sub(run, 0, 16)), repeated('m', 16));
}

TEST_F(SoftLazyFreeIdle, WhatIsMappedAnewIsNotLocked) {
  const PageRun run = map_filled(4);
  ASSERT_TRUE(soft_.vm().lock(run, false).ok());
  ASSERT_TRUE(soft_.vm().map_over(sub(run, 0, 2), mmu::Access::kReadWrite).ok());
  EXPECT_TRUE(soft_.vm().discard(sub(run, 0, 2)).ok());
  EXPECT_EQ(soft_.vm().discard(sub(run, 2, 2)).code(), EINVAL);
  EXPECT_EQ(soft_.context().held_pages, 2);
}

TEST_F(SoftLazyFreeIdle, AHugePageIsWorthIdlePages) {
  const PageRun run = map_filled(kPagesPerBlock, RegionFlags::kHuge);
  free_until_reuse(run);
  discard_all();
  ASSERT_TRUE(soft_.vm().reuse(sub(run, 0, 64)).ok());
  ASSERT_EQ(soft_.store_part(run.first, 0, kSeed), Touch::kDone);
  EXPECT_EQ(order_of(run.first), kMaxOrder);
}

}  // namespace
}  // namespace buoy
