#include "serve/history.h"

#include <gtest/gtest.h>

namespace buoy::serve {
namespace {

using Json = nlohmann::json;

std::vector<cli::SeenRun> a_run(std::size_t processes) {
  cli::SeenRun run;
  run.pid = 7;
  run.command = "program";
  run.processes.resize(processes);
  return {run};
}

TEST(History, TellsWhatIsNew) {
  History history;
  EXPECT_EQ(history.since(0)["samples"], Json::array());
  EXPECT_EQ(history.since(99)["next"], 0);
  for (int i = 0; i < 5; ++i) history.add(100 + i, a_run(2));
  const Json some = history.since(3);
  EXPECT_EQ(some["first"], 3);
  EXPECT_EQ(some["next"], 5);
  ASSERT_EQ(some["samples"].size(), 2U);
  EXPECT_EQ(some["samples"][0]["at"], 103.0);
  EXPECT_EQ(some["samples"][0]["runs"][0]["processes"].size(), 2U);
  EXPECT_EQ(some["samples"][0]["runs"][0]["v"].size(), some["names"].size());
  EXPECT_EQ(history.since(5)["samples"].size(), 0U);
}

TEST(History, IsBoundedByItsSamplesAndByItsRows) {
  History small;
  for (int i = 0; i < 1000; ++i) small.add(i, a_run(1));
  EXPECT_EQ(small.since(0)["samples"].size(), 900U);
  EXPECT_EQ(small.since(0)["first"], 100);
  EXPECT_EQ(small.since(0)["next"], 1000);
  History large;
  for (int i = 0; i < 60; ++i) large.add(i, a_run(511));
  EXPECT_EQ(large.since(0)["samples"].size(), 39U);  // 512 rows each
}

TEST(History, WhoDoesNotAnswerHasAnErrorAndNoNumbers) {
  History history;
  std::vector<cli::SeenRun> runs = a_run(1);
  runs[0].error = "run 7 does not answer";
  runs[0].processes[0].error = "silent";
  history.add(1, runs);
  const Json run = history.since(0)["samples"][0]["runs"][0];
  EXPECT_EQ(run["error"], "run 7 does not answer");
  EXPECT_FALSE(run.contains("v"));
  EXPECT_FALSE(run["processes"][0].contains("v"));
}

}  // namespace
}  // namespace buoy::serve
