// What buoy-sim prints: a table, JSON, a page of HTML.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "result.h"
#include "trace.h"

namespace buoy::sim {

// A policy that was not run, and why.
struct NotRun {
  std::string policy;
  std::uint64_t budget_bytes = 0;
  std::string why;
};

struct Report {
  std::string title;   // what was replayed: the pattern with its parameters, or the file
  std::string engine;  // how the engine was set up
  const Trace* trace = nullptr;
  std::vector<Replayed> results;  // by budget, in the order of the policies
  std::vector<NotRun> not_run;

  // The same budget's result of that policy; null: there is none.
  [[nodiscard]] const Replayed* find(std::string_view policy, std::uint64_t budget_bytes) const;
};

[[nodiscard]] std::string to_table(const Report& report);
[[nodiscard]] std::string to_json(const Report& report);
// Self-contained: no script, nothing loaded.
[[nodiscard]] std::string to_html(const Report& report);

}  // namespace buoy::sim
