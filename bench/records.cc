// Benchmark `records`: threads that allocate a chunk, copy a source chunk into it, search in it and
// free it, as ebizzy does; the workload that MADV_FREE was proposed with in 2014.
//
// glibc's malloc as it comes, and jemalloc three times with one set of settings: purging with
// MADV_DONTNEED, purging with MADV_FREE, and purging into a pool. The jemalloc sides differ in
// nothing but the extent hooks of their arenas (records_sides.cc).
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <string>
#include <vector>

#include "bench.h"
#include "child.h"
#include "machine.h"
#include "records_settings.h"
#include "report.h"
#include "samples.h"

namespace buoy::bench {
namespace {

constexpr double kPatience = 120;  // seconds: only a hang takes so long

std::string find_jemalloc() {
  for (const char* folder : {"/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib",
                             "/usr/lib64", "/usr/local/lib"}) {
    const std::string path = std::string(folder) + "/libjemalloc.so.2";
    if (file_exists(path)) return path;
  }
  throw Unavailable("libjemalloc.so.2 is not installed");
}

Side side(std::string name, RecordsAllocator allocator, const RecordsSettings& settings) {
  return {std::move(name), [allocator, settings] {
            Arguments arguments = to_arguments(settings);
            arguments["allocator"] = std::to_string(static_cast<int>(allocator));
            std::vector<std::string> prefix;
            if (allocator != RecordsAllocator::kGlibc)
              prefix = {"env", "LD_PRELOAD=" + find_jemalloc(),
                        fmt::format("MALLOC_CONF={}", kRecordsMallocConf)};
            Child child(side_command("records", arguments, prefix));
            Sample sample = child.wait_for_answer(kPatience);
            child.finish(kPatience);
            return sample;
          }};
}

}  // namespace

BUOY_BENCH(records,
           "allocate, copy, search, free: Buoy under jemalloc against the kernel's advice") {
  hold_machine();
  report.note(
      fmt::format("jemalloc, all three: MALLOC_CONF={}; {} arenas, threads in turn; "
                  "dirty_decay_ms 0, muzzy_decay_ms 0 (every free purges); {} source chunks",
                  kRecordsMallocConf, kRecordsArenas, kRecordsSources));
  std::vector<std::size_t> chunk_sizes = {512};
  if (!settings.quick) chunk_sizes = {512, 128, 2048};
  for (const std::size_t kib : chunk_sizes) {
    for (const unsigned threads : {1U, 2U, 4U, 8U, 16U, 32U}) {
      if (kib != 512 && threads != 1 && threads != 4) continue;
      const std::string name = fmt::format("chunks={}K {}t", kib, threads);
      if (!settings.wants(name)) continue;
      const RecordsSettings all = {threads, kib << 10, settings.quick ? 0.3 : 1.0};
      const std::vector<Measured> measured =
          run_interleaved({side("buoy", RecordsAllocator::kBuoy, all),
                           side("buoy huge", RecordsAllocator::kBuoyHuge, all),
                           side("jemalloc MADV_DONTNEED", RecordsAllocator::kDontNeed, all),
                           side("jemalloc MADV_FREE", RecordsAllocator::kFree, all),
                           side("glibc malloc", RecordsAllocator::kGlibc, all)});
      constexpr std::size_t kBuoySides = 2;
      for (std::size_t buoy = 0; buoy < kBuoySides; ++buoy)
        for (std::size_t peer = kBuoySides; peer < measured.size(); ++peer)
          report_pair(report, name + (buoy == 0 ? " small" : " huge"),
                      {"records/s", Better::kHigher}, measured[buoy], measured[peer],
                      "records_per_second");
      note_disturbance(report, measured);
    }
  }
}

}  // namespace buoy::bench
