// The balloon: exact charges, memory that really goes, pages that move, frames that come back.
#include "frames/balloon.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mman.h>

#include <cstring>
#include <optional>
#include <random>
#include <vector>

#include "frames/arena.h"
#include "frames/movable_owner_testing.h"

namespace buoy::frames {
namespace {

constexpr std::uint32_t kBlock = kPagesPerBlock;

class BalloonTest : public testing::Test {
 protected:
  BalloonTest() {
    stay_on_this_cpu();
    budget_.set_limit(PageCount(16 * kBlock));
    arena_ = *Arena::create(budget_, counters_, ArenaOptions{16 * kBlockSize, 0, Span::kFixed});
    owner_.emplace(*arena_, Callers::kEngine);
  }
  ~BalloonTest() override {
    owner_.reset();
    (void)arena_->balloon().deflate(PageCount(UINT64_MAX), Charge::kReclaim);
    arena_->trim();
    EXPECT_EQ(budget_.used(), PageCount(0));
    Arena::destroy(arena_);
  }
  // Frames come from the caches of a CPU: on two of them the same pages need a block more.
  static void stay_on_this_cpu() {
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(sched_getcpu(), &one);
    EXPECT_EQ(sched_setaffinity(0, sizeof one, &one), 0);
  }
  // Blocks with every `every`th page in use, by pages that stay.
  void fill_thinly(std::uint32_t blocks, std::uint32_t every) {
    std::vector<std::uint64_t> keys;
    for (std::uint64_t i = 0; i < std::uint64_t{blocks} * kBlock; ++i) {
      ASSERT_FALSE(owner_->add(next_key_).is_none());
      keys.push_back(next_key_++);
    }
    for (const std::uint64_t key : keys)
      if (owner_->at(key).value() % every != 0) owner_->free(key);
    for (const auto& [key, page] : owner_->pages()) arena_->clear_movable(page);
    arena_->drain_caches();
  }
  [[nodiscard]] std::uint64_t resident() const {
    std::vector<unsigned char> vec(std::size_t{arena_->block_span()} * kBlock);
    EXPECT_EQ(mincore(arena_->pointer(Pfn(0)), vec.size() * kPageSize, vec.data()), 0);
    std::uint64_t n = 0;
    for (const unsigned char v : vec) n += v & 1U;
    return n;
  }
  void check() {
    arena_->validate();
    EXPECT_EQ(budget_.used(), arena_->taken());
    EXPECT_LE(resident(), arena_->taken().value());
    EXPECT_EQ(arena_->stats().allocated, PageCount(owner_->frames()) + arena_->balloon().pages());
    EXPECT_TRUE(owner_->is_intact());
  }

  Budget budget_;
  Counters counters_;
  Arena* arena_ = nullptr;
  std::optional<MovableOwner> owner_;
  std::uint64_t next_key_ = 1;
};

TEST_F(BalloonTest, GivesBackWhatIsFreeInsideBlocks) {
  fill_thinly(8, 8);
  const std::uint64_t before = budget_.used().value();
  EXPECT_EQ(before, 8U * kBlock);
  const PageCount given = arena_->balloon().inflate(PageCount(1000));
  EXPECT_GE(given, PageCount(1000));
  EXPECT_LE(given, PageCount(1000 + 4));
  EXPECT_EQ(budget_.used().value(), before - given.value());
  EXPECT_EQ(counters_.read(Event::balloon_inflate), given.value());
  check();
  // All of it, but for what squeezing needs.
  (void)arena_->balloon().inflate(PageCount(UINT64_MAX));
  EXPECT_LE(budget_.used().value(), 8U * kBlock / 8 + 64 + 8);
  check();
  const PageCount all = arena_->balloon().pages();
  EXPECT_EQ(arena_->balloon().deflate(PageCount(UINT64_MAX), Charge::kOrdinary), all);
  EXPECT_EQ(budget_.used().value(), before);
  check();
}

TEST_F(BalloonTest, ComesBackOnlyAsTheBudgetHasRoom) {
  fill_thinly(8, 8);
  const PageCount given = arena_->balloon().inflate(PageCount(2000));
  const PageCount others = budget_.limit() - budget_.used() - budget_.reserve();
  ASSERT_TRUE(budget_.try_charge(others - PageCount(100)));
  EXPECT_LE(arena_->balloon().deflate(given, Charge::kOrdinary), PageCount(100));
  EXPECT_GT(arena_->balloon().deflate(given, Charge::kReclaim), PageCount(100));
  budget_.uncharge(others - PageCount(100));
  EXPECT_GT(arena_->balloon().deflate(given, Charge::kOrdinary), PageCount(0));
  EXPECT_EQ(arena_->balloon().pages(), PageCount(0));
  check();
}

TEST_F(BalloonTest, AnAllocationTakesItsFramesBeforeItIsRefused) {
  fill_thinly(16, 8);  // all the blocks that there are
  (void)arena_->balloon().inflate(PageCount(UINT64_MAX));
  const std::uint64_t in_use = owner_->frames();
  while (!owner_->add(next_key_).is_none()) ++next_key_;
  EXPECT_EQ(owner_->frames(), 16U * kBlock);
  EXPECT_EQ(arena_->balloon().pages(), PageCount(0));
  EXPECT_GT(counters_.read(Event::balloon_deflate), in_use);
  check();
}

TEST_F(BalloonTest, ItsPagesKeepNoBlockFromBeingEmptied) {
  fill_thinly(8, 8);
  (void)arena_->balloon().inflate(PageCount(8U * kBlock / 2));
  // From here on what is in use moves, too.
  for (const auto& [key, page] : owner_->pages())
    ASSERT_TRUE(arena_->try_set_movable(page, owner_->id()));
  const PageCount freed = arena_->compactor().compact(CompactionEffort::thorough(Callers::kUser));
  EXPECT_GE(freed, PageCount(kBlock));
  EXPECT_GT(counters_.read(Event::balloon_migrate), 0U);
  check();
}

TEST_F(BalloonTest, Model) {
  std::mt19937_64 random(9);
  for (unsigned step = 0; step < 8000; ++step) {
    const unsigned dice = random() % 100;
    if (dice < 50) {
      (void)owner_->add(next_key_++, random() % 8 == 0 ? random() % 4 : 0);
    } else if (dice < 88) {
      if (owner_->pages().empty()) continue;
      auto it = owner_->pages().lower_bound(random() % next_key_);
      if (it == owner_->pages().end()) it = owner_->pages().begin();
      owner_->free(it->first);
    } else if (dice < 93) {
      (void)arena_->balloon().inflate(PageCount(random() % 300));
    } else if (dice < 97) {
      (void)arena_->balloon().deflate(PageCount(random() % 300), Charge::kOrdinary);
    } else if (dice < 99) {
      (void)arena_->compactor().compact({});
    } else {
      ContiguousRequest request;
      request.count = PageCount(1 + random() % (2 * kBlock));
      const ContiguousResult r = arena_->contiguous().try_allocate(request);
      if (r.head.is_none()) continue;
      EXPECT_TRUE(arena_->contiguous().try_free(r.head));
    }
    if (step % 200 == 0) check();
  }
  EXPECT_GT(counters_.read(Event::balloon_migrate), 0U);
  check();
}

}  // namespace
}  // namespace buoy::frames
