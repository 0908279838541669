#include "reclaim/lru.h"

#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <random>
#include <thread>
#include <vector>

namespace buoy {
namespace {

constexpr std::uint8_t kResident = Lru::bit(LeafList::kResident);
constexpr std::uint8_t kStandby = Lru::bit(LeafList::kStandby);
constexpr std::uint8_t kLazyFree = Lru::bit(LeafList::kLazyFree);

class LruTest : public testing::Test {
 protected:
  LruTest() {
    for (int i = 0; i < 4; ++i) leaves_.push_back(std::make_unique<Leaf>());
  }
  ~LruTest() override {
    for (const auto& leaf : leaves_) (void)lru_.forget(*leaf);
  }
  Leaf& leaf(std::size_t i) { return *leaves_[i]; }

  Lru lru_;
  std::vector<std::unique_ptr<Leaf>> leaves_;
};

TEST_F(LruTest, OldestComesFirst) {
  for (std::size_t i = 0; i < 3; ++i) lru_.add(leaf(i), kResident);
  EXPECT_EQ(lru_.length(LeafList::kResident), 3U);
  for (std::size_t i = 0; i < 3; ++i) {
    EXPECT_EQ(lru_.isolate_oldest(LeafList::kResident), &leaf(i));
    lru_.put_back(leaf(i), kResident);
  }
  EXPECT_EQ(lru_.isolate_oldest(LeafList::kResident), &leaf(0));
  lru_.put_back(leaf(0), kResident, kResident);  // not done with it
  EXPECT_EQ(lru_.isolate_oldest(LeafList::kResident), &leaf(0));
  lru_.put_back(leaf(0), 0);
}

TEST_F(LruTest, AddingTwiceLinksOnce) {
  lru_.add(leaf(0), kResident);
  lru_.add(leaf(0), kResident | kStandby);
  EXPECT_EQ(lru_.length(LeafList::kResident), 1U);
  EXPECT_EQ(lru_.length(LeafList::kStandby), 1U);
}

TEST_F(LruTest, IsolationTakesItOffEveryList) {
  lru_.add(leaf(0), kResident | kStandby | kLazyFree);
  ASSERT_EQ(lru_.isolate_oldest(LeafList::kLazyFree), &leaf(0));
  for (const LeafList list : {LeafList::kResident, LeafList::kStandby, LeafList::kLazyFree}) {
    EXPECT_EQ(lru_.length(list), 0U);
    EXPECT_EQ(lru_.isolate_oldest(list), nullptr);
  }
  EXPECT_FALSE(lru_.isolate(leaf(0)));
  EXPECT_FALSE(lru_.forget(leaf(0)));
  lru_.add(leaf(0), kResident);  // left to put_back
  EXPECT_EQ(lru_.length(LeafList::kResident), 0U);
  lru_.put_back(leaf(0), kStandby);
  EXPECT_EQ(lru_.length(LeafList::kStandby), 1U);
  EXPECT_TRUE(lru_.forget(leaf(0)));
}

TEST_F(LruTest, WhatRipensFirstComesFirst) {
  lru_.set_budget_pages(800);  // a tick each 101 pages
  lru_.add(leaf(0), kResident, 5);
  lru_.add(leaf(1), kResident, 1);
  lru_.add(leaf(2), kResident, 29);
  lru_.add(leaf(3), kResident, 5);
  lru_.add(leaf(2), kResident, 30);  // later than it is anyway
  EXPECT_EQ(lru_.ripens_in(leaf(2)), 29);
  lru_.add(leaf(2), kResident, 13);
  EXPECT_EQ(lru_.ripens_in(leaf(2)), 13);
  EXPECT_EQ(lru_.length(LeafList::kResident), 4U);
  for (const std::size_t i : {1U, 0U, 3U, 2U}) {
    EXPECT_EQ(lru_.isolate_oldest(LeafList::kResident), &leaf(i));
    lru_.put_back(leaf(i), 0);
  }
  // What was to be looked at long ago comes before what is to be looked at now.
  lru_.add(leaf(0), kResident, 1);
  lru_.note_installed(std::uint64_t{101} * 20);
  lru_.add(leaf(1), kResident, 1);
  lru_.add(leaf(2), kResident, 29);
  EXPECT_EQ(lru_.ripens_in(leaf(0)), -19);
  for (const std::size_t i : {0U, 1U, 2U}) {
    EXPECT_EQ(lru_.isolate_oldest(LeafList::kResident), &leaf(i));
    lru_.put_back(leaf(i), 0);
  }
}

TEST_F(LruTest, ALeafThatIsIsolatedRipensWithWhatComesMeanwhile) {
  lru_.set_budget_pages(800);
  lru_.add(leaf(0), kResident, 29);
  ASSERT_TRUE(lru_.isolate(leaf(0)));
  lru_.add(leaf(0), kResident, 1);
  lru_.put_back(leaf(0), kResident);
  EXPECT_EQ(lru_.ripens_in(leaf(0)), 1);
}

TEST_F(LruTest, TermsGrowWithTheLevel) {
  lru_.set_budget_pages(800);
  const Pte fresh = Pte::of(PteState::kMapped).with_generation(lru_.generation());
  EXPECT_EQ(lru_.ticks_left(fresh), 1);
  EXPECT_EQ(lru_.ticks_left(fresh.with_level(1)), 5);
  EXPECT_EQ(lru_.ticks_left(fresh.with_level(2)), 13);
  EXPECT_EQ(lru_.ticks_left(fresh.with_level(3)), 29);
  lru_.note_installed(std::uint64_t{101} * 5);
  EXPECT_EQ(lru_.ticks_left(fresh.with_level(1)), 0);
  EXPECT_LT(lru_.ticks_left(fresh.with_level(3).with(Pte::kCold)), -62);
}

TEST_F(LruTest, WhoComesBackSoonRisesAndWhoStaysAwayFalls) {
  lru_.set_budget_pages(800);
  const Pte left = Pte::of(PteState::kSwapped).with_generation(lru_.generation()).with_level(1);
  EXPECT_EQ(lru_.level_after_return(left), 2U);
  EXPECT_EQ(lru_.level_after_return(left.with_level(3)), 3U);
  // While there is no room for those that are wanted, few rise.
  lru_.note_pressed(true);
  unsigned risen = 0;
  for (int i = 0; i < 64; ++i) risen += lru_.level_after_return(left) - 1;
  EXPECT_EQ(risen, 2U);
  lru_.note_pressed(false);
  lru_.note_installed(std::uint64_t{101} * 5);
  EXPECT_EQ(lru_.level_after_return(left), 1U);
  lru_.note_installed(std::uint64_t{101} * 12);
  EXPECT_EQ(lru_.level_after_return(left), 0U);
  EXPECT_EQ(lru_.level_after_return(left.with_level(0)), 0U);
}

TEST_F(LruTest, AgeIsModuloTheClock) {
  lru_.set_budget_pages(800);  // a tick each 101 pages
  const Pte fresh = Pte::of(PteState::kMapped).with_generation(lru_.generation());
  EXPECT_EQ(lru_.age_of(fresh), 0U);
  lru_.note_installed(202);
  EXPECT_EQ(lru_.age_of(fresh), 2U);
  lru_.note_installed(std::uint64_t{101} * 61);
  EXPECT_EQ(lru_.age_of(fresh), 63U);
}

TEST_F(LruTest, OneThreadAtATimeHasALeaf) {
  for (std::size_t i = 0; i < 4; ++i) lru_.add(leaf(i), kResident);
  std::atomic<int> users[4] = {};
  std::atomic<int> together{0};
  std::vector<std::thread> threads;
  for (unsigned t = 0; t < 3; ++t)
    threads.emplace_back([&, t] {
      std::mt19937 random(t);
      for (int i = 0; i < 10'000; ++i) {
        Leaf* mine = nullptr;
        if (random() % 2 == 0)
          mine = lru_.isolate_oldest(LeafList::kResident);
        else if (Leaf& wanted = leaf(random() % 4); lru_.isolate(wanted))
          mine = &wanted;
        if (mine == nullptr) continue;
        for (std::size_t k = 0; k < 4; ++k) {
          if (mine != &leaf(k)) continue;
          if (users[k].fetch_add(1) != 0) ++together;
          users[k].fetch_sub(1);
        }
        lru_.put_back(*mine, kResident);
      }
    });
  for (std::thread& t : threads) t.join();
  EXPECT_EQ(together.load(), 0);
  EXPECT_EQ(lru_.length(LeafList::kResident), 4U);
}

}  // namespace
}  // namespace buoy
