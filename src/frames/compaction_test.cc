// Compaction: emptied blocks, runs made for who needs one, hints, deferral, bounds, types.
#include "frames/compaction.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <optional>
#include <random>
#include <vector>

#include "frames/arena.h"
#include "frames/movable_owner_testing.h"

namespace buoy::frames {
namespace {

constexpr std::uint32_t kBlock = kPagesPerBlock;

class CompactionTest : public testing::Test {
 protected:
  CompactionTest() { make(16); }
  ~CompactionTest() override { end(); }

  void make(unsigned blocks, unsigned reserve_blocks = 0) {
    end();
    budget_.set_limit(PageCount(blocks * kPagesPerBlock));
    arena_ = *Arena::create(
        budget_, counters_,
        ArenaOptions{blocks * kBlockSize, reserve_blocks * kBlockSize, Span::kFixed});
    owner_.emplace(*arena_, Callers::kEngine);
  }
  void end() {
    if (arena_ == nullptr) return;
    for (const Pfn p : stays_) arena_->release(p);
    stays_.clear();
    owner_.reset();
    arena_->trim();
    arena_->validate();
    EXPECT_EQ(budget_.used(), PageCount(0));
    Arena::destroy(arena_);
    arena_ = nullptr;
  }
  Pfn take(unsigned order, MigrateType type = MigrateType::kMovable,
           Compaction compaction = Compaction::kSync) {
    return arena_->try_allocate(
        {Order(order), type, FrameOwner::kDriver, Charge::kReclaim, compaction});
  }
  // Fills `blocks` blocks with single movable pages, and frees all but each page whose place in its
  // block is a multiple of `every`, with an offset of the block's own.
  void fill_and_thin(std::uint32_t blocks, std::uint32_t every) {
    std::vector<std::uint64_t> keys;
    for (std::uint64_t i = 0; i < std::uint64_t{blocks} * kBlock; ++i) {
      ASSERT_FALSE(owner_->add(next_key_).is_none());
      keys.push_back(next_key_++);
    }
    for (const std::uint64_t key : keys) {
      const Pfn at = owner_->at(key);
      if ((at.value() + at.block()) % every != 0) owner_->free(key);
    }
    arena_->drain_caches();
  }
  void check() {
    arena_->validate();
    EXPECT_EQ(arena_->stats().allocated.value(), owner_->frames() + stays_.size());
    EXPECT_TRUE(owner_->is_intact());
  }

  Budget budget_;
  Counters counters_;
  Arena* arena_ = nullptr;
  std::optional<MovableOwner> owner_;
  std::vector<Pfn> stays_;
  std::uint64_t next_key_ = 1;
};

TEST_F(CompactionTest, EmptiesSparseBlocksAndGivesThemBack) {
  fill_and_thin(16, 8);
  EXPECT_EQ(arena_->taken(), PageCount(16 * kBlock));
  const PageCount freed = arena_->compactor().compact(CompactionEffort::thorough(Callers::kUser));
  EXPECT_EQ(freed, PageCount(14 * kBlock));
  EXPECT_EQ(arena_->taken(), PageCount(2 * kBlock));
  EXPECT_EQ(budget_.used(), PageCount(2 * kBlock));
  EXPECT_LT(arena_->compactor().lost_frames(), PageCount(kBlock));
  // Each page moves once: no block is filled that is emptied later.
  EXPECT_LE(counters_.read(Event::pgmigrate_success), 14U * kBlock / 8);
  EXPECT_EQ(counters_.read(Event::balloon_inflate), 14U * kBlock);
  check();
  EXPECT_EQ(arena_->compactor().compact(CompactionEffort::thorough(Callers::kUser)), PageCount(0));
}

TEST_F(CompactionTest, WorkIsBounded) {
  fill_and_thin(16, 4);
  CompactionEffort effort;
  effort.most_moved = PageCount(100);
  for (unsigned steps = 1; steps < 100; ++steps) {
    const std::uint64_t before = counters_.read(Event::pgmigrate_success);
    (void)arena_->compactor().compact(effort);
    const std::uint64_t moved = counters_.read(Event::pgmigrate_success) - before;
    EXPECT_LE(moved, 100U);
    check();
    if (moved == 0) break;
  }
  EXPECT_EQ(arena_->taken(), PageCount(4 * kBlock));
}

TEST_F(CompactionTest, OnePageThatStaysKeepsItsBlockOnly) {
  fill_and_thin(8, 8);
  const Pfn stays = owner_->pages().begin()->second;
  arena_->clear_movable(stays);
  (void)arena_->compactor().compact(CompactionEffort::thorough(Callers::kUser));
  EXPECT_EQ(owner_->pages().begin()->second, stays);
  EXPECT_LE(arena_->taken(), PageCount(2 * kBlock));
  check();
}

TEST_F(CompactionTest, AnOwnerThatFailsForeverEndsIt) {
  fill_and_thin(8, 8);
  for (const bool fails : {true, false}) {
    owner_->fails = fails;
    owner_->agains = fails ? 0 : 1'000'000'000;
    owner_->migrates = 0;
    EXPECT_EQ(arena_->compactor().compact(CompactionEffort{}), PageCount(0));
    EXPECT_EQ(arena_->compactor().compact(CompactionEffort::thorough(Callers::kUser)),
              PageCount(0));
    EXPECT_LT(owner_->migrates, 200'000U);
    EXPECT_EQ(owner_->put_backs > 0, true);
    check();
  }
  owner_->agains = 0;
  EXPECT_EQ(arena_->compactor().compact(CompactionEffort::thorough(Callers::kUser)),
            PageCount(7 * kBlock));
}

TEST_F(CompactionTest, MakesARunOfEachOrderWhenAllIsMovable) {
  for (unsigned order = 1; order <= kMaxOrder; ++order) {
    make(16);
    fill_and_thin(16, 2);
    const Pfn run = take(order);
    ASSERT_FALSE(run.is_none()) << order;
    EXPECT_EQ(run.value() % (1U << order), 0U);
    EXPECT_EQ(arena_->page(run).load().order(), Order(order));
    EXPECT_EQ(arena_->taken(), PageCount(16 * kBlock));
    EXPECT_EQ(counters_.read(Event::compact_success), order);
    EXPECT_TRUE(owner_->is_intact());
    arena_->release(run);
    check();
  }
}

TEST_F(CompactionTest, NoRunWhereNothingMoves) {
  fill_and_thin(16, 2);
  for (const auto& [key, page] : owner_->pages()) arena_->clear_movable(page);
  EXPECT_TRUE(take(3).is_none());
  EXPECT_TRUE(take(9).is_none());
  EXPECT_EQ(counters_.read(Event::compact_fail), 2U);
  EXPECT_EQ(counters_.read(Event::pgmigrate_success), 0U);
  check();
}

TEST_F(CompactionTest, WhatFailsIsDeferredForThoseWhoMayNotWait) {
  fill_and_thin(16, 2);
  owner_->fails = true;
  for (unsigned i = 0; i < 256; ++i)
    EXPECT_TRUE(take(4, MigrateType::kMovable, Compaction::kAsync).is_none());
  const std::uint64_t tried = counters_.read(Event::compact_stall);
  EXPECT_GE(tried, 3U);
  EXPECT_LE(tried, 16U);
  owner_->fails = false;
  const Pfn run = take(4, MigrateType::kMovable, Compaction::kSync);
  EXPECT_FALSE(run.is_none());
  arena_->release(run);
  // A success ends the deferral.
  const Pfn other = take(4, MigrateType::kMovable, Compaction::kAsync);
  EXPECT_FALSE(other.is_none());
  arena_->release(other);
}

TEST_F(CompactionTest, UnmovablePagesStayTogether) {
  fill_and_thin(16, 2);
  for (unsigned i = 0; i < 300; ++i) {
    const Pfn page = take(0, MigrateType::kUnmovable);
    ASSERT_FALSE(page.is_none());
    stays_.push_back(page);
  }
  std::vector<bool> has(16);
  for (const Pfn p : stays_) has[p.block()] = true;
  EXPECT_EQ(std::count(has.begin(), has.end(), true), 1);
  check();
}

TEST_F(CompactionTest, PagesOfManyOrdersMoveToo) {
  std::mt19937_64 random(3);
  std::vector<std::uint64_t> keys;
  for (;;) {
    const unsigned order = random() % 4 == 0 ? 1 + random() % 4 : 0;
    if (owner_->add(next_key_, order).is_none()) break;
    keys.push_back(next_key_++);
  }
  for (const std::uint64_t key : keys)
    if (random() % 4 != 0) owner_->free(key);
  const std::uint64_t used = owner_->frames();
  (void)arena_->compactor().compact(CompactionEffort::thorough(Callers::kUser));
  check();
  EXPECT_LE(arena_->taken().value(), used + 2 * kBlock);
}

TEST_F(CompactionTest, TheBackgroundStepsInUntilLittleIsLostAndBacksOff) {
  make(64);
  fill_and_thin(60, 6);
  EXPECT_GT(arena_->compactor().fragmentation_score(Order(9)), 50U);
  unsigned steps = 0;
  for (; steps < 1000 && arena_->compactor().lost_frames() > PageCount(64 * kBlock * 3 / 100);
       ++steps) {
    const std::uint64_t before = counters_.read(Event::pgmigrate_success);
    (void)arena_->compactor().background_step();
    EXPECT_LE(counters_.read(Event::pgmigrate_success) - before, std::uint64_t{kBlock});
  }
  EXPECT_LT(steps, 100U);
  check();
  // In vain: asked less and less often.
  fill_and_thin(40, 6);
  owner_->fails = true;
  const std::uint64_t before = counters_.read(Event::compact_daemon_wake);
  for (unsigned i = 0; i < 256; ++i) (void)arena_->compactor().background_step();
  EXPECT_LE(counters_.read(Event::compact_daemon_wake) - before, 16U);
}

TEST_F(CompactionTest, HighOrdersSucceedAtNinetyPercentUse) {
  make(64);
  std::mt19937_64 random(11);
  // Churn at 90 %: single pages come and go until free memory is dust.
  std::vector<std::uint64_t> keys;
  const std::uint64_t most = 64 * kBlock * 9 / 10;
  for (unsigned step = 0; step < 200'000; ++step) {
    if (keys.size() < most) {
      if (!owner_->add(next_key_).is_none()) keys.push_back(next_key_++);
    } else {
      for (unsigned i = 0; i < 200; ++i) {
        std::uint64_t& key = keys[random() % keys.size()];
        owner_->free(key);
        key = keys.back();
        keys.pop_back();
      }
    }
  }
  while (keys.size() < most) {
    ASSERT_FALSE(owner_->add(next_key_).is_none());
    keys.push_back(next_key_++);
  }
  arena_->drain_caches();
  for (const unsigned order : {3U, 4U, 9U}) {
    std::vector<Pfn> runs;
    const unsigned wanted = order == 9 ? 3 : 100;
    for (unsigned i = 0; i < wanted; ++i) {
      const Pfn run = take(order);
      if (!run.is_none()) runs.push_back(run);
    }
    EXPECT_EQ(runs.size(), wanted) << order;
    for (const Pfn run : runs) arena_->release(run);
    EXPECT_TRUE(owner_->is_intact());
  }
  check();
}

TEST_F(CompactionTest, MovablePagesFillTheReserveAndOthersKeepOut) {
  make(16, 4);
  for (std::uint32_t i = 0; i < 4 * kBlock; ++i) {
    const Pfn page = owner_->add(next_key_++);
    ASSERT_FALSE(page.is_none());
    EXPECT_LT(page.block(), 4U);
  }
  const Pfn after = owner_->add(next_key_++);
  EXPECT_GE(after.block(), 4U);
  for (Pfn p = take(0, MigrateType::kUnmovable, Compaction::kAsync); !p.is_none();
       p = take(0, MigrateType::kUnmovable, Compaction::kAsync)) {
    EXPECT_GE(p.block(), 4U);
    stays_.push_back(p);
  }
  EXPECT_GT(stays_.size(), 10U * kBlock);
  check();
}

}  // namespace
}  // namespace buoy::frames
