// Benchmark `swap`: a working set larger than its memory, Buoy against the kernel's cgroup + zram.
//
// How both are charged, and what the cases are: docs/performance.md.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <optional>
#include <string>
#include <vector>

#include "bench.h"
#include "child.h"
#include "kernel_swap.h"
#include "machine.h"
#include "report.h"
#include "samples.h"
#include "swap_workload.h"

namespace buoy::bench {
namespace {

constexpr std::size_t kMiB = std::size_t{1} << 20;
constexpr unsigned kDefaultPageCluster = 3;

// Working sets for which the compressed part fits into the budget too.
struct WorkingSet {
  double budgets;  // W / B
  double stored;   // LZ4 size per byte
};
constexpr std::array<WorkingSet, 3> kSets = {{{1.5, 0.5}, {2, 0.25}, {3, 0.25}}};

// How the program gets Buoy's memory.
enum class Way { kLibrary, kRun };

struct Case {
  std::string name;
  Way way;
  Workload workload;
  std::size_t budget;
};

// --quick leaves out what another case shows too.
bool in_quick(Way way, const WorkingSet& set, unsigned threads, Pattern pattern) {
  const bool main_pattern = pattern == Pattern::kRandomWrite || pattern == Pattern::kSequential;
  if (way == Way::kRun) return set.budgets == 2 && main_pattern;
  return threads == 1 || main_pattern;
}

std::vector<Case> all_cases(const Settings& settings) {
  const std::size_t budget = (settings.quick ? 128 : 256) * kMiB;
  std::vector<Case> cases;
  for (const Way way : {Way::kLibrary, Way::kRun})
    for (const WorkingSet& set : kSets)
      for (const unsigned threads : {1U, 2U})
        for (const Pattern pattern : kPatterns) {
          if (settings.quick && !in_quick(way, set, threads, pattern)) continue;
          const auto bytes = static_cast<std::size_t>(set.budgets * static_cast<double>(budget));
          cases.push_back({fmt::format("{}W={}B {} {}t", way == Way::kRun ? "run " : "",
                                       set.budgets, name_of(pattern), threads),
                           way,
                           {pattern, bytes, set.stored, threads, settings.quick ? 0.4 : 1.0,
                            settings.quick ? 0.6 : 2.0},
                           budget});
        }
  return cases;
}

Command buoy_command(const Case& c) {
  Arguments arguments = to_arguments(c.workload);
  const std::string budget = std::to_string(c.budget);
  if (c.way == Way::kRun)
    return side_command(
        "swap_plain", arguments,
        {program_folder() + "/buoy", "run", "--budget", budget, "--backing-file", "none", "--"});
  arguments["budget"] = budget;
  return side_command("swap_library", arguments);
}

// Buoy's use is what the kernel charges its process at its peak (program, arena, metadata, page
// tables), or what the pool itself tells, if that is more.
Sample run_buoy(const Case& c) {
  Sample sample = run_side_in_cgroup(buoy_command(c), MemoryCgroup::kNoLimit);
  double charged = sample.at("cgroup_peak_bytes");
  if (c.way == Way::kLibrary)
    charged = std::max(charged, sample.at("resident_peak_bytes") + sample.at("metadata_bytes"));
  sample["charged_bytes"] = charged;
  return sample;
}

void add_units(Sample& sample, const Case& c) {
  sample["accesses_per_ms"] = sample.at("accesses_per_second") / 1e3;
  sample["slow_percent"] = sample.at("slow_part") * 100;
  sample["mb_per_s"] = sample.at("accesses_per_second") * 4096 / 1e6;
  sample["charged_mib"] = sample.at("charged_bytes") / static_cast<double>(kMiB);
  if (sample.count("zram_bytes") != 0)
    sample["stored"] =
        sample.at("zram_compressed_bytes") / std::max(sample.at("zram_original_bytes"), 1.0);
  else if (c.way == Way::kLibrary)
    sample["stored"] =
        sample.at("compressed_bytes") / std::max(sample.at("compressed_original_bytes"), 1.0);
}

void report_case(Report& report, const Case& c, const std::string& suffix, const Measured& buoy,
                 const Measured& peer) {
  const auto line = [&](const char* what, const Unit& unit, const char* quantity) {
    report_pair(report, c.name + suffix + " " + what, unit, buoy, peer, quantity);
  };
  if (c.workload.pattern == Pattern::kSequential)
    line("throughput", {"MB/s", Better::kHigher}, "mb_per_s");
  else
    line("throughput", {"accesses/ms", Better::kHigher}, "accesses_per_ms");
  if (!buoy.ok()) return;
  line("p50", {"us", Better::kLower}, "p50_us");
  line("p99", {"us", Better::kLower}, "p99_us");
  line("p99.9", {"us", Better::kLower}, "p999_us");
  line("slow", {"% accesses", Better::kLower}, "slow_percent");
  if (c.way == Way::kLibrary) line("stored", {"bytes/byte", Better::kLower}, "stored");
  line("memory", {"MiB", Better::kLower}, "charged_mib");
}

// The kernel's side; why it is missing, if it is.
struct Peer {
  std::optional<KernelSwap> swap;
  std::string why;
};

void run_case(const Case& c, bool both_clusters, Peer& peer, Report& report) {
  const Command plain = side_command("swap_plain", to_arguments(c.workload));
  std::uint64_t limit = 0;
  std::string why = peer.why;
  if (why.empty()) {
    try {
      const Sample pilot = run_buoy(c);
      set_page_cluster(0);
      limit =
          calibrate_limit([&](std::uint64_t trial) { return peer.swap->run_side(plain, trial); },
                          static_cast<std::uint64_t>(pilot.at("charged_bytes")));
    } catch (const Unavailable& e) {
      why = e.what();  // if it is Buoy that fails, it fails again below, and is reported
    }
  }
  const auto kernel_side = [&](unsigned page_cluster) {
    return Side{fmt::format("cgroup + zram lz4, page-cluster {}", page_cluster), [&, page_cluster] {
                  if (!why.empty()) throw Unavailable(why);
                  set_page_cluster(page_cluster);
                  Sample sample = peer.swap->run_side(plain, limit);
                  add_units(sample, c);
                  return sample;
                }};
  };
  std::vector<Side> sides = {{"buoy", [&] {
                                Sample sample = run_buoy(c);
                                add_units(sample, c);
                                return sample;
                              }}};
  sides.push_back(kernel_side(0));
  if (both_clusters) sides.push_back(kernel_side(kDefaultPageCluster));
  const unsigned kills_before = peer.swap ? peer.swap->oom_kills() : 0;
  const std::vector<Measured> measured = run_interleaved(sides);
  report_case(report, c, "", measured[0], measured[1]);
  if (both_clusters) report_case(report, c, " page-cluster 3", measured[0], measured[2]);
  if (peer.swap && peer.swap->oom_kills() != kills_before)
    report.note(fmt::format("the kernel killed its side {} times with swap left; repeated",
                            peer.swap->oom_kills() - kills_before));
  note_disturbance(report, measured);
}

}  // namespace

BUOY_BENCH(swap, "a working set of 1.5 to 3 budgets: Buoy against cgroup + zram") {
  const std::vector<Case> cases = all_cases(settings);
  std::size_t largest = 0;
  for (const Case& c : cases) largest = std::max(largest, c.workload.set_bytes);
  hold_machine();
  Peer peer;
  try {
    peer.swap.emplace("lz4", largest + 64 * kMiB);
  } catch (const Unavailable& e) {
    peer.why = e.what();
  }
  report.note(
      fmt::format("B = {} MiB; 'memory' is all that a side uses: Buoy's process, or the "
                  "peer's cgroup limit + zram's mem_used_total",
                  cases.front().budget / kMiB));
  for (const Case& c : cases) {
    if (!settings.wants(c.name)) continue;
    // Swap-in from zram passes readahead over, so that page-cluster hardly matters; --quick shows
    // it where it could matter most.
    const bool both =
        c.way == Way::kLibrary && (!settings.quick || c.workload.pattern == Pattern::kSequential);
    run_case(c, both, peer, report);
  }
}

}  // namespace buoy::bench
