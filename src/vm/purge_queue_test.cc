// In which order extents are purged, without pages.
#include "vm/purge_queue.h"

#include <gtest/gtest.h>

#include <vector>

namespace buoy {
namespace {

class PurgeQueueTest : public testing::Test {
 protected:
  PurgeQueueTest() { EXPECT_TRUE(extents_.create().ok()); }

  std::uint32_t add(unsigned priority, RegionFlags flags = RegionFlags::kNone) {
    const std::uint32_t i = extents_.try_allocate();
    next_ += PageCount(10);
    extents_.at(i).flags.store(flags, std::memory_order_relaxed);
    extents_.at(i).resume = next_;
    extents_.insert(i, {next_, PageCount(10)});
    extents_.at(i).mark.publish(MarkWord(0).marked(priority, queue_.next_stamp()));
    queue_.note_marked(priority);
    return i;
  }
  void mark_again(std::uint32_t i, unsigned priority) {
    MarkWord seen = extents_.at(i).mark.load();
    EXPECT_TRUE(extents_.at(i).mark.try_change(&seen, seen.marked(priority, queue_.next_stamp())));
    queue_.note_marked(priority);
  }
  void end(const PurgeQueue::Claim& claim, std::uint64_t flags) {
    MarkWord seen = extents_.at(claim.extent).mark.load();
    ASSERT_EQ(seen.state(), MarkState::kPurging);
    EXPECT_TRUE(extents_.at(claim.extent)
                    .mark.try_change(&seen, seen.without(MarkWord::kPurging).with(flags)));
  }
  // Purges all that there is, each to its end.
  std::vector<std::uint32_t> drain(PurgeEffort effort) {
    std::vector<std::uint32_t> order;
    while (const auto claim = queue_.claim(effort)) {
      order.push_back(claim.extent);
      end(claim, MarkWord::kPurged | MarkWord::kSpent);
      if (order.size() > 1000) break;
    }
    return order;
  }

  ExtentIndex extents_;
  MarkSteps steps_;
  PurgeQueue queue_{extents_, steps_};
  Vpn next_{1000};
};

using Order = std::vector<std::uint32_t>;

TEST_F(PurgeQueueTest, NothingIsThereAtFirst) {
  EXPECT_FALSE(queue_.claim(PurgeEffort::kGentle));
  EXPECT_FALSE(queue_.claim(PurgeEffort::kHard));
}

TEST_F(PurgeQueueTest, LowPriorityFirstThenTheOldestMark) {
  const std::uint32_t high = add(3);
  const std::uint32_t older = add(1);
  const std::uint32_t newer = add(1);
  const std::uint32_t low = add(0);
  EXPECT_EQ(drain(PurgeEffort::kGentle), (Order{low, older, newer, high}));
}

TEST_F(PurgeQueueTest, MoreThanABatchComesInOrder) {
  Order all;
  for (unsigned i = 0; i < 200; ++i) all.push_back(add(2));
  EXPECT_EQ(drain(PurgeEffort::kGentle), all);
}

TEST_F(PurgeQueueTest, MarkedAgainIsYoung) {
  const std::uint32_t first = add(1);
  const std::uint32_t second = add(1);
  mark_again(first, 1);
  EXPECT_EQ(drain(PurgeEffort::kGentle), (Order{second, first}));
}

TEST_F(PurgeQueueTest, WhatIsMarkedLowerGoesBeforeCandidatesAtHand) {
  const std::uint32_t first = add(2);
  const std::uint32_t second = add(2);
  const auto claim = queue_.claim(PurgeEffort::kGentle);
  EXPECT_EQ(claim.extent, first);
  end(claim, MarkWord::kSpent);
  const std::uint32_t low = add(0);
  EXPECT_EQ(drain(PurgeEffort::kGentle), (Order{low, second}));
}

TEST_F(PurgeQueueTest, GentleLeavesWhatMayRatherBeCompressed) {
  const std::uint32_t rather = add(0, RegionFlags::kVolatileMayCompress);
  const std::uint32_t plain = add(3);
  EXPECT_EQ(drain(PurgeEffort::kGentle), (Order{plain}));
  EXPECT_EQ(queue_.claim(PurgeEffort::kHard).extent, rather);
}

TEST_F(PurgeQueueTest, WhatWasEmptiedGoesLast) {
  const std::uint32_t spent = add(0);
  EXPECT_EQ(drain(PurgeEffort::kGentle), (Order{spent}));
  const std::uint32_t fresh = add(3);
  EXPECT_EQ(queue_.claim(PurgeEffort::kHard).extent, fresh);
  EXPECT_EQ(queue_.claim(PurgeEffort::kHard).extent, spent);
}

TEST_F(PurgeQueueTest, TheRestOfAPurgeGoesNext) {
  const std::uint32_t large = add(1);
  (void)add(1);
  const auto claim = queue_.claim(PurgeEffort::kGentle);
  end(claim, MarkWord::kPurged);
  extents_.at(large).resume = claim.run.first + PageCount(4);
  queue_.put_back(claim, extents_.at(large).mark.load());
  const auto rest = queue_.claim(PurgeEffort::kGentle);
  EXPECT_EQ(rest.extent, large);
  EXPECT_EQ(rest.resume, claim.run.first + PageCount(4));
}

TEST_F(PurgeQueueTest, TellsWhatOthersHaveUnderWay) {
  (void)add(1);
  const auto claim = queue_.claim(PurgeEffort::kHard);
  EXPECT_EQ(queue_.claim(PurgeEffort::kHard).others, PurgeQueue::Others::kPurge);
  end(claim, MarkWord::kSpent);
  MarkWord seen = extents_.at(claim.extent).mark.load();
  ASSERT_TRUE(extents_.at(claim.extent).mark.try_change(&seen, seen.with(MarkWord::kSeized)));
  EXPECT_EQ(queue_.claim(PurgeEffort::kHard).others, PurgeQueue::Others::kChange);
  extents_.at(claim.extent).mark.publish(seen.withdrawn());
  EXPECT_EQ(queue_.claim(PurgeEffort::kHard).others, PurgeQueue::Others::kNothing);
}

}  // namespace
}  // namespace buoy
