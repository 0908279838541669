// ctest: labels=soft
//
// Lazily freed memory: what it means, in every state that a page of the range may be in, and across
// a fork.

#include <gtest/gtest.h>

#include <cerrno>

#include "vm/lazyfree_testing.h"

namespace buoy {
namespace {

using Touch = SoftVm::Touch;
using SoftLazyFree = LazyFreeTest;
constexpr PageCount kOne(1);

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

}  // namespace
}  // namespace buoy
