// The zpool: size classes, packing, moves under owners, exact counts, a random model, threads.
#include "zpool/zpool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

namespace buoy::zpool {
namespace {

using Bytes = std::vector<std::byte>;

Bytes make_bytes(unsigned length, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  Bytes bytes(length);
  for (std::byte& b : bytes) b = static_cast<std::byte>(random());
  return bytes;
}

class ZpoolTest : public testing::Test {
 protected:
  ZpoolTest() { make(64); }
  ~ZpoolTest() override {
    Zpool::destroy(pool_);
    arena_->trim();
    EXPECT_EQ(budget_.used(), PageCount(0));
    frames::Arena::destroy(arena_);
  }

  void make(unsigned blocks) {
    if (pool_ != nullptr) {
      Zpool::destroy(pool_);
      frames::Arena::destroy(arena_);
    }
    budget_.set_limit(PageCount(blocks * kPagesPerBlock));
    arena_ = *frames::Arena::create(budget_, counters_, blocks * kBlockSize);
    pool_ = *Zpool::create(*arena_);
  }
  Handle put(const Bytes& bytes) {
    Handle h;
    EXPECT_EQ(pool_->put(bytes.data(), static_cast<unsigned>(bytes.size()), &h), PutOutcome::kPut);
    return h;
  }
  Bytes get(Handle h) {
    const Zpool::Pinned object = pool_->pin(h);
    Bytes bytes(object.length());
    object.copy_out(bytes.data());
    if (const std::byte* p = object.in_place(); p != nullptr) {
      EXPECT_EQ(std::memcmp(p, bytes.data(), bytes.size()), 0);
    }
    return bytes;
  }
  void validate() {
    pool_->validate();
    arena_->validate();
    EXPECT_EQ(arena_->stats().allocated, pool_->frames());
  }

  Budget budget_;
  Counters counters_;
  frames::Arena* arena_ = nullptr;
  Zpool* pool_ = nullptr;
};

// ---------------------------------------------------------------- size classes

TEST(SizeClassTest, EveryLengthHasASlotAndWastesLittle) {
  for (unsigned length = 1; length <= kPageSize; ++length) {
    const SizeClass& c = kSizeClasses.at(kSizeClasses.index_for(length));
    if (c.is_whole_frame()) {
      EXPECT_GT(length, kSizeClasses.longest_packed());
      continue;
    }
    ASSERT_GE(c.slot_bytes, length + kHeaderBytes);
    ASSERT_LE(unsigned{c.objects} * c.slot_bytes, c.frames * kPageSize);
    // What an object costs, chain and all: never more than 11 % and a step above its size.
    const double cost = static_cast<double>(c.frames * kPageSize) / c.objects;
    ASSERT_LE(cost, (length + kHeaderBytes + kClassStep) * 1.11 + kClassStep) << length;
    ASSERT_LE(cost, static_cast<double>(kPageSize));
  }
}

TEST(SizeClassTest, MergedClassesDifferInPacking) {
  for (unsigned i = 1; i < kSizeClasses.count(); ++i) {
    const SizeClass& a = kSizeClasses.at(i - 1);
    const SizeClass& b = kSizeClasses.at(i);
    EXPECT_GT(a.slot_bytes, b.slot_bytes);
    EXPECT_FALSE(a.objects == b.objects && a.frames == b.frames);
  }
}

// ---------------------------------------------------------------- objects

TEST_F(ZpoolTest, GivesBackEveryLength) {
  std::vector<std::pair<Handle, unsigned>> live;
  ByteSize total = 0;
  for (unsigned length = 1; length <= kPageSize; length += 3) {
    live.emplace_back(put(make_bytes(length, length)), length);
    total += length;
  }
  validate();
  EXPECT_EQ(pool_->stats().object_bytes, total);
  EXPECT_EQ(pool_->stats().objects, live.size());
  for (const auto& [h, length] : live) ASSERT_EQ(get(h), make_bytes(length, length));
  for (const auto& [h, length] : live) pool_->free(h);
  validate();
  EXPECT_EQ(pool_->stats().frames, PageCount(0));
}

TEST_F(ZpoolTest, ObjectsCrossFramesThatAreNotNeighbours) {
  // Every second frame of two blocks is somebody else's: no chain has neighbours.
  std::vector<Pfn> all;
  const frames::FrameRequest request{Order(0), frames::MigrateType::kMovable,
                                     frames::FrameOwner::kDriver, Charge::kReclaim};
  for (unsigned i = 0; i < 2 * kPagesPerBlock; ++i) all.push_back(arena_->try_allocate(request));
  std::vector<Pfn> kept;
  for (const Pfn f : all) {
    if (f.value() % 2 == 0)
      arena_->release(f);
    else
      kept.push_back(f);
  }
  ASSERT_TRUE(budget_.try_charge(budget_.free(), Charge::kReclaim));
  std::vector<Handle> handles;
  unsigned crossing = 0;
  for (unsigned i = 0; i < 200; ++i) handles.push_back(put(make_bytes(2500, i)));
  for (unsigned i = 0; i < 200; ++i) {
    crossing += pool_->pin(handles[i]).in_place() == nullptr ? 1 : 0;
    ASSERT_EQ(get(handles[i]), make_bytes(2500, i));
  }
  EXPECT_GT(crossing, 50U);
  pool_->validate();
  for (const Handle h : handles) pool_->free(h);
  for (const Pfn f : kept) arena_->release(f);
  budget_.uncharge(budget_.used() - arena_->taken());
}

TEST_F(ZpoolTest, AWholeFrameObjectTakesOneFrame) {
  std::vector<Handle> handles;
  for (unsigned i = 0; i < 20; ++i) handles.push_back(put(make_bytes(kPageSize, i)));
  EXPECT_EQ(pool_->frames(), PageCount(20));
  for (unsigned i = 0; i < 20; ++i) EXPECT_NE(pool_->pin(handles[i]).in_place(), nullptr);
  for (unsigned i = 0; i < 20; ++i) EXPECT_EQ(pool_->free(handles[i]), PageCount(1));
}

TEST_F(ZpoolTest, NoRoomIsAnOutcomeAndKeepsNothing) {
  make(2);
  std::vector<Handle> handles;
  const Bytes bytes = make_bytes(kPageSize, 1);
  Handle h;
  while (pool_->put(bytes.data(), kPageSize, &h) == PutOutcome::kPut) handles.push_back(h);
  EXPECT_EQ(handles.size(), 2 * kPagesPerBlock);
  EXPECT_EQ(pool_->put(bytes.data(), 100, &h), PutOutcome::kNoRoom);
  EXPECT_EQ(pool_->live_handles(), handles.size());
  validate();
  pool_->free(handles.back());
  handles.pop_back();
  // A zspage of a small class needs several frames; one of the whole-frame class needs one.
  EXPECT_EQ(pool_->put(bytes.data(), kPageSize, &h), PutOutcome::kPut);
}

TEST_F(ZpoolTest, ForeignWordsLiveInTheHandle) {
  const std::uint64_t widest = (std::uint64_t{1} << HandleWord::kPayloadBits) - 1;
  const Handle h = pool_->put_foreign(widest);
  {
    Zpool::Pinned p = pool_->pin(h);
    EXPECT_TRUE(p.is_foreign());
    EXPECT_EQ(p.payload(), widest);
    p.set_payload(12345);
  }
  EXPECT_EQ(pool_->peek(h).payload(), 12345U);
  const Handle object = put(make_bytes(700, 1));
  const unsigned chain = kSizeClasses.at(kSizeClasses.index_for(700)).frames;
  EXPECT_EQ(pool_->turn_foreign(pool_->pin(object), 77), PageCount(chain));
  EXPECT_EQ(pool_->peek(object).payload(), 77U);
  EXPECT_EQ(pool_->frames(), PageCount(0));
  validate();
  pool_->free(h);
  pool_->free(object);
  EXPECT_EQ(pool_->live_handles(), 0U);
}

TEST_F(ZpoolTest, APinnedHandleIsNobodyElses) {
  const Handle h = put(make_bytes(1000, 1));
  const Zpool::Pinned p = pool_->pin(h);
  EXPECT_FALSE(pool_->try_pin(h));
  EXPECT_FALSE(pool_->try_pin(Handle(h.index() + 1)));
}

// ---------------------------------------------------------------- compaction

TEST_F(ZpoolTest, CompactMovesObjectsUnderTheirOwners) {
  std::vector<Handle> handles;
  for (unsigned i = 0; i < 3000; ++i) handles.push_back(put(make_bytes(900 + i % 5, i)));
  std::vector<std::pair<Handle, unsigned>> kept;
  for (unsigned i = 0; i < 3000; ++i) {
    if (i % 6 == 0)
      kept.emplace_back(handles[i], i);
    else
      pool_->free(handles[i]);
  }
  {
    Zpool::Pinned p = pool_->pin(kept[3].first);
    p.set_marks(0x2a);
  }
  const PageCount before = pool_->frames();
  const PageCount freed = pool_->compact();
  EXPECT_EQ(before - freed, pool_->frames());
  EXPECT_LT(pool_->frames().value() * 4, before.value());
  validate();
  for (const auto& [h, i] : kept) ASSERT_EQ(get(h), make_bytes(900 + i % 5, i));
  EXPECT_EQ(pool_->pin(kept[3].first).marks(), 0x2aU);
  EXPECT_EQ(pool_->compact(), PageCount(0));
  for (const auto& [h, i] : kept) pool_->free(h);
}

TEST_F(ZpoolTest, CompactLeavesPinnedObjectsWhereTheyAre) {
  std::vector<Handle> handles;
  for (unsigned i = 0; i < 1000; ++i) handles.push_back(put(make_bytes(1000, i)));
  std::vector<std::pair<Handle, unsigned>> kept;
  for (unsigned i = 0; i < 1000; ++i) {
    if (i % 10 == 0)
      kept.emplace_back(handles[i], i);
    else
      pool_->free(handles[i]);
  }
  {
    std::vector<Zpool::Pinned> pins;
    std::vector<const std::byte*> places;
    for (const auto& [h, i] : kept) pins.push_back(pool_->pin(h));
    for (const auto& p : pins) places.push_back(p.in_place());
    EXPECT_EQ(pool_->compact(), PageCount(0));
    for (std::size_t i = 0; i < pins.size(); ++i) EXPECT_EQ(pins[i].in_place(), places[i]);
  }
  EXPECT_GT(pool_->compact(), PageCount(0));
  validate();
  for (const auto& [h, i] : kept) ASSERT_EQ(get(h), make_bytes(1000, i));
}

// ---------------------------------------------------------------- migration of frames

TEST_F(ZpoolTest, EveryFrameMovesUnderItsObjects) {
  std::vector<Handle> handles;
  for (unsigned i = 0; i < 2000; ++i) handles.push_back(put(make_bytes(40 + i * 2, i)));
  std::uint64_t moved = 0;
  for (std::uint32_t f = 0; f < arena_->block_span() * kPagesPerBlock; ++f) {
    if (arena_->page(Pfn(f)).load().state() != frames::PageState::kAllocated) continue;
    frames::MoveRequest request;
    request.targets = frames::Targets::kMayGrow;
    moved += arena_->migrator().move(Pfn(f), request) == frames::MoveOutcome::kMoved ? 1 : 0;
  }
  EXPECT_GE(moved, pool_->frames().value());
  EXPECT_EQ(counters_.read(Event::pgmigrate_success), moved);
  validate();
  for (unsigned i = 0; i < 2000; ++i) ASSERT_EQ(get(handles[i]), make_bytes(40 + i * 2, i));
  for (const Handle h : handles) pool_->free(h);
  validate();
}

TEST_F(ZpoolTest, APinnedObjectKeepsItsFramesAndNoOthers) {
  std::vector<Handle> handles;
  for (unsigned i = 0; i < 64; ++i) handles.push_back(put(make_bytes(kPageSize, i)));
  {
    const Zpool::Pinned held = pool_->pin(handles[5]);
    const Pfn frame = arena_->pfn_of(held.in_place());
    EXPECT_EQ(arena_->migrator().move(frame, {}), frames::MoveOutcome::kBusy);
    EXPECT_EQ(arena_->pfn_of(held.in_place()), frame);
    Pfn other;
    {
      const Zpool::Pinned p = pool_->pin(handles[6]);
      other = arena_->pfn_of(p.in_place());
    }
    EXPECT_EQ(arena_->migrator().move(other, {}), frames::MoveOutcome::kMoved);
  }
  validate();
  for (unsigned i = 0; i < 64; ++i) ASSERT_EQ(get(handles[i]), make_bytes(kPageSize, i));
}

TEST_F(ZpoolTest, AZspageThatIsFreedWhileItsFrameIsIsolatedGoesOnce) {
  const Handle h = put(make_bytes(kPageSize, 1));
  Pfn frame;
  {
    const Zpool::Pinned p = pool_->pin(h);
    frame = arena_->pfn_of(p.in_place());
  }
  ASSERT_TRUE(
      arena_->migrator().isolate(frame, frames::MigrateMode::kAsync, frames::Callers::kEngine));
  EXPECT_EQ(pool_->free(h), PageCount(1));
  EXPECT_EQ(arena_->stats().allocated, PageCount(1));
  arena_->migrator().put_back(frame);
  validate();
  EXPECT_EQ(arena_->stats().allocated, PageCount(0));
}

TEST_F(ZpoolTest, CompactionEmptiesTheBlocksOfASparsePool) {
  std::vector<Handle> handles;
  for (unsigned i = 0; i < 20 * kPagesPerBlock; ++i) handles.push_back(put(make_bytes(4000, i)));
  std::vector<unsigned> kept;
  for (unsigned i = 0; i < handles.size(); ++i) {
    if (i % 5 == 0)
      kept.push_back(i);
    else
      pool_->free(handles[i]);
  }
  (void)arena_->compactor().compact(frames::CompactionEffort::thorough(frames::Callers::kUser));
  EXPECT_EQ(arena_->taken(), PageCount(4 * kPagesPerBlock));
  validate();
  for (const unsigned i : kept) ASSERT_EQ(get(handles[i]), make_bytes(4000, i));
}

// ---------------------------------------------------------------- model and stress

TEST_F(ZpoolTest, Model) {
  for (std::uint64_t seed = 1; seed <= 4; ++seed) {
    make(12);
    std::mt19937_64 random(seed);
    struct Object {
      Handle handle;
      unsigned length;
      std::uint64_t seed;
    };
    std::vector<Object> live;
    PageCount withheld;
    unsigned refused = 0;
    for (unsigned step = 0; step < 40000; ++step) {
      const unsigned dice = random() % 100;
      if (dice < 55) {
        // Sizes drift, as a program's data does.
        const unsigned centre = 200 + step % 3600;
        const auto length =
            static_cast<unsigned>(1 + random() % (2 * centre > kPageSize ? kPageSize : 2 * centre));
        const Object o{{}, length, random()};
        const Bytes bytes = make_bytes(o.length, o.seed);
        Object stored = o;
        if (pool_->put(bytes.data(), o.length, &stored.handle) == PutOutcome::kPut)
          live.push_back(stored);
        else
          ++refused;
      } else if (dice < 97) {
        if (live.empty()) continue;
        Object& o = live[random() % live.size()];
        if (dice < 62 || refused > 0) {
          ASSERT_EQ(get(o.handle), make_bytes(o.length, o.seed))
              << "seed " << seed << " step " << step;
        }
        pool_->free(o.handle);
        o = live.back();
        live.pop_back();
      } else if (dice < 98) {
        pool_->compact();
        if (random() % 4 == 0)
          (void)arena_->compactor().compact(
              frames::CompactionEffort::thorough(frames::Callers::kUser));
      } else if (withheld.is_zero()) {
        withheld = budget_.free();
        ASSERT_TRUE(budget_.try_charge(withheld, Charge::kReclaim));
      } else {
        budget_.uncharge(withheld);
        withheld = {};
      }
      if (step % 4000 == 0) validate();
    }
    budget_.uncharge(withheld);
    for (const Object& o : live) {
      ASSERT_EQ(get(o.handle), make_bytes(o.length, o.seed));
      pool_->free(o.handle);
    }
    validate();
    ASSERT_EQ(pool_->frames(), PageCount(0));
  }
}

TEST_F(ZpoolTest, Stress) {
  std::atomic<bool> stop{false};
  std::atomic<unsigned> wrong{0};
  const auto worker = [&](unsigned id) {
    std::mt19937_64 random(id);
    struct Object {
      Handle handle;
      unsigned length = 0;
      std::uint64_t stamp = 0;
    };
    std::vector<Object> mine(400);
    Bytes bytes(kPageSize);
    for (unsigned step = 0; step < 100000; ++step) {
      Object& o = mine[random() % mine.size()];
      if (o.handle.is_none()) {
        o.length = static_cast<unsigned>(16 + random() % 3000);
        o.stamp = std::uint64_t{id} << 32 | step;
        // Stamped at both ends: a move that loses a piece shows.
        std::memcpy(bytes.data(), &o.stamp, 8);
        std::memcpy(bytes.data() + o.length - 8, &o.stamp, 8);
        if (pool_->put(bytes.data(), o.length, &o.handle) != PutOutcome::kPut) o.handle = {};
        continue;
      }
      {
        const Zpool::Pinned p = pool_->pin(o.handle);
        Bytes out(kPageSize);
        p.copy_out(out.data());
        std::uint64_t first = 0;
        std::uint64_t last = 0;
        std::memcpy(&first, out.data(), 8);
        std::memcpy(&last, out.data() + o.length - 8, 8);
        if (p.length() != o.length || first != o.stamp || last != o.stamp) wrong.fetch_add(1);
      }
      if (random() % 2 == 0) {
        pool_->free(o.handle);
        o.handle = {};
      }
    }
    for (const Object& o : mine)
      if (!o.handle.is_none()) pool_->free(o.handle);
  };
  std::thread compactor([&] {
    while (!stop.load()) {
      pool_->compact();
      (void)arena_->compactor().compact(frames::CompactionEffort::thorough(frames::Callers::kUser));
    }
  });
  std::vector<std::thread> workers;
  for (unsigned id = 1; id <= 3; ++id) workers.emplace_back(worker, id);
  for (std::thread& t : workers) t.join();
  stop.store(true);
  compactor.join();
  EXPECT_EQ(wrong.load(), 0U);
  validate();
  EXPECT_EQ(pool_->frames(), PageCount(0));
}

// Frames move for all they are worth under writers and readers; at pauses everything is counted.
TEST_F(ZpoolTest, StressOfMigration) {
  constexpr unsigned kThreads = 3;
  constexpr unsigned kRounds = 6;
  std::atomic<unsigned> wrong{0};
  struct Object {
    Handle handle;
    unsigned length = 0;
    std::uint64_t stamp = 0;
  };
  std::vector<std::vector<Object>> all(kThreads, std::vector<Object>(3000));
  const auto work = [&](unsigned id, unsigned round) {
    std::mt19937_64 random(id * 100 + round);
    Bytes bytes(kPageSize);
    for (unsigned step = 0; step < 20'000; ++step) {
      Object& o = all[id][random() % all[id].size()];
      if (o.handle.is_none()) {
        o.length = static_cast<unsigned>(16 + random() % (kPageSize - 16));
        o.stamp = random();
        for (unsigned at = 0; at + 8 <= o.length; at += 8)
          std::memcpy(bytes.data() + at, &o.stamp, 8);
        if (pool_->put(bytes.data(), o.length, &o.handle) != PutOutcome::kPut) o.handle = {};
        continue;
      }
      {
        const Zpool::Pinned p = pool_->pin(o.handle);
        p.copy_out(bytes.data());
        for (unsigned at = 0; at + 8 <= o.length; at += 8)
          if (std::memcmp(bytes.data() + at, &o.stamp, 8) != 0) wrong.fetch_add(1);
      }
      if (random() % 3 == 0) {
        pool_->free(o.handle);
        o.handle = {};
      }
    }
  };
  for (unsigned round = 0; round < kRounds; ++round) {
    std::atomic<unsigned> running{kThreads};
    std::vector<std::thread> threads;
    for (unsigned id = 0; id < kThreads; ++id) {
      threads.emplace_back([&, id] {
        work(id, round);
        running.fetch_sub(1);
      });
    }
    threads.emplace_back([&] {
      std::mt19937_64 random(round);
      while (running.load() != 0) {
        for (unsigned i = 0; i < 500; ++i) {
          const Pfn page(
              static_cast<std::uint32_t>(random() % (arena_->block_span() * kPagesPerBlock + 1)));
          (void)arena_->migrator().move(page, {});
        }
        (void)arena_->compactor().compact({});
      }
    });
    for (std::thread& t : threads) t.join();
    ASSERT_EQ(wrong.load(), 0U);
    validate();
  }
  EXPECT_GT(counters_.read(Event::pgmigrate_success), 1000U);
  for (auto& objects : all)
    for (const Object& o : objects)
      if (!o.handle.is_none()) pool_->free(o.handle);
  validate();
  EXPECT_EQ(pool_->frames(), PageCount(0));
}

}  // namespace
}  // namespace buoy::zpool
