// ctest: labels=soft
//
// Lazily freed memory in folios: what is freed, taken back and split together.

#include <gtest/gtest.h>

#include "vm/lazyfree_testing.h"

namespace buoy {
namespace {

using Touch = SoftVm::Touch;
using SoftLazyFreeFolio = LazyFreeTest;

// ---- Folios -----------------------------------------------------------------------------------

TEST_F(SoftLazyFreeFolio, ARangeThatCoversAFolioKeepsItWhole) {
  const PageRun run = map_filled(kPagesPerBlock, RegionFlags::kHuge);
  ASSERT_EQ(order_of(run.first), kMaxOrder);
  free(run);
  EXPECT_EQ(order_of(run.first), kMaxOrder);
  EXPECT_EQ(soft_.count(Event::folio_split), 0U);
}

TEST_F(SoftLazyFreeFolio, AFolioThatIsFreedInPartIsSplitWhenReclaimWantsThatPart) {
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

TEST_F(SoftLazyFreeFolio, AFolioThatIsFreedInPartAndTakenBackOrFreedWholeIsNeverSplit) {
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
TEST_F(SoftLazyFreeFolio, AFolioThatIsFreedInPartWaitsWhileTheRestStandsBy) {
  const PageRun run = map_filled(16);
  ASSERT_EQ(order_of(run.first), 4U);
  soft_.age_to_standby(sub(run, 8, 8));
  free(sub(run, 0, 8));
  EXPECT_EQ(soft_.drawn(run), "llllllllssssssss");
  EXPECT_EQ(soft_.count(Event::folio_split_deferred), 1U);
  discard_all();
  EXPECT_EQ(soft_.count(Event::folio_split_reclaim), 1U);
}

TEST_F(SoftLazyFreeFolio, WhatIsGoneAtOnceSplitsAtOnce) {
  const PageRun run = map_filled(kPagesPerBlock, RegionFlags::kHuge);
  EXPECT_TRUE(soft_.vm().discard(sub(run, 0, 128)).ok());
  EXPECT_EQ(order_of(run.first), kMaxOrder - 2);
  EXPECT_TRUE(soft_.vm().unmap(sub(run, 256, 256)).ok());
  EXPECT_EQ(soft_.count(Event::folio_split), 1U);
  EXPECT_EQ(soft_.count(Event::folio_split_deferred), 0U);
}

TEST_F(SoftLazyFreeFolio, AStoreTakesBackTheFolioAndNoMore) {
  const PageRun run = map_filled(64);
  const unsigned order = order_of(run.first);
  ASSERT_GE(order, 1U);
  free(run);
  ASSERT_EQ(soft_.store_part(run.first, 0, kSeed), Touch::kDone);
  const std::size_t folio = std::size_t{1} << order;
  EXPECT_EQ(soft_.drawn(sub(run, 0, folio)), repeated('m', folio));
  EXPECT_EQ(soft_.drawn(sub(run, folio, 64 - folio)), repeated('l', 64 - folio));
}

TEST_F(SoftLazyFreeFolio, SequentialStoresTakeBackMoreAndMore) {
  const PageRun run = map_filled(256);
  free(run);
  const std::uint64_t before = soft_.count(Event::pgfault_protect);
  for (Vpn page = run.first; page < run.end(); ++page)
    ASSERT_EQ(soft_.store_part(page, 0, kSeed), Touch::kDone);
  EXPECT_LE(soft_.count(Event::pgfault_protect) - before, 8U);
}

TEST_F(SoftLazyFreeFolio, AWholeBlockIsTakenAwayAndComesBackAsItWas) {
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

}  // namespace
}  // namespace buoy
