#include "cli/top.h"

#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <thread>

#include "cli/outcome.h"
#include "cli/top_screen.h"
#include "cli/top_table.h"
#include "cli/words.h"

namespace buoy::cli {
namespace {

using std::chrono::milliseconds;

// As wide as the columns need.
constexpr unsigned kEveryColumn = 1000;

void print(const std::vector<SeenRun>& runs) {
  for (const std::string& line : summary_of(runs)) std::puts(line.c_str());
  const std::vector<TopColumn> columns = columns_for(kEveryColumn);
  const auto print_line = [&](auto cell) {
    std::string line;
    for (const TopColumn column : columns) line += (line.empty() ? "" : " ") + cell(column);
    std::puts(line.c_str());
  };
  std::puts("");
  print_line([](TopColumn column) {
    const std::string title = title_of(column);
    if (column == TopColumn::kCommand) return title;
    return std::string(width_of(column) - 1 - title.size(), ' ') + title;
  });
  for (const TopRow& row : rows_of(runs, {}))
    print_line([&](TopColumn column) { return cell_of(row, column); });
}

// Twice, because rates are what changed in between.
int print_once(milliseconds interval) {
  Census census;
  (void)census.take();
  std::this_thread::sleep_for(interval);
  print(census.take());
  return std::fflush(stdout) == 0 ? 0 : kFailed;
}

}  // namespace

int top_command(const std::vector<std::string>& words) {
  Words line("buoy top",
             "Shows what runs within a budget, live: each run with its processes, where their "
             "memory is, and what they lose to faults. Keys: h shows them.",
             "buoy top --interval 0.5");
  double interval = 1;
  bool is_once = false;
  line.take_seconds("--interval", &interval, "between two looks; 1 unless said");
  line.take_flag("--once", &is_once, "print one picture as text and end: no terminal is needed");
  if (const auto status = line.parse(words)) return *status;
  const milliseconds between(static_cast<long>(interval * 1000));
  if (is_once) return print_once(between);
  if (isatty(STDIN_FILENO) == 0 || isatty(STDOUT_FILENO) == 0) {
    say("top: this is no terminal; `buoy top --once` prints one picture");
    return kUsage;
  }
  const std::optional<Failure> failure = show_top(between);
  if (!failure) return 0;
  say(failure->line);
  return failure->status;
}

}  // namespace buoy::cli
