#include "cli/top_table.h"

#include <algorithm>
#include <array>
#include <cstdio>

#include "cli/answer.h"

namespace buoy::cli {
namespace {

struct Column {
  const char* title;
  unsigned width;       // with a space behind it; of the command: at least
  unsigned importance;  // the least important goes first; 0: always there
};
constexpr std::array<Column, kTopColumns> kColumns = {{{"PID", 9, 0},
                                                       {"BUDGET", 7, 1},
                                                       {"RESIDENT", 9, 0},
                                                       {"LAZY", 7, 8},
                                                       {"VOLATILE", 9, 11},
                                                       {"STANDBY", 8, 9},
                                                       {"COMPR", 7, 4},
                                                       {"RATIO", 6, 10},
                                                       {"FILE", 7, 5},
                                                       {"FAULT/S", 8, 3},
                                                       {"MAJ/S", 7, 7},
                                                       {"P50", 7, 8},
                                                       {"P99", 7, 6},
                                                       {"PRESS", 7, 2},
                                                       {"COMMAND", 12, 0}}};

const Column& of(TopColumn column) { return kColumns[static_cast<unsigned>(column)]; }

std::string padded(const std::string& text, unsigned width) {
  return text.size() >= width ? text : std::string(width - text.size(), ' ') + text;
}

std::string formatted(const char* format, double value) {
  char out[32];
  std::snprintf(out, sizeof out, format, value);
  return out;
}

std::string time_or_dash(const Vitals& vitals, double share) {
  const auto ns = fault_time_quantile(vitals.fault_times, share);
  return ns ? readable_time(*ns) : "-";
}

std::string pressure_text(double pressure) {
  return formatted(pressure < 0.995 ? "%.1f%%" : "%.0f%%", pressure * 100);
}

// What a row is sorted by.
double key_of(const TopRow& row, TopColumn by) {
  const Vitals& v = row.vitals;
  const auto size = [](std::uint64_t bytes) { return static_cast<double>(bytes); };
  switch (by) {
    case TopColumn::kPid:
      return -static_cast<double>(row.pid);
    case TopColumn::kBudget:
      return size(v.budget);
    case TopColumn::kResident:
      return size(v.resident);
    case TopColumn::kLazyFree:
      return size(v.lazyfree);
    case TopColumn::kVolatile:
      return size(v.volatile_marked);
    case TopColumn::kStandby:
      return size(v.standby);
    case TopColumn::kCompressed:
      return size(v.compressed);
    case TopColumn::kRatio:
      return v.ratio();
    case TopColumn::kFile:
      return size(v.file);
    case TopColumn::kFaults:
      return v.faults;
    case TopColumn::kMajor:
      return v.major;
    case TopColumn::kMedian:
      return fault_time_quantile(v.fault_times, 0.5).value_or(-1);
    case TopColumn::kSlowest:
      return fault_time_quantile(v.fault_times, 0.99).value_or(-1);
    case TopColumn::kPressure:
      return v.pressure;
    case TopColumn::kCommand:
      break;
  }
  return 0;
}

bool comes_first(const TopRow& a, const TopRow& b, const TopOrder& order) {
  const TopRow& first = order.is_reversed ? b : a;
  const TopRow& second = order.is_reversed ? a : b;
  if (order.by == TopColumn::kCommand) return first.command < second.command;
  return key_of(first, order.by) > key_of(second, order.by);
}

void sort(std::vector<TopRow>* rows, const TopOrder& order) {
  std::stable_sort(rows->begin(), rows->end(),
                   [&](const TopRow& a, const TopRow& b) { return comes_first(a, b, order); });
}

TopRow row_of(const SeenProcess& process) {
  return {TopRow::Kind::kProcess, process.pid, process.command, process.error, process.vitals};
}
TopRow row_of(const SeenRun& run) {
  std::string command = "run: " + run.command;
  if (run.not_shown != 0) command += " (" + std::to_string(run.not_shown) + " not shown)";
  return {TopRow::Kind::kRun, run.pid, std::move(command), run.error, run.sum};
}

std::vector<TopRow> processes_of(const SeenRun& run) {
  std::vector<TopRow> rows;
  for (const SeenProcess& process : run.processes) rows.push_back(row_of(process));
  return rows;
}

}  // namespace

const char* title_of(TopColumn column) { return of(column).title; }
unsigned width_of(TopColumn column) { return of(column).width; }

std::vector<TopColumn> columns_for(unsigned width) {
  std::vector<TopColumn> columns;
  unsigned needed = 0;
  for (unsigned c = 0; c < kTopColumns; ++c) {
    columns.push_back(static_cast<TopColumn>(c));
    needed += kColumns[c].width;
  }
  while (needed > width) {
    const auto least = std::max_element(columns.begin(), columns.end(), [](auto a, auto b) {
      return of(a).importance < of(b).importance;
    });
    if (of(*least).importance == 0) break;
    needed -= of(*least).width;
    columns.erase(least);
  }
  return columns;
}

std::vector<TopRow> rows_of(const std::vector<SeenRun>& runs, const TopOrder& order) {
  std::vector<TopRow> rows;
  if (!order.is_tree) {
    for (const SeenRun& run : runs) {
      const std::vector<TopRow> processes = processes_of(run);
      rows.insert(rows.end(), processes.begin(), processes.end());
      if (!run.error.empty()) rows.push_back(row_of(run));
    }
    sort(&rows, order);
    return rows;
  }
  struct Tree {
    TopRow run;
    std::vector<TopRow> processes;
  };
  std::vector<Tree> trees;
  for (const SeenRun& run : runs) {
    Tree& tree = trees.emplace_back(Tree{row_of(run), processes_of(run)});
    sort(&tree.processes, order);
  }
  std::stable_sort(trees.begin(), trees.end(),
                   [&](const Tree& a, const Tree& b) { return comes_first(a.run, b.run, order); });
  for (Tree& tree : trees) {
    rows.push_back(std::move(tree.run));
    for (TopRow& process : tree.processes) rows.push_back(std::move(process));
  }
  return rows;
}

std::string cell_of(const TopRow& row, TopColumn column) {
  const Vitals& v = row.vitals;
  const unsigned width = of(column).width - 1;
  if (column == TopColumn::kCommand) return row.error.empty() ? row.command : row.error;
  if (column == TopColumn::kPid)
    return padded(std::to_string(row.pid), row.kind == TopRow::Kind::kRun ? width - 1 : width);
  if (!row.error.empty()) return padded("-", width);
  switch (column) {
    case TopColumn::kBudget:
      return padded(readable_size(v.budget), width);
    case TopColumn::kResident:
      return padded(readable_size(v.resident), width);
    case TopColumn::kLazyFree:
      return padded(readable_size(v.lazyfree), width);
    case TopColumn::kVolatile:
      return padded(readable_size(v.volatile_marked), width);
    case TopColumn::kStandby:
      return padded(readable_size(v.standby), width);
    case TopColumn::kCompressed:
      return padded(readable_size(v.compressed), width);
    case TopColumn::kRatio:
      return padded(
          v.compressed == 0 ? "-" : formatted(v.ratio() < 100 ? "%.1fx" : "%.0fx", v.ratio()),
          width);
    case TopColumn::kFile:
      return padded(readable_size(v.file), width);
    case TopColumn::kFaults:
      return padded(readable_rate(v.faults), width);
    case TopColumn::kMajor:
      return padded(readable_rate(v.major), width);
    case TopColumn::kMedian:
      return padded(time_or_dash(v, 0.5), width);
    case TopColumn::kSlowest:
      return padded(time_or_dash(v, 0.99), width);
    case TopColumn::kPressure:
      return padded(pressure_text(v.pressure), width);
    default:
      return {};
  }
}

std::vector<std::string> summary_of(const std::vector<SeenRun>& runs) {
  Vitals all;
  std::size_t processes = 0;
  for (const SeenRun& run : runs) {
    all.add(run.sum);
    processes += run.processes.size();
  }
  const auto count = [](std::size_t n, const char* one, const char* many) {
    return std::to_string(n) + " " + (n == 1 ? one : many);
  };
  std::string compressed = readable_size(all.compressed);
  if (all.compressed != 0) compressed += formatted(" (%.1fx)", all.ratio());
  return {count(runs.size(), "run", "runs") + ", " + count(processes, "process", "processes") +
              ": resident " + readable_size(all.resident) + " of " + readable_size(all.budget),
          "compressed " + compressed + ", in files " + readable_size(all.file) + ", lazily freed " +
              readable_size(all.lazyfree) + ", standby " + readable_size(all.standby) +
              ", volatile " + readable_size(all.volatile_marked),
          "faults " + readable_rate(all.faults) + "/s, " + readable_rate(all.major) +
              "/s of them major, p50 " + time_or_dash(all, 0.5) + ", p99 " +
              time_or_dash(all, 0.99) + ", pressure " + pressure_text(all.pressure)};
}

std::string readable_time(double ns) {
  if (ns < 1000) return formatted("%.0fns", ns);
  if (ns < 1e6) return formatted(ns < 99.95e3 ? "%.1fus" : "%.0fus", ns / 1e3);
  return formatted(ns < 99.95e6 ? "%.1fms" : "%.0fms", ns / 1e6);
}

std::string readable_rate(double per_second) {
  if (per_second < 99.95) return formatted("%.1f", per_second);
  if (per_second < 99'950) return formatted("%.0f", per_second);
  if (per_second < 9.995e6) return formatted("%.0fk", per_second / 1e3);
  return formatted("%.0fM", per_second / 1e6);
}

}  // namespace buoy::cli
