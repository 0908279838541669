// What SoftMmu offers beyond the contract: hooks, failures to order, a simulated kernel, sizes
// beyond the machine. The contract itself is in mmu_contract_test.cc.
#include "mmu/soft_mmu.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <string>
#include <thread>
#include <vector>

#include "base/sys.h"
#include "mmu/mmu_testing.h"

namespace buoy::mmu {
namespace {

using Primitive = SoftMmu::Primitive;
using Touch = SoftMmu::Touch;
using When = SoftMmu::When;

class SoftMmuTest : public testing::Test {
 protected:
  Bench b{Kind::kSoft, PageCount(4 * kPagesPerBlock)};
  SoftMmu& soft = *b.soft();
};

TEST_F(SoftMmuTest, HookRunsBetweenAnyTwoPages) {
  ASSERT_TRUE(b.install(0, 3, 1).complete());
  std::string steps;
  soft.set_hook([&](const SoftMmu::Step& step) {
    ASSERT_EQ(step.primitive, Primitive::kTake);
    steps += std::to_string((step.vpn - b.r().base).value());
    steps += step.when == When::kBefore ? "b " : step.when == When::kBetween ? "m " : "a ";
  });
  ASSERT_TRUE(b.mmu().take(b.r(), b.run(0, 3)).complete());
  EXPECT_EQ(steps, "0b 1m 2m 0a ");
}

TEST_F(SoftMmuTest, AStoreInTheMiddleOfATakeHitsOnlyWhatIsStillThere) {
  ASSERT_TRUE(b.install(0, 4, 1).complete());
  soft.set_hook([&](const SoftMmu::Step& step) {
    if (step.when != When::kBetween || step.vpn != b.page(2)) return;
    const std::uint64_t two = 2;
    EXPECT_FALSE(soft.try_store(b.page(1).address(), &two, sizeof two));
    EXPECT_TRUE(soft.try_store(b.page(2).address(), &two, sizeof two));
  });
  ASSERT_TRUE(b.mmu().take(b.r(), b.run(0, 4)).complete());
  EXPECT_EQ(b.in_shadow(1), 1U);
  EXPECT_EQ(b.in_shadow(2), 2U);
  EXPECT_EQ(b.sink.missing, 0U);
}

TEST_F(SoftMmuTest, FailuresComeWhereOrdered) {
  ASSERT_TRUE(b.install(0, 8, 1).complete());
  soft.inject({Primitive::kTake, 1, PageCount(2), Outcome::kBusy});
  EXPECT_TRUE(b.mmu().take(b.r(), b.run(0, 1)).complete());
  const Progress progress = b.mmu().take(b.r(), b.run(1, 4));
  EXPECT_EQ(progress.done.value(), 2U);
  EXPECT_EQ(progress.outcome, Outcome::kBusy);
  EXPECT_TRUE(soft.is_in_shadow(b.page(2)));
  EXPECT_TRUE(soft.is_mapped(b.page(3)));
  EXPECT_TRUE(b.mmu().take(b.r(), b.run(3, 4)).complete());
  soft.inject({Primitive::kStage, 0, PageCount(1), Outcome::kNoMemory});
  const PageCount before = soft.populated_pages();
  EXPECT_EQ(b.mmu().stage(b.r(), b.run(20, 4)), nullptr);
  EXPECT_EQ(soft.populated_pages(), before);
  soft.inject({Primitive::kReserve, 0, PageCount(), Outcome::kNoMemory});
  EXPECT_EQ(b.mmu().reserve(PageCount(1), Backing::kSmall).code(), ENOMEM);
  soft.inject({Primitive::kInstallZeros, 0, PageCount(0), Outcome::kNoMemory});
  EXPECT_EQ(b.mmu().install_zeros(b.r(), b.run(30, 1)).outcome, Outcome::kNoMemory);
  EXPECT_FALSE(soft.has_uninjected_failures());
}

TEST_F(SoftMmuTest, PinnedPagesStayAndDevicesWriteBehindProtection) {
  ASSERT_TRUE(b.install(0, 2, 1).complete());
  soft.pin(b.page(1));
  EXPECT_EQ(b.mmu().take(b.r(), b.run(0, 2)).outcome, Outcome::kBusy);
  ASSERT_TRUE(b.mmu().protect(b.r(), b.run(0, 2)).complete());
  const std::uint64_t word = 9;
  EXPECT_TRUE(soft.device_store(b.page(1).address(), &word, sizeof word));
  EXPECT_EQ(b.load(1), 9U);
  ASSERT_TRUE(b.mmu().discard(b.r(), b.run(1, 1)).complete());
  EXPECT_FALSE(soft.device_store(b.page(1).address(), &word, sizeof word))
      << "the data went astray";
}

TEST_F(SoftMmuTest, AccessesThatCannotSucceedSayWhy) {
  std::uint64_t word = 0;
  EXPECT_EQ(soft.load(4096, &word, sizeof word), Touch::kSegv);
  ASSERT_TRUE(b.mmu().permit(b.r(), b.run(0, 1), Access::kRead).ok());
  EXPECT_EQ(soft.store(b.page(0).address(), &word, sizeof word), Touch::kSegv);
  b.sink.bus_error_page = b.page(1).value();
  EXPECT_EQ(soft.load(b.page(1).address(), &word, sizeof word), Touch::kBusError);
  ASSERT_TRUE(b.mmu().poison(b.r(), b.page(2)));
  EXPECT_EQ(soft.load(b.page(2).address(), &word, sizeof word), Touch::kBusError);
}

TEST_F(SoftMmuTest, AccessesMayCrossPages) {
  const std::uint64_t word = 0x1122334455667788;
  ASSERT_EQ(soft.store(b.page(1).address() - 3, &word, sizeof word), Touch::kDone);
  std::uint64_t got = 0;
  ASSERT_EQ(soft.load(b.page(1).address() - 3, &got, sizeof got), Touch::kDone);
  EXPECT_EQ(got, word);
  EXPECT_EQ(b.sink.missing, 2U);
}

TEST_F(SoftMmuTest, AForkChildReadsZerosUntilItIsEnrolled) {
  b.store(0, 1);
  const auto orphan = soft.fork_child(&b.sink, nullptr);
  std::uint64_t word = 0;
  EXPECT_EQ(orphan->load(b.page(0).address(), &word, sizeof word), Touch::kSegv);

  ASSERT_TRUE(b.mmu().before_fork().ok());
  const auto child = soft.fork_child(&b.sink, nullptr);
  b.mmu().after_fork_in_parent();
  const std::uint64_t faults = b.sink.missing;
  EXPECT_EQ(child->load(b.page(0).address(), &word, sizeof word), Touch::kDone);
  EXPECT_EQ(word, 1U);
  EXPECT_EQ(child->load(b.page(1).address(), &word, sizeof word), Touch::kDone);
  EXPECT_EQ(word, 0U);
  EXPECT_EQ(b.sink.missing, faults) << "nobody was asked";
  EXPECT_TRUE(child->is_shared(b.page(0)));
  EXPECT_TRUE(soft.is_shared(b.page(0)));
  EXPECT_EQ(child->populated_pages().value(), 2U);
  EXPECT_EQ(soft.populated_pages().value(), 1U);
  b.store(0, 2);
  EXPECT_FALSE(soft.is_shared(b.page(0)));
  EXPECT_EQ(child->load(b.page(0).address(), &word, sizeof word), Touch::kDone);
  EXPECT_EQ(word, 1U);
}

TEST(SoftMmuDeathTest, WhatTheContractForbidsAborts) {
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  Bench b{Kind::kSoft, PageCount(kPagesPerBlock)};
  ASSERT_TRUE(b.install(0, 2, 1).complete());
  EXPECT_DEATH((void)b.mmu().shadow_bytes(b.r(), b.page(0)), "internal error");
  EXPECT_DEATH((void)b.mmu().mapped_bytes(b.r(), b.page(0)), "internal error");
  ASSERT_TRUE(b.mmu().take(b.r(), b.run(0, 1)).complete());
  EXPECT_DEATH((void)b.mmu().stage(b.r(), b.run(0, 2)), "internal error");
  EXPECT_DEATH((void)b.mmu().install_zeros(b.r(), b.run(0, 1)), "internal error");
  EXPECT_DEATH((void)b.mmu().take_block(b.r(), b.page(0), PageCount(1)), "internal error");
}

TEST_F(SoftMmuTest, StagedPagesOutliveTheirNeighbours) {
  std::byte* room = b.mmu().stage(b.r(), b.run(0, 8));
  ASSERT_NE(room, nullptr);
  for (std::size_t i = 0; i < 8 * kPageSize; ++i) room[i] = static_cast<std::byte>(i / 512);
  b.mmu().drop_shadow(b.r(), b.run(0, 3));
  ASSERT_TRUE(b.mmu().give_back(b.r(), b.run(4, 2), Return::kMoved).progress.complete());
  ASSERT_TRUE(b.mmu().give_back(b.r(), b.run(6, 2), Return::kMoved).progress.complete());
  EXPECT_EQ(b.in_shadow(3), 0x1818181818181818U);
  EXPECT_EQ(b.load(7, 4088), 0x3f3f3f3f3f3f3f3fU);
}

TEST_F(SoftMmuTest, ThreadsMayUseIt) {
  std::vector<std::thread> threads;
  for (std::uint64_t t = 0; t < 3; ++t) {
    threads.emplace_back([this, t] {
      for (std::uint64_t i = 0; i < 2000; ++i) {
        const std::uint64_t page = t * 512 + i % 512;
        b.store(page, i);
        EXPECT_EQ(b.load(page), i);
        EXPECT_TRUE(b.mmu().take(b.r(), b.run(page, 1)).complete());
        EXPECT_TRUE(b.mmu().give_back(b.r(), b.run(page, 1), Return::kMoved).progress.complete());
      }
    });
  }
  for (auto& t : threads) t.join();
  EXPECT_EQ(soft.populated_pages().value(), 3U * 512);
}

std::uint64_t resident_bytes() {
  char text[128] = {};
  unsigned long pages = 0;
  EXPECT_GT(sys::read_file("/proc/self/statm", text, sizeof text - 1), 0);
  EXPECT_EQ(std::sscanf(text, "%*u %lu", &pages), 1);
  return pages * kPageSize;
}

// A tebibyte, a page in eleven touched: spread as thinly as it comes.
TEST(SoftMmuHugeSpace, ATebibyteFitsIntoThreeGibibytes) {
  constexpr std::uint64_t kTouchEvery = 11;
  const PageCount pages(std::uint64_t{1} << 28);
  SoftMmu soft(nullptr, nullptr);
  const std::uint64_t before = resident_bytes();
  auto r = soft.reserve(pages, Backing::kSmall);
  ASSERT_TRUE(r.ok());
  ASSERT_TRUE(soft.permit(*r, {r->base, r->pages}, Access::kReadWrite).ok());
  // One block in sixteen, and the whole extrapolated: the test is about bytes a block.
  constexpr std::uint64_t kSample = 16;
  std::uint64_t touched = 0;
  for (std::uint64_t i = 0; i < pages.value(); ++i) {
    if (i / kPagesPerBlock % kSample != 0) {
      i += kPagesPerBlock - 1;
      continue;
    }
    if (i % kTouchEvery != 0) continue;
    const Vpn v = r->base + PageCount(i);
    ASSERT_TRUE(soft.install_zeros(*r, {v, PageCount(1)}).complete());
    ASSERT_EQ(soft.store_uniform(v, i + 1), Touch::kDone);
    ++touched;
  }
  EXPECT_EQ(soft.populated_pages().value(), touched);
  const std::uint64_t whole = (resident_bytes() - before) * kSample;
#if !defined(__SANITIZE_THREAD__) && !defined(__SANITIZE_ADDRESS__)
  EXPECT_LT(whole, std::uint64_t{3} << 30);
#endif
  (void)whole;
  std::uint64_t word = 0;
  const Vpn last = r->base + PageCount(16 * 512 * 11);
  EXPECT_EQ(soft.load(last.address(), &word, sizeof word), Touch::kDone);
  EXPECT_EQ(word, 16U * 512 * 11 + 1);
}

}  // namespace
}  // namespace buoy::mmu
