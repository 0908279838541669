#include "cli/vitals.h"

#include <gtest/gtest.h>

namespace buoy::cli {
namespace {

using Json = nlohmann::json;

FaultTimes times(std::initializer_list<std::pair<unsigned, std::uint64_t>> buckets) {
  FaultTimes all{};
  for (const auto& [bucket, n] : buckets) all[bucket] = n;
  return all;
}

TEST(Vitals, QuantilesLieWithinTheirBuckets) {
  EXPECT_FALSE(fault_time_quantile({}, 0.5));
  // 90 of 2 to 4 microseconds, 10 of 1 to 2 milliseconds.
  const FaultTimes two = times({{2, 90}, {11, 10}});
  EXPECT_DOUBLE_EQ(*fault_time_quantile(two, 0.45), 3000);
  EXPECT_DOUBLE_EQ(*fault_time_quantile(two, 0.9), 4000);
  EXPECT_GT(*fault_time_quantile(two, 0.91), 1'024'000);
  EXPECT_LE(*fault_time_quantile(two, 0.99), 2'048'000);
  EXPECT_DOUBLE_EQ(*fault_time_quantile(two, 0), 2000);
  EXPECT_GE(*fault_time_quantile(times({{kFaultTimeBuckets - 1, 1}}), 1), 16'384'000);
}

TEST(Vitals, RatesAreWhatChanged) {
  const Json stats = Json::parse(
      R"({"pgfault":300,"pgmajfault":30,"pswpin":64,"pswpout":8,"fault_us_4":7,"fault_ns":1500000000,
          "budget_bytes":77,"compressed_bytes":10,"compressed_original_bytes":35})");
  Totals before;
  before.faults = 100;
  before.major = 20;
  before.in = 60;
  before.fault_ns = 500'000'000;
  before.fault_times[3] = 4;
  const Vitals v = vitals_of(stats, totals_of(stats), before, 2);
  EXPECT_EQ(v.budget, 77U);
  EXPECT_DOUBLE_EQ(v.ratio(), 3.5);
  EXPECT_DOUBLE_EQ(v.faults, 100);
  EXPECT_DOUBLE_EQ(v.major, 5);
  EXPECT_DOUBLE_EQ(v.in, 2);
  EXPECT_DOUBLE_EQ(v.out, 4);
  EXPECT_DOUBLE_EQ(v.pressure, 0.5);
  EXPECT_EQ(v.fault_times[3], 3U);
}

TEST(Vitals, NoRatesOfAProgramThatCountsAnewOrIsSeenForTheFirstTime) {
  const Json stats = Json::parse(R"({"pgfault":300,"fault_ns":10,"resident_bytes":5})");
  Totals before;
  before.faults = 200;
  before.fault_ns = 11;
  const Vitals anew = vitals_of(stats, totals_of(stats), before, 1);
  EXPECT_EQ(anew.faults, 0);
  EXPECT_EQ(anew.pressure, 0);
  EXPECT_EQ(anew.resident, 5U);
  EXPECT_EQ(vitals_of(stats, totals_of(stats), std::nullopt, 1).faults, 0);
}

}  // namespace
}  // namespace buoy::cli
