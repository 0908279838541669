// The words that decide about marks, and their table of transitions.
#include "vm/mark_word.h"

#include <gtest/gtest.h>

#include <random>
#include <string_view>
#include <vector>

namespace buoy {
namespace {

constexpr auto kStates = static_cast<unsigned>(MarkState::kCount);

// The table is a constant: what is forbidden does not wait for a run to be found.
static_assert(!mark_transition_is_allowed(MarkState::kPurged, MarkState::kWithdrawn),
              "that pages were lost must be told");
static_assert(!mark_transition_is_allowed(MarkState::kPurged, MarkState::kMarked));
static_assert(!mark_transition_is_allowed(MarkState::kWithdrawn, MarkState::kPurging));
static_assert(!mark_transition_is_allowed(MarkState::kWithdrawn, MarkState::kPurged));
static_assert(!mark_transition_is_allowed(MarkState::kPurging, MarkState::kWithdrawn));
static_assert(!mark_transition_is_allowed(MarkState::kPurging, MarkState::kSeized));
static_assert(!mark_transition_is_allowed(MarkState::kSeized, MarkState::kPurging));

TEST(MarkWord, TheTableIsThatOfTheComment) {
  //                              to: withdrawn marked purged purging seized
  const std::vector<std::string_view> table = {"xx..x",   // withdrawn
                                               "xx.xx",   // marked
                                               "..xxx",   // purged
                                               ".xxx.",   // purging
                                               "xxx.x"};  // seized
  for (unsigned from = 0; from < kStates; ++from)
    for (unsigned to = 0; to < kStates; ++to)
      EXPECT_EQ(
          mark_transition_is_allowed(static_cast<MarkState>(from), static_cast<MarkState>(to)),
          table[from][to] == 'x')
          << from << " -> " << to;
}

TEST(MarkWord, EveryStateCanBeReachedAndLeft) {
  for (unsigned s = 0; s < kStates; ++s) {
    bool in = false;
    bool out = false;
    for (unsigned t = 0; t < kStates; ++t) {
      if (s == t) continue;
      in = in || mark_transition_is_allowed(static_cast<MarkState>(t), static_cast<MarkState>(s));
      out = out || mark_transition_is_allowed(static_cast<MarkState>(s), static_cast<MarkState>(t));
    }
    EXPECT_TRUE(in && out) << s;
  }
}

TEST(MarkWord, FieldsDoNotTouchEachOther) {
  std::mt19937_64 random(3);
  for (int i = 0; i < 10'000; ++i) {
    const MarkWord before(random());
    const auto priority = static_cast<unsigned>(random() % 4);
    const std::uint64_t stamp = random() & MarkWord::kStampMask;
    const MarkWord marked = before.marked(priority, stamp);
    ASSERT_EQ(marked.priority(), priority);
    ASSERT_EQ(marked.stamp(), stamp);
    ASSERT_TRUE(marked.has_same_generation_as(before));
    ASSERT_TRUE(marked.has(MarkWord::kVolatile));
    ASSERT_FALSE(marked.has(MarkWord::kSpent | MarkWord::kSeized));
    // What was lost is not forgotten by marking it again.
    ASSERT_EQ(marked.has(MarkWord::kPurged), before.has(MarkWord::kPurged));
    ASSERT_FALSE(marked.next_generation().has_same_generation_as(marked));
    ASSERT_TRUE(marked.next_generation().has_same_mark_as(marked));
    ASSERT_EQ(before.withdrawn().state(), MarkState::kWithdrawn);
    ASSERT_TRUE(before.withdrawn().has_same_mark_as(before));
  }
}

TEST(MarkWord, FlagsThatDoNotGoTogether) {
  using W = MarkWord;
  for (const std::uint64_t flags :
       {std::uint64_t{0}, std::uint64_t{W::kVolatile}, W::kVolatile | W::kPurged | W::kSpent,
        W::kVolatile | W::kPurging | W::kAwaited, W::kSeized | W::kAwaited,
        W::kVolatile | W::kPurged | W::kSeized, W::kVolatile | W::kSpent})
    EXPECT_TRUE(W(flags).is_consistent()) << flags;
  for (const std::uint64_t flags :
       {std::uint64_t{W::kPurged}, std::uint64_t{W::kSpent}, std::uint64_t{W::kPurging},
        std::uint64_t{W::kAwaited}, W::kVolatile | W::kAwaited,
        W::kVolatile | W::kPurging | W::kSeized})
    EXPECT_FALSE(W(flags).is_consistent()) << flags;
}

TEST(Mark, AChangeAgainstAnOldWordTellsThePresentOne) {
  Mark mark;
  EXPECT_EQ(mark.load().state(), MarkState::kSeized);  // free
  mark.publish(MarkWord(0).marked(1, 7));
  MarkWord seen = mark.load();
  EXPECT_TRUE(mark.try_change(&seen, seen.with(MarkWord::kPurging)));
  EXPECT_FALSE(mark.try_change(&seen, seen.withdrawn()));
  EXPECT_EQ(seen.state(), MarkState::kPurging);
  EXPECT_EQ(mark.load().bits(), seen.bits());
}

#ifdef BUOY_DEBUG_CHECKS
TEST(Mark, AForbiddenTransitionAborts) {
  testing::FLAGS_gtest_death_test_style = "threadsafe";
  Mark mark;
  mark.publish(MarkWord(0).marked(0, 1).with(MarkWord::kPurged));
  MarkWord seen = mark.load();
  EXPECT_DEATH((void)mark.try_change(&seen, seen.withdrawn()), "mark_transition_is_allowed");
}
#endif

}  // namespace
}  // namespace buoy
