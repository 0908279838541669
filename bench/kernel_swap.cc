#include "kernel_swap.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <thread>

#include "machine.h"

namespace buoy::bench {
namespace {

constexpr double kPatience = 180;  // seconds: only a hang takes so long
constexpr int kTrials = 10;
constexpr int kAttempts = 5;

}  // namespace

Sample run_side_in_cgroup(Command command, std::uint64_t limit,
                          const std::function<void(Sample&)>& look) {
  MemoryCgroup cgroup;
  cgroup.set_limit(limit);
  command.join_cgroup = cgroup.procs_file();
  const std::jthread fresh = cgroup.keep_statistics_fresh();
  Child child(command);
  Sample sample = child.wait_for_answer(kPatience);
  sample["cgroup_peak_bytes"] = static_cast<double>(cgroup.peak());
  if (look) look(sample);
  child.finish(kPatience);
  return sample;
}

KernelSwap::KernelSwap(const std::string& compressor, std::uint64_t size)
    : zram_(compressor, size) {}

void KernelSwap::settle() {
  // Slots are freed a moment after the end of their process.
  for (int i = 0; i < 500 && zram_.use().original > (1U << 20); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
}

Sample KernelSwap::run_side(const Command& command, std::uint64_t limit) {
  for (int attempt = 1;; ++attempt) {
    settle();
    try {
      return run_side_in_cgroup(command, limit, [&](Sample& sample) {
        const ZramUse use = zram_.use();
        sample["zram_bytes"] = static_cast<double>(use.memory);
        sample["zram_compressed_bytes"] = static_cast<double>(use.compressed);
        sample["zram_original_bytes"] = static_cast<double>(use.original);
        sample["charged_bytes"] = static_cast<double>(limit + use.memory);
      });
    } catch (const OutOfMemory&) {
      ++oom_kills_;
      if (attempt == kAttempts) throw;
    }
  }
}

std::uint64_t calibrate_limit(const std::function<Sample(std::uint64_t)>& run, std::uint64_t total,
                              double tolerance) {
  const auto wanted = static_cast<double>(total);
  double limit = wanted * 0.6;
  // Limits that were seen to be too low and too high: a step may go past the goal.
  double low = wanted * 0.05;
  double high = wanted;
  for (int trial = 0; trial < kTrials; ++trial) {
    Sample sample;
    try {
      sample = run(static_cast<std::uint64_t>(limit));
    } catch (const OutOfMemory&) {
      if (trial + 1 == kTrials) throw;
      low = limit;
      limit = (low + high) / 2;
      continue;
    }
    const double surplus = wanted - sample.at("charged_bytes");
    if (std::fabs(surplus) < tolerance * wanted) return static_cast<std::uint64_t>(limit);
    (surplus > 0 ? low : high) = limit;
    // A page more in the limit is a page less in zram, where it takes `stored` of a page.
    const double original = std::max(sample.at("zram_original_bytes"), 1.0);
    const double stored = std::min(sample.at("zram_bytes") / original, 0.9);
    limit += surplus / (1 - stored);
    if (limit <= low || limit >= high) limit = (low + high) / 2;
  }
  throw Unavailable(
      fmt::format("no cgroup limit found at which the peer uses {} MiB in all", total >> 20));
}

}  // namespace buoy::bench
