// The engine under traces: what is counted, and what no engine can do better than.
// ctest: timeout=300
#include "engine.h"

#include <gtest/gtest.h>

#include "patterns.h"
#include "replay.h"

namespace buoy::sim {
namespace {

constexpr ByteSize kBudget = ByteSize{16} << 20;  // 4096 pages
constexpr Page kBudgetPages = kBudget / kPageSize;

Trace made(const std::string& pattern, Page pages, std::uint64_t accesses) {
  PatternRequest request;
  parse_pattern(pattern, request);
  request.pages = pages;
  request.accesses = accesses;
  return generate(request);
}

EngineOptions options_of(double stored) {
  EngineOptions options;
  options.budget = kBudget;
  options.backing_file = "none";
  options.stored = stored;
  return options;
}

TEST(SoftSimEngine, MissesNothingWhereAllFits) {
  const Trace trace = made("random", kBudgetPages / 2, 50000);
  const Replayed r = replay_engine(options_of(0.3), trace, Detail::kCounts);
  EXPECT_EQ(r.tally.accesses, 50000U);
  EXPECT_EQ(r.tally.misses, 0U);
  EXPECT_EQ(r.engine.pages_out, 0U);
}

TEST(SoftSimEngine, BringsInNoFewerPagesThanOptWouldHaveTo) {
  // Pages of one word take no room in the pool, so that residency is all that the budget is for. What
  // is brought in ahead of need could as well be brought in at need: OPT is the least of all.
  for (const char* pattern :
       {"zipf", "random", "loop", "scan", "scan+zipf", "index:rows=4,entries=8"}) {
    const Trace trace = made(pattern, kBudgetPages * 2, 100000);
    const Replayed engine = replay_engine(options_of(0), trace, Detail::kCounts);
    const Replayed opt = replay_policy(*find_policy("opt"), trace, kBudget);
    EXPECT_GE(engine.engine.pages_in, opt.tally.misses) << pattern;
    EXPECT_GE(engine.engine.pages_in, engine.tally.misses) << pattern;
    EXPECT_GT(engine.tally.misses, 0U) << pattern;
  }
}

TEST(SoftSimEngine, NeedsFewMissesForAScanThatItReadsAhead) {
  const Trace scan = made("scan", kBudgetPages * 2, kBudgetPages * 6);
  const Trace loop = made("loop", kBudgetPages * 2, kBudgetPages * 6);
  const Replayed by_address = replay_engine(options_of(0), scan, Detail::kCounts);
  const Replayed scattered = replay_engine(options_of(0), loop, Detail::kCounts);
  EXPECT_LT(by_address.tally.misses * 4, scattered.tally.misses);
}

TEST(SoftSimEngine, IsTheSameTwice) {
  for (const double stored : {0.0, 0.4}) {
    const Trace trace = made("phases:length=20000", kBudgetPages * 3 / 2, 60000);
    const Replayed a = replay_engine(options_of(stored), trace, Detail::kCounts);
    const Replayed b = replay_engine(options_of(stored), trace, Detail::kCounts);
    EXPECT_GT(a.tally.misses, 0U);
    EXPECT_EQ(a.tally.misses, b.tally.misses);
    EXPECT_EQ(a.engine.standby_touches, b.engine.standby_touches);
    EXPECT_EQ(a.engine.pages_in, b.engine.pages_in);
  }
}

TEST(SoftSimEngine, CountsFirstAccessesApartAndForgetsWhatIsDiscarded) {
  Trace trace;
  const auto store_all = [&] {
    for (Page p = 0; p < 1000; ++p) trace.events.emplace_back(Act::kStore, p);
  };
  store_all();
  trace.events.emplace_back(Act::kDiscard, 0, 512);
  trace.events.emplace_back(Act::kDiscard, 512, 488);
  for (Page p = 0; p < 1000; ++p) trace.events.emplace_back(Act::kLoad, p);  // zeros
  store_all();
  trace.recount();
  const Replayed engine = replay_engine(options_of(0.5), trace, Detail::kCounts);
  EXPECT_EQ(engine.tally.first, 2000U);
  EXPECT_EQ(engine.tally.misses, 0U);
  const Replayed lru = replay_policy(*find_policy("lru"), trace, ByteSize{64} * kPageSize);
  EXPECT_EQ(lru.tally.first, 2000U);
  EXPECT_EQ(lru.tally.misses, 1000U);
}

TEST(SoftSimEngine, TakesAdvice) {
  Trace trace;
  for (Page p = 0; p < 512; ++p) trace.events.emplace_back(Act::kStore, p);
  trace.events.emplace_back(Act::kPageOut, 0, 512);
  for (Page p = 0; p < 512; ++p) trace.events.emplace_back(Act::kLoad, p);
  trace.recount();
  const Replayed out = replay_engine(options_of(0.5), trace, Detail::kCounts);
  EXPECT_GE(out.engine.pages_out, 500U);
  EXPECT_GE(out.engine.pages_in, 500U);
  trace.events[512] = {Act::kFree, 0, 512};
  const Replayed freed = replay_engine(options_of(0.5), trace, Detail::kCounts);
  EXPECT_EQ(freed.engine.pages_out, 0U);
  EXPECT_EQ(freed.tally.misses, 0U);
}

TEST(SoftSimEngine, SamplesItsTiersWithinTheBudget) {
  const Trace trace = made("zipf", kBudgetPages * 2, 100000);
  const Replayed r = replay_engine(options_of(0.3), trace, Detail::kPicture);
  ASSERT_GE(r.tiers.size(), 240U);
  std::uint64_t misses = 0;
  for (const TierSample& s : r.tiers) {
    ASSERT_LE(s.mapped + s.standby + s.pool_frames, kBudgetPages);
    misses += s.misses;
  }
  EXPECT_EQ(r.tiers.back().access, trace.accesses);
  EXPECT_GT(r.tiers.back().compressed, r.tiers.back().pool_frames);
  // The samples cover the filling, too, which the tally does not.
  EXPECT_GE(misses, r.tally.misses);
  ASSERT_EQ(r.picture.tiers.size(), std::size_t{r.picture.rows} * r.picture.columns);
  ASSERT_EQ(r.picture.misses.size(), r.picture.tiers.size());
}

TEST(SoftSimEngine, SaysWhatIsMissingWhereNothingFitsAnyMore) {
  // Twice the budget that does not compress, and no file.
  const Trace trace = made("random", kBudgetPages * 2, 1000);
  try {
    (void)replay_engine(options_of(1), trace, Detail::kCounts);
    FAIL() << "it was replayed";
  } catch (const std::exception& e) {
    EXPECT_NE(std::string(e.what()).find("backing file"), std::string::npos) << e.what();
  }
}

}  // namespace
}  // namespace buoy::sim
