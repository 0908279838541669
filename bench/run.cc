// Benchmark `run`: wall time of real programs given a half and a quarter of the memory they want,
// under `buoy run`, against the kernel's cgroup + zram; beside their native time, and a cgroup
// without swap.
#include <fmt/format.h>

#include <cmath>
#include <optional>

#include "bench.h"
#include "child.h"
#include "kernel_swap.h"
#include "machine.h"
#include "programs.h"
#include "report.h"
#include "samples.h"

namespace buoy::bench {
namespace {

constexpr std::uint64_t kMiB = 1U << 20;
constexpr std::uint64_t kSmallestBudget = 16 * kMiB;
constexpr int kAttempts = 3;
constexpr const char* kZramPeer = "cgroup + zram lz4";
constexpr const char* kNoSwapPeer = "cgroup without swap";
const Unit kSeconds = {"s", Better::kLower};
const Unit kMemory = {"MiB", Better::kLower};

void add_charge(Sample& sample, double bytes) {
  sample["charged_bytes"] = bytes;
  sample["charged_mib"] = bytes / static_cast<double>(kMiB);
}

class RunCase {
 public:
  RunCase(const Program& program, std::uint64_t budget, double expected_output, KernelSwap* swap,
          std::string why_no_swap)
      : program_(program),
        budget_(budget),
        expected_output_(expected_output),
        swap_(swap),
        why_(std::move(why_no_swap)) {}

  [[nodiscard]] bool needs_backing_file() const { return backing_file_ != "none"; }

  // Sides: buoy, cgroup + zram, native.
  std::vector<Measured> measure() {
    if (why_.empty()) find_limit();
    return run_interleaved(
        {{"buoy", [&] { return run_buoy(); }},
         {kZramPeer,
          [&] {
            if (!why_.empty()) throw Unavailable(why_);
            return run_zram(limit_);
          }},
         {"native", [&] { return run_program(program_, MemoryCgroup::kNoLimit, false); }}});
  }

  // Once: it either dies or it does not.
  Measured without_swap() {
    return run_interleaved({{kNoSwapPeer, [&] { return run_program(program_, budget_, false); }}},
                           1)[0];
  }

 private:
  Sample run_buoy() {
    Sample sample = run_program(program_, MemoryCgroup::kNoLimit, false,
                                {program_folder() + "/buoy", "run", "--budget",
                                 std::to_string(budget_), "--backing-file", backing_file_, "--"});
    check(sample);
    add_charge(sample, sample.at("cgroup_peak_bytes"));
    return sample;
  }

  // As KernelSwap::run_side: a killed run is repeated.
  Sample run_zram(std::uint64_t limit) {
    for (int attempt = 1;; ++attempt) {
      swap_->settle();
      swap_->zram().forget_peak();
      try {
        return run_zram_once(limit);
      } catch (const OutOfMemory&) {
        if (attempt == kAttempts) throw;
      }
    }
  }

  Sample run_zram_once(std::uint64_t limit) {
    Sample sample = run_program(program_, limit, true);
    check(sample);
    const ZramUse use = swap_->zram().use();
    sample["zram_bytes"] = static_cast<double>(use.peak);
    // What was held at the peak is not told: the usual factor of three stands for it.
    sample["zram_original_bytes"] = static_cast<double>(use.peak) * 3;
    add_charge(sample, static_cast<double>(limit + use.peak));
    return sample;
  }

  void check(const Sample& sample) const {
    if (sample.at("output_hash") != expected_output_) throw Unavailable("its output was wrong");
  }

  // A working set that does not fit even when it is compressed needs a backing file.
  Sample run_buoy_first() {
    try {
      return run_buoy();
    } catch (const Unavailable&) {
      backing_file_ = "auto";
      return run_buoy();
    }
  }

  void find_limit() {
    try {
      const Sample pilot = run_buoy_first();
      limit_ = calibrate_limit([&](std::uint64_t limit) { return run_zram(limit); },
                               static_cast<std::uint64_t>(pilot.at("charged_bytes")));
    } catch (const Unavailable& e) {
      why_ = e.what();  // if it is Buoy that fails, it fails again and is reported
    }
  }

  const Program& program_;
  const std::uint64_t budget_;
  const double expected_output_;
  KernelSwap* const swap_;
  std::string why_;
  std::uint64_t limit_ = 0;
  std::string backing_file_ = "none";
};

}  // namespace

BUOY_BENCH(run, "wall time of real programs in 1/2 and 1/4 of their memory, under `buoy run`") {
  hold_machine();
  std::optional<KernelSwap> swap;
  std::string why_no_swap;
  try {
    swap.emplace("lz4", 4096 * kMiB);
  } catch (const Unavailable& e) {
    why_no_swap = e.what();
  }
  for (const Program& program : real_programs(settings.quick)) {
    if (!program.missing.empty()) {
      report.note(program.name + " is passed over: " + program.missing);
      continue;
    }
    std::optional<Sample> native;
    for (const unsigned divisor : {2U, 4U}) {
      const std::string name = fmt::format("{} 1/{}", program.name, divisor);
      if (!settings.wants(name)) continue;
      if (!native) native = run_program(program, MemoryCgroup::kNoLimit, false);
      const auto peak = static_cast<std::uint64_t>(native->at("peak_rss_bytes"));
      const std::uint64_t budget = std::max(peak / divisor, kSmallestBudget);
      report.note(
          fmt::format("{}: native peak {} MiB, budget {} MiB", name, peak / kMiB, budget / kMiB));
      RunCase run_case(program, budget, native->at("output_hash"), swap ? &*swap : nullptr,
                       why_no_swap);
      const std::vector<Measured> sides = run_case.measure();
      const Measured& buoy = sides[0];
      if (run_case.needs_backing_file())
        report.note(name + ": the compressed part does not fit either: with a backing file");
      report_pair(report, name + " wall", kSeconds, buoy, sides[1], "wall_s");
      if (!buoy.ok()) continue;
      report_pair(report, name + " memory", kMemory, buoy, sides[1], "charged_mib");
      report_pair(report, name + " wall, unlimited", kSeconds, buoy, sides[2], "wall_s");
      report_pair(report, name + " wall, no swap", kSeconds, buoy, run_case.without_swap(),
                  "wall_s");
      note_disturbance(report, sides);
    }
  }
}

}  // namespace buoy::bench
