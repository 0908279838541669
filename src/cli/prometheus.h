// The text format of Prometheus: what `buoy stat --prometheus` prints.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace buoy::cli {

// Of an answer to "stats": a family a statistic (`buoy_resident_bytes`, `buoy_pgfault_total`), a
// sample a process, with the labels run, pid and command.
[[nodiscard]] std::string format_prometheus(const nlohmann::json& answer);

}  // namespace buoy::cli
