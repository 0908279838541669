// Migration: the contract between owners of movable pages and the core, step by step and in every
// order that it permits, with an owner that misbehaves in every permitted way.
#include "frames/migration.h"

#include <gtest/gtest.h>

#include <optional>
#include <random>
#include <thread>
#include <vector>

#include "frames/arena.h"
#include "frames/movable_owner_testing.h"

namespace buoy::frames {
namespace {

class MigrationTest : public testing::Test {
 protected:
  MigrationTest() {
    budget_.set_limit(PageCount(16 * kPagesPerBlock));
    arena_ = *Arena::create(budget_, counters_, 16 * kBlockSize);
    owner_.emplace(*arena_, Callers::kEngine);
  }
  ~MigrationTest() override {
    owner_.reset();
    arena_->trim();
    arena_->validate();
    EXPECT_EQ(arena_->stats().allocated, PageCount(0));
    EXPECT_EQ(budget_.used(), PageCount(0));
    Arena::destroy(arena_);
  }
  Migrator& core() { return arena_->migrator(); }
  [[nodiscard]] bool isolate(Pfn page) {
    return core().isolate(page, MigrateMode::kAsync, Callers::kEngine);
  }
  Pfn target_for(Pfn page) {
    return arena_->pages().try_take_target(arena_->page(page).load(), Targets::kPresentBlocks);
  }
  void check() {
    arena_->validate();
    EXPECT_EQ(arena_->stats().allocated.value(), owner_->frames());
    EXPECT_TRUE(owner_->is_intact());
  }

  Budget budget_;
  Counters counters_;
  Arena* arena_ = nullptr;
  std::optional<MovableOwner> owner_;
};

TEST_F(MigrationTest, MovesAPageAndLeavesItMovable) {
  const Pfn from = owner_->add(7);
  EXPECT_EQ(core().move(from, {}), MoveOutcome::kMoved);
  EXPECT_NE(owner_->at(7), from);
  EXPECT_EQ(owner_->put_backs, 0U);
  EXPECT_EQ(counters_.read(Event::pgmigrate_success), 1U);
  EXPECT_TRUE(arena_->page(owner_->at(7)).load().has(PageFlag::kMovable));
  EXPECT_FALSE(arena_->page(from).load().has(PageFlag::kMovable));
  check();
  EXPECT_EQ(core().move(owner_->at(7), {}), MoveOutcome::kMoved);
  check();
}

TEST_F(MigrationTest, AnyOrderMovesByItsHead) {
  for (unsigned order = 0; order < kMaxOrder; ++order) {
    const Pfn head = owner_->add(order + 1, order);
    if (order > 0) {
      EXPECT_FALSE(isolate(head + PageCount(1)));  // a tail
    }
    MoveRequest request;
    request.targets = Targets::kMayGrow;
    EXPECT_EQ(core().move(head, request), MoveOutcome::kMoved) << order;
    EXPECT_NE(owner_->at(order + 1), head);
    EXPECT_EQ(owner_->at(order + 1).value() % (1U << order), 0U);
    check();
  }
}

TEST_F(MigrationTest, IsolatesOnceAndTakesAReference) {
  const Pfn page = owner_->add(1);
  ASSERT_TRUE(isolate(page));
  EXPECT_EQ(arena_->page(page).refs.load(), 2U);
  EXPECT_FALSE(isolate(page));
  EXPECT_EQ(core().move(page, {}), MoveOutcome::kNotTaken);
  EXPECT_EQ(owner_->isolates, 1U);
  core().put_back(page);
  EXPECT_EQ(owner_->put_backs, 1U);
  EXPECT_EQ(arena_->page(page).refs.load(), 1U);
  EXPECT_TRUE(isolate(page));
  core().put_back(page);
  check();
}

TEST_F(MigrationTest, WhatIsNotMovableIsLeftAlone) {
  const Pfn plain = arena_->try_allocate(
      {Order(0), MigrateType::kMovable, FrameOwner::kDriver, Charge::kReclaim});
  EXPECT_FALSE(isolate(plain));
  const Pfn held = owner_->add(1);
  arena_->clear_movable(held);
  EXPECT_FALSE(isolate(held));
  EXPECT_EQ(owner_->isolates, 0U);
  EXPECT_TRUE(arena_->try_set_movable(held, owner_->id()));
  owner_->keeps = true;
  EXPECT_FALSE(isolate(held));
  EXPECT_EQ(owner_->isolates, 1U);
  EXPECT_EQ(owner_->put_backs, 0U);
  arena_->release(plain);
  EXPECT_FALSE(isolate(plain));
  check();
}

TEST_F(MigrationTest, ALockedPageIsPassedOver) {
  const Pfn page = owner_->add(1);
  arena_->page(page).lock.lock(LockRank::kPage);
  bool isolated = true;
  std::thread([&] { isolated = isolate(page); }).join();
  arena_->page(page).lock.unlock(LockRank::kPage);
  EXPECT_FALSE(isolated);
  EXPECT_EQ(arena_->page(page).refs.load(), 1U);
  check();
}

TEST_F(MigrationTest, AgainIsAskedABoundedNumberOfTimes) {
  const Pfn page = owner_->add(1);
  owner_->agains = 2;
  EXPECT_EQ(core().move(page, {}), MoveOutcome::kMoved);
  EXPECT_EQ(owner_->migrates, 3U);
  for (const MigrateMode mode : {MigrateMode::kAsync, MigrateMode::kSync}) {
    owner_->agains = 1'000'000;
    owner_->migrates = 0;
    owner_->put_backs = 0;
    const Pfn now = owner_->at(1);
    MoveRequest request;
    request.mode = mode;
    EXPECT_EQ(core().move(now, request), MoveOutcome::kBusy);
    EXPECT_GE(owner_->migrates, 2U);
    EXPECT_LE(owner_->migrates, 10U);
    EXPECT_EQ(owner_->put_backs, 1U);
    EXPECT_EQ(owner_->at(1), now);
    check();
  }
  EXPECT_EQ(counters_.read(Event::pgmigrate_fail), 2U);
}

TEST_F(MigrationTest, FailedIsPutBackAtOnce) {
  const Pfn page = owner_->add(1);
  owner_->fails = true;
  EXPECT_EQ(core().move(page, {}), MoveOutcome::kRefused);
  EXPECT_EQ(owner_->migrates, 1U);
  EXPECT_EQ(owner_->put_backs, 1U);
  EXPECT_EQ(owner_->at(1), page);
  check();
  owner_->fails = false;
  EXPECT_EQ(core().move(page, {}), MoveOutcome::kMoved);
}

TEST_F(MigrationTest, FreedWhileIsolatedCountsAsDoneAndIsFreedOnce) {
  const Pfn page = owner_->add(1);
  const Pfn target = target_for(page);
  ASSERT_TRUE(isolate(page));
  owner_->free(1);
  // The core's reference keeps the frame from being anybody else's.
  EXPECT_EQ(arena_->page(page).load().state(), PageState::kAllocated);
  EXPECT_EQ(arena_->page(page).refs.load(), 1U);
  EXPECT_EQ(core().migrate(page, target, MigrateMode::kAsync), MigrateStep::kGone);
  EXPECT_NE(arena_->page(page).load().state(), PageState::kAllocated);
  EXPECT_EQ(owner_->migrates, 0U);
  EXPECT_EQ(owner_->put_backs, 0U);
  arena_->release(target);
  check();
}

TEST_F(MigrationTest, FreedWhileIsolatedAndPutBackLate) {
  const Pfn page = owner_->add(1, 3);
  ASSERT_TRUE(isolate(page));
  owner_->free(1);
  core().put_back(page);
  EXPECT_EQ(owner_->put_backs, 0U);
  EXPECT_EQ(arena_->page(page).load().state(), PageState::kFree);
  check();
}

TEST_F(MigrationTest, FreedBetweenTwoTries) {
  const Pfn page = owner_->add(1);
  const Pfn target = target_for(page);
  ASSERT_TRUE(isolate(page));
  owner_->agains = 1;
  EXPECT_EQ(core().migrate(page, target, MigrateMode::kAsync), MigrateStep::kAgain);
  owner_->free(1);
  EXPECT_EQ(core().migrate(page, target, MigrateMode::kAsync), MigrateStep::kGone);
  arena_->release(target);
  check();
}

TEST_F(MigrationTest, FreedAfterItMovedWhileOthersHoldTheOldPage) {
  const Pfn page = owner_->add(1);
  const Pfn target = target_for(page);
  ASSERT_TRUE(arena_->page(page).try_get());  // another scanner, about to ask
  ASSERT_TRUE(isolate(page));
  EXPECT_EQ(core().migrate(page, target, MigrateMode::kAsync), MigrateStep::kMoved);
  EXPECT_FALSE(isolate(page));
  EXPECT_EQ(arena_->page(page).load().state(), PageState::kAllocated);
  owner_->free(1);
  arena_->pages().put(page);
  EXPECT_NE(arena_->page(page).load().state(), PageState::kAllocated);
  check();
}

TEST_F(MigrationTest, TakenBackWhileIsolatedStaysAndMayBeSetAgain) {
  const Pfn page = owner_->add(1);
  ASSERT_TRUE(isolate(page));
  arena_->clear_movable(page);
  EXPECT_FALSE(arena_->try_set_movable(page, owner_->id()));
  core().put_back(page);
  EXPECT_EQ(owner_->put_backs, 0U);
  EXPECT_TRUE(arena_->try_set_movable(page, owner_->id()));
  EXPECT_EQ(owner_->at(1), page);
  check();
}

TEST_F(MigrationTest, NoTargetLeavesThePageWhereItIs) {
  std::vector<std::uint64_t> keys;
  for (std::uint64_t key = 1; !owner_->add(key).is_none(); ++key) keys.push_back(key);
  const Pfn page = owner_->at(1);
  EXPECT_EQ(core().move(page, {}), MoveOutcome::kNoTarget);
  EXPECT_EQ(owner_->put_backs, 1U);
  EXPECT_EQ(owner_->at(1), page);
  check();
}

TEST_F(MigrationTest, AnOwnerForUsersOnlyIsNotCalledForTheEngine) {
  MovableOwner driver(*arena_, Callers::kUser);
  const Pfn page = driver.add(1);
  EXPECT_EQ(core().move(page, {}), MoveOutcome::kNotTaken);
  EXPECT_EQ(driver.isolates, 0U);
  MoveRequest request;
  request.callers = Callers::kUser;
  EXPECT_EQ(core().move(page, request), MoveOutcome::kMoved);
  EXPECT_EQ(driver.isolates, 1U);
}

TEST_F(MigrationTest, OwnersAreBoundedAndComeAndGo) {
  std::vector<OwnerId> ids;
  for (;;) {
    auto id = arena_->owners().add(*owner_, Callers::kEngine);
    if (!id) {
      EXPECT_EQ(id.code(), EBUSY);
      break;
    }
    ids.push_back(*id);
  }
  EXPECT_EQ(ids.size(), MovableOwners::kMost - 2);  // beside the balloon and the fixture's
  for (const OwnerId id : ids) arena_->owners().remove(id);
  EXPECT_TRUE(arena_->owners().add(*owner_, Callers::kEngine).ok());
}

// Random steps of owner and core, interleaved; the account is the owner's table.
TEST_F(MigrationTest, Model) {
  std::mt19937_64 random(5);
  struct Isolated {
    Pfn page;
    std::uint64_t key;
  };
  std::vector<Isolated> isolated;
  std::uint64_t next_key = 1;
  const auto any_key = [&]() -> std::uint64_t {
    auto it = owner_->pages().lower_bound(random() % next_key);
    return it == owner_->pages().end() ? owner_->pages().begin()->first : it->first;
  };
  unsigned freed_isolated = 0;
  unsigned moved = 0;
  for (unsigned step = 0; step < 60000; ++step) {
    owner_->agains = random() % 4 == 0 ? random() % 5 : 0;
    owner_->fails = random() % 16 == 0;
    owner_->keeps = random() % 16 == 0;
    const unsigned dice = random() % 100;
    if (dice < 30 || owner_->pages().empty()) {
      (void)owner_->add(next_key++, random() % 3 == 0 ? random() % 6 : 0);
    } else if (dice < 55) {
      const std::uint64_t key = any_key();
      for (const Isolated& i : isolated)
        if (i.key == key && owner_->at(key) == i.page) ++freed_isolated;
      owner_->free(key);
    } else if (dice < 75) {
      const std::uint64_t key = any_key();
      const Pfn page = owner_->at(key);
      const bool was = arena_->page(page).load().has(PageFlag::kIsolated);
      if (isolate(page)) {
        ASSERT_FALSE(was);
        isolated.push_back({page, key});
      }
    } else if (dice < 95) {
      if (isolated.empty()) continue;
      Isolated& i = isolated[random() % isolated.size()];
      const bool lives = owner_->pages().contains(i.key);
      const Pfn target = target_for(i.page);
      if (target.is_none()) continue;
      const MigrateStep result = core().migrate(i.page, target, MigrateMode::kAsync);
      if (result != MigrateStep::kMoved) arena_->release(target);
      ASSERT_EQ(result == MigrateStep::kGone, !lives);
      if (result == MigrateStep::kFailed) core().put_back(i.page);
      if (result == MigrateStep::kMoved) ++moved;
      if (result == MigrateStep::kAgain) continue;
      i = isolated.back();
      isolated.pop_back();
    } else if (!isolated.empty()) {
      core().put_back(isolated.back().page);
      isolated.pop_back();
    }
  }
  for (const Isolated& i : isolated) core().put_back(i.page);
  EXPECT_GT(freed_isolated, 100U);
  EXPECT_GT(moved, 1000U);
  check();
}

}  // namespace
}  // namespace buoy::frames
