#include "base/counters.h"

#include <gtest/gtest.h>

#include <set>
#include <string>
#include <thread>
#include <vector>

namespace buoy {
namespace {

TEST(Counters, NamesAreDistinct) {
  std::set<std::string> names;
  for (std::size_t e = 0; e < kEventCount; ++e)
    EXPECT_TRUE(names.emplace(event_name(static_cast<Event>(e))).second);
  EXPECT_EQ(event_name(Event::pglazyfree), "pglazyfree");
}

TEST(Counters, EveryTimeIsInTheBucketThatItsBoundsSay) {
  EXPECT_EQ(bucket_of_fault_time(0), 0U);
  for (unsigned i = 1; i < kFaultTimeBuckets; ++i) {
    EXPECT_EQ(bucket_of_fault_time(fault_time_from_ns(i)), i);
    EXPECT_EQ(bucket_of_fault_time(fault_time_from_ns(i) - 1), i - 1);
    EXPECT_EQ(event_name(fault_time_bucket(i)),
              "fault_us_" + std::to_string(fault_time_from_ns(i) / 1000));
  }
  EXPECT_EQ(bucket_of_fault_time(~0ULL), kFaultTimeBuckets - 1);
}

TEST(Counters, NoEventIsLost) {
  Counters counters;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&] {
      for (int i = 0; i < 10'000; ++i) counters.add(Event::pgfault, 3);
    });
  for (std::thread& t : threads) t.join();
  EXPECT_EQ(counters.read(Event::pgfault), 120'000U);
  EXPECT_EQ(counters.read(Event::pgmajfault), 0U);
  counters.reset();
  EXPECT_EQ(counters.read(Event::pgfault), 0U);
}

}  // namespace
}  // namespace buoy
