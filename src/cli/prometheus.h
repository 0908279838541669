// The text format of Prometheus: what `buoy stat --prometheus` prints, and `buoy serve` at /metrics.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace buoy::cli {

// Of answers to "stats", one a run: a family a statistic (`buoy_resident_bytes`, `buoy_pgfault_total`),
// a sample a process, with the labels run, pid and command; how long faults took is a histogram.
[[nodiscard]] std::string format_prometheus(const std::vector<nlohmann::json>& answers);

}  // namespace buoy::cli
