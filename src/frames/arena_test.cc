// The arena: buddy rules, choice of pageblock, accounting, a random model, threads.
#include "frames/arena.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <map>
#include <random>
#include <thread>
#include <vector>

namespace buoy::frames {
namespace {

constexpr std::uint64_t kBlock = kPagesPerBlock;

class ArenaTest : public testing::Test {
 protected:
  ArenaTest() { make(64); }
  ~ArenaTest() override { Arena::destroy(arena_); }

  void make(unsigned blocks) {
    if (arena_ != nullptr) Arena::destroy(arena_);
    budget_.set_limit(PageCount(blocks * kBlock));
    arena_ = *Arena::create(budget_, counters_, blocks * kBlockSize);
  }
  Pfn take(unsigned order = 0, MigrateType type = MigrateType::kMovable,
           Charge charge = Charge::kReclaim) {
    return arena_->try_allocate({Order(order), type, FrameOwner::kDriver, charge});
  }
  void check(std::uint64_t allocated) {
    arena_->validate();
    const ArenaStats s = arena_->stats();
    EXPECT_EQ(s.allocated, PageCount(allocated));
    EXPECT_EQ(s.taken, s.allocated + s.cached + s.free);
    EXPECT_EQ(budget_.used(), s.taken);
  }

  Budget budget_;
  Counters counters_;
  Arena* arena_ = nullptr;
};

TEST_F(ArenaTest, TakesNothingBeforeItIsAsked) {
  EXPECT_EQ(arena_->taken(), PageCount(0));
  EXPECT_EQ(budget_.used(), PageCount(0));
  check(0);
}

TEST_F(ArenaTest, ZeroAndAbsurdSizesAreRefused) {
  EXPECT_EQ(Arena::create(budget_, counters_, 0).code(), EINVAL);
  EXPECT_EQ(Arena::create(budget_, counters_, ByteSize{1} << 50).code(), EINVAL);
}

TEST_F(ArenaTest, RunsAreNaturallyAlignedAndUsable) {
  std::vector<Pfn> runs;
  std::uint64_t frames = 0;
  for (unsigned order = 0; order <= kMaxOrder; ++order) {
    const Pfn head = take(order);
    ASSERT_FALSE(head.is_none());
    EXPECT_EQ(head.value() % (1U << order), 0U);
    EXPECT_EQ(arena_->pfn_of(arena_->pointer(head)), head);
    EXPECT_EQ(arena_->page(head).load().order(), Order(order));
    EXPECT_EQ(arena_->page(head).load().owner(), FrameOwner::kDriver);
    EXPECT_EQ(arena_->page(head).refs.load(), 1U);
    std::memset(arena_->pointer(head), static_cast<int>(order + 1), Order(order).pages().bytes());
    runs.push_back(head);
    frames += Order(order).pages().value();
  }
  check(frames);
  for (unsigned order = 0; order <= kMaxOrder; ++order) {
    const std::byte* p = arena_->pointer(runs[order]);
    const ByteSize size = Order(order).pages().bytes();
    EXPECT_EQ(p[0], std::byte(order + 1));
    EXPECT_EQ(p[size - 1], std::byte(order + 1));
    arena_->release(runs[order]);
  }
  arena_->trim();
  check(0);
  EXPECT_EQ(budget_.used(), PageCount(0));
}

TEST_F(ArenaTest, ReturnsAWholeBlockAndChargesItBySteps) {
  std::vector<Pfn> frames;
  for (std::uint64_t i = 0; i < 2 * kBlock + 1; ++i) frames.push_back(take());
  EXPECT_EQ(arena_->taken(), PageCount(3 * kBlock));
  for (const Pfn f : frames) arena_->release(f);
  // One free block is kept for the next allocation; what the caches hold keeps a second.
  EXPECT_LE(arena_->taken(), PageCount(3 * kBlock));
  arena_->drain_caches();
  check(0);
  arena_->trim(1);
  EXPECT_EQ(arena_->taken(), PageCount(kBlock));
  arena_->trim();
  EXPECT_EQ(arena_->taken(), PageCount(0));
}

TEST_F(ArenaTest, ReturnedBlocksReadZeroAgain) {
  const Pfn head = take(9);
  std::memset(arena_->pointer(head), 0x5a, kBlockSize);
  arena_->release(head);
  EXPECT_EQ(arena_->trim(), PageCount(kBlock));
  const Pfn again = take(9);
  EXPECT_EQ(again, head);
  for (std::size_t i = 0; i < kBlockSize; i += 997)
    ASSERT_EQ(arena_->pointer(again)[i], std::byte{0});
  arena_->release(again);
}

TEST_F(ArenaTest, AllocatesFromTheFullestBlockSoThatOthersEmpty) {
  std::vector<Pfn> frames;
  for (std::uint64_t i = 0; i < 4 * kBlock; ++i) frames.push_back(take());
  // Block 0 loses a tenth of its frames, block 1 nearly all of them.
  std::vector<Pfn> kept;
  for (const Pfn f : frames) {
    const unsigned in_block = f.value() % kBlock;
    const bool goes = (f.block() == 0 && in_block % 10 == 0) || (f.block() == 1 && in_block != 7);
    if (goes)
      arena_->release(f);
    else
      kept.push_back(f);
  }
  arena_->drain_caches();
  for (unsigned i = 0; i < 40; ++i) {
    const Pfn f = take();
    EXPECT_NE(f.block(), 1U);
    kept.push_back(f);
  }
  for (const Pfn f : kept) arena_->release(f);
}

TEST_F(ArenaTest, RefusesWhenTheBudgetDoes) {
  make(4);
  std::vector<Pfn> runs;
  for (Pfn f = take(9); !f.is_none(); f = take(9)) runs.push_back(f);
  EXPECT_EQ(runs.size(), 4U);
  EXPECT_TRUE(take(0).is_none());
  check(4 * kBlock);
  // Ordinary callers leave the budget's reserve alone.
  for (const Pfn f : runs) arena_->release(f);
  arena_->trim();
  runs.clear();
  for (Pfn f = take(9, MigrateType::kMovable, Charge::kOrdinary); !f.is_none();
       f = take(9, MigrateType::kMovable, Charge::kOrdinary))
    runs.push_back(f);
  EXPECT_EQ(runs.size(), 3U);  // a reserve of an eighth of 4 blocks: half a block
  for (const Pfn f : runs) arena_->release(f);
}

TEST_F(ArenaTest, LastFramesAreForReclaim) {
  make(2);
  std::vector<Pfn> frames;
  const auto ordinary = [&] { return take(0, MigrateType::kMovable, Charge::kOrdinary); };
  for (Pfn f = ordinary(); !f.is_none(); f = ordinary()) frames.push_back(f);
  const std::uint64_t got = frames.size();
  EXPECT_LE(got + arena_->watermarks().min.value(), kBlock);
  for (Pfn f = take(); !f.is_none(); f = take()) frames.push_back(f);
  EXPECT_EQ(frames.size(), 2 * kBlock);
  for (const Pfn f : frames) arena_->release(f);
}

TEST_F(ArenaTest, TypesKeepTheirBlocksApartAndStealWhenTheyMust) {
  const Pfn movable = take(0, MigrateType::kMovable);
  const Pfn unmovable = take(0, MigrateType::kUnmovable);
  EXPECT_NE(movable.block(), unmovable.block());
  // No more blocks: a movable run comes out of what the unmovable left, and back.
  ASSERT_TRUE(budget_.try_charge(budget_.free(), Charge::kReclaim));
  std::vector<Pfn> frames;
  for (Pfn f = take(); !f.is_none(); f = take()) frames.push_back(f);
  EXPECT_EQ(frames.size(), 2 * kBlock - 2);
  arena_->validate();
  for (const Pfn f : frames) arena_->release(f);
  arena_->release(movable);
  arena_->release(unmovable);
  budget_.uncharge(budget_.used() - arena_->taken());
  arena_->trim();
  check(0);
}

TEST_F(ArenaTest, FramesOfARequestAreNeighboursInAFreshBlock) {
  Pfn frames[8];
  const FrameRequest request{Order(0), MigrateType::kMovable, FrameOwner::kZpool, Charge::kReclaim};
  ASSERT_TRUE(arena_->try_allocate_frames(request, frames, 8));
  for (unsigned i = 1; i < 8; ++i) EXPECT_EQ(frames[i].value(), frames[0].value() + i);
  arena_->release_frames(frames, 8);
}

TEST_F(ArenaTest, FramesOfARequestAreAllOrNone) {
  make(2);
  std::vector<Pfn> frames;
  for (Pfn f = take(); !f.is_none(); f = take()) frames.push_back(f);
  for (unsigned i = 0; i < 5; ++i) {
    arena_->release(frames.back());
    frames.pop_back();
  }
  Pfn more[8];
  const FrameRequest request{Order(0), MigrateType::kMovable, FrameOwner::kZpool, Charge::kReclaim};
  EXPECT_FALSE(arena_->try_allocate_frames(request, more, 8));
  check(frames.size());
  EXPECT_TRUE(arena_->try_allocate_frames(request, more, 5));
  arena_->release_frames(more, 5);
  for (const Pfn f : frames) arena_->release(f);
}

TEST_F(ArenaTest, MetadataIsUnderOnePercent) {
  std::vector<Pfn> runs;
  for (Pfn f = take(9); !f.is_none(); f = take(9)) runs.push_back(f);
  EXPECT_LT(arena_->metadata_bytes() * 100, arena_->taken().bytes());
  for (const Pfn f : runs) arena_->release(f);
}

// Random sequences against a map of what is ours; the frames carry stamps.
TEST_F(ArenaTest, Model) {
  for (std::uint64_t seed = 1; seed <= 4; ++seed) {
    make(24);
    std::mt19937_64 random(seed);
    struct Run {
      Pfn head;
      unsigned order;
      std::uint64_t stamp;
    };
    std::vector<Run> runs;
    std::uint64_t allocated = 0;
    PageCount withheld;
    for (unsigned step = 0; step < 30000; ++step) {
      const unsigned dice = random() % 100;
      if (dice < 50) {
        const unsigned order = random() % 4 == 0 ? random() % (kMaxOrder + 1) : random() % 2;
        const Pfn head =
            take(order, random() % 3 == 0 ? MigrateType::kUnmovable : MigrateType::kMovable,
                 random() % 2 == 0 ? Charge::kOrdinary : Charge::kReclaim);
        if (head.is_none()) continue;
        const std::uint64_t stamp = random();
        std::byte* last = arena_->pointer(head) + Order(order).pages().bytes() - sizeof stamp;
        std::memcpy(arena_->pointer(head), &stamp, sizeof stamp);
        std::memcpy(last, &stamp, sizeof stamp);
        runs.push_back({head, order, stamp});
        allocated += Order(order).pages().value();
      } else if (dice < 97) {
        if (runs.empty()) continue;
        Run& r = runs[random() % runs.size()];
        std::uint64_t first = 0;
        std::uint64_t last = 0;
        std::memcpy(&first, arena_->pointer(r.head), sizeof first);
        std::memcpy(&last, arena_->pointer(r.head) + Order(r.order).pages().bytes() - sizeof last,
                    sizeof last);
        ASSERT_TRUE(first == r.stamp && (last == r.stamp || r.order == 0)) << "seed " << seed;
        arena_->release(r.head);
        allocated -= Order(r.order).pages().value();
        r = runs.back();
        runs.pop_back();
      } else if (dice < 98) {
        arena_->trim();
      } else if (withheld.is_zero()) {
        withheld = budget_.free();
        ASSERT_TRUE(budget_.try_charge(withheld, Charge::kReclaim));
      } else {
        budget_.uncharge(withheld);
        withheld = {};
      }
      if (step % 1000 == 0) {
        arena_->validate();
        ASSERT_EQ(arena_->stats().allocated, PageCount(allocated));
        ASSERT_EQ(budget_.used(), arena_->taken() + withheld);
      }
    }
    budget_.uncharge(withheld);
    for (const Run& r : runs) arena_->release(r.head);
    arena_->trim();
    check(0);
    ASSERT_EQ(budget_.used(), PageCount(0));
  }
}

TEST_F(ArenaTest, Stress) {
  make(16);
  std::atomic<unsigned> wrong{0};
  const auto worker = [&](unsigned id) {
    std::mt19937_64 random(id);
    std::vector<std::pair<Pfn, std::uint64_t>> mine;
    for (unsigned step = 0; step < 60000; ++step) {
      if (random() % 2 == 0 && mine.size() < 1500) {
        const unsigned order = random() % 8 == 0 ? random() % 5 : 0;
        const Pfn head = take(order, id % 2 == 0 ? MigrateType::kMovable : MigrateType::kUnmovable);
        if (head.is_none()) continue;
        const std::uint64_t stamp = std::uint64_t{id} << 32 | step;
        std::memcpy(arena_->pointer(head), &stamp, sizeof stamp);
        mine.emplace_back(head, stamp);
      } else if (!mine.empty()) {
        auto& slot = mine[random() % mine.size()];
        std::uint64_t stamp = 0;
        std::memcpy(&stamp, arena_->pointer(slot.first), sizeof stamp);
        if (stamp != slot.second) wrong.fetch_add(1);
        arena_->release(slot.first);
        slot = mine.back();
        mine.pop_back();
      }
      if (step % 5000 == 0) arena_->trim();
      if (budget_.used() > budget_.limit()) wrong.fetch_add(1);
    }
    for (const auto& [head, stamp] : mine) arena_->release(head);
  };
  std::vector<std::thread> threads;
  for (unsigned id = 1; id <= 4; ++id) threads.emplace_back(worker, id);
  for (std::thread& t : threads) t.join();
  EXPECT_EQ(wrong.load(), 0U);
  check(0);
}

using ArenaDeathTest = ArenaTest;

TEST_F(ArenaDeathTest, ASecondReleaseIsFatal) {
  testing::FLAGS_gtest_death_test_style = "fast";
  const Pfn run = take(3);
  arena_->release(run);
  EXPECT_DEATH(arena_->release(run), "released twice");
}

}  // namespace
}  // namespace buoy::frames
