// ctest: labels=soft
//
// Lazily freed memory that devices write to, in every interleaving, and failures at each step.

#include <gtest/gtest.h>

#include "vm/lazyfree_testing.h"

namespace buoy {
namespace {

using Touch = SoftVm::Touch;
using SoftLazyFreeDevice = LazyFreeTest;

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

TEST_F(SoftLazyFreeDevice, DirectReadsSurviveEveryInterleaving) {
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
TEST_F(SoftLazyFreeDevice, UnknownPinsSurviveEveryInterleaving) {
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

// ---- Failures at each step --------------------------------------------------------------------

// A block of which the kernel holds one page, for whatever reason.
TEST_F(SoftLazyFreeDevice, APageThatCannotBeTakenDoesNotKeepTheRestOrdinary) {
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

TEST_F(SoftLazyFreeDevice, AMarkThatStopsHalfWayLeavesTheRestOrdinary) {
  const PageRun run = map_filled(8);
  soft_.mmu().inject({mmu::SoftMmu::Primitive::kProtect, 0, PageCount(3), mmu::Outcome::kNoMemory});
  free(run);
  EXPECT_EQ(soft_.drawn(run), "lllmmmmm");
}

// Whatever the page traps stores for: what a device wrote must not wait for the trap to go.
TEST_F(SoftLazyFreeDevice, ATrapThatStaysDoesNotUndoADevicesStore) {
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

TEST_F(SoftLazyFreeDevice, ADiscardThatStopsHalfWayLeavesTheRestLazy) {
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
