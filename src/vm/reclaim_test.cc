// ctest: labels=soft
//
// What reclaim takes and in which order, the second chance, copies that are kept, exhaustion, and
// the budget's changes. Each found failure of the model test that concerns them has its test here.

#include <gtest/gtest.h>

#include <atomic>
#include <cerrno>
#include <string>
#include <thread>

#include "vm/vm_testing.h"

namespace buoy {
namespace {

using mmu::SoftMmu;
using Touch = SoftVm::Touch;
constexpr PageCount kOne(1);

SoftVmOptions with_budget(std::uint64_t pages) {
  SoftVmOptions options;
  options.budget = PageCount(pages);
  return options;
}

class SoftReclaim : public SoftVmTest {
 protected:
  bool holds_all(PageRun run) {
    for (Vpn page = run.first; page < run.end(); ++page)
      if (!soft_.holds(page, SoftVm::image_of(page))) return false;
    return true;
  }
};

// ---- Order ------------------------------------------------------------------------------------

TEST_F(SoftReclaim, LazilyFreedMemoryGoesFirst) {
  const PageRun ordinary = map_filled(64);
  soft_.age_to_standby(sub(ordinary, 0, 32));
  const PageRun lazy = map_filled(64);
  ASSERT_TRUE(soft_.vm().free_lazily(lazy).ok());
  EXPECT_GE(soft_.reclaim(64), PageCount(64));
  EXPECT_EQ(soft_.drawn(lazy), repeated('.', 64));
  EXPECT_EQ(soft_.drawn(sub(ordinary, 0, 32)), repeated('s', 32));
  EXPECT_EQ(soft_.count(Event::pswpout), 0U);
}

TEST_F(SoftReclaim, WhatIsOnStandbyIsSqueezedBeforeWhatIsInUse) {
  const PageRun old = map_filled(kPagesPerBlock);
  soft_.age_to_standby(old);
  const PageRun fresh = map_filled(kPagesPerBlock);
  EXPECT_GE(soft_.reclaim(64), PageCount(64));
  EXPECT_EQ(soft_.drawn(fresh), repeated('m', kPagesPerBlock));
  EXPECT_NE(soft_.drawn(old).find('z'), std::string::npos);
}

TEST_F(SoftReclaim, PinnedAndLockedPagesStay) {
  const PageRun run = map_filled(8);
  ASSERT_TRUE(soft_.vm().pin(sub(run, 2, 1), PinFor::kReading).ok());
  ASSERT_TRUE(soft_.vm().lock(sub(run, 5, 1), false).ok());
  ASSERT_EQ(soft_.vm().page_out(run).code(), EINVAL);
  ASSERT_TRUE(soft_.vm().page_out(sub(run, 6, 2)).ok());
  EXPECT_EQ(soft_.drawn(run), "zzmzzmzz");
  ASSERT_TRUE(soft_.vm().unpin(sub(run, 2, 1), Dirtied::kNo).ok());
  EXPECT_TRUE(holds_all(run));
}

// One page of the leaf that cannot leave must not keep the others.
TEST_F(SoftReclaim, APageThatTheKernelHasLockedDoesNotHoldItsLeaf) {
  const PageRun run = map_filled(8);
  soft_.mmu().lock_pages(sub(run, 2, 1));
  ASSERT_TRUE(soft_.vm().page_out(run).ok());
  EXPECT_EQ(soft_.drawn(run), "zzmzzzzz");
  EXPECT_TRUE(holds_all(run));
}

TEST_F(SoftReclaim, WhatTheProgramHasClosedLeavesLikeTheRest) {
  const PageRun run = map_filled(8);
  ASSERT_TRUE(soft_.vm().protect(sub(run, 2, 3), mmu::Access::kNone).ok());
  ASSERT_TRUE(soft_.vm().protect(sub(run, 6, 1), mmu::Access::kRead).ok());
  ASSERT_TRUE(soft_.vm().page_out(run).ok());
  EXPECT_EQ(soft_.drawn(run), "zzzzzzzz");
  ASSERT_TRUE(soft_.vm().protect(run, mmu::Access::kReadWrite).ok());
  EXPECT_TRUE(holds_all(run));
}

// ---- Second chance ----------------------------------------------------------------------------

TEST_F(SoftReclaim, ATouchBringsAStandbyPageBackWithoutDecompression) {
  const PageRun run = map_filled(4);
  soft_.age_to_standby(run);
  ASSERT_EQ(soft_.drawn(run), "ssss");
  EXPECT_TRUE(soft_.holds(run.first, SoftVm::image_of(run.first)));
  EXPECT_EQ(soft_.pte(run.first).state(), PteState::kMapped);
  EXPECT_EQ(soft_.count(Event::pgfault_standby), 1U);
  EXPECT_EQ(soft_.count(Event::pgmajfault), 0U);
  EXPECT_EQ(soft_.store_part(run.first + kOne, 0, kSeed), Touch::kDone);
}

// What is brought back by copy leaves a stale frame behind, which both count until it goes.
TEST_F(SoftReclaim, AStaleShadowIsCountedAndGoes) {
  SoftVmOptions options;
  options.preferred_return = mmu::Return::kCopied;
  SoftVm copying(options);
  const PageRun run = copying.map(1);
  copying.fill(run);
  copying.age_to_standby(run);
  const PageCount used = copying.context().budget.used();
  ASSERT_EQ(copying.store_part(run.first, 0, kSeed), Touch::kDone);
  EXPECT_EQ(copying.context().budget.used(), used + kOne);
  copying.validate();
  // The stale bytes must never come back.
  PageImage expected = SoftVm::image_of(run.first);
  expected.set_part(0, kSeed);
  ASSERT_TRUE(copying.vm().page_out(run).ok());
  EXPECT_TRUE(copying.holds(run.first, expected));
  copying.validate();
}

class SoftSqueezeRace : public SoftReclaim {
 protected:
  // Pages `run` out; `touch(page)` runs once, while the first page is being compressed. A touch of
  // a page on standby brings the neighbours on standby back with it.
  template <typename Touch>
  void page_out_and(PageRun run, Touch touch) {
    bool done = false;
    soft_.set_hook([&](const SoftMmu::Step& step) {
      if (done || step.primitive != SoftMmu::Primitive::kReadShadow) return;
      done = true;
      touch(step.vpn);
    });
    EXPECT_TRUE(soft_.vm().page_out(run).ok());
    soft_.set_hook({});
    EXPECT_TRUE(done);
  }
};

TEST_F(SoftSqueezeRace, AStoreWhileItIsCompressedWins) {
  const PageRun run = map_filled(4);
  PageImage expected = SoftVm::image_of(run.first);
  expected.set_part(1, kSeed);
  page_out_and(run, [&](Vpn page) {
    EXPECT_EQ(page, run.first);
    EXPECT_EQ(soft_.store_part(page, 1, kSeed), Touch::kDone);
  });
  EXPECT_EQ(soft_.count(Event::pgsqueeze_raced), 4U);
  EXPECT_EQ(soft_.drawn(run), "mmmm");
  EXPECT_TRUE(soft_.holds(run.first, expected));
  EXPECT_TRUE(holds_all(sub(run, 1, 3)));
}

TEST_F(SoftSqueezeRace, ALoadWhileItIsCompressedKeepsThePage) {
  const PageRun run = map_filled(4);
  page_out_and(run, [&](Vpn page) { EXPECT_TRUE(soft_.holds(page, SoftVm::image_of(page))); });
  EXPECT_EQ(soft_.count(Event::pgsqueeze_raced), 4U);
  EXPECT_TRUE(holds_all(run));
}

TEST_F(SoftSqueezeRace, AnotherReclaimerLeavesThePageAlone) {
  const PageRun run = map_filled(4);
  page_out_and(run, [&](Vpn) {
    (void)soft_.reclaim(100);
    EXPECT_TRUE(soft_.vm().page_out(run).ok());
  });
  EXPECT_EQ(soft_.count(Event::pgsqueeze_raced), 0U);
  EXPECT_EQ(soft_.drawn(run), "zzzz");
  EXPECT_TRUE(holds_all(run));
}

TEST_F(SoftSqueezeRace, APinWhileItIsCompressedHolds) {
  const PageRun run = map_filled(4);
  page_out_and(run, [&](Vpn page) {
    EXPECT_TRUE(soft_.vm().pin({page, kOne}, PinFor::kWriting).ok());
  });
  EXPECT_EQ(soft_.drawn(sub(run, 0, 1)), "m");
  EXPECT_TRUE(soft_.vm().page_out(run).ok());
  EXPECT_EQ(soft_.drawn(run), "mzzz");
  EXPECT_TRUE(soft_.vm().unpin({run.first, kOne}, Dirtied::kNo).ok());
  EXPECT_TRUE(holds_all(run));
}

// ---- Kept copies ------------------------------------------------------------------------------

TEST_F(SoftReclaim, APageThatWasOnlyReadIsLetGoWithoutCompressing) {
  const PageRun run = map_filled(1);
  ASSERT_TRUE(soft_.vm().page_out(run).ok());
  ASSERT_TRUE(soft_.holds(run.first, SoftVm::image_of(run.first)));
  ASSERT_EQ(soft_.drawn(run), "c");
  ASSERT_TRUE(soft_.vm().page_out(run).ok());
  EXPECT_EQ(soft_.drawn(run), "z");
  EXPECT_EQ(soft_.count(Event::pswpout), 1U);
  EXPECT_EQ(soft_.count(Event::pgcopykept), 1U);
  EXPECT_TRUE(holds_all(run));
}

TEST_F(SoftReclaim, AStoreToACleanPageGivesItsCopyUp) {
  const PageRun run = map_filled(1);
  ASSERT_TRUE(soft_.vm().page_out(run).ok());
  ASSERT_TRUE(soft_.holds(run.first, SoftVm::image_of(run.first)));
  PageImage expected = SoftVm::image_of(run.first);
  expected.set_part(0, kSeed);
  ASSERT_EQ(soft_.store_part(run.first, 0, kSeed), Touch::kDone);
  EXPECT_EQ(soft_.drawn(run), "m");
  EXPECT_EQ(soft_.context().swap->stats().compressed_pages, 0U);
  ASSERT_TRUE(soft_.vm().page_out(run).ok());
  EXPECT_TRUE(soft_.holds(run.first, expected));
}

TEST_F(SoftReclaim, CopiesAreNoLongerKeptWhereTheyDoNotPay) {
  const PageRun run = map_filled(1);
  for (int i = 0; i < 5000 && soft_.vm().reclaimer().keeps_copies(); ++i) {
    ASSERT_TRUE(soft_.vm().page_out(run).ok());
    PageImage::Bytes bytes;
    ASSERT_EQ(soft_.load(run.first, &bytes), Touch::kDone);
    ASSERT_EQ(soft_.store_part(run.first, 0, kSeed), Touch::kDone);
  }
  EXPECT_FALSE(soft_.vm().reclaimer().keeps_copies());
  ASSERT_TRUE(soft_.vm().page_out(run).ok());
  PageImage::Bytes bytes;
  ASSERT_EQ(soft_.load(run.first, &bytes), Touch::kDone);
  EXPECT_EQ(soft_.drawn(run), "m");
}

TEST_F(SoftReclaim, OnlySmallCopiesAreKept) {
  SoftVmOptions options;
  options.most_kept = Context().most_kept;
  SoftVm soft(options);
  using enum PageImage::Texture;
  PageImage large;
  for (unsigned part = 0; part < PageImage::kParts; ++part)
    large.set_part(part, PageImage::seed_of(part + 2, kCompressible));
  const auto state_after_a_load = [&soft](const PageImage& image) {
    const PageRun run = soft.map(1);
    EXPECT_EQ(soft.store(run.first, image), Touch::kDone);
    EXPECT_TRUE(soft.vm().page_out(run).ok());
    EXPECT_TRUE(soft.holds(run.first, image));
    return soft.drawn(run);
  };
  EXPECT_EQ(state_after_a_load(PageImage::filled(PageImage::seed_of(1, kUniform))), "c");
  EXPECT_EQ(state_after_a_load(large), "m");
  soft.validate();
}

// ---- Windows ----------------------------------------------------------------------------------

TEST_F(SoftReclaim, SequentialFaultsBringMoreAndMore) {
  const PageRun run = soft_.map(kPagesPerBlock);
  soft_.fill(run);
  const std::uint64_t zero_faults = soft_.count(Event::pgfault);
  EXPECT_LE(zero_faults, 16U);
  ASSERT_TRUE(soft_.vm().page_out(run).ok());
  EXPECT_TRUE(holds_all(run));
  const std::uint64_t forward = soft_.count(Event::pgfault) - zero_faults;
  EXPECT_LE(forward, 64U);
  EXPECT_GT(soft_.count(Event::pgswapahead), 400U);
  ASSERT_TRUE(soft_.vm().page_out(run).ok());
  const std::uint64_t before = soft_.count(Event::pgfault);
  for (std::uint64_t i = kPagesPerBlock; i > 0; --i) {
    const Vpn page = run.first + PageCount(i - 1);
    ASSERT_TRUE(soft_.holds(page, SoftVm::image_of(page)));
  }
  EXPECT_LE(soft_.count(Event::pgfault) - before, 64U);
}

TEST_F(SoftReclaim, ScatteredFaultsBringOnePage) {
  const PageRun run = map_filled(8 * kPagesPerBlock / 4);
  ASSERT_TRUE(soft_.vm().page_out(run).ok());
  for (std::uint64_t i = 0; i < 40; ++i) {
    const Vpn page = run.first + PageCount(i * 101 % run.count.value());
    ASSERT_TRUE(soft_.holds(page, SoftVm::image_of(page)));
  }
  EXPECT_LT(soft_.count(Event::pgswapahead), 40U);
}

// ---- Huge and droppable regions ---------------------------------------------------------------

TEST_F(SoftReclaim, AHugeRegionFillsABlockAtOnceAndSurvivesReclaim) {
  const PageRun run = soft_.map(2 * kPagesPerBlock, RegionFlags::kHuge);
  ASSERT_EQ(run.first.in_block(), 0U);
  ASSERT_EQ(soft_.store_part(run.first + PageCount(77), 0, kSeed), Touch::kDone);
  EXPECT_EQ(soft_.drawn(sub(run, 0, kPagesPerBlock)), repeated('m', kPagesPerBlock));
  EXPECT_EQ(soft_.drawn(sub(run, kPagesPerBlock, 1)), ".");
  EXPECT_EQ(soft_.count(Event::thp_fault_alloc), 1U);
  soft_.fill(run);
  ASSERT_TRUE(soft_.vm().page_out(run).ok());
  EXPECT_TRUE(holds_all(run));
}

TEST_F(SoftReclaim, AHugeRegionMakesDoWithLessWhereTheBudgetIsShort) {
  SoftVm tight(with_budget(300));
  const PageRun run = tight.map(kPagesPerBlock, RegionFlags::kHuge);
  ASSERT_EQ(tight.store_part(run.first, 0, kSeed), Touch::kDone);
  EXPECT_EQ(tight.count(Event::thp_fault_alloc), 0U);
  tight.validate();
}

TEST_F(SoftReclaim, DroppableMemoryGoesEvenWhenItWasJustWritten) {
  const PageRun run = map_filled(16, RegionFlags::kDroppable);
  ASSERT_TRUE(soft_.vm().pin(sub(run, 3, 1), PinFor::kReading).ok());
  ASSERT_TRUE(soft_.vm().page_out(run).ok());
  EXPECT_EQ(soft_.drawn(run), "...m............");
  EXPECT_TRUE(soft_.reads_zeros(run.first));
  EXPECT_TRUE(soft_.holds(run.first + PageCount(3), SoftVm::image_of(run.first + PageCount(3))));
  EXPECT_EQ(soft_.count(Event::pgdropped), 15U);
  EXPECT_EQ(soft_.count(Event::pswpout), 0U);
  ASSERT_TRUE(soft_.vm().unpin(sub(run, 3, 1), Dirtied::kNo).ok());
}

// Even where what must be kept is older.
TEST_F(SoftReclaim, DroppableMemoryGoesBeforeAnythingIsCompressed) {
  const PageRun kept = map_filled(600);
  const PageRun droppable = map_filled(600, RegionFlags::kDroppable);
  EXPECT_EQ(soft_.reclaim(300).value(), 512U);
  EXPECT_EQ(soft_.reclaim(80).value(), 88U);
  EXPECT_EQ(soft_.count(Event::pgdropped), 600U);
  EXPECT_EQ(soft_.count(Event::pswpout), 0U);
  EXPECT_TRUE(soft_.reads_zeros(droppable.first));
  EXPECT_TRUE(holds_all(kept));
}

// What lies there from now on may not be dropped: the region must not be told otherwise.
TEST_F(SoftReclaim, NothingOrdinaryIsPutWhereMemoryMayBeDropped) {
  const PageRun droppable = map_filled(64, RegionFlags::kDroppable);
  const PageRun kept = map_filled(32);
  EXPECT_EQ(soft_.vm().map_over(sub(droppable, 0, 16), mmu::Access::kReadWrite).code(), EINVAL);
  EXPECT_EQ(soft_.vm().remap_onto(kept, droppable.first, kept.count).code(), EINVAL);
  EXPECT_TRUE(soft_.holds(droppable.first, SoftVm::image_of(droppable.first)));
  EXPECT_TRUE(holds_all(kept));
  // The other way round it is kept from then on.
  const auto moved = soft_.vm().remap_onto(sub(droppable, 0, 16), kept.first, PageCount(16));
  ASSERT_TRUE(moved);
  (void)soft_.reclaim(4096);
  EXPECT_TRUE(soft_.holds(kept.first, SoftVm::image_of(droppable.first)));
  EXPECT_TRUE(soft_.reads_zeros(droppable.first + PageCount(16)));
}

// What is just in use is spared where there is something old.
TEST_F(SoftReclaim, OldDroppableMemoryGoesBeforeYoung) {
  const PageRun young = map_filled(512, RegionFlags::kDroppable);
  const PageRun old = map_filled(512, RegionFlags::kDroppable);
  ASSERT_TRUE(soft_.vm().cold(old).ok());
  EXPECT_EQ(soft_.reclaim(100).value(), 512U);
  EXPECT_TRUE(soft_.reads_zeros(old.first));
  EXPECT_TRUE(soft_.holds(young.first, SoftVm::image_of(young.first)));
}

// remap() takes pages to standby on their way; a reclaimer that meets one there must not compress it.
TEST_F(SoftReclaim, DroppableMemoryOnStandbyIsDropped) {
  const PageRun run = map_filled(8, RegionFlags::kDroppable);
  soft_.age_to_standby(run);
  ASSERT_EQ(soft_.drawn(run), "ssssssss");
  (void)soft_.reclaim(8);
  EXPECT_EQ(soft_.drawn(run), "........");
  EXPECT_EQ(soft_.count(Event::pgdropped), 8U);
  EXPECT_EQ(soft_.count(Event::pswpout), 0U);
}

// Of pages shared since a fork, MOVE takes none: they are dropped another time, never swapped.
TEST_F(SoftReclaim, DroppableMemoryThatCannotGoIsNotSwappedInstead) {
  for (const auto pins : {mmu::Pins::kKnown, mmu::Pins::kUnknown}) {
    SoftVmOptions options;
    options.pins = pins;
    SoftVm soft(options);
    const PageRun run = soft.map(8, RegionFlags::kDroppable);
    soft.fill(run);
    soft.fork_and_stay();
    soft.mmu().inject({mmu::SoftMmu::Primitive::kDiscard, 0, PageCount(3), mmu::Outcome::kLocked});
    EXPECT_TRUE(soft.vm().page_out(run).ok());
    EXPECT_EQ(soft.drawn(run).find('z'), std::string::npos) << soft.drawn(run);
    EXPECT_EQ(soft.count(Event::pswpout), 0U);
    soft.validate();
  }
}

TEST_F(SoftReclaim, DroppableMemoryIsWipedInAChild) {
  const PageRun run = map_filled(16, RegionFlags::kDroppable);
  const PageRun kept = map_filled(16);
  soft_.fork_and_become_child();
  for (Vpn page = run.first; page < run.end(); ++page) EXPECT_TRUE(soft_.reads_zeros(page));
  EXPECT_TRUE(holds_all(kept));
}

// ---- Forks ------------------------------------------------------------------------------------

// Unsharing stores to the page: on a trapped one that would be a fault under the leaf's lock.
TEST_F(SoftReclaim, ACleanPageThatAChildSharesCanLeave) {
  const PageRun run = map_filled(1);
  ASSERT_TRUE(soft_.vm().page_out(run).ok());
  ASSERT_TRUE(soft_.holds(run.first, SoftVm::image_of(run.first)));
  ASSERT_EQ(soft_.drawn(run), "c");
  soft_.fork_and_stay();
  soft_.age_to_standby(run);
  EXPECT_EQ(soft_.drawn(run), "s");
  EXPECT_TRUE(holds_all(run));
}

TEST_F(SoftReclaim, AnUnwritablePageThatAChildSharesStays) {
  const PageRun run = map_filled(2);
  ASSERT_TRUE(soft_.vm().protect(sub(run, 0, 1), mmu::Access::kRead).ok());
  soft_.fork_and_stay();
  soft_.age_to_standby(run);
  EXPECT_EQ(soft_.drawn(run), "ms");
  EXPECT_TRUE(holds_all(run));
}

TEST_F(SoftReclaim, EveryStateSurvivesInAChild) {
  const PageRun run = map_filled(4);
  ASSERT_TRUE(soft_.vm().page_out(sub(run, 0, 1)).ok());
  ASSERT_TRUE(soft_.holds(run.first, SoftVm::image_of(run.first)));
  ASSERT_TRUE(soft_.vm().page_out(sub(run, 1, 1)).ok());
  soft_.age_to_standby(sub(run, 2, 1));
  ASSERT_EQ(soft_.drawn(run), "czsm");
  soft_.fork_and_become_child();
  soft_.validate();
  EXPECT_TRUE(holds_all(run));
  ASSERT_EQ(soft_.store_part(run.first, 0, kSeed), Touch::kDone);
  ASSERT_TRUE(soft_.vm().page_out(run).ok());
  EXPECT_TRUE(holds_all(sub(run, 1, 3)));
}

// ---- Moving -----------------------------------------------------------------------------------

TEST_F(SoftReclaim, ARemapThatFailsHalfWayLosesNothing) {
  const PageRun run = map_filled(8);
  (void)soft_.map(1);  // no room to grow in place
  ASSERT_TRUE(soft_.vm().page_out(sub(run, 0, 2)).ok());
  soft_.mmu().inject({SoftMmu::Primitive::kInstall, 3, PageCount(0), mmu::Outcome::kNoMemory});
  EXPECT_FALSE(soft_.vm().remap(run, PageCount(100), true).ok());
  EXPECT_TRUE(holds_all(run));
  auto moved = soft_.vm().remap(run, PageCount(100), true);
  ASSERT_TRUE(moved.ok());
  for (std::uint64_t i = 0; i < 8; ++i)
    EXPECT_TRUE(soft_.holds(*moved + PageCount(i), SoftVm::image_of(run.first + PageCount(i))));
}

TEST_F(SoftReclaim, ARemapThatFailsAndCannotGoBackAtOnceLosesNothing) {
  const PageRun run = map_filled(8);
  (void)soft_.map(1);  // no room to grow in place
  ASSERT_TRUE(soft_.vm().page_out(sub(run, 0, 2)).ok());
  // The fourth page cannot be installed, nor can the third on its way back.
  soft_.mmu().inject({SoftMmu::Primitive::kInstall, 1, PageCount(0), mmu::Outcome::kNoMemory});
  soft_.mmu().inject({SoftMmu::Primitive::kInstall, 2, PageCount(0), mmu::Outcome::kNoMemory});
  EXPECT_FALSE(soft_.vm().remap(run, PageCount(100), true).ok());
  EXPECT_FALSE(soft_.mmu().has_uninjected_failures());
  EXPECT_TRUE(holds_all(run));
}

// Wherever the leaves of both ends lie, and whatever its pages have become.
TEST_F(SoftReclaim, ARemapTakesPagesOfEveryStateAlong) {
  const PageRun run = map_filled(700);
  (void)soft_.map(1);  // no room to grow in place
  ASSERT_TRUE(soft_.vm().page_out(sub(run, 0, 150)).ok());
  soft_.age_to_standby(sub(run, 150, 100));
  ASSERT_TRUE(soft_.vm().free_lazily(sub(run, 250, 10)).ok());
  ASSERT_TRUE(soft_.vm().discard(sub(run, 260, 10)).ok());
  const auto moved = soft_.vm().remap(run, PageCount(3000), true);
  ASSERT_TRUE(moved.ok());
  for (std::uint64_t i = 0; i < 700; ++i) {
    const bool is_gone = i >= 260 && i < 270;
    const PageImage image = is_gone ? PageImage() : SoftVm::image_of(run.first + PageCount(i));
    ASSERT_TRUE(soft_.holds(*moved + PageCount(i), image)) << i;
  }
  soft_.validate();
}

TEST_F(SoftReclaim, ARemapThatMeetsAPinnedPageChangesNothing) {
  const PageRun run = map_filled(200);
  (void)soft_.map(1);  // no room to grow in place
  ASSERT_TRUE(soft_.vm().page_out(sub(run, 0, 80)).ok());
  ASSERT_TRUE(soft_.vm().pin(sub(run, 150, 1), PinFor::kWriting).ok());
  EXPECT_EQ(soft_.vm().remap(run, PageCount(3000), true).code(), EBUSY);
  ASSERT_TRUE(soft_.vm().unpin(sub(run, 150, 1), Dirtied::kNo).ok());
  EXPECT_TRUE(holds_all(run));
  soft_.validate();
}

TEST_F(SoftReclaim, ADiscardThatStopsHalfWayLeavesNoPageThatIsNotThere) {
  const PageRun run = map_filled(8);
  soft_.mmu().inject({SoftMmu::Primitive::kDiscard, 0, PageCount(3), mmu::Outcome::kLocked});
  EXPECT_EQ(soft_.vm().discard(run).code(), EINVAL);
  EXPECT_EQ(soft_.drawn(run), "...mmmmm");
  EXPECT_TRUE(soft_.reads_zeros(run.first));
  EXPECT_TRUE(holds_all(sub(run, 3, 5)));
}

// ---- Exhaustion -------------------------------------------------------------------------------

class SoftExhaustion : public testing::Test {
 protected:
  // Stores to pages until one finds no room; how many did.
  static std::uint64_t fill_up(SoftVm& soft, PageRun run) {
    for (std::uint64_t i = 0; i < run.count.value(); ++i) {
      const Vpn page = run.first + PageCount(i);
      const Touch touch = soft.store(page, SoftVm::image_of(page));
      if (touch == Touch::kBusError) return i;
      EXPECT_EQ(touch, Touch::kDone);
    }
    return run.count.value();
  }
};

TEST_F(SoftExhaustion, TheToucherGetsABusErrorAndNothingIsLost) {
  SoftVm soft(with_budget(300));  // no arena block fits beside it: nothing can be swapped
  const PageRun run = soft.map(400);
  const std::uint64_t n = fill_up(soft, run);
  EXPECT_GT(n, 200U);
  EXPECT_LT(n, 300U);
  // What is resident stays usable, also what reclaim had put on standby.
  for (std::uint64_t i = 0; i < n; ++i) {
    const Vpn page = run.first + PageCount(i);
    ASSERT_TRUE(soft.holds(page, SoftVm::image_of(page))) << i;
    ASSERT_EQ(soft.store_part(page, 0, kSeed), Touch::kDone) << i;
  }
  // And with room there is room again.
  ASSERT_TRUE(soft.vm().discard(sub(run, 0, 50)).ok());
  EXPECT_EQ(soft.store_part(run.first + PageCount(n), 0, kSeed), Touch::kDone);
  soft.validate();
}

// Where compressed memory has taken all that it can, what was stored is still read back.
TEST_F(SoftExhaustion, WhatIsCompressedComesBackWhenNothingMoreCanBeStored) {
  SoftVm soft(with_budget(5000));
  const PageRun run = soft.map(200'000);
  const std::uint64_t n = fill_up(soft, run);
  ASSERT_LT(n, run.count.value());
  ASSERT_GT(soft.context().pages_in(PteState::kSwapped), 1000U);
  // In order, backwards, and two places in turn.
  for (std::uint64_t i = 0; i < n; i += 3) {
    for (const std::uint64_t at : {i, n - 1 - i, i % 2}) {
      const Vpn page = run.first + PageCount(at);
      ASSERT_TRUE(soft.holds(page, SoftVm::image_of(page))) << at;
    }
  }
  EXPECT_EQ(soft.store(run.first + PageCount(n), SoftVm::image_of(run.first)), Touch::kBusError);
  soft.validate();
}

// What another thread holds isolated is on no list: a thread that has lost its CPU there must not
// make the others believe that nothing is left.
TEST_F(SoftExhaustion, WhatOthersHoldIsolatedIsWaitedFor) {
  SoftVmOptions options = with_budget(5000);
  options.most_waits_for_others = 200;
  SoftVm soft(options);
  const PageRun run = soft.map(10'000);
  soft.fill(sub(run, 0, 4000));
  std::vector<Leaf*> held;
  for (const LeafList list : {LeafList::kResident, LeafList::kStandby})
    while (Leaf* leaf = soft.context().lru.isolate_oldest(list)) held.push_back(leaf);
  std::thread program([&] {
    for (Vpn page = run.first + PageCount(4000); page < run.end(); ++page)
      EXPECT_EQ(soft.store(page, SoftVm::image_of(page)), Touch::kDone);
  });
  while (soft.count(Event::oom_stall) < 10) std::this_thread::yield();
  constexpr std::uint8_t kBoth = Lru::bit(LeafList::kResident) | Lru::bit(LeafList::kStandby);
  for (Leaf* leaf : held) soft.context().lru.put_back(*leaf, kBoth);
  program.join();
  for (Vpn page = run.first; page < run.end(); ++page)
    ASSERT_TRUE(soft.holds(page, SoftVm::image_of(page)));
  soft.validate();
}

TEST_F(SoftExhaustion, WhoWaitsGoesOnWhenMemoryIsFreed) {
  SoftVmOptions options = with_budget(300);
  options.on_exhausted = OnExhausted::kWait;
  SoftVm soft(options);
  const PageRun run = soft.map(400);
  std::atomic<std::uint64_t> stored{0};
  std::thread program([&] {
    for (Vpn page = run.first; page < run.end(); ++page) {
      EXPECT_EQ(soft.store(page, SoftVm::image_of(page)), Touch::kDone);
      ++stored;
    }
  });
  while (soft.count(Event::oom_stall) == 0) std::this_thread::yield();
  EXPECT_LT(stored.load(), 300U);
  ASSERT_TRUE(soft.vm().discard(sub(run, 0, 200)).ok());
  program.join();
  EXPECT_EQ(stored.load(), 400U);
  soft.validate();
}

// ---- Resize -----------------------------------------------------------------------------------

TEST_F(SoftReclaim, ShrinkingReclaimsAndGrowingIsAtOnce) {
  const PageRun run = map_filled(3000);
  ASSERT_TRUE(soft_.vm().resize(PageCount(2500)).ok());
  EXPECT_LE(soft_.context().budget.used(), PageCount(2500));
  ASSERT_TRUE(soft_.vm().resize(PageCount(9000)).ok());
  EXPECT_TRUE(holds_all(run));
}

// Squeezing takes an arena block before it frees a page: a full pool must be able to shrink.
TEST_F(SoftReclaim, AFullPoolCanShrink) {
  SoftVm soft(with_budget(8192));
  const PageRun run = soft.map(7000);
  soft.fill(run);
  ASSERT_TRUE(soft.vm().resize(PageCount(6000)).ok());
  EXPECT_LE(soft.context().budget.used(), PageCount(6000));
  for (Vpn page = run.first; page < run.end(); page += PageCount(13))
    ASSERT_TRUE(soft.holds(page, SoftVm::image_of(page)));
  soft.validate();
}

TEST_F(SoftReclaim, AShrinkThatCannotBeChangesNothing) {
  const PageRun run = map_filled(2000);
  ASSERT_TRUE(soft_.vm().pin(run, PinFor::kReading).ok());
  EXPECT_EQ(soft_.vm().resize(PageCount(1500)).code(), EAGAIN);
  EXPECT_EQ(soft_.context().budget.limit(), PageCount(4096));
  ASSERT_TRUE(soft_.vm().unpin(run, Dirtied::kNo).ok());
  EXPECT_TRUE(holds_all(run));
}

// ---- Size -------------------------------------------------------------------------------------

TEST_F(SoftReclaim, MillionsOfPagesFarBeyondTheBudget) {
  // Uniform pages are one word each, here and in the pool.
#ifdef BUOY_DEBUG_CHECKS
  constexpr std::uint64_t kPages = 1'000'000;
#else
  constexpr std::uint64_t kPages = 10'000'000;
#endif
  const PageRun run = soft_.map(kPages);
  for (std::uint64_t i = 0; i < kPages; ++i)
    ASSERT_EQ(soft_.mmu().store_uniform(run.first + PageCount(i), i + 1), Touch::kDone);
  for (std::uint64_t i = 0; i < kPages; i += 997) {
    std::uint64_t word = 0;
    ASSERT_EQ(soft_.mmu().load((run.first + PageCount(i)).address(), &word, sizeof word),
              Touch::kDone);
    ASSERT_EQ(word, i + 1);
  }
  EXPECT_LE(soft_.context().budget.peak(), PageCount(4096));
}

}  // namespace
}  // namespace buoy
