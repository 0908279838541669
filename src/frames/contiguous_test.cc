// Contiguous ranges: every length, exact accounting, what is in the way, the reserve, bad frees.
#include "frames/contiguous.h"

#include <gtest/gtest.h>

#include <cstring>
#include <optional>
#include <random>
#include <vector>

#include "frames/arena.h"
#include "frames/movable_owner_testing.h"

namespace buoy::frames {
namespace {

constexpr std::uint32_t kBlock = kPagesPerBlock;

class ContiguousTest : public testing::Test {
 protected:
  ContiguousTest() { make(16); }
  ~ContiguousTest() override { end(); }

  void make(unsigned blocks, unsigned reserve_blocks = 0, Span span = Span::kFixed) {
    end();
    budget_.set_limit(PageCount(blocks * kPagesPerBlock));
    arena_ = *Arena::create(budget_, counters_,
                            ArenaOptions{blocks * kBlockSize, reserve_blocks * kBlockSize, span});
    owner_.emplace(*arena_, Callers::kUser);
  }
  void end() {
    if (arena_ == nullptr) return;
    owner_.reset();
    arena_->trim();
    arena_->validate();
    EXPECT_EQ(arena_->contiguous().frames(), PageCount(0));
    EXPECT_EQ(budget_.used(), PageCount(0));
    Arena::destroy(arena_);
    arena_ = nullptr;
  }
  ContiguousResult allocate(std::uint64_t frames, Area area = Area::kGeneral) {
    ContiguousRequest request;
    request.count = PageCount(frames);
    request.area = area;
    const ContiguousResult r = arena_->contiguous().try_allocate(request);
    EXPECT_EQ(r.head.is_none(), r.refusal != Refusal::kNone);
    return r;
  }
  void release(Pfn head) { EXPECT_TRUE(arena_->contiguous().try_free(head)); }
  // Single movable pages, so many; then every `every`th is left.
  void fill(std::uint64_t pages, std::uint64_t every = 1) {
    std::vector<std::uint64_t> keys;
    for (std::uint64_t i = 0; i < pages && !owner_->add(next_key_).is_none(); ++i)
      keys.push_back(next_key_++);
    for (std::size_t i = 0; i < keys.size(); ++i)
      if (i % every != 0) owner_->free(keys[i]);
    arena_->drain_caches();
  }
  void check() {
    arena_->validate();
    EXPECT_EQ(arena_->stats().allocated,
              PageCount(owner_->frames()) + arena_->contiguous().frames());
    EXPECT_TRUE(owner_->is_intact());
  }
  void write_all(Pfn head, std::uint64_t frames, int value) {
    std::memset(arena_->pointer(head), value, frames * kPageSize);
  }
  [[nodiscard]] bool holds(Pfn head, std::uint64_t frames, int value) const {
    const std::byte* p = arena_->pointer(head);
    for (std::size_t i = 0; i < frames * kPageSize; i += 509)
      if (p[i] != static_cast<std::byte>(value)) return false;
    return true;
  }

  Budget budget_;
  Counters counters_;
  Arena* arena_ = nullptr;
  std::optional<MovableOwner> owner_;
  std::uint64_t next_key_ = 1;
};

TEST_F(ContiguousTest, EveryLengthIsExactAndItsOwn) {
  make(64);
  std::vector<std::pair<Pfn, std::uint64_t>> ranges;
  for (const std::uint64_t n :
       {1, 2, 3, 7, 64, 255, 256, 257, 300, 511, 512, 513, 1000, 1024, 1025, 5 * 512 + 1}) {
    const ContiguousResult r = allocate(n);
    ASSERT_FALSE(r.head.is_none()) << n;
    if (n > kBlock / 2) {
      EXPECT_EQ(r.head.value() % kBlock, 0U);
    }
    ranges.emplace_back(r.head, n);
    write_all(r.head, n, static_cast<int>(ranges.size()));
    check();
  }
  std::uint64_t all = 0;
  for (std::size_t i = 0; i < ranges.size(); ++i) {
    EXPECT_TRUE(holds(ranges[i].first, ranges[i].second, static_cast<int>(i + 1)));
    all += ranges[i].second;
  }
  EXPECT_EQ(arena_->contiguous().frames(), PageCount(all));
  for (const auto& [head, n] : ranges) {
    release(head);
    EXPECT_FALSE(arena_->contiguous().try_free(head)) << "twice";
    check();
  }
}

TEST_F(ContiguousTest, OnlyTheStartOfALiveRangeIsFreed) {
  const Pfn range = allocate(700).head;
  const Pfn page = owner_->add(next_key_++);
  EXPECT_FALSE(arena_->contiguous().try_free(range + PageCount(1)));
  EXPECT_FALSE(arena_->contiguous().try_free(range + PageCount(512)));  // a piece of it
  EXPECT_FALSE(arena_->contiguous().try_free(page));
  EXPECT_FALSE(arena_->contiguous().try_free(Pfn(12 * kBlock)));
  check();
  release(range);
}

TEST_F(ContiguousTest, TheWholeArenaIfNobodyHasAnyOfIt) {
  budget_.set_limit(PageCount(24 * kBlock));
  const ContiguousResult r = allocate(16 * kBlock);
  ASSERT_FALSE(r.head.is_none());
  EXPECT_EQ(arena_->taken(), PageCount(16 * kBlock));
  EXPECT_EQ(allocate(1).refusal, Refusal::kBudget);
  release(r.head);
  EXPECT_EQ(allocate(16 * kBlock + 1).refusal, Refusal::kNoPlace);
}

TEST_F(ContiguousTest, WhatCanMoveMakesRoom) {
  fill(16 * kBlock, 4);
  EXPECT_EQ(arena_->taken(), PageCount(16 * kBlock));
  const ContiguousResult r = allocate(6 * kBlock);
  ASSERT_FALSE(r.head.is_none());
  EXPECT_GT(counters_.read(Event::pgmigrate_success), 0U);
  write_all(r.head, 6 * kBlock, 0x5a);
  check();
  release(r.head);
  check();
}

TEST_F(ContiguousTest, APageThatStaysIsNamedAndWalkedAround) {
  fill(16 * kBlock, 4);
  const Pfn low = owner_->pages().begin()->second;
  std::vector<Pfn> stay;
  for (const auto& [key, page] : owner_->pages()) {
    if (stay.empty() || page.block() >= stay.back().block() + 4) {
      arena_->clear_movable(page);
      stay.push_back(page);
    }
  }
  EXPECT_EQ(stay.front(), low);
  ASSERT_EQ(stay.size(), 4U);  // blocks 0, 4, 8, 12
  const ContiguousResult fits = allocate(3 * kBlock);
  ASSERT_FALSE(fits.head.is_none());
  const ContiguousResult refused = allocate(4 * kBlock);
  EXPECT_EQ(refused.refusal, Refusal::kInTheWay);
  EXPECT_FALSE(refused.in_the_way.is_none());
  check();
  release(fits.head);
}

TEST_F(ContiguousTest, AnOwnerThatKeepsItsPagesIsInTheWayToo) {
  fill(16 * kBlock, 4);
  owner_->keeps = true;
  const ContiguousResult refused = allocate(2 * kBlock);
  EXPECT_EQ(refused.refusal, Refusal::kInTheWay);
  EXPECT_TRUE(arena_->page(refused.in_the_way).load().has(PageFlag::kMovable));
  check();
  owner_->keeps = false;
  owner_->agains = 1'000'000;
  EXPECT_EQ(allocate(2 * kBlock).refusal, Refusal::kInTheWay);
  owner_->agains = 0;
  check();
  release(allocate(2 * kBlock).head);
}

TEST_F(ContiguousTest, TheBudgetIsNamedAndWhatTheCallerChargedIsUsed) {
  make(16, 0, Span::kGenerous);
  // All but four blocks are somebody else's; an ordinary charge leaves the reclaim reserve alone.
  ASSERT_TRUE(budget_.try_charge(PageCount(12 * kBlock), Charge::kReclaim));
  const ContiguousResult refused = allocate(4 * kBlock);
  EXPECT_EQ(refused.refusal, Refusal::kBudget);
  EXPECT_GT(refused.short_of, PageCount(0));
  EXPECT_EQ(budget_.used(), PageCount(12 * kBlock) + arena_->taken());
  arena_->trim();
  ASSERT_TRUE(budget_.try_charge(PageCount(4 * kBlock), Charge::kReclaim));
  ContiguousRequest request;
  request.count = PageCount(4 * kBlock);
  request.charged = PageCount(4 * kBlock);
  const ContiguousResult served = arena_->contiguous().try_allocate(request);
  ASSERT_FALSE(served.head.is_none());
  EXPECT_EQ(served.consumed, PageCount(4 * kBlock));
  EXPECT_EQ(budget_.used(), PageCount(16 * kBlock));
  release(served.head);
  arena_->trim();
  budget_.uncharge(PageCount(12 * kBlock));
}

TEST_F(ContiguousTest, TheReserveIsLentAndTakenBack) {
  make(24, 8);
  fill(8 * kBlock);
  std::uint64_t lent = 0;
  for (const auto& [key, page] : owner_->pages()) lent += page.block() < 8 ? 1 : 0;
  EXPECT_GE(lent * 100, 8 * kBlock * 95);
  for (const std::uint64_t n : {4 * kBlock, 2 * kBlock, kBlock, kBlock / 2, kBlock / 2 - 7}) {
    const ContiguousResult r = allocate(n, Area::kReserve);
    ASSERT_FALSE(r.head.is_none()) << n;
    EXPECT_LE((r.head + PageCount(n - 1)).block(), 7U);
    write_all(r.head, n, 0x77);
    check();
    release(r.head);
  }
  const ContiguousResult all = allocate(8 * kBlock, Area::kReserve);
  ASSERT_FALSE(all.head.is_none());
  EXPECT_EQ(allocate(1, Area::kReserve).refusal, Refusal::kInTheWay);
  EXPECT_EQ(allocate(8 * kBlock + 1, Area::kReserve).refusal, Refusal::kNoPlace);
  release(all.head);
  // Somebody holds one page of it: that is who is in the way.
  fill(8 * kBlock);
  Pfn held = Pfn::none();
  for (const auto& [key, page] : owner_->pages())
    if (page.block() == 3) held = page;
  ASSERT_FALSE(held.is_none());
  arena_->clear_movable(held);
  const ContiguousResult refused = allocate(8 * kBlock, Area::kReserve);
  EXPECT_EQ(refused.refusal, Refusal::kInTheWay);
  EXPECT_EQ(refused.in_the_way, held);
  release(allocate(4 * kBlock, Area::kReserve).head);
}

TEST_F(ContiguousTest, AnIdleReserveCostsNothing) {
  make(24, 8);
  const Pfn page = arena_->try_allocate(
      {Order(0), MigrateType::kUnmovable, FrameOwner::kDriver, Charge::kReclaim});
  EXPECT_EQ(arena_->taken(), PageCount(kBlock));
  EXPECT_GE(page.block(), 8U);
  const ContiguousResult r = allocate(3 * kBlock, Area::kReserve);
  EXPECT_EQ(arena_->taken(), PageCount(4 * kBlock));
  release(r.head);
  arena_->trim();
  EXPECT_EQ(arena_->taken(), PageCount(kBlock));
  arena_->release(page);
}

TEST_F(ContiguousTest, Model) {
  for (std::uint64_t seed = 1; seed <= 3; ++seed) {
    make(24, seed == 2 ? 6 : 0, seed == 3 ? Span::kGenerous : Span::kFixed);
    std::mt19937_64 random(seed);
    struct Range {
      Pfn head;
      std::uint64_t frames;
      int value;
    };
    std::vector<Range> ranges;
    unsigned served = 0;
    for (unsigned step = 0; step < 6000; ++step) {
      owner_->agains = random() % 8 == 0 ? random() % 4 : 0;
      owner_->fails = random() % 32 == 0;
      const unsigned dice = random() % 100;
      if (dice < 45) {
        (void)owner_->add(next_key_++, random() % 8 == 0 ? random() % 4 : 0);
      } else if (dice < 85) {
        if (owner_->pages().empty()) continue;
        auto it = owner_->pages().lower_bound(random() % next_key_);
        if (it == owner_->pages().end()) it = owner_->pages().begin();
        owner_->free(it->first);
      } else if (dice < 92) {
        const std::uint64_t n = 1 + random() % (random() % 3 == 0 ? 3 * kBlock : 40);
        const ContiguousResult r = allocate(n, random() % 2 == 0 ? Area::kReserve : Area::kGeneral);
        if (r.head.is_none()) continue;
        ++served;
        ranges.push_back({r.head, n, static_cast<int>(random() % 256)});
        write_all(r.head, n, ranges.back().value);
      } else if (dice < 98) {
        if (ranges.empty()) continue;
        Range& r = ranges[random() % ranges.size()];
        ASSERT_TRUE(holds(r.head, r.frames, r.value)) << "seed " << seed << " step " << step;
        release(r.head);
        r = ranges.back();
        ranges.pop_back();
      } else if (dice < 99) {
        (void)arena_->compactor().compact(CompactionEffort::thorough(Callers::kUser));
      } else {
        arena_->trim();
      }
      if (step % 200 == 0) check();
    }
    EXPECT_GT(served, 100U);
    check();
    for (const Range& r : ranges) release(r.head);
  }
}

}  // namespace
}  // namespace buoy::frames
