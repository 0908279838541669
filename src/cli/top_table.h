// The table of `buoy top`: which rows there are, in which order, and what stands in their columns, for
// any width. Text only; who draws it is TopScreen, or stdout.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cli/census.h"

namespace buoy::cli {

enum class TopColumn : std::uint8_t {
  kPid,
  kBudget,
  kResident,
  kLazyFree,
  kVolatile,
  kStandby,
  kCompressed,
  kRatio,
  kFile,
  kFaults,
  kMajor,
  kMedian,
  kSlowest,
  kPressure,
  kCommand,
};
inline constexpr unsigned kTopColumns = 15;

[[nodiscard]] const char* title_of(TopColumn column);
// The columns that fit, in their order; where there is less room, the less important ones go.
[[nodiscard]] std::vector<TopColumn> columns_for(unsigned width);
// Width of a column, with a space behind it. kCommand takes the rest.
[[nodiscard]] unsigned width_of(TopColumn column);

struct TopRow {
  enum class Kind : std::uint8_t { kRun, kProcess };
  Kind kind = Kind::kProcess;
  pid_t pid = 0;
  std::string command;
  std::string error;
  Vitals vitals;
};

struct TopOrder {
  TopColumn by = TopColumn::kResident;
  bool is_reversed = false;  // smallest first; of names and numbers, last first
  bool is_tree = true;       // runs, and their processes under each
};

[[nodiscard]] std::vector<TopRow> rows_of(const std::vector<SeenRun>& runs, const TopOrder& order);
// As wide as the column, without the space; the command as it is.
[[nodiscard]] std::string cell_of(const TopRow& row, TopColumn column);

// Three lines about all of it.
[[nodiscard]] std::vector<std::string> summary_of(const std::vector<SeenRun>& runs);

// 850ns, 2.1us, 45ms.
[[nodiscard]] std::string readable_time(double ns);
// 12.3, 4567, 12.3k, 4.5M.
[[nodiscard]] std::string readable_rate(double per_second);

}  // namespace buoy::cli
