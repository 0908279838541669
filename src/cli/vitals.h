// Vitals: what one looks at first of a process, or of several summed: where its memory is, and what it
// loses to faults. `buoy top` and `buoy serve` show these.
//
//   pressure   time that its threads spent in faults / time that passed. 1: as much as one CPU's;
//              several threads can lose more. Of a run: the sum over its processes
#pragma once

#include <array>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/counters.h"

namespace buoy::cli {

using FaultTimes = std::array<std::uint64_t, kFaultTimeBuckets>;

// Counters, as they stood at a moment.
struct Totals {
  std::uint64_t faults = 0;
  std::uint64_t major = 0;  // had to decompress or to read
  std::uint64_t in = 0;     // pages
  std::uint64_t out = 0;    // pages
  std::uint64_t fault_ns = 0;
  FaultTimes fault_times{};
};

struct Vitals {
  // Bytes.
  std::uint64_t budget = 0;
  std::uint64_t resident = 0;
  std::uint64_t lazyfree = 0;
  std::uint64_t volatile_marked = 0;
  std::uint64_t standby = 0;
  std::uint64_t compressed = 0;
  std::uint64_t compressed_original = 0;
  std::uint64_t file = 0;
  // Since the last look. Per second, but pressure.
  double faults = 0;
  double major = 0;
  double in = 0;   // pages
  double out = 0;  // pages
  double pressure = 0;
  FaultTimes fault_times{};

  // Original size over stored size; 0: nothing is compressed.
  [[nodiscard]] double ratio() const;
  void add(const Vitals& other);
};

[[nodiscard]] Totals totals_of(const nlohmann::json& stats);
// `before`: what the same process said `seconds` ago. Nothing, or a process that has become another
// program since and counts anew: no rates.
[[nodiscard]] Vitals vitals_of(const nlohmann::json& stats, const Totals& now,
                               const std::optional<Totals>& before, double seconds);

// So that `share` (0 to 1) of the faults took no longer, in nanoseconds; within a bucket they are taken
// to be spread evenly. Nothing if there were none.
[[nodiscard]] std::optional<double> fault_time_quantile(const FaultTimes& times, double share);

}  // namespace buoy::cli
