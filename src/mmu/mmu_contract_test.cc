// The contract of mmu.h, one suite for every Mmu: simulated, and real with faults delivered by
// signal, by thread, and without UFFDIO_MOVE.
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <optional>

#include "base/sys.h"
#include "mmu/mmu_testing.h"

namespace buoy::mmu {
namespace {

constexpr std::uint64_t kPages = 4 * kPagesPerBlock;

class MmuContract : public testing::TestWithParam<Kind> {
 protected:
  void SetUp() override {
    bench_.emplace(GetParam(), PageCount(kPages));
    if (!bench_->why_not().empty()) GTEST_SKIP() << bench_->why_not();
  }
  Bench& b() { return *bench_; }
  Mmu& mmu() { return bench_->mmu(); }
  const Reservation& r() { return bench_->r(); }
  PageRun run(std::uint64_t first, std::uint64_t n) { return bench_->run(first, n); }
  bool is_soft() { return bench_->soft() != nullptr; }
  std::uint64_t populated() { return mmu().populated_pages().value() - before_; }

  // Runs `body` in a fork child that went through the Mmu; its exit status, 100 + signal on death.
  int in_fork_child(int (*body)(Bench&));

  std::optional<Bench> bench_;
  std::uint64_t before_ = 0;
};

#define EXPECT_DONE(progress_expression, n)         \
  do {                                              \
    const Progress progress_ = progress_expression; \
    EXPECT_EQ(progress_.outcome, Outcome::kDone);   \
    EXPECT_EQ(progress_.done.value(), (n));         \
  } while (false)
#define EXPECT_STOPS(progress_expression, n, why)   \
  do {                                              \
    const Progress progress_ = progress_expression; \
    EXPECT_EQ(progress_.outcome, why);              \
    EXPECT_EQ(progress_.done.value(), (n));         \
  } while (false)

// ---- Reservations ----

TEST_P(MmuContract, ReservationsAreWholeAlignedBlocks) {
  auto other = mmu().reserve(PageCount(3), Backing::kSmall);
  ASSERT_TRUE(other.ok());
  EXPECT_EQ(other->base.in_block(), 0U);
  EXPECT_EQ(other->shadow.in_block(), 0U);
  EXPECT_EQ(other->pages.value(), kPagesPerBlock);
  EXPECT_EQ(mmu().reserve(PageCount(1), Backing::kSmall, other->base).code(), EEXIST);
  const Vpn where = other->base;
  mmu().release(*other);
  auto again = mmu().reserve(PageCount(1), Backing::kSmall, where);
  ASSERT_TRUE(again.ok());
  EXPECT_EQ(again->base, where);
  mmu().release(*again);
  EXPECT_EQ(mmu().reserve(PageCount(), Backing::kSmall).code(), EINVAL);
  EXPECT_EQ(mmu().reserve(PageCount(1), Backing::kSmall, where + PageCount(1)).code(), EINVAL);
}

TEST_P(MmuContract, ReleaseGivesBackPagesAndPageTables) {
  const ByteSize tables = mmu().pagetable_bytes();
  auto other = mmu().reserve(PageCount(3 * kPagesPerBlock), Backing::kSmall);
  ASSERT_TRUE(other.ok());
  ASSERT_TRUE(mmu().permit(*other, {other->base, other->pages}, Access::kReadWrite).ok());
  EXPECT_DONE(mmu().install_zeros(*other, {other->base, PageCount(2)}), 2U);
  EXPECT_DONE(mmu().take(*other, {other->base, PageCount(2)}), 2U);
  EXPECT_EQ(populated(), 2U);
  // A block's table and a gibibyte's, at the address and in the shadow.
  EXPECT_EQ(mmu().pagetable_bytes() - tables, 4 * kPageSize);
  mmu().release(*other);
  EXPECT_EQ(populated(), 0U);
  EXPECT_EQ(mmu().pagetable_bytes(), tables);
}

// ---- Bringing in ----

TEST_P(MmuContract, InstallShowsTheBytesAndNeverOverwrites) {
  EXPECT_DONE(b().install(10, 5, 7), 5U);
  EXPECT_EQ(b().load(12), 7U);
  EXPECT_EQ(b().load(14, kPageSize - 8), 14U);
  EXPECT_EQ(b().sink.missing, 0U);
  EXPECT_STOPS(b().install(8, 5, 9), 2U, Outcome::kExists);
  EXPECT_EQ(b().load(8), 9U);
  EXPECT_EQ(b().load(10), 7U);
  EXPECT_EQ(populated(), 7U);
}

TEST_P(MmuContract, InstalledTrappedPagesFaultOnStoresOnly) {
  EXPECT_DONE(b().install(0, 2, 7, Stores::kTrapped), 2U);
  EXPECT_EQ(b().load(0), 7U);
  EXPECT_EQ(b().sink.protections, 0U);
  b().store(1, 8);
  EXPECT_EQ(b().sink.protections, 1U);
  EXPECT_EQ(b().sink.stores, 1U);
  b().store(1, 9);
  EXPECT_EQ(b().sink.protections, 1U);
  EXPECT_EQ(b().load(1), 9U);
}

TEST_P(MmuContract, InstallZerosOfAnyLength) {
  EXPECT_DONE(mmu().install_zeros(r(), run(500, 700)), 700U);
  EXPECT_EQ(b().load(500), 0U);
  EXPECT_EQ(b().load(1199), 0U);
  EXPECT_EQ(populated(), 700U);
  EXPECT_STOPS(mmu().install_zeros(r(), run(499, 3)), 1U, Outcome::kExists);
}

TEST_P(MmuContract, FaultsTellPageAddressAndKind) {
  b().store(20, 5, 64);
  EXPECT_EQ(b().sink.missing, 1U);
  EXPECT_EQ(b().sink.stores, 1U);
  EXPECT_EQ(Vpn::of_address(b().sink.last_address), b().page(20));
  EXPECT_EQ(b().sink.last_address.load() % kPageSize, 64U);
  EXPECT_EQ(b().load(21), 0U);
  EXPECT_EQ(b().sink.missing, 2U);
  EXPECT_EQ(b().sink.stores, 1U);
}

// ---- Taking away and giving back ----

TEST_P(MmuContract, TakeMovesPagesAndSkipsHoles) {
  EXPECT_DONE(b().install(0, 3, 1), 3U);
  EXPECT_DONE(b().install(100, 1, 2), 1U);
  EXPECT_DONE(b().install(600, 2, 3), 2U);
  EXPECT_DONE(mmu().take(r(), run(0, 1024)), 1024U);
  EXPECT_EQ(populated(), 6U);
  EXPECT_EQ(b().in_shadow(1), 1U);
  EXPECT_EQ(b().in_shadow(100), 2U);
  EXPECT_EQ(b().in_shadow(601), 3U);
  EXPECT_EQ(b().load(1), 0U) << "a touch of a taken page is a fault, answered here by zeros";
  EXPECT_EQ(b().sink.missing, 1U);
}

TEST_P(MmuContract, TakeOfNothingIsDone) {
  EXPECT_DONE(mmu().take(r(), run(0, kPages)), kPages);
  EXPECT_EQ(populated(), 0U);
}

TEST_P(MmuContract, TakeSkipsWhatIsInTheShadowAlready) {
  EXPECT_DONE(b().install(0, 600, 1), 600U);
  EXPECT_DONE(mmu().take(r(), run(3, 1)), 1U);
  EXPECT_DONE(mmu().take(r(), run(20, 40)), 40U);
  EXPECT_DONE(mmu().take(r(), run(599, 1)), 1U);
  EXPECT_DONE(mmu().take(r(), run(0, 700)), 700U);
  EXPECT_EQ(populated(), 600U);
  EXPECT_EQ(b().in_shadow(3), 1U);
  EXPECT_EQ(b().in_shadow(598), 1U);
}

TEST_P(MmuContract, TakeStopsWhereTheShadowIsOccupied) {
  EXPECT_DONE(b().install(0, 4, 1), 4U);
  EXPECT_DONE(mmu().take(r(), run(2, 1)), 1U);
  EXPECT_DONE(b().install(2, 1, 9), 1U);
  EXPECT_STOPS(mmu().take(r(), run(0, 4)), 2U, Outcome::kExists);
  EXPECT_EQ(b().in_shadow(2), 1U);
  mmu().drop_shadow(r(), run(2, 1));
  EXPECT_DONE(mmu().take(r(), run(2, 2)), 2U);
  EXPECT_EQ(b().in_shadow(2), 9U);
}

TEST_P(MmuContract, TakeLosesStoreTrapping) {
  EXPECT_DONE(b().install(0, 1, 1, Stores::kTrapped), 1U);
  EXPECT_DONE(mmu().take(r(), run(0, 1)), 1U);
  EXPECT_DONE(mmu().give_back(r(), run(0, 1), Return::kMoved).progress, 1U);
  b().store(0, 2);
  EXPECT_EQ(b().sink.protections, 0U);
}

TEST_P(MmuContract, TakeBlockTakesScatteredPages) {
  for (std::uint64_t i = 0; i < kPagesPerBlock; i += 3)
    EXPECT_DONE(b().install(kPagesPerBlock + i, 1, i), 1U);
  const std::uint64_t n = (kPagesPerBlock + 2) / 3;
  for (int round = 0; round < 3; ++round) {
    EXPECT_DONE(mmu().take_block(r(), b().page(kPagesPerBlock), PageCount(n)), kPagesPerBlock);
    EXPECT_EQ(populated(), n);
    EXPECT_EQ(b().in_shadow(kPagesPerBlock + 30), 30U);
    for (std::uint64_t i = 0; i < kPagesPerBlock; i += 3)
      EXPECT_DONE(mmu().give_back(r(), run(kPagesPerBlock + i, 1), Return::kMoved).progress, 1U);
    EXPECT_EQ(b().load(kPagesPerBlock + 33), 33U);
  }
  // The shadow serves single pages as before.
  EXPECT_DONE(mmu().take(r(), run(kPagesPerBlock, 1)), 1U);
  EXPECT_EQ(populated(), n);
  EXPECT_EQ(b().sink.missing, 0U);
}

TEST_P(MmuContract, GiveBackMovedLeavesTheShadowEmpty) {
  EXPECT_DONE(b().install(0, 20, 5), 20U);
  EXPECT_DONE(mmu().take(r(), run(0, 20)), 20U);
  const GiveBackResult result = mmu().give_back(r(), run(0, 20), Return::kMoved);
  EXPECT_DONE(result.progress, 20U);
  EXPECT_EQ(result.how, Return::kMoved);
  EXPECT_EQ(populated(), 20U);
  EXPECT_EQ(b().load(19, kPageSize - 8), 19U);
  b().store(3, 6);
  EXPECT_DONE(mmu().take(r(), run(0, 20)), 20U);
  EXPECT_EQ(b().in_shadow(3), 6U);
}

TEST_P(MmuContract, GiveBackCopiedLeavesAStaleShadow) {
  if (is_soft()) b().soft()->set_preferred_return(Return::kCopied);
  EXPECT_DONE(b().install(0, 1, 5), 1U);
  EXPECT_DONE(mmu().take(r(), run(0, 1)), 1U);
  const Return preferred = mmu().preferred_return(PageCount(1));
  const GiveBackResult result = mmu().give_back(r(), run(0, 1), Return::kCopied);
  EXPECT_DONE(result.progress, 1U);
  EXPECT_EQ(result.how, preferred);
  EXPECT_EQ(populated(), result.how == Return::kCopied ? 2U : 1U);
  b().store(0, 6);
  if (result.how == Return::kCopied) {
    EXPECT_EQ(b().in_shadow(0), 5U);
    mmu().drop_shadow(r(), run(0, 1));
  }
  EXPECT_EQ(populated(), 1U);
  EXPECT_EQ(b().load(0), 6U);
}

TEST_P(MmuContract, GiveBackNeverOverwrites) {
  EXPECT_DONE(b().install(0, 3, 5), 3U);
  EXPECT_DONE(mmu().take(r(), run(0, 3)), 3U);
  EXPECT_DONE(b().install(1, 1, 6), 1U);
  EXPECT_STOPS(mmu().give_back(r(), run(0, 3), Return::kMoved).progress, 1U, Outcome::kExists);
  EXPECT_EQ(b().load(1), 6U);
  EXPECT_EQ(b().in_shadow(1), 5U);
}

TEST_P(MmuContract, GiveBackOfWhatIsNotThereIsMissing) {
  if (GetParam() == Kind::kWithoutMove) GTEST_SKIP() << "only a move notices";
  EXPECT_STOPS(mmu().give_back(r(), run(0, 1), Return::kMoved).progress, 0U, Outcome::kMissing);
}

TEST_P(MmuContract, StagedContentsComeOutAsWritten) {
  std::byte* room = mmu().stage(r(), run(510, 4));
  ASSERT_NE(room, nullptr);
  EXPECT_EQ(populated(), 4U);
  EXPECT_EQ(room[3 * kPageSize], std::byte{0});
  for (std::uint64_t i = 0; i < 4; ++i)
    std::memset(room + i * kPageSize, static_cast<int>(i + 1), kPageSize);
  EXPECT_EQ(b().in_shadow(512), 0x0303030303030303U);
  EXPECT_DONE(mmu().give_back(r(), run(510, 2), Return::kMoved).progress, 2U);
  EXPECT_EQ(b().load(511), 0x0202020202020202U);
  EXPECT_EQ(populated(), 4U);
  mmu().drop_shadow(r(), run(512, 2));
  EXPECT_EQ(populated(), 2U);
}

TEST_P(MmuContract, HugeBlocksKeepTheirAccounting) {
  Bench huge(GetParam(), PageCount(kPages), Backing::kHugeWherePossible);
  ASSERT_TRUE(huge.why_not().empty());
  const std::uint64_t before = huge.mmu().populated_pages().value();
  const auto counted = [&] { return huge.mmu().populated_pages().value() - before; };
  // One page staged is one page, not a huge one.
  ASSERT_NE(huge.mmu().stage(huge.r(), huge.run(0, 1)), nullptr);
  EXPECT_EQ(counted(), 1U);
  EXPECT_DONE(huge.mmu().give_back(huge.r(), huge.run(0, 1), Return::kMoved).progress, 1U);
  EXPECT_DONE(huge.mmu().install_zeros(huge.r(), huge.run(512, 600)), 600U);
  EXPECT_EQ(counted(), 601U);
  huge.store(700, 9);
  EXPECT_DONE(huge.mmu().take_block(huge.r(), huge.page(512), PageCount(512)), 512U);
  EXPECT_EQ(counted(), 601U);
  EXPECT_EQ(huge.in_shadow(700), 9U);
  EXPECT_DONE(huge.mmu().give_back(huge.r(), huge.run(512, 512), Return::kMoved).progress, 512U);
  // A part of a huge page splits it.
  EXPECT_DONE(huge.mmu().take(huge.r(), huge.run(600, 200)), 200U);
  EXPECT_EQ(counted(), 601U);
  EXPECT_DONE(huge.mmu().discard(huge.r(), huge.run(512, 10)), 10U);
  EXPECT_EQ(counted(), 591U);
  std::byte* room = huge.mmu().stage(huge.r(), huge.run(1536, 512));
  ASSERT_NE(room, nullptr);
  room[5] = std::byte{1};
  EXPECT_EQ(counted(), 591U + 512U);
  EXPECT_DONE(huge.mmu().give_back(huge.r(), huge.run(1536, 512), Return::kMoved).progress, 512U);
  EXPECT_EQ(huge.load(1536), 0x010000000000U);
  // The shadow of a block that was huge once is not huge by itself.
  EXPECT_DONE(huge.mmu().discard(huge.r(), huge.run(1536, 512)), 512U);
  const std::uint64_t empty = counted();
  ASSERT_NE(huge.mmu().stage(huge.r(), huge.run(1600, 1)), nullptr);
  EXPECT_EQ(counted(), empty + 1);
  EXPECT_EQ(huge.sink.missing, 0U);
}

// ---- In place ----

TEST_P(MmuContract, ProtectTrapsStoresAndSkipsHoles) {
  EXPECT_DONE(b().install(0, 2, 1), 2U);
  EXPECT_DONE(b().install(5, 1, 1), 1U);
  EXPECT_DONE(mmu().protect(r(), run(0, 10)), 10U);
  EXPECT_EQ(b().load(5), 1U);
  std::uint64_t word = 0;
  std::memcpy(&word, mmu().mapped_bytes(r(), b().page(5)), sizeof word);
  EXPECT_EQ(word, 1U);
  b().store(5, 2);
  EXPECT_EQ(b().sink.protections, 1U);
  EXPECT_DONE(mmu().unprotect(r(), run(0, 2)), 2U);
  b().store(0, 2);
  EXPECT_EQ(b().sink.protections, 1U);
  // Holes were not protected: what comes there is not.
  b().store(3, 2);
  EXPECT_EQ(b().sink.protections, 1U);
  EXPECT_EQ(b().sink.missing, 1U);
}

TEST_P(MmuContract, DiscardForgets) {
  EXPECT_DONE(b().install(0, 4, 1), 4U);
  EXPECT_DONE(mmu().discard(r(), run(1, 100)), 100U);
  EXPECT_EQ(populated(), 1U);
  EXPECT_EQ(b().load(1), 0U);
  EXPECT_EQ(b().sink.missing, 1U);
  EXPECT_EQ(b().load(0), 1U);
}

TEST_P(MmuContract, MemoryThatIsNotWritableIsTakenAndGivenBack) {
  EXPECT_DONE(b().install(0, 40, 4), 40U);
  ASSERT_TRUE(mmu().permit(r(), run(0, 60), Access::kRead).ok());
  EXPECT_DONE(mmu().take(r(), run(0, 60)), 60U);
  EXPECT_EQ(populated(), 40U);
  EXPECT_EQ(b().in_shadow(39), 4U);
  EXPECT_DONE(mmu().give_back(r(), run(0, 40), Return::kMoved).progress, 40U);
  EXPECT_EQ(populated(), 40U);
  EXPECT_EQ(b().load(39), 4U);
  EXPECT_DONE(b().install(50, 1, 6), 1U);
  ASSERT_TRUE(mmu().permit(r(), run(0, 60), Access::kReadWrite).ok());
  b().store(0, 5);
  EXPECT_DONE(mmu().take(r(), run(0, 60)), 60U);
  EXPECT_EQ(b().in_shadow(0), 5U);
}

TEST_P(MmuContract, RunsMayCrossTheKernelsMappings) {
  EXPECT_DONE(b().install(500, 100, 4), 100U);
  // Alike again, but the kernel may keep them apart.
  ASSERT_TRUE(mmu().permit(r(), run(520, 10), Access::kReadWriteExec).ok());
  EXPECT_DONE(mmu().take_block(r(), b().page(0), PageCount(12)), 512U);
  EXPECT_DONE(mmu().take(r(), run(512, 512)), 512U);
  EXPECT_EQ(populated(), 100U);
  EXPECT_DONE(mmu().give_back(r(), run(500, 100), Return::kMoved).progress, 100U);
  EXPECT_DONE(mmu().protect(r(), run(500, 100)), 100U);
  b().store(525, 5);
  b().store(535, 5);
  EXPECT_EQ(b().sink.protections, 2U);
  EXPECT_DONE(mmu().discard(r(), run(500, 100)), 100U);
  EXPECT_DONE(b().install(500, 100, 6), 100U);
  EXPECT_DONE(mmu().discard(r(), run(500, 100)), 100U);
  EXPECT_DONE(mmu().install_zeros(r(), run(500, 100)), 100U);
  EXPECT_EQ(populated(), 100U);
}

TEST_P(MmuContract, ClosedMemoryIsTakenAndGivenBack) {
  for (const Access access : {Access::kNone, Access::kRead, Access::kReadExec}) {
    EXPECT_DONE(b().install(0, 500, 4), 500U);
    ASSERT_TRUE(mmu().permit(r(), run(100, 300), access).ok());
    EXPECT_DONE(mmu().take(r(), run(0, 512)), 512U);
    EXPECT_EQ(populated(), 500U);
    for (unsigned i = 0; i < 500; ++i) EXPECT_EQ(b().in_shadow(i), 4U);
    EXPECT_DONE(mmu().give_back(r(), run(0, 500), Return::kMoved).progress, 500U);
    EXPECT_EQ(populated(), 500U);
    ASSERT_TRUE(mmu().permit(r(), run(100, 300), Access::kReadWrite).ok());
    for (unsigned i = 0; i < 500; ++i) EXPECT_EQ(b().load(i), 4U);
    b().store(200, 7);
    EXPECT_DONE(mmu().take(r(), run(0, 512)), 512U);
    EXPECT_EQ(b().in_shadow(200), 7U);
    mmu().drop_shadow(r(), run(0, 512));
  }
}

TEST_P(MmuContract, APinnedPageOfClosedMemoryStays) {
  if (is_soft() || GetParam() == Kind::kWithoutMove) GTEST_SKIP() << "only a move notices pins";
  for (const Access access : {Access::kNone, Access::kRead}) {
    EXPECT_DONE(b().install(0, 300, 4), 300U);
    const int ring = pin_by_io_uring(b().page(270).pointer());
    if (ring < 0) GTEST_SKIP() << "no io_uring here to pin a page with";
    ASSERT_TRUE(mmu().permit(r(), run(0, 300), access).ok());
    EXPECT_STOPS(mmu().take(r(), run(0, 300)), 270U, Outcome::kBusy);
    EXPECT_EQ(populated(), 300U);
    EXPECT_EQ(b().in_shadow(269), 4U);
    // The rest is where it was, and faults as before.
    ASSERT_TRUE(mmu().permit(r(), run(0, 300), Access::kReadWrite).ok());
    const auto faults = b().sink.missing.load();
    for (unsigned i = 270; i < 300; ++i) EXPECT_EQ(b().load(i), 4U);
    EXPECT_EQ(b().sink.missing.load(), faults);
    ::close(ring);  // the kernel lets go of it when it gets round to it
    Progress rest = mmu().take(r(), run(270, 30));
    for (int tries = 0; rest.outcome == Outcome::kBusy && tries < 1000; ++tries) {
      ::usleep(1000);
      rest = mmu().take(r(), run(270, 30));
    }
    EXPECT_DONE(rest, 30U);
    mmu().drop_shadow(r(), run(0, 300));
    EXPECT_EQ(b().load(280), 0U);
    EXPECT_DONE(mmu().discard(r(), run(280, 1)), 1U);
  }
}

TEST_P(MmuContract, LockedMemoryStays) {
  EXPECT_DONE(b().install(0, 4, 4), 4U);
  if (is_soft())
    b().soft()->lock_pages(run(2, 2));
  else if (sys::call(SYS_mlock, sys::ptr(b().page(2).pointer()), 2 * kPageSize) != 0)
    GTEST_SKIP() << "mlock is not permitted";
  EXPECT_FALSE(mmu().is_mlocked(run(0, 2)));
  EXPECT_TRUE(mmu().is_mlocked(run(0, 4)));
  EXPECT_STOPS(mmu().take(r(), run(2, 2)), 0U, Outcome::kLocked);
  EXPECT_STOPS(mmu().discard(r(), run(2, 1)), 0U, Outcome::kLocked);
  // What lies before it may leave, and is not lost.
  EXPECT_STOPS(mmu().take_block(r(), b().page(0), PageCount(4)), 2U, Outcome::kLocked);
  EXPECT_EQ(b().in_shadow(1), 4U);
  EXPECT_EQ(b().load(3), 4U);
  EXPECT_EQ(populated(), 4U);
}

TEST_P(MmuContract, ADiscardTellsHowFarItCame) {
  EXPECT_DONE(b().install(0, 4, 4), 4U);
  if (is_soft())
    b().soft()->lock_pages(run(2, 1));
  else if (sys::call(SYS_mlock, sys::ptr(b().page(2).pointer()), kPageSize) != 0)
    GTEST_SKIP() << "mlock is not permitted";
  EXPECT_STOPS(mmu().discard(r(), run(0, 4)), 2U, Outcome::kLocked);
  EXPECT_EQ(populated(), 2U);
  EXPECT_EQ(b().load(2), 4U);
  EXPECT_EQ(b().load(3), 4U);
}

TEST_P(MmuContract, SeveralRunsAreDiscardedAtOnce) {
  EXPECT_DONE(b().install(0, 40, 4), 40U);
  const PageRun runs[] = {run(1, 3), run(6, 1), run(10, 20), run(500, 600)};
  EXPECT_DONE(mmu().discard_runs(r(), runs), 624U);
  EXPECT_EQ(populated(), 16U);
  for (const unsigned gone : {1U, 3U, 6U, 29U}) EXPECT_EQ(b().load(gone), 0U);
  for (const unsigned kept : {0U, 4U, 5U, 7U, 9U, 30U, 39U}) EXPECT_EQ(b().load(kept), 4U);
  EXPECT_DONE(mmu().discard_runs(r(), {}), 0U);
}

TEST_P(MmuContract, SeveralRunsAreDiscardedUpToThePageThatIsRefused) {
  EXPECT_DONE(b().install(0, 40, 4), 40U);
  if (is_soft())
    b().soft()->lock_pages(run(12, 1));
  else if (sys::call(SYS_mlock, sys::ptr(b().page(12).pointer()), kPageSize) != 0)
    GTEST_SKIP() << "mlock is not permitted";
  const PageRun runs[] = {run(0, 2), run(10, 5), run(20, 5)};
  EXPECT_STOPS(mmu().discard_runs(r(), runs), 4U, Outcome::kLocked);
  EXPECT_EQ(populated(), 36U);
  EXPECT_EQ(b().load(12), 4U);
  EXPECT_EQ(b().load(20), 4U);
  // And so it is the next time.
  const PageRun others[] = {run(20, 2), run(30, 2)};
  EXPECT_DONE(mmu().discard_runs(r(), others), 4U);
  EXPECT_EQ(populated(), 32U);
}

TEST_P(MmuContract, ALockedBlockStaysLocked) {
  EXPECT_DONE(b().install(512, 512, 4), 512U);
  if (is_soft())
    b().soft()->lock_pages(run(512, 512));
  else if (sys::call(SYS_mlock, sys::ptr(b().page(512).pointer()), kBlockSize) != 0)
    GTEST_SKIP() << "mlock is not permitted";
  EXPECT_STOPS(mmu().take_block(r(), b().page(512), PageCount(512)), 0U, Outcome::kLocked);
  EXPECT_EQ(b().load(600), 4U);
  EXPECT_EQ(b().sink.missing, 0U);
  EXPECT_EQ(populated(), 512U);
}

// ---- Bus errors ----

TEST_P(MmuContract, PoisonGivesWayToInstall) {
  if (!mmu().poison(r(), b().page(0))) GTEST_SKIP() << "no poison: signal delivery, old kernel";
  EXPECT_DONE(b().install(0, 1, 4), 1U);
  EXPECT_EQ(b().load(0), 4U);
  ASSERT_TRUE(mmu().poison(r(), b().page(1)));
  mmu().unpoison(r(), b().page(1));
  EXPECT_EQ(b().load(1), 0U);
  EXPECT_EQ(b().sink.missing, 1U);
  ASSERT_TRUE(mmu().poison(r(), b().page(512 + 7)));
  EXPECT_DONE(mmu().install_zeros(r(), run(512, 512)), 512U);
  EXPECT_EQ(b().load(512 + 7), 0U);
}

// ---- Fork ----

int MmuContract::in_fork_child(int (*body)(Bench&)) {
  BUOY_CHECK(mmu().before_fork().ok());
  if (is_soft()) {
    auto child = b().soft()->fork_child(&b().sink, &b().counters);
    mmu().after_fork_in_parent();
    Bench view(*child, r());
    EXPECT_TRUE(child->after_fork_in_child().ok());
    return body(view);
  }
  const pid_t pid = ::fork();
  if (pid == 0) {
    if (!mmu().after_fork_in_child().ok()) ::_exit(99);
    ::_exit(body(b()));
  }
  mmu().after_fork_in_parent();
  int status = 0;
  EXPECT_EQ(::waitpid(pid, &status, 0), pid);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 100 + WTERMSIG(status);
}

TEST_P(MmuContract, AChildGoesOnWithItsOwnPages) {
  EXPECT_DONE(b().install(0, 8, 4), 8U);
  EXPECT_DONE(mmu().take(r(), run(4, 4)), 4U);
  const int status = in_fork_child([](Bench& b) {
    const std::uint64_t faults = b.sink.missing;
    if (b.load(1) != 4) return 1;
    b.store(1, 5);
    // From the shadow that was inherited.
    if (!b.mmu().give_back(b.r(), b.run(4, 4), Return::kMoved).progress.complete()) return 2;
    if (b.load(5) != 4) return 3;
    if (b.sink.missing != faults) return 4;
    b.store(20, 6);  // faults are delivered here, too
    if (b.sink.missing != faults + 1) return 5;
    // Pages that the parent shares leave after they are unshared.
    if (b.mmu().take(b.r(), b.run(0, 1)).outcome == Outcome::kBusy) {
      b.mmu().unshare(b.r(), b.page(0));
      if (!b.mmu().take(b.r(), b.run(0, 1)).complete()) return 6;
    }
    if (b.in_shadow(0) != 4) return 7;
    return 0;
  });
  EXPECT_EQ(status, 0);
  EXPECT_EQ(b().load(1), 4U);
  EXPECT_EQ(b().in_shadow(5), 4U);
}

TEST_P(MmuContract, SharedPagesAreBusyUntilUnshared) {
  if (GetParam() == Kind::kWithoutMove) GTEST_SKIP() << "only a move minds who shares a page";
  EXPECT_DONE(b().install(0, 2, 4), 2U);
  EXPECT_EQ(in_fork_child([](Bench&) { return 0; }), 0);
  EXPECT_STOPS(mmu().take(r(), run(0, 2)), 0U, Outcome::kBusy);
  EXPECT_EQ(b().counters.read(Event::mmu_busy), 1U);
  mmu().unshare(r(), b().page(0));
  EXPECT_STOPS(mmu().take(r(), run(0, 2)), 1U, Outcome::kBusy);
  EXPECT_STOPS(mmu().take_block(r(), b().page(512), PageCount(0)), kPagesPerBlock, Outcome::kDone);
  mmu().unshare(r(), b().page(1));
  EXPECT_DONE(mmu().take(r(), run(1, 1)), 1U);
  EXPECT_EQ(b().in_shadow(1), 4U);
}

// ---- Numbers ----

TEST_P(MmuContract, CostsAreMeasured) {
  const Costs costs = mmu().costs();
  EXPECT_GT(costs.copy_page_ns, 0U);
  EXPECT_LT(costs.copy_page_ns, 1'000'000U);
  EXPECT_GT(costs.take_run_ns, 0U);
  EXPECT_DONE(b().install(0, 4, 1), 4U);
  EXPECT_DONE(mmu().take(r(), run(0, 4)), 4U);
  EXPECT_GE(b().counters.read(Event::mmu_take_calls), 1U);
  EXPECT_GE(b().counters.read(Event::mmu_install_calls), 1U);
  EXPECT_GE(b().counters.read(Event::tlb_flush_calls), 1U);
}

INSTANTIATE_TEST_SUITE_P(All, MmuContract,
                         testing::Values(Kind::kSoft, Kind::kSignal, Kind::kThread,
                                         Kind::kWithoutMove),
                         [](const auto& p) { return name_of(p.param); });

}  // namespace
}  // namespace buoy::mmu
