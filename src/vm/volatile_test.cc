// ctest: labels=soft
//
// Volatile memory in reclaim: what goes, in which order, how much of it at once, and what is told.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <string>
#include <thread>

#include "base/signals.h"
#include "vm/vm_testing.h"

namespace buoy {
namespace {

using Touch = SoftVm::Touch;

class SoftVolatile : public SoftVmTest {
 protected:
  PageRun map_volatile(std::uint64_t pages, unsigned priority = 0,
                       RegionFlags flags = RegionFlags::kNone) {
    const PageRun run = map_filled(pages, flags);
    mark(run, priority);
    return run;
  }
  void mark(PageRun run, unsigned priority = 0) {
    EXPECT_EQ(soft_.vm().mark_volatile(run, priority).done, run.count);
  }
  bool withdraw(PageRun run) {
    const Vm::Unmarked unmarked = soft_.vm().mark_nonvolatile(run);
    EXPECT_EQ(unmarked.done, run.count);
    return unmarked.lost;
  }
  [[nodiscard]] std::uint64_t purged(PageRun run) const {
    std::uint64_t n = 0;
    for (const char letter : soft_.drawn(run))
      if (letter == 'P') ++n;
    return n;
  }
};

// ---- Order ------------------------------------------------------------------------------------

TEST_F(SoftVolatile, GoesBeforeStandbyIsSqueezedAndBeforeAnythingAges) {
  const PageRun ordinary = map_filled(64);
  soft_.age_to_standby(sub(ordinary, 0, 32));
  const PageRun run = map_volatile(64, 3);
  EXPECT_EQ(soft_.reclaim(64), PageCount(64));
  EXPECT_EQ(purged(run), 64U);
  EXPECT_EQ(soft_.drawn(ordinary), repeated('s', 32) + repeated('m', 32));
  EXPECT_EQ(soft_.count(Event::pswpout), 0U);
}

// Twice as much as fits is stored, half of it volatile: what is not is never compressed.
TEST_F(SoftVolatile, AsLongAsThereIsAnyNothingIsCompressed) {
  constexpr std::uint64_t kObject = 64;
  const PageRun ordinary = soft_.map(2048);
  const PageRun objects = soft_.map(6144);
  for (std::uint64_t i = 0; i < 6144 / kObject; ++i) {
    soft_.fill(sub(objects, i * kObject, kObject));
    mark(sub(objects, i * kObject, kObject), static_cast<unsigned>(i % 4));
    if (i < 2048 / kObject) soft_.fill(sub(ordinary, i * kObject, kObject));
  }
  EXPECT_GT(soft_.count(Event::pgpurged), 0U);
  EXPECT_EQ(soft_.count(Event::pswpout), 0U);
  EXPECT_EQ(soft_.drawn(ordinary), repeated('m', 2048));
  EXPECT_EQ(soft_.vm().pressure_level(), PressureLevel::kNone);
}

// One that reclaims finds that all volatile memory is being purged by another, who has lost his
// CPU for longer than anybody likes to wait.
TEST_F(SoftVolatile, WhoReclaimsWaitsForAnothersPurgeRatherThanSqueeze) {
  const PageRun ordinary = map_filled(64);
  soft_.age_to_standby(ordinary);
  const PageRun run = map_volatile(2048);
  std::atomic<bool> is_purging{false};
  soft_.set_hook([&](const mmu::SoftMmu::Step& step) {
    if (step.primitive != mmu::SoftMmu::Primitive::kDiscard || is_purging.exchange(true)) return;
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  });
  std::thread other([&] { (void)soft_.reclaim(256); });
  while (!is_purging) std::this_thread::yield();
  EXPECT_GE(soft_.reclaim(512), PageCount(512));
  other.join();
  soft_.set_hook(nullptr);
  EXPECT_GE(purged(run), 1024U);
  EXPECT_EQ(soft_.drawn(ordinary), repeated('s', 64));
  EXPECT_EQ(soft_.count(Event::pswpout), 0U);
}

TEST_F(SoftVolatile, MayBeCompressedFirstWhereAskedTo) {
  const PageRun run = map_volatile(64, 0, RegionFlags::kVolatileMayCompress);
  soft_.age_to_standby(run);
  EXPECT_GT(soft_.reclaim(64), PageCount());
  EXPECT_EQ(purged(run), 0U);
  EXPECT_GT(soft_.count(Event::pswpout), 0U);
  EXPECT_FALSE(withdraw(run));
  for (Vpn page = run.first; page < run.end(); ++page)
    EXPECT_TRUE(soft_.holds(page, SoftVm::image_of(page)));
}

// ---- How much at once -------------------------------------------------------------------------

TEST_F(SoftVolatile, AnObjectOfUpToAPageBlockGoesWhole) {
  const PageRun first = map_volatile(512);
  const PageRun second = map_volatile(8);
  EXPECT_EQ(soft_.reclaim(1), PageCount(512));
  EXPECT_EQ(purged(first), 512U);
  EXPECT_EQ(purged(second), 0U);
}

TEST_F(SoftVolatile, ALargerOneGoesWholeForAPageBlockOrMore) {
  const PageRun run = map_volatile(1600);
  EXPECT_EQ(soft_.reclaim(512), PageCount(1600));
  EXPECT_EQ(purged(run), 1600U);
}

TEST_F(SoftVolatile, ALargerOneGoesInPartsForLessAndIsGoneOnWithFirst) {
  const PageRun run = map_volatile(1600);
  const PageRun second = map_volatile(8);
  (void)soft_.reclaim(1);
  const std::uint64_t n = purged(run);
  EXPECT_GT(n, 0U);
  EXPECT_LE(n, 512U);
  (void)soft_.reclaim(1);
  EXPECT_GT(purged(run), n);
  EXPECT_EQ(purged(second), 0U);
  EXPECT_TRUE(withdraw(run));
  // What was not reached is as it was.
  for (Vpn page = run.first; page < run.end(); ++page)
    ASSERT_TRUE(soft_.reads_zeros(page) || soft_.holds(page, SoftVm::image_of(page)));
  EXPECT_TRUE(soft_.holds(run.end() - PageCount(1), SoftVm::image_of(run.end() - PageCount(1))));
}

// ---- What is told -----------------------------------------------------------------------------

TEST_F(SoftVolatile, EachPartOfAMarkTellsOfItsOwnPages) {
  const PageRun run = map_filled(16);
  ASSERT_TRUE(soft_.vm().pin(sub(run, 0, 8), PinFor::kReading).ok());
  mark(run);
  (void)soft_.reclaim(16);
  EXPECT_EQ(soft_.drawn(run), "mmmmmmmmPPPPPPPP");
  ASSERT_TRUE(soft_.vm().unpin(sub(run, 0, 8), Dirtied::kNo).ok());
  EXPECT_FALSE(withdraw(sub(run, 0, 8)));
  EXPECT_TRUE(withdraw(sub(run, 8, 8)));
  EXPECT_FALSE(withdraw(run));
}

TEST_F(SoftVolatile, WhatWasNeverStoredToIsNoLoss) {
  const PageRun run = soft_.map(64);
  mark(run);
  EXPECT_EQ(soft_.reclaim(64), PageCount());
  EXPECT_FALSE(withdraw(run));
}

// The list of lazily freed memory comes first; what reclaim meets here was on nobody's list just
// then, because another had its leaf in hand.
TEST_F(SoftVolatile, WhatTheUserGaveUpIsNoLoss) {
  const PageRun run = map_filled(8);
  ASSERT_TRUE(soft_.vm().free_lazily(sub(run, 0, 4)).ok());
  {
    const SignalBlock signals;
    const GatePass pass(soft_.context().gate);
    Leaf* leaf = soft_.context().table.find_leaf(run.first);
    LockedLeaf locked(soft_.context(), *leaf);
    const LockedLeaf::Purged gone = locked.purge(LeafRange::of(sub(run, 0, 4)));
    EXPECT_EQ(gone.pages, 0U);
    EXPECT_EQ(gone.frames, 4U);
  }
  EXPECT_EQ(soft_.drawn(run), "....mmmm");
  EXPECT_TRUE(soft_.reads_zeros(run.first));
  EXPECT_EQ(soft_.count(Event::pglazyfreed), 4U);
}

TEST_F(SoftVolatile, WhatTheKernelKeepsIsNotLost) {
  const PageRun run = map_volatile(8);
  mmu::SoftMmu::Failure failure;
  failure.primitive = mmu::SoftMmu::Primitive::kDiscard;
  failure.at_page = PageCount(3);
  failure.outcome = mmu::Outcome::kLocked;
  soft_.mmu().inject(failure);
  soft_.mmu().lock_pages(sub(run, 3, 5));
  (void)soft_.reclaim(1);
  EXPECT_EQ(soft_.drawn(sub(run, 0, 3)), "PPP");
  EXPECT_EQ(purged(sub(run, 3, 5)), 0U);
  EXPECT_FALSE(withdraw(sub(run, 3, 5)));
  EXPECT_TRUE(withdraw(sub(run, 0, 3)));
  for (Vpn page = run.first + PageCount(3); page < run.end(); ++page)
    EXPECT_TRUE(soft_.holds(page, SoftVm::image_of(page)));
}

// ---- Fork -------------------------------------------------------------------------------------

TEST_F(SoftVolatile, AChildHasTheMarksAndTheLossesOfItsParent) {
  const PageRun lost = map_volatile(8);
  (void)soft_.reclaim(8);
  PageImage::Bytes bytes;
  EXPECT_EQ(soft_.load(lost.first, &bytes), Touch::kBusError);  // poisoned, now
  const PageRun kept = map_volatile(8);
  soft_.fork_and_become_child();
  soft_.validate();
  EXPECT_EQ(soft_.vm().volatile_pages().value(), 16U);
  EXPECT_EQ(soft_.load(lost.first, &bytes), Touch::kBusError);
  EXPECT_TRUE(withdraw(lost));
  EXPECT_TRUE(soft_.reads_zeros(lost.first));
  // A page that the kernel still shares is the child's to purge as any other.
  EXPECT_TRUE(soft_.mmu().is_shared(kept.first));
  EXPECT_EQ(soft_.reclaim(8), PageCount(8));
  EXPECT_EQ(purged(kept), 8U);
  EXPECT_TRUE(withdraw(kept));
}

}  // namespace
}  // namespace buoy
