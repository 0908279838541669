// The workload of the `swap` benchmark: a working set larger than its memory, touched by threads.
// The same code runs over Buoy's memory and over plain memory; it knows nothing of either.
#pragma once

#include <cstddef>
#include <cstdint>

#include "access_pattern.h"
#include "samples.h"

namespace buoy::bench {

struct Workload {
  Pattern pattern;
  std::size_t set_bytes;  // W
  double stored;          // what LZ4 makes of a byte
  unsigned threads;
  double warm_seconds;  // touched this long before anything is measured
  double timed_seconds;
};

// An access longer than this had to fault.
inline constexpr double kSlowMicroseconds = 1.0;

// Fills `memory` (W bytes of zeros), warms up, measures, and checks the contents by samples; throws
// Unavailable if they are wrong. The sample: accesses_per_second, and of the slow accesses p50_us,
// p99_us, p999_us and slow_part (of all accesses).
[[nodiscard]] Sample run_workload(const Workload& workload, std::uint64_t* memory);

// To hand a workload to another process and back.
[[nodiscard]] Arguments to_arguments(const Workload& workload);
[[nodiscard]] Workload workload_of(const Arguments& arguments);

}  // namespace buoy::bench
