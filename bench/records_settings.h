// What the sides of the `records` benchmark have in common.
#pragma once

#include <cstddef>
#include <string>

#include "bench.h"
#include "child.h"

namespace buoy::bench {

enum class RecordsAllocator { kGlibc, kDontNeed, kFree, kBuoy, kBuoyHuge };

struct RecordsSettings {
  unsigned threads;
  std::size_t chunk_bytes;
  double seconds;
};

inline constexpr std::size_t kRecordsSources = 10;  // chunks to copy from, as in ebizzy
inline constexpr unsigned kRecordsArenas = 8;       // jemalloc's own choice on two CPUs
// tcache: of the arenas made by hand, allocations of these sizes pass it anyway.
inline constexpr const char* kRecordsMallocConf = "background_thread:false,thp:default,tcache:true";

[[nodiscard]] inline Arguments to_arguments(const RecordsSettings& s) {
  return {{"threads", std::to_string(s.threads)},
          {"chunk_bytes", std::to_string(s.chunk_bytes)},
          {"seconds", std::to_string(s.seconds)}};
}
[[nodiscard]] inline RecordsSettings records_settings_of(const Arguments& arguments) {
  return {static_cast<unsigned>(number_of(arguments, "threads")),
          static_cast<std::size_t>(number_of(arguments, "chunk_bytes")),
          number_of(arguments, "seconds")};
}

}  // namespace buoy::bench
