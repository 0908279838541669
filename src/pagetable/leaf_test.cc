// Leaves, their PTEs and the folios written into them.

#include "pagetable/leaf.h"

#include <gtest/gtest.h>

#include <memory>
#include <random>
#include <set>
#include <vector>

#include "pagetable/folio.h"

namespace buoy {

// Leaf's friend: what LockedLeaf does beside an Mmu, here without one.
struct LeafWriterForTest {
  static void set(Leaf& leaf, unsigned i, Pte value) BUOY_NO_TSA { leaf.set(i, value); }
};

namespace {

constexpr auto kStates = static_cast<unsigned>(PteState::kCount);

TEST(Pte, FieldsDoNotTouchEachOther) {
  std::mt19937_64 random(1);
  for (int i = 0; i < 10'000; ++i) {
    Pte p(random());
    const auto state = static_cast<PteState>(random() % kStates);
    const Order order(static_cast<unsigned>(random() % (kMaxOrder + 1)));
    const auto generation = static_cast<unsigned>(random() % 64);
    const auto pins = static_cast<unsigned>(random() % 256);
    const swap::SwapEntry entry(static_cast<std::uint32_t>(random()));
    p = p.with_state(state).with_order(order).with_generation(generation).with_pins(pins);
    p = p.with_entry(entry).with(Pte::kSqueezing).without(Pte::kLocked);
    ASSERT_EQ(p.state(), state);
    ASSERT_EQ(p.order(), order);
    ASSERT_EQ(p.generation(), generation);
    ASSERT_EQ(p.pins(), pins);
    ASSERT_EQ(p.entry(), entry);
    ASSERT_TRUE(p.has(Pte::kSqueezing));
    ASSERT_FALSE(p.has(Pte::kLocked));
    ASSERT_EQ(p.is_held(), pins != 0);
    ASSERT_TRUE(p.without_entry().entry().is_none());
  }
}

TEST(Pte, StatesHaveNamesAndKnowWhereTheyAre) {
  std::set<std::string_view> names;
  for (unsigned s = 0; s < kStates; ++s) {
    const auto state = static_cast<PteState>(s);
    EXPECT_TRUE(names.insert(state_name(state)).second);
    EXPECT_TRUE(transition_is_allowed(state, state));
    const Pte p = Pte::of(state);
    // Whose stores trap is at its address; a frame in the shadow is one more.
    EXPECT_TRUE(!p.traps_stores() || p.is_at_address());
    EXPECT_EQ(p.with(Pte::kInShadow).frames(), p.frames() + 1);
  }
}

TEST(Pte, ForbiddenTransitionsAreForbidden) {
  using enum PteState;
  EXPECT_FALSE(transition_is_allowed(kHole, kMapped));
  EXPECT_FALSE(transition_is_allowed(kEmpty, kStandby));
  EXPECT_FALSE(transition_is_allowed(kMapped, kSwapped));  // it stands by first
  EXPECT_FALSE(transition_is_allowed(kClean, kSwapped));
  EXPECT_FALSE(transition_is_allowed(kEmpty, kLoading));
  EXPECT_FALSE(transition_is_allowed(kLazyFree, kSwapped));  // never compressed
  EXPECT_FALSE(transition_is_allowed(kLazyFree, kStandby));
  EXPECT_FALSE(transition_is_allowed(kStandby, kLazyFree));
  EXPECT_FALSE(transition_is_allowed(kLoading, kEmpty));
  EXPECT_FALSE(transition_is_allowed(kPurged, kMapped));
}

class LeafTest : public testing::Test {
 protected:
  LeafTest() : leaf_(std::make_unique<Leaf>()) {
    leaf_->lock.lock();
    leaf_->reset(1234, nullptr, PteState::kEmpty);
  }
  ~LeafTest() override {
    leaf_->validate();
    leaf_->lock.unlock();
  }
  void set(unsigned i, Pte value) { LeafWriterForTest::set(*leaf_, i, value); }
  std::unique_ptr<Leaf> leaf_;
};

TEST_F(LeafTest, CountsFollowEverySet) {
  std::mt19937_64 random(2);
  for (int step = 0; step < 20'000; ++step) {
    const auto i = static_cast<unsigned>(random() % kPagesPerBlock);
    const Pte old = leaf_->get(i);
    const auto state = static_cast<PteState>(random() % kStates);
    if (!transition_is_allowed(old.state(), state)) continue;
    Pte next = Pte::of(state).with_pins(static_cast<unsigned>(random() % 2));
    const bool needs_entry =
        state == PteState::kSwapped || state == PteState::kClean || state == PteState::kLoading;
    if (needs_entry) next = next.with_entry(swap::SwapEntry(1));
    if (state == PteState::kStandby || state == PteState::kLazyAway)
      next = next.with(Pte::kInShadow);
    set(i, next);
    if (step % 100 == 0) leaf_->validate();
  }
}

#ifdef BUOY_DEBUG_CHECKS
TEST_F(LeafTest, AForbiddenTransitionAborts) {
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  EXPECT_DEATH(set(0, Pte::of(PteState::kStandby).with(Pte::kInShadow)), "transition_is_allowed");
}
#endif

TEST_F(LeafTest, RunsAreMaximal) {
  for (const unsigned i : {3U, 4U, 5U, 9U, 511U}) set(i, Pte::of(PteState::kMapped));
  const auto is_mapped = [](Pte p) { return p.state() == PteState::kMapped; };
  std::vector<LeafRange> runs;
  for (const LeafRange run : runs_where(*leaf_, LeafRange::whole(), is_mapped)) runs.push_back(run);
  EXPECT_EQ(runs, (std::vector<LeafRange>{{3, 6}, {9, 10}, {511, 512}}));
  runs.clear();
  for (const LeafRange run : runs_where(*leaf_, {4, 9}, is_mapped)) runs.push_back(run);
  EXPECT_EQ(runs, (std::vector<LeafRange>{{4, 6}}));
}

TEST_F(LeafTest, TheBodyMayChangeTheRunThatItIsGiven) {
  for (const unsigned i : {3U, 4U, 5U, 9U}) set(i, Pte::of(PteState::kMapped));
  unsigned runs = 0;
  for (const LeafRange run : runs_where(*leaf_, LeafRange::whole(),
                                        [](Pte p) { return p.state() == PteState::kMapped; })) {
    set(run.first, Pte::of(PteState::kEmpty));
    ++runs;
  }
  EXPECT_EQ(runs, 2U);
}

TEST(LeafRange, ARunIsCutAtTheEndOfItsBlock) {
  const PageRun run{Vpn(5 * kPagesPerBlock + 500), PageCount(600)};
  const PageRun part = part_in_block(run);
  EXPECT_EQ(part, (PageRun{run.first, PageCount(12)}));
  EXPECT_EQ(LeafRange::of(part), (LeafRange{500, 512}));
  EXPECT_EQ(part_in_block({part.end(), PageCount(7)}).count, PageCount(7));
}

// ---- Folios -----------------------------------------------------------------------------------

// Folios tile the leaf: each starts at a multiple of its size, and all its pages agree.
void expect_tiled(const Leaf& leaf) {
  for (unsigned i = 0; i < kPagesPerBlock;) {
    const Folio f = folio_of(leaf, i);
    ASSERT_EQ(f.first, i);
    ASSERT_LE(f.end(), kPagesPerBlock);
    for (unsigned k = f.first; k < f.end(); ++k) {
      ASSERT_EQ(folio_of(leaf, k).first, f.first) << k;
      ASSERT_EQ(leaf.get(k).order(), f.order) << k;
    }
    i = f.end();
  }
}

TEST_F(LeafTest, FoliosTileTheLeafWhateverIsJoinedAndSplit) {
  std::mt19937_64 random(3);
  for (int step = 0; step < 3000; ++step) {
    if (random() % 2 == 0) {
      const Order order(static_cast<unsigned>(random() % (kMaxOrder + 1)));
      const auto size = static_cast<unsigned>(order.pages().value());
      const auto first = static_cast<unsigned>(random() % (kPagesPerBlock / size)) * size;
      join(*leaf_, first, order);
      ASSERT_EQ(folio_of(*leaf_, first).first, first);
      ASSERT_EQ(folio_of(*leaf_, first).order, order);
    } else {
      const auto begin = static_cast<unsigned>(random() % kPagesPerBlock);
      const auto end = begin + 1 + static_cast<unsigned>(random() % (kPagesPerBlock - begin));
      const unsigned foreseen = cut_folios(*leaf_, {begin, end});
      ASSERT_LE(foreseen, 2U);
      ASSERT_EQ(split_at(*leaf_, {begin, end}), foreseen);
      ASSERT_EQ(cut_folios(*leaf_, {begin, end}), 0U);
    }
    expect_tiled(*leaf_);
  }
}

TEST_F(LeafTest, ASplitLeavesTheLargestFoliosThatFit) {
  join(*leaf_, 0, Order(kMaxOrder));
  EXPECT_EQ(split_at(*leaf_, {0, 256}), 1U);
  EXPECT_EQ(folio_of(*leaf_, 0).order, Order(8));
  EXPECT_EQ(folio_of(*leaf_, 256).order, Order(8));
  EXPECT_EQ(split_at(*leaf_, {256, 257}), 1U);
  EXPECT_EQ(folio_of(*leaf_, 256).order, Order(0));
  EXPECT_EQ(folio_of(*leaf_, 258).order, Order(1));
  EXPECT_EQ(folio_of(*leaf_, 384).order, Order(7));
}

TEST_F(LeafTest, AFolioCutOnBothSidesCountsOnce) {
  join(*leaf_, 0, Order(kMaxOrder));
  EXPECT_EQ(split_at(*leaf_, {100, 200}), 1U);
  join(*leaf_, 0, Order(4));
  join(*leaf_, 16, Order(4));
  EXPECT_EQ(split_at(*leaf_, {8, 24}), 2U);
}

TEST_F(LeafTest, OrdersChangeNothingElse) {
  set(7, Pte::of(PteState::kMapped).with_pins(3).with(Pte::kCold));
  join(*leaf_, 0, Order(5));
  EXPECT_EQ(leaf_->get(7).pins(), 3U);
  EXPECT_EQ(leaf_->get(7).state(), PteState::kMapped);
  EXPECT_TRUE(leaf_->get(7).has(Pte::kCold));
}

}  // namespace
}  // namespace buoy
