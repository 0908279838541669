// Benchmark `swapfile`: a working set that does not fit even compressed, Buoy's backing file
// against a memory cgroup that swaps to a file on the same disk.
#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <string>

#include "bench.h"
#include "kernel_swap.h"
#include "machine.h"
#include "report.h"
#include "samples.h"
#include "swap_area.h"
#include "swap_workload.h"

namespace buoy::bench {
namespace {

constexpr std::size_t kMiB = std::size_t{1} << 20;

void run_case(const std::string& name, const Workload& workload, std::size_t budget,
              const std::string& why, Report& report) {
  Arguments arguments = to_arguments(workload);
  const Command plain = side_command("swap_plain", arguments);
  arguments["budget"] = std::to_string(budget);
  arguments["file"] = "auto";
  const Command library = side_command("swap_library", arguments);
  double charged = static_cast<double>(budget);
  const auto with_units = [](Sample sample) {
    sample["accesses_per_ms"] = sample.at("accesses_per_second") / 1e3;
    sample["mb_per_s"] = sample.at("accesses_per_second") * 4096 / 1e6;
    return sample;
  };
  const Side buoy = {"buoy", [&] {
                       Sample sample = run_side_in_cgroup(library, MemoryCgroup::kNoLimit);
                       charged =
                           std::max(sample.at("cgroup_peak_bytes"),
                                    sample.at("resident_peak_bytes") + sample.at("metadata_bytes"));
                       return with_units(sample);
                     }};
  // The swap file is no memory: the limit is all that the peer is charged.
  const Side kernel = {
      "cgroup + swap file, page-cluster 3", [&] {
        if (!why.empty()) throw Unavailable(why);
        return with_units(run_side_in_cgroup(plain, static_cast<std::uint64_t>(charged)));
      }};
  const std::vector<Measured> measured = run_interleaved({buoy, kernel});
  const auto line = [&](const char* what, const Unit& unit, const char* quantity) {
    report_pair(report, name + " " + what, unit, measured[0], measured[1], quantity);
  };
  if (workload.pattern == Pattern::kSequential)
    line("throughput", {"MB/s", Better::kHigher}, "mb_per_s");
  else
    line("throughput", {"accesses/ms", Better::kHigher}, "accesses_per_ms");
  line("p50", {"us", Better::kLower}, "p50_us");
  line("p99", {"us", Better::kLower}, "p99_us");
  note_disturbance(report, measured);
}

}  // namespace

BUOY_BENCH(swapfile, "a working set that no compression fits: Buoy against cgroup + swap file") {
  constexpr double kBudgets = 2;
  constexpr double kStored = 0.75;
  const std::size_t budget = (settings.quick ? 64 : 128) * kMiB;
  const auto bytes = static_cast<std::size_t>(kBudgets * static_cast<double>(budget));
  hold_machine();
  std::string why;
  try {
    swap_to_file(2 * bytes);
  } catch (const Unavailable& e) {
    why = e.what();
  }
  report.note(fmt::format("B = {} MiB, W = {} B, LZ4 makes {} of a byte", budget / kMiB, kBudgets,
                          kStored));
  for (const Pattern pattern : kPatterns) {
    const std::string name = fmt::format("W={}B {} 1t", kBudgets, name_of(pattern));
    if (!settings.wants(name)) continue;
    run_case(name,
             {pattern, bytes, kStored, 1, settings.quick ? 0.5 : 1.0, settings.quick ? 1.0 : 2.0},
             budget, why, report);
  }
}

}  // namespace buoy::bench
