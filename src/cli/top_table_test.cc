#include "cli/top_table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace buoy::cli {
namespace {

using testing::ElementsAre;

SeenProcess process(pid_t pid, std::uint64_t resident, double pressure, const char* command) {
  SeenProcess p;
  p.pid = pid;
  p.command = command;
  p.vitals.resident = resident;
  p.vitals.pressure = pressure;
  return p;
}

SeenRun run(pid_t pid, std::vector<SeenProcess> processes) {
  SeenRun r;
  r.pid = pid;
  r.command = "r" + std::to_string(pid);
  for (const SeenProcess& p : processes) r.sum.add(p.vitals);
  r.processes = std::move(processes);
  return r;
}

std::vector<SeenRun> some() {
  return {run(10, {process(11, 5, 0.1, "b"), process(12, 7, 0, "a")}),
          run(20, {process(21, 9, 0.5, "c")})};
}

std::vector<pid_t> pids(const std::vector<SeenRun>& runs, const TopOrder& order) {
  std::vector<pid_t> out;
  for (const TopRow& row : rows_of(runs, order)) out.push_back(row.pid);
  return out;
}

TEST(TopTable, TreesAreSortedByTheirSums) {
  EXPECT_THAT(pids(some(), {TopColumn::kResident, false, true}), ElementsAre(10, 12, 11, 20, 21));
  EXPECT_THAT(pids(some(), {TopColumn::kPressure, false, true}), ElementsAre(20, 21, 10, 11, 12));
  EXPECT_THAT(pids(some(), {TopColumn::kResident, true, true}), ElementsAre(20, 21, 10, 11, 12));
  EXPECT_THAT(pids(some(), {TopColumn::kPid, false, true}), ElementsAre(10, 11, 12, 20, 21));
}

TEST(TopTable, ProcessesAlone) {
  EXPECT_THAT(pids(some(), {TopColumn::kResident, false, false}), ElementsAre(21, 12, 11));
  EXPECT_THAT(pids(some(), {TopColumn::kCommand, false, false}), ElementsAre(12, 11, 21));
}

TEST(TopTable, ARunThatDoesNotAnswerStaysARow) {
  std::vector<SeenRun> runs = some();
  runs.push_back(run(30, {}));
  runs.back().error = "run 30 does not answer";
  for (const bool is_tree : {true, false}) {
    const std::vector<TopRow> rows = rows_of(runs, {TopColumn::kPid, false, is_tree});
    EXPECT_EQ(rows.back().pid, 30);
    EXPECT_EQ(cell_of(rows.back(), TopColumn::kCommand), "run 30 does not answer");
    EXPECT_EQ(cell_of(rows.back(), TopColumn::kResident), "       -");
  }
}

TEST(TopTable, ColumnsFitWhateverTheWidth) {
  for (unsigned width = 1; width < 200; ++width) {
    const std::vector<TopColumn> columns = columns_for(width);
    unsigned needed = 0;
    for (const TopColumn c : columns) needed += width_of(c);
    const std::vector<TopColumn> least{TopColumn::kPid, TopColumn::kResident, TopColumn::kCommand};
    EXPECT_TRUE(needed <= width || columns == least) << width;
  }
  EXPECT_EQ(columns_for(200).size(), kTopColumns);
}

TEST(TopTable, CellsAreAsWideAsTheirColumns) {
  TopRow row;
  row.pid = 4194304;
  for (const std::uint64_t bytes : {0ULL, 1023ULL, 1ULL << 20, (1ULL << 40) - 1, 999ULL << 40}) {
    row.vitals.resident = row.vitals.budget = row.vitals.file = bytes;
    row.vitals.compressed = 1;
    row.vitals.compressed_original = 4096;
    for (const double rate : {0.0, 99.94, 99.96, 99'949.0, 1e6, 9e9}) {
      row.vitals.faults = row.vitals.major = rate;
      row.vitals.pressure = 9.99;
      row.vitals.fault_times[kFaultTimeBuckets - 1] = 3;
      for (const TopColumn c : columns_for(500)) {
        if (c == TopColumn::kCommand) continue;
        EXPECT_EQ(cell_of(row, c).size(), width_of(c) - 1)
            << title_of(c) << ": " << cell_of(row, c);
      }
    }
  }
}

TEST(TopTable, NumbersForReading) {
  EXPECT_EQ(readable_time(850), "850ns");
  EXPECT_EQ(readable_time(2100), "2.1us");
  EXPECT_EQ(readable_time(999'900), "1000us");
  EXPECT_EQ(readable_time(45e6), "45.0ms");
  EXPECT_EQ(readable_rate(3), "3.0");
  EXPECT_EQ(readable_rate(4567), "4567");
  EXPECT_EQ(readable_rate(123'456), "123k");
}

}  // namespace
}  // namespace buoy::cli
