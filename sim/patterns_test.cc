#include "patterns.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

namespace buoy::sim {
namespace {

Trace made(const std::string& pattern, Page pages = 1024, std::uint64_t accesses = 20000,
           std::uint64_t seed = 1) {
  PatternRequest request;
  parse_pattern(pattern, request);
  request.pages = pages;
  request.accesses = accesses;
  request.seed = seed;
  return generate(request);
}

std::vector<Page> counted_pages(const Trace& trace) {
  std::vector<Page> pages;
  std::uint64_t seen = 0;
  for (const Event& e : trace.events)
    if (e.is_access() && seen++ >= trace.uncounted) pages.push_back(e.page());
  return pages;
}

std::string as_text(const Trace& trace) {
  std::string text;
  for (const Event& e : trace.events)
    text += std::to_string(static_cast<unsigned>(e.act())) + " " + std::to_string(e.page()) + " " +
            std::to_string(e.count()) + "\n";
  return text;
}

TEST(Patterns, AreTheSameForOneSeedAndOthersForAnother) {
  for (const NamedPattern& pattern : patterns()) {
    const std::string name(pattern.name);
    EXPECT_EQ(as_text(made(name)), as_text(made(name))) << name;
    if (name == "scan") continue;  // nothing in it is random
    EXPECT_NE(as_text(made(name)), as_text(made(name, 1024, 20000, 2))) << name;
  }
}

TEST(Patterns, StayWithinTheirPagesAndGiveAsManyAccessesAsAsked) {
  for (const NamedPattern& pattern : patterns()) {
    const Trace trace = made(std::string(pattern.name));
    EXPECT_LE(trace.pages, 1024U) << pattern.name;
    EXPECT_GE(counted_pages(trace).size(), 20000U) << pattern.name;
    EXPECT_LE(counted_pages(trace).size(), 21000U) << pattern.name;  // churn ends with its object
    for (const Event& e : trace.events) ASSERT_LE(e.page() + e.count(), 1024U) << pattern.name;
  }
}

TEST(Patterns, ScanGoesByAddressAndLoopByOneOtherOrder) {
  const auto scan = counted_pages(made("scan:touches=2", 64, 256));
  for (std::size_t i = 0; i < scan.size(); ++i) ASSERT_EQ(scan[i], i / 2 % 64);
  const auto loop = counted_pages(made("loop", 64, 192));
  EXPECT_EQ(std::set<Page>(loop.begin(), loop.begin() + 64).size(), 64U);
  EXPECT_FALSE(std::is_sorted(loop.begin(), loop.begin() + 64));
  EXPECT_TRUE(std::equal(loop.begin(), loop.begin() + 64, loop.begin() + 64));
}

TEST(Patterns, ZipfGivesEachRankItsShare) {
  // Of 1000 pages with theta 0.99: the first of the ranks has 1/zeta = 13 % of the accesses, the tenth
  // 10^-0.99 of that.
  auto pages = counted_pages(made("zipf:theta=0.99", 1000, 200000));
  std::vector<double> counts(1000);
  for (const Page p : pages) counts[p] += 1.0 / 200000;
  std::sort(counts.rbegin(), counts.rend());
  double zeta = 0;
  for (int i = 1; i <= 1000; ++i) zeta += std::pow(i, -0.99);
  EXPECT_NEAR(counts[0], 1 / zeta, 0.005);
  EXPECT_NEAR(counts[9], std::pow(10, -0.99) / zeta, 0.002);
}

TEST(Patterns, ScanZipfScansOnlyBehindTheHotPart) {
  const auto pages = counted_pages(made("scan+zipf:hot=0.25,scan=0.5", 1000, 20000));
  std::size_t scanned = 0;
  Page last = 999;
  for (const Page p : pages) {
    if (p < 250) continue;
    ++scanned;
    ASSERT_EQ(p, last == 999 ? 250 : last + 1);
    last = p;
  }
  EXPECT_NEAR(static_cast<double>(scanned), 10000, 400);
}

TEST(Patterns, ChurnTouchesNothingThatItDiscarded) {
  const Trace trace = made("churn:discard=1", 2048, 50000);
  std::vector<bool> is_live(trace.pages);
  std::size_t discards = 0;
  for (const Event& e : trace.events) {
    if (e.act() == Act::kDiscard) {
      ++discards;
      for (Page p = e.page(); p < e.page() + e.count(); ++p) is_live[p] = false;
    } else if (e.act() == Act::kStore) {
      is_live[e.page()] = true;
    } else {
      ASSERT_TRUE(is_live[e.page()]);
    }
  }
  EXPECT_GT(discards, 50U);
}

TEST(Patterns, IndexStoresToLeavesThatSpreadAsItGrows) {
  // Each row reads its table page, then root, inner page, leaf.
  const Trace trace = made("index:rows=4,entries=8", 512, 4000);
  const Page table = 512 / 5 + 1;
  std::set<Page> early;
  std::set<Page> late;
  for (std::size_t i = 0; i < trace.events.size(); ++i) {
    const Event& e = trace.events[i];
    if (e.act() == Act::kStore && e.page() > table) (i < 800 ? early : late).insert(e.page());
  }
  EXPECT_GT(late.size(), 2 * early.size());
}

TEST(Patterns, RefuseWhatMakesNoSense) {
  const auto refusal = [](const char* text) -> std::string {
    try {
      PatternRequest request;
      parse_pattern(text, request);
    } catch (const std::exception& e) {
      return e.what();
    }
    return "taken";
  };
  EXPECT_THAT(refusal("zipf:theta=1"), ::testing::HasSubstr("theta is above 0 and below 1"));
  EXPECT_THAT(refusal("zipf:stores=1.5"), ::testing::HasSubstr("stores is a part"));
  EXPECT_THAT(refusal("zipf:theta=x"), ::testing::HasSubstr("'x' is no value for theta"));
  EXPECT_THAT(refusal("zipf:hot=1"), ::testing::HasSubstr("no parameter 'hot=1'"));
  EXPECT_THAT(refusal("scan:touches=0"), ::testing::HasSubstr("touches is 1 or more"));
  EXPECT_THAT(refusal("nothing"), ::testing::HasSubstr("no pattern 'nothing'"));
  EXPECT_EQ(refusal("zipf:theta=0.5,stores=0"), "taken");
}

}  // namespace
}  // namespace buoy::sim
