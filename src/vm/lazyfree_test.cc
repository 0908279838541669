// ctest: labels=soft
//
// Lazily freed memory, in every state a page of the range may be in, and what loads, stores, pins,
// reclaim and devices make of it afterwards.

#include <gtest/gtest.h>

#include <cerrno>
#include <string>
#include <vector>

#include "pagetable/folio.h"
#include "vm/vm_testing.h"

namespace buoy {
namespace {

using Touch = SoftVm::Touch;
constexpr PageCount kOne(1);

class SoftLazyFree : public SoftVmTest {
 protected:
  void free(PageRun run) { EXPECT_EQ(soft_.vm().free_lazily(run).code(), 0); }
  void free_until_reuse(PageRun run) {
    EXPECT_EQ(soft_.vm().free_lazily(run, Vm::Until::kReuse).code(), 0);
  }
  // Discards all that is lazily freed and may go.
  void discard_all() {
    (void)soft_.reclaim(std::max<std::uint64_t>(soft_.context().lazyfree_pages(), 1));
  }
  [[nodiscard]] unsigned order_of(Vpn page) const { return soft_.pte(page).order().value(); }
};

// ---- What it means ----------------------------------------------------------------------------

TEST_F(SoftLazyFree, OldBytesUntilReclaimedZerosAfter) {
  const PageRun run = map_filled(8);
  free(run);
  EXPECT_EQ(soft_.drawn(run), "llllllll");
  EXPECT_TRUE(soft_.holds(run.first, SoftVm::image_of(run.first)));
  EXPECT_EQ(soft_.drawn(run), "llllllll");  // a load changes nothing
  discard_all();
  EXPECT_EQ(soft_.drawn(run), "........");
  for (Vpn page = run.first; page < run.end(); ++page) EXPECT_TRUE(soft_.reads_zeros(page));
  EXPECT_EQ(soft_.count(Event::pglazyfree), 8U);
  EXPECT_EQ(soft_.count(Event::pglazyfreed), 8U);
  EXPECT_EQ(soft_.count(Event::pswpout), 0U);
}

TEST_F(SoftLazyFree, AStoreKeepsTheWholePage) {
  const PageRun run = map_filled(8);
  free(run);
  PageImage expected = SoftVm::image_of(run.first);
  expected.set_part(3, kSeed);
  ASSERT_EQ(soft_.store_part(run.first, 3, kSeed), Touch::kDone);
  discard_all();
  EXPECT_EQ(soft_.vm().page_out(run).code(), 0);
  EXPECT_TRUE(soft_.holds(run.first, expected));
  EXPECT_GE(soft_.count(Event::pglazyunfreed), 1U);
}

TEST_F(SoftLazyFree, AStoreAfterTheDiscardStartsFromZeros) {
  const PageRun run = map_filled(1);
  free(run);
  discard_all();
  PageImage expected;
  expected.set_part(3, kSeed);
  ASSERT_EQ(soft_.store_part(run.first, 3, kSeed), Touch::kDone);
  EXPECT_TRUE(soft_.holds(run.first, expected));
}

TEST_F(SoftLazyFree, ReuseTakesItBackWithoutAFault) {
  const PageRun run = map_filled(64);
  free(run);
  const std::uint64_t faults = soft_.count(Event::pgfault);
  EXPECT_EQ(soft_.vm().reuse(run).code(), 0);
  EXPECT_EQ(soft_.drawn(run), repeated('m', 64));
  EXPECT_EQ(soft_.store_part(run.first, 0, kSeed), Touch::kDone);
  EXPECT_EQ(soft_.count(Event::pgfault), faults);
  discard_all();
  EXPECT_TRUE(soft_.holds(run.first + kOne, SoftVm::image_of(run.first + kOne)));
}

TEST_F(SoftLazyFree, ItStaysLazyWithNoSwapTierAtAll) {
  // No arena block fits beside this: nothing can be swapped, but lazily freed memory can go.
  SoftVmOptions options;
  options.budget = PageCount(400);
  SoftVm tight(options);
  const PageRun old = tight.map(200);
  tight.fill(old);
  ASSERT_TRUE(tight.vm().free_lazily(old).ok());
  EXPECT_TRUE(tight.holds(old.first, SoftVm::image_of(old.first)));
  const PageRun fresh = tight.map(200);
  tight.fill(fresh);
  for (Vpn page = fresh.first; page < fresh.end(); ++page)
    EXPECT_TRUE(tight.holds(page, SoftVm::image_of(page)));
  EXPECT_GT(tight.count(Event::pglazyfreed), 0U);
  tight.validate();
}

TEST_F(SoftLazyFree, DiscardAndUnmapDropIt) {
  const PageRun run = map_filled(8);
  free(run);
  EXPECT_TRUE(soft_.vm().discard(sub(run, 0, 4)).ok());
  EXPECT_TRUE(soft_.vm().unmap(sub(run, 4, 4)).ok());
  EXPECT_EQ(soft_.drawn(run), "....----");
  EXPECT_EQ(soft_.count(Event::pglazydropped), 8U);
}

// ---- Each state of a page ---------------------------------------------------------------------

TEST_F(SoftLazyFree, EmptyPagesStayEmpty) {
  const PageRun run = soft_.map(8);
  free(run);
  EXPECT_EQ(soft_.context().table.find_leaf(run.first), nullptr);
  EXPECT_EQ(soft_.count(Event::pglazyfree), 0U);
}

TEST_F(SoftLazyFree, StandbyPagesGoAtOnce) {
  const PageRun run = map_filled(8);
  soft_.age_to_standby(run);
  ASSERT_EQ(soft_.drawn(run), "ssssssss");
  const PageCount used = soft_.context().budget.used();
  free(run);
  EXPECT_EQ(soft_.drawn(run), "........");
  EXPECT_EQ(soft_.context().budget.used(), used - PageCount(8));
  EXPECT_TRUE(soft_.reads_zeros(run.first));
}

TEST_F(SoftLazyFree, CompressedCopiesGoAtOnce) {
  const PageRun run = map_filled(8);
  ASSERT_TRUE(soft_.vm().page_out(run).ok());
  ASSERT_EQ(soft_.drawn(run), "zzzzzzzz");
  EXPECT_EQ(soft_.context().swap->stats().compressed_pages, 8U);
  free(run);
  EXPECT_EQ(soft_.drawn(run), "........");
  EXPECT_EQ(soft_.context().swap->stats().compressed_pages, 0U);
  EXPECT_TRUE(soft_.reads_zeros(run.first));
}

TEST_F(SoftLazyFree, CleanPagesLoseTheirCopyAndBecomeLazy) {
  const PageRun run = map_filled(1);
  ASSERT_TRUE(soft_.vm().page_out(run).ok());
  ASSERT_TRUE(soft_.holds(run.first, SoftVm::image_of(run.first)));
  ASSERT_EQ(soft_.drawn(run), "c");
  free(run);
  EXPECT_EQ(soft_.drawn(run), "l");
  EXPECT_EQ(soft_.context().swap->stats().compressed_pages, 0U);
  EXPECT_TRUE(soft_.holds(run.first, SoftVm::image_of(run.first)));
  discard_all();
  EXPECT_TRUE(soft_.reads_zeros(run.first));
}

// Write-protected because it is still compressed is not the same as lazily freed.
TEST_F(SoftLazyFree, CleanPagesAreNotTakenForLazyOnes) {
  const PageRun run = map_filled(1);
  ASSERT_TRUE(soft_.vm().page_out(run).ok());
  ASSERT_TRUE(soft_.holds(run.first, SoftVm::image_of(run.first)));
  ASSERT_EQ(soft_.drawn(run), "c");
  (void)soft_.reclaim(1000);
  EXPECT_TRUE(soft_.holds(run.first, SoftVm::image_of(run.first)));
  EXPECT_EQ(soft_.count(Event::pglazyfreed), 0U);
}

TEST_F(SoftLazyFree, StaleShadowsGoAtOnce) {
  SoftVmOptions options;
  options.preferred_return = mmu::Return::kCopied;
  SoftVm copying(options);
  const PageRun run = copying.map(1);
  copying.fill(run);
  copying.age_to_standby(run);
  ASSERT_TRUE(copying.holds(run.first, SoftVm::image_of(run.first)));
  ASSERT_TRUE(copying.pte(run.first).has(Pte::kInShadow));
  ASSERT_TRUE(copying.vm().free_lazily(run).ok());
  EXPECT_EQ(copying.drawn(run), "l");
  EXPECT_FALSE(copying.mmu().is_in_shadow(run.first));
  copying.validate();
}

TEST_F(SoftLazyFree, PinnedPagesStayOrdinary) {
  const PageRun run = map_filled(2);
  ASSERT_TRUE(soft_.vm().pin(sub(run, 0, 1), PinFor::kReading).ok());
  free(run);
  EXPECT_EQ(soft_.drawn(run), "ml");
  ASSERT_TRUE(soft_.vm().unpin(sub(run, 0, 1), Dirtied::kNo).ok());
}

TEST_F(SoftLazyFree, APinForReadingKeepsALazyPageUntilItEnds) {
  const PageRun run = map_filled(1);
  free(run);
  ASSERT_TRUE(soft_.vm().pin(run, PinFor::kReading).ok());
  ASSERT_EQ(soft_.drawn(run), "l");
  discard_all();
  EXPECT_TRUE(soft_.holds(run.first, SoftVm::image_of(run.first)));
  ASSERT_TRUE(soft_.vm().unpin(run, Dirtied::kNo).ok());
  EXPECT_EQ(soft_.drawn(run), "l");  // clean with an extra reference: looked at later
  discard_all();
  EXPECT_TRUE(soft_.reads_zeros(run.first));
}

TEST_F(SoftLazyFree, APinForWritingTakesItBack) {
  const PageRun run = map_filled(1);
  free(run);
  ASSERT_TRUE(soft_.vm().pin(run, PinFor::kWriting).ok());
  EXPECT_EQ(soft_.drawn(run), "m");
  ASSERT_TRUE(soft_.vm().unpin(run, Dirtied::kNo).ok());
}

// As by madvise(2): what comes before the first locked page is done, and no more.
TEST_F(SoftLazyFree, ALockedPageEndsTheCall) {
  using Advice = Status (*)(Vm&, PageRun);
  const struct {
    Advice advice;
    const char* after;
  } kCases[] = {
      {[](Vm& vm, PageRun run) { return vm.free_lazily(run); }, "lmm"},
      {[](Vm& vm, PageRun run) { return vm.free_lazily(run, Vm::Until::kReuse); }, "lmm"},
      {[](Vm& vm, PageRun run) { return vm.discard(run); }, ".mm"},
      {[](Vm& vm, PageRun run) { return vm.page_out(run); }, "zmm"},
      {[](Vm& vm, PageRun run) { return vm.cold(run); }, "mmm"},
  };
  for (const auto& [advice, after] : kCases) {
    // The locked page is the last of a leaf, and the first of the next one must not be reached.
    const PageRun run = sub(map_filled(2 * kPagesPerBlock), kPagesPerBlock - 2, 3);
    ASSERT_TRUE(soft_.vm().lock(sub(run, 1, 1), false).ok());
    EXPECT_EQ(advice(soft_.vm(), run).code(), EINVAL);
    EXPECT_EQ(soft_.drawn(run), after);
    EXPECT_FALSE(soft_.pte(run.first + PageCount(2)).has(Pte::kCold));
    EXPECT_TRUE(soft_.holds(run.first + kOne, SoftVm::image_of(run.first + kOne)));
    EXPECT_TRUE(soft_.holds(run.first + PageCount(2), SoftVm::image_of(run.first + PageCount(2))));
  }
}

TEST_F(SoftLazyFree, DroppableMemoryIsNotLocked) {
  const PageRun run = map_filled(2, RegionFlags::kDroppable);
  EXPECT_TRUE(soft_.vm().lock(run, false).ok());
  free(run);
  EXPECT_EQ(soft_.drawn(run), "ll");
  discard_all();
  EXPECT_EQ(soft_.drawn(run), "..");
}

TEST_F(SoftLazyFree, ALockAfterwardsKeepsIt) {
  const PageRun run = map_filled(1);
  free(run);
  ASSERT_TRUE(soft_.vm().lock(run, false).ok());
  discard_all();
  EXPECT_TRUE(soft_.holds(run.first, SoftVm::image_of(run.first)));
  ASSERT_TRUE(soft_.vm().unlock(run).ok());
  discard_all();
  EXPECT_TRUE(soft_.reads_zeros(run.first));
}

TEST_F(SoftLazyFree, DroppableMemoryMayBeFreedToo) {
  const PageRun run = map_filled(4, RegionFlags::kDroppable);
  free(sub(run, 0, 2));
  EXPECT_EQ(soft_.drawn(run), "llmm");
  discard_all();
  EXPECT_EQ(soft_.drawn(run), "..mm");
}

TEST_F(SoftLazyFree, AHoleIsToldOfAndTheRestIsDone) {
  const PageRun run = map_filled(3);
  ASSERT_TRUE(soft_.vm().unmap(sub(run, 1, 1)).ok());
  EXPECT_EQ(soft_.vm().free_lazily(run).code(), ENOMEM);
  EXPECT_EQ(soft_.drawn(run), "l-l");
}

TEST_F(SoftLazyFree, MarkingTwiceCountsOnce) {
  const PageRun run = map_filled(4);
  free(run);
  free(run);
  EXPECT_EQ(soft_.count(Event::pglazyfree), 4U);
}

// ---- Until reuse ------------------------------------------------------------------------------

TEST_F(SoftLazyFree, UntilReuseNothingIsTrapped) {
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

TEST_F(SoftLazyFree, WhatIsReusedIsKept) {
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

TEST_F(SoftLazyFree, AnOrdinaryFreeEndsThePromise) {
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

TEST_F(SoftLazyFree, APromiseAfterAnOrdinaryFreeLeavesTheTrap) {
  const PageRun run = map_filled(4);
  free(run);
  free_until_reuse(run);
  EXPECT_TRUE(soft_.mmu().is_trapped(run.first));
  EXPECT_EQ(soft_.count(Event::pglazyfree), 4U);
  EXPECT_EQ(soft_.vm().reuse(run).code(), 0);
  EXPECT_FALSE(soft_.mmu().is_trapped(run.first));
  EXPECT_EQ(soft_.drawn(run), "mmmm");
}

TEST_F(SoftLazyFree, AStoreBesideIdlePagesLeavesThemFree) {
  const PageRun run = map_filled(16);
  free(sub(run, 0, 8));
  free_until_reuse(sub(run, 8, 8));
  ASSERT_EQ(soft_.store_part(run.first + PageCount(7), 0, kSeed), Touch::kDone);
  EXPECT_EQ(soft_.drawn(sub(run, 8, 8)), repeated('l', 8));
  discard_all();
  EXPECT_TRUE(soft_.reads_zeros(run.first + PageCount(8)));
  EXPECT_FALSE(soft_.reads_zeros(run.first + PageCount(7)));
}

TEST_F(SoftLazyFree, ACleanPageKeepsItsTrapUntilReuse) {
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

TEST_F(SoftLazyFree, APinForWritingEndsThePromise) {
  const PageRun run = map_filled(2);
  free_until_reuse(run);
  ASSERT_TRUE(soft_.vm().pin(run, PinFor::kWriting).ok());
  EXPECT_EQ(soft_.drawn(run), "mm");
  ASSERT_TRUE(soft_.vm().unpin(run, Dirtied::kYes).ok());
  discard_all();
  EXPECT_TRUE(soft_.holds(run.first, SoftVm::image_of(run.first)));
}

TEST_F(SoftLazyFree, APinThatSaysDirtiedEndsThePromise) {
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

TEST_F(SoftLazyFree, AChildInheritsThePromise) {
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

// ---- Forks ------------------------------------------------------------------------------------

TEST_F(SoftLazyFree, AChildTrapsStoresAnew) {
  const PageRun run = map_filled(2);
  free(run);
  soft_.fork_and_become_child();
  EXPECT_EQ(soft_.drawn(run), "ll");
  EXPECT_TRUE(soft_.mmu().is_trapped(run.first));
  ASSERT_EQ(soft_.store_part(run.first, 0, kSeed), Touch::kDone);
  discard_all();
  EXPECT_FALSE(soft_.reads_zeros(run.first));
}

TEST_F(SoftLazyFree, AParentsLazyPageMayGoWhileAChildSharesIt) {
  const PageRun run = map_filled(2);
  free(run);
  soft_.fork_and_stay();
  ASSERT_TRUE(soft_.mmu().is_shared(run.first));
  discard_all();
  EXPECT_TRUE(soft_.reads_zeros(run.first));
}

// MOVE takes nothing that is shared since a fork: that must not make freed memory unreclaimable.
TEST_F(SoftLazyFree, SharedSinceAForkItCanStillBeReclaimedWherePinsAreUnknown) {
  SoftVmOptions options;
  options.pins = mmu::Pins::kUnknown;
  SoftVm soft(options);
  const PageRun freed = soft.map(64);
  soft.fill(freed);
  const PageRun droppable = soft.map(64, RegionFlags::kDroppable);
  soft.fill(droppable);
  ASSERT_TRUE(soft.vm().free_lazily(freed, Vm::Until::kReuse).ok());
  soft.fork_and_stay();
  (void)soft.reclaim(64);
  EXPECT_EQ(soft.drawn(freed), repeated('.', 64));
  ASSERT_TRUE(soft.vm().page_out(droppable).ok());
  EXPECT_EQ(soft.drawn(droppable), repeated('.', 64));
  EXPECT_EQ(soft.count(Event::pswpout), 0U);
  soft.validate();
}

// ---- Folios -----------------------------------------------------------------------------------

TEST_F(SoftLazyFree, ARangeThatCoversAFolioKeepsItWhole) {
  const PageRun run = map_filled(kPagesPerBlock, RegionFlags::kHuge);
  ASSERT_EQ(order_of(run.first), kMaxOrder);
  free(run);
  EXPECT_EQ(order_of(run.first), kMaxOrder);
  EXPECT_EQ(soft_.count(Event::folio_split), 0U);
}

TEST_F(SoftLazyFree, AFolioThatIsFreedInPartIsSplitWhenReclaimWantsThatPart) {
  for (const auto pins : {mmu::Pins::kKnown, mmu::Pins::kUnknown}) {
    SoftVmOptions options;
    options.pins = pins;
    SoftVm soft(options);
    const auto order_at = [&soft](PageRun run, std::uint64_t i) {
      return soft.pte(run.first + PageCount(i)).order().value();
    };
    const PageRun run = soft.map(kPagesPerBlock, RegionFlags::kHuge);
    soft.fill(run);
    ASSERT_TRUE(soft.vm().free_lazily(sub(run, 0, 100)).ok());
    ASSERT_TRUE(soft.vm().free_lazily(sub(run, 100, 156)).ok());  // waits already
    EXPECT_EQ(order_at(run, 0), kMaxOrder);
    EXPECT_EQ(soft.count(Event::folio_split_deferred), 1U);
    EXPECT_EQ(soft.count(Event::folio_split) + soft.count(Event::folio_split_reclaim), 0U);
    (void)soft.reclaim(256);
    EXPECT_EQ(soft.drawn(sub(run, 254, 4)), "..mm");
    EXPECT_EQ(order_at(run, 0), kMaxOrder - 1);
    EXPECT_EQ(order_at(run, 256), kMaxOrder - 1);
    EXPECT_EQ(soft.count(Event::folio_split_deferred), 1U);
    EXPECT_EQ(soft.count(Event::folio_split_reclaim), 1U);
    EXPECT_EQ(soft.count(Event::folio_split), 0U);
    soft.validate();
  }
}

TEST_F(SoftLazyFree, AFolioThatIsFreedInPartAndTakenBackOrFreedWholeIsNeverSplit) {
  const PageRun run = map_filled(kPagesPerBlock, RegionFlags::kHuge);
  free(sub(run, 8, 8));
  EXPECT_TRUE(soft_.vm().reuse(run).ok());
  EXPECT_EQ(soft_.drawn(run), repeated('m', kPagesPerBlock));
  free(sub(run, 0, 256));
  free(sub(run, 256, 256));
  discard_all();
  EXPECT_EQ(soft_.drawn(run), repeated('.', kPagesPerBlock));
  EXPECT_EQ(order_of(run.first), kMaxOrder);
  EXPECT_EQ(soft_.count(Event::folio_split_deferred), 2U);
  EXPECT_EQ(soft_.count(Event::folio_split) + soft_.count(Event::folio_split_reclaim), 0U);
}

// Wherever the rest of it is.
TEST_F(SoftLazyFree, AFolioThatIsFreedInPartWaitsWhileTheRestStandsBy) {
  const PageRun run = map_filled(16);
  ASSERT_EQ(order_of(run.first), 4U);
  soft_.age_to_standby(sub(run, 8, 8));
  free(sub(run, 0, 8));
  EXPECT_EQ(soft_.drawn(run), "llllllllssssssss");
  EXPECT_EQ(soft_.count(Event::folio_split_deferred), 1U);
  discard_all();
  EXPECT_EQ(soft_.count(Event::folio_split_reclaim), 1U);
}

TEST_F(SoftLazyFree, WhatIsGoneAtOnceSplitsAtOnce) {
  const PageRun run = map_filled(kPagesPerBlock, RegionFlags::kHuge);
  EXPECT_TRUE(soft_.vm().discard(sub(run, 0, 128)).ok());
  EXPECT_EQ(order_of(run.first), kMaxOrder - 2);
  EXPECT_TRUE(soft_.vm().unmap(sub(run, 256, 256)).ok());
  EXPECT_EQ(soft_.count(Event::folio_split), 1U);
  EXPECT_EQ(soft_.count(Event::folio_split_deferred), 0U);
}

TEST_F(SoftLazyFree, AStoreTakesBackTheFolioAndNoMore) {
  const PageRun run = map_filled(64);
  const unsigned order = order_of(run.first);
  ASSERT_GE(order, 1U);
  free(run);
  ASSERT_EQ(soft_.store_part(run.first, 0, kSeed), Touch::kDone);
  const std::size_t folio = std::size_t{1} << order;
  EXPECT_EQ(soft_.drawn(sub(run, 0, folio)), repeated('m', folio));
  EXPECT_EQ(soft_.drawn(sub(run, folio, 64 - folio)), repeated('l', 64 - folio));
}

TEST_F(SoftLazyFree, SequentialStoresTakeBackMoreAndMore) {
  const PageRun run = map_filled(256);
  free(run);
  const std::uint64_t before = soft_.count(Event::pgfault_protect);
  for (Vpn page = run.first; page < run.end(); ++page)
    ASSERT_EQ(soft_.store_part(page, 0, kSeed), Touch::kDone);
  EXPECT_LE(soft_.count(Event::pgfault_protect) - before, 8U);
}

TEST_F(SoftLazyFree, AWholeBlockIsTakenAwayAndComesBackAsItWas) {
  const PageRun run = map_filled(2 * kPagesPerBlock);
  const PageRun block{run.first.block_start() == run.first
                          ? run.first
                          : run.first.block_start() + PageCount(kPagesPerBlock),
                      PageCount(kPagesPerBlock)};
  free(block);
  ASSERT_EQ(soft_.drawn(block), repeated('a', kPagesPerBlock));
  EXPECT_TRUE(soft_.holds(block.first, SoftVm::image_of(block.first)));
  EXPECT_EQ(soft_.pte(block.first).state(), PteState::kMapped);
  EXPECT_EQ(soft_.pte(block.first + PageCount(400)).state(), PteState::kLazyAway);
  discard_all();
  EXPECT_TRUE(soft_.holds(block.first, SoftVm::image_of(block.first)));
  EXPECT_TRUE(soft_.reads_zeros(block.first + PageCount(400)));
}

// ---- Direct I/O -------------------------------------------------------------------------------
//
// The program pins, a device writes behind every trap, the program unpins and says so. Into each
// gap of that sequence goes every combination of a free and a reclaim.

enum class Event3 : std::uint8_t { kFree, kReclaim, kPageOut };

struct Interleaving {
  unsigned free_at;     // before step 0 (pin), 1 (device), 2 (unpin), 3 (the end)
  unsigned reclaim_at;  // likewise; where both, the free comes first
  bool free_first = true;
};

TEST_F(SoftLazyFree, DirectReadsSurviveEveryInterleaving) {
  for (unsigned free_at = 0; free_at <= 3; ++free_at) {
    for (unsigned reclaim_at = 0; reclaim_at <= 3; ++reclaim_at) {
      for (const bool page_out : {false, true}) {
        for (const bool reclaim_first : {false, true}) {
          SCOPED_TRACE(testing::Message() << "free at " << free_at << ", reclaim at " << reclaim_at
                                          << (page_out ? " by page_out" : "")
                                          << (reclaim_first ? ", reclaim first" : ""));
          const PageRun run = map_filled(1);
          const auto gap = [&](unsigned here) {
            const auto reclaim = [&] {
              if (here != reclaim_at) return;
              if (page_out)
                EXPECT_TRUE(soft_.vm().page_out(run).ok());
              else
                (void)soft_.reclaim(5000);
            };
            if (reclaim_first) reclaim();
            if (here == free_at) free(run);
            if (!reclaim_first) reclaim();
          };
          PageImage read_by_device = SoftVm::image_of(run.first + PageCount(77));
          const PageImage::Bytes bytes = read_by_device.bytes();
          gap(0);
          ASSERT_TRUE(soft_.vm().pin(run, PinFor::kWriting).ok());
          gap(1);
          ASSERT_TRUE(soft_.mmu().is_mapped(run.first));
          soft_.mmu().pin(run.first);
          ASSERT_TRUE(soft_.mmu().device_store(run.first.address(), bytes.data(), bytes.size()));
          soft_.mmu().unpin(run.first);
          gap(2);
          ASSERT_TRUE(soft_.vm().unpin(run, Dirtied::kYes).ok());
          gap(3);
          const bool may_be_gone = free_at == 3;
          const bool is_there = soft_.holds(run.first, read_by_device);
          EXPECT_TRUE(is_there || (may_be_gone && soft_.reads_zeros(run.first)));
          ASSERT_TRUE(soft_.vm().unmap(run).ok());
          soft_.validate();
        }
      }
    }
  }
}

// The same with pins that nobody told us of: pages are marked and leave by MOVE alone, which refuses
// them.
TEST_F(SoftLazyFree, UnknownPinsSurviveEveryInterleaving) {
  SoftVmOptions options;
  options.pins = mmu::Pins::kUnknown;
  SoftVm unknown(options);
  for (unsigned free_at = 0; free_at <= 2; ++free_at) {
    for (unsigned reclaim_at = 0; reclaim_at <= 2; ++reclaim_at) {
      SCOPED_TRACE(testing::Message() << "free at " << free_at << ", reclaim at " << reclaim_at);
      const PageRun run = unknown.map(1);
      unknown.fill(run);
      const auto gap = [&](unsigned here) {
        if (here == free_at) {
          EXPECT_TRUE(unknown.vm().free_lazily(run).ok());
        }
        if (here == reclaim_at) {
          (void)unknown.reclaim(5000);
          EXPECT_TRUE(unknown.vm().page_out(run).ok());
        }
      };
      const PageImage read_by_device = SoftVm::image_of(run.first + PageCount(77));
      const PageImage::Bytes bytes = read_by_device.bytes();
      gap(0);
      // The system call's own access brings the page in, for writing.
      ASSERT_EQ(unknown.store_part(run.first, 0, kSeed), Touch::kDone);
      unknown.mmu().pin(run.first);
      gap(1);
      ASSERT_TRUE(unknown.mmu().device_store(run.first.address(), bytes.data(), bytes.size()));
      unknown.mmu().unpin(run.first);
      EXPECT_TRUE(unknown.holds(run.first, read_by_device));
      gap(2);
      EXPECT_TRUE(unknown.holds(run.first, read_by_device) ||
                  (free_at == 2 && unknown.reads_zeros(run.first)));
      ASSERT_TRUE(unknown.vm().unmap(run).ok());
      unknown.validate();
    }
  }
}

// ---- Idle and empty -----------------------------------------------------------------------------

// Memory that an allocator holds free costs nothing until it says that it stores there again, however
// many faults there are beside it.
TEST_F(SoftLazyFree, NobodyBringsInWhatIsIdleForTheSakeOfANeighbour) {
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

TEST_F(SoftLazyFree, PagesThatWereNeverStoredToMayBeIdle) {
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
TEST_F(SoftLazyFree, WhatCannotBeAHugePageIsNotWorthIdlePages) {
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
TEST_F(SoftLazyFree, WhatIsDiscardedOrPurgedStaysIdle) {
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
TEST_F(SoftLazyFree, WhatIsMappedAnewIsNotIdle) {
  const PageRun run = map_filled(32);
  free_until_reuse(run);
  discard_all();
  free_until_reuse(sub(run, 16, 8));
  ASSERT_TRUE(soft_.vm().map_over(run, mmu::Access::kReadWrite).ok());
  ASSERT_EQ(soft_.store_part(run.first + PageCount(3), 0, kSeed), Touch::kDone);
  EXPECT_EQ(soft_.drawn(sub(run, 0, 16)), repeated('m', 16));
}

TEST_F(SoftLazyFree, WhatIsMappedAnewIsNotLocked) {
  const PageRun run = map_filled(4);
  ASSERT_TRUE(soft_.vm().lock(run, false).ok());
  ASSERT_TRUE(soft_.vm().map_over(sub(run, 0, 2), mmu::Access::kReadWrite).ok());
  EXPECT_TRUE(soft_.vm().discard(sub(run, 0, 2)).ok());
  EXPECT_EQ(soft_.vm().discard(sub(run, 2, 2)).code(), EINVAL);
  EXPECT_EQ(soft_.context().held_pages, 2);
}

TEST_F(SoftLazyFree, AHugePageIsWorthIdlePages) {
  const PageRun run = map_filled(kPagesPerBlock, RegionFlags::kHuge);
  free_until_reuse(run);
  discard_all();
  ASSERT_TRUE(soft_.vm().reuse(sub(run, 0, 64)).ok());
  ASSERT_EQ(soft_.store_part(run.first, 0, kSeed), Touch::kDone);
  EXPECT_EQ(order_of(run.first), kMaxOrder);
}

// ---- Failures at each step --------------------------------------------------------------------

// A block of which the kernel holds one page, for whatever reason.
TEST_F(SoftLazyFree, APageThatCannotBeTakenDoesNotKeepTheRestOrdinary) {
  for (const auto pins : {mmu::Pins::kKnown, mmu::Pins::kUnknown}) {
    SoftVmOptions options;
    options.pins = pins;
    SoftVm soft(options);
    const PageRun run = soft.map(2 * kPagesPerBlock);
    soft.fill(run);
    const PageRun block = sub(run, 0, kPagesPerBlock);
    soft.mmu().inject({mmu::SoftMmu::Primitive::kTake, 0, PageCount(100), mmu::Outcome::kBusy});
    EXPECT_TRUE(soft.vm().free_lazily(block).ok());
    // Behind the page, stores are trapped where pins are known; else all but it are taken.
    const bool is_known = pins == mmu::Pins::kKnown;
    EXPECT_EQ(soft.drawn(block), is_known ? repeated('a', 100) + repeated('l', 412)
                                          : repeated('a', 100) + "m" + repeated('a', 411));
    EXPECT_EQ(soft.count(Event::pglazyfree), is_known ? 512U : 511U);
    soft.validate();
    (void)soft.reclaim(512);
    EXPECT_TRUE(soft.reads_zeros(block.first));
    EXPECT_TRUE(soft.reads_zeros(block.first + PageCount(511)));
    soft.validate();
  }
}

TEST_F(SoftLazyFree, AMarkThatStopsHalfWayLeavesTheRestOrdinary) {
  const PageRun run = map_filled(8);
  soft_.mmu().inject({mmu::SoftMmu::Primitive::kProtect, 0, PageCount(3), mmu::Outcome::kNoMemory});
  free(run);
  EXPECT_EQ(soft_.drawn(run), "lllmmmmm");
}

// Whatever the page traps stores for: what a device wrote must not wait for the trap to go.
TEST_F(SoftLazyFree, ATrapThatStaysDoesNotUndoADevicesStore) {
  for (const bool is_clean : {false, true}) {
    SoftVm soft;
    const PageRun run = soft.map(1);
    soft.fill(run);
    if (is_clean) {
      ASSERT_TRUE(soft.vm().page_out(run).ok());
      ASSERT_TRUE(soft.holds(run.first, SoftVm::image_of(run.first)));
    } else {
      ASSERT_TRUE(soft.vm().free_lazily(run).ok());
    }
    ASSERT_EQ(soft.drawn(run), is_clean ? "c" : "l");
    ASSERT_TRUE(soft.vm().pin(run, PinFor::kReading).ok());
    const PageImage written = SoftVm::image_of(run.first + PageCount(77));
    const PageImage::Bytes bytes = written.bytes();
    soft.mmu().pin(run.first);
    ASSERT_TRUE(soft.mmu().device_store(run.first.address(), bytes.data(), bytes.size()));
    soft.mmu().unpin(run.first);
    soft.mmu().inject(
        {mmu::SoftMmu::Primitive::kUnprotect, 0, PageCount(), mmu::Outcome::kNoMemory});
    ASSERT_TRUE(soft.vm().unpin(run, Dirtied::kYes).ok());
    EXPECT_EQ(soft.drawn(run), "m");
    (void)soft.reclaim(1);
    ASSERT_TRUE(soft.vm().page_out(run).ok());
    EXPECT_TRUE(soft.holds(run.first, written));
    EXPECT_EQ(soft.store_part(run.first, 0, kSeed), Touch::kDone);
    soft.validate();
  }
}

TEST_F(SoftLazyFree, ADiscardThatStopsHalfWayLeavesTheRestLazy) {
  const PageRun run = map_filled(8);
  free(run);
  soft_.mmu().inject({mmu::SoftMmu::Primitive::kDiscard, 0, PageCount(3), mmu::Outcome::kBusy});
  discard_all();
  for (std::uint64_t i = 0; i < 8; ++i) {
    const Vpn page = run.first + PageCount(i);
    EXPECT_TRUE(soft_.reads_zeros(page) || soft_.holds(page, SoftVm::image_of(page))) << i;
  }
}

}  // namespace
}  // namespace buoy
