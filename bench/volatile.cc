// Benchmark `volatile`: marking, purging, and a cache in volatile memory against a fixed LRU.
//
// How the lines are to be read: docs/performance.md.
#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "bench.h"
#include "buoy/buoy.h"
#include "cgroup.h"
#include "child.h"
#include "kernel_swap.h"
#include "machine.h"
#include "report.h"
#include "samples.h"
#include "volatile_work.h"

namespace buoy::bench {
namespace {

constexpr std::size_t kMiB = std::size_t{1} << 20;
constexpr double kPatience = 120;  // seconds: only a hang takes so long

// ---- Marks and purges ---------------------------------------------------------------------------

struct MarkPeer {
  MarkBy by;
  const char* name;
  const char* argument;
};
constexpr MarkPeer kBuoyWhole{MarkBy::kBuoy, "buoy", "buoy"};
constexpr MarkPeer kBuoyPart{MarkBy::kBuoyPart, "buoy", "part"};
constexpr MarkPeer kMarkPeers[] = {
    {MarkBy::kProtect, "mprotect NONE and back", "mprotect"},
    {MarkBy::kFree, "MADV_FREE and stores", "free"},
    {MarkBy::kDiscard, "MADV_DONTNEED and refill", "dontneed"},
};

Side side_of(const std::string& name, const std::string& program, const Arguments& arguments) {
  return {name, [program, arguments] {
            Child child(side_command(program, arguments));
            Sample sample = child.wait_for_answer(kPatience);
            child.finish(kPatience);
            return sample;
          }};
}

void run_marks(const Settings& settings, Report& report) {
  const Unit unit{"ns/mark+unmark", Better::kLower};
  for (const std::size_t bytes : {std::size_t{4096}, kMiB, 1024 * kMiB}) {
    const std::string size = bytes < kMiB ? "4K" : bytes == kMiB ? "1M" : "1G";
    const std::string name = "mark " + size;
    if (!settings.wants(name)) continue;
    const Arguments at{{"bytes", std::to_string(bytes)}};
    const auto with = [&at](const MarkPeer& peer) {
      Arguments arguments = at;
      arguments["by"] = peer.argument;
      return side_of(peer.name, "volatile_marks", arguments);
    };
    std::vector<Side> sides = {with(kBuoyWhole)};
    for (const MarkPeer& peer : kMarkPeers) sides.push_back(with(peer));
    if (bytes > kMiB) sides.push_back(with(kBuoyPart));
    const std::vector<Measured> measured = run_interleaved(sides);
    for (std::size_t i = 0; i < std::size(kMarkPeers); ++i)
      report_pair(report, name, unit, measured[0], measured[i + 1], "ns");
    // A part that cuts: one mark or one unmark of 64 KiB inside, against the whole's peer.
    if (bytes > kMiB)
      report_pair(report, "mark 64K inside 1G", {"ns/call", Better::kLower}, measured.back(),
                  measured[1], "ns");
    note_disturbance(report, measured);
  }
}

void run_purge(const Settings& settings, Report& report) {
  const std::size_t bytes = (settings.quick ? 64 : 256) * kMiB;
  const Arguments at{{"bytes", std::to_string(bytes)}};
  const auto buoy = [&at](const char* pages) {
    Arguments arguments = at;
    arguments["pages"] = pages;
    return side_of("buoy", "volatile_purge", arguments);
  };
  if (!settings.wants("purge")) return;
  const std::vector<Measured> measured = run_interleaved(
      {buoy("small"), buoy("huge"),
       side_of("MADV_PAGEOUT of clean MADV_FREE, 4K pages", "volatile_pageout", at)});
  const Unit unit{"ns/page", Better::kLower};
  report_pair(report, "purge small", unit, measured[0], measured[2], "ns");
  report_pair(report, "purge huge", unit, measured[1], measured[2], "ns");
  note_disturbance(report, measured);
}

// ---- The cache ----------------------------------------------------------------------------------

// How much larger the LRU under swap is than the one without: its data compress by half, and what
// is resident needs room to work in.
constexpr double kSwappedPart = 1.2;
// How far what it is charged may be from what Buoy used: what lies in swap at the end of so short a
// run is not the same each time.
constexpr double kTolerance = 0.03;

struct CacheCase {
  std::string name;
  CacheWork work;
};

void report_cache(Report& report, const std::string& name, const Measured& buoy,
                  const Measured& peer) {
  report_pair(report, name + " throughput", {"requests/s", Better::kHigher}, buoy, peer,
              "requests_per_second");
  if (buoy.ok() && peer.ok())
    report_pair(report, name + " hits", {"% of requests", Better::kHigher}, buoy, peer,
                "hit_percent");
}

class CacheCases {
 public:
  CacheCases(Report& report, std::optional<KernelSwap>& swap, std::string why_no_swap)
      : report_(report), swap_(swap), why_no_swap_(std::move(why_no_swap)) {}

  void run(const CacheCase& c, bool with_swap) {
    const Side purge_side = buoy_side("buoy", c, "no");
    const Side compress_side = buoy_side("buoy, may compress", c, "yes");
    // Both sides in what the first run of Buoy's used in all.
    std::uint64_t limit = 0;
    std::string why;
    try {
      limit = static_cast<std::uint64_t>(purge_side.run().at("cgroup_peak_bytes"));
    } catch (const Unavailable& e) {
      why = e.what();
    }
    CacheWork lru = c.work;
    try {
      if (why.empty()) lru.memory_bytes = capacity_within(c.work, limit);
    } catch (const Unavailable& e) {
      why = e.what();
    }
    const Command lru_command = side_command("volatile_lru", to_arguments(lru));
    std::vector<Side> sides = {purge_side, compress_side};
    sides.push_back({fmt::format("LRU of {} MiB in a cgroup", lru.memory_bytes / kMiB), [&] {
                       if (!why.empty()) throw Unavailable(why);
                       return run_side_in_cgroup(lru_command, limit);
                     }});
    CacheWork large = c.work;
    large.memory_bytes =
        std::min(c.work.set_bytes,
                 static_cast<std::size_t>(kSwappedPart * static_cast<double>(lru.memory_bytes)));
    const Command large_command = side_command("volatile_lru", to_arguments(large));
    std::uint64_t swap_limit = 0;
    std::string why_no_swap = why_no_swap_;
    if (with_swap && why.empty() && why_no_swap.empty()) {
      try {
        swap_limit = calibrate_limit(
            [&](std::uint64_t trial) { return swap_->run_side(large_command, trial); }, limit,
            kTolerance);
      } catch (const Unavailable& e) {
        why_no_swap = e.what();
      }
    }
    if (with_swap)
      sides.push_back(
          {fmt::format("LRU of {} MiB in a cgroup + zram lz4", large.memory_bytes / kMiB), [&] {
             if (!why_no_swap.empty()) throw Unavailable(why_no_swap);
             return swap_->run_side(large_command, swap_limit);
           }});
    const std::vector<Measured> measured = run_interleaved(sides);
    report_cache(report_, c.name, measured[0], measured[2]);
    report_cache(report_, c.name + " may-compress", measured[1], measured[2]);
    if (with_swap) {
      report_cache(report_, c.name, measured[0], measured[3]);
      report_cache(report_, c.name + " may-compress", measured[1], measured[3]);
    }
    note_disturbance(report_, measured);
  }

 private:
  // The largest LRU whose process stays within `limit` at its peak: what it needs besides the
  // values is measured, not guessed.
  [[nodiscard]] static std::size_t capacity_within(const CacheWork& work, std::uint64_t limit) {
    CacheWork pilot = work;
    pilot.rebuild_us = 0;
    pilot.seconds = 0.2;
    pilot.memory_bytes = limit / 2;
    const Sample sample = run_side_in_cgroup(side_command("volatile_lru", to_arguments(pilot)),
                                             MemoryCgroup::kNoLimit);
    const double held = std::min<double>(static_cast<double>(pilot.memory_bytes),
                                         static_cast<double>(work.set_bytes));
    const double beside = sample.at("cgroup_peak_bytes") - held;
    constexpr double kMargin = 0.99;  // the kernel charges in batches
    const double room = kMargin * static_cast<double>(limit) - std::max(beside, 0.0);
    if (room <= 0) throw Unavailable("no room for an LRU");
    return static_cast<std::size_t>(room);
  }

  [[nodiscard]] Side buoy_side(const char* name, const CacheCase& c, const char* compress) const {
    Arguments arguments = to_arguments(c.work);
    arguments["compress"] = compress;
    return {name, [arguments] {
              return run_side_in_cgroup(side_command("volatile_cache", arguments),
                                        MemoryCgroup::kNoLimit);
            }};
  }

  Report& report_;
  std::optional<KernelSwap>& swap_;
  std::string why_no_swap_;
};

void run_caches(const Settings& settings, Report& report) {
  const std::size_t budget = (settings.quick ? 32 : 64) * kMiB;
  std::vector<CacheCase> cases;
  for (const unsigned budgets : {1U, 2U, 4U, 8U})
    for (const double rebuild_us : {50.0, 500.0, 5000.0}) {
      if (settings.quick && (budgets == 4 || rebuild_us == 500)) continue;
      CacheCase c{fmt::format("cache W={}B rebuild={}us", budgets, rebuild_us),
                  {budgets * budget, budget, rebuild_us, settings.quick ? 0.4 : 1.0}};
      if (settings.wants(c.name)) cases.push_back(std::move(c));
    }
  if (cases.empty()) return;
  std::optional<KernelSwap> swap;
  std::string why;
  try {
    swap.emplace("lz4", 8 * budget + 64 * kMiB);
  } catch (const Unavailable& e) {
    why = e.what();
  }
  report.note(
      fmt::format("B = {} MiB of 64 KiB objects that compress by half; both sides in the memory "
                  "that Buoy's process used at its peak",
                  budget / kMiB));
  CacheCases runner(report, swap, why);
  for (const CacheCase& c : cases) runner.run(c, c.work.rebuild_us != 500);
}

}  // namespace

BUOY_BENCH(volatile, "marking and purging volatile memory; a cache in it against a fixed LRU") {
  hold_machine();
  run_marks(settings, report);
  run_purge(settings, report);
  run_caches(settings, report);
}

BUOY_BENCH_SIDE(volatile_marks) {
  const auto bytes = static_cast<std::size_t>(number_of(arguments, "bytes"));
  const std::string& by = text_of(arguments, "by");
  if (by == kBuoyWhole.argument) return answer(measure_marks(kBuoyWhole.by, bytes));
  if (by == kBuoyPart.argument) return answer(measure_marks(kBuoyPart.by, bytes));
  for (const MarkPeer& peer : kMarkPeers)
    if (by == peer.argument) return answer(measure_marks(peer.by, bytes));
  throw Unavailable("unknown way to mark: " + by);
}

BUOY_BENCH_SIDE(volatile_purge) {
  const bool huge = text_of(arguments, "pages") == "huge";
  answer(measure_purge(static_cast<std::size_t>(number_of(arguments, "bytes")),
                       huge ? unsigned{BUOY_HUGE} : 0U));
}

BUOY_BENCH_SIDE(volatile_pageout) {
  answer(measure_kernel_reclaim(static_cast<std::size_t>(number_of(arguments, "bytes"))));
}

BUOY_BENCH_SIDE(volatile_cache) {
  answer(run_purgeable_cache(cache_work_of(arguments), text_of(arguments, "compress") == "yes"));
}

BUOY_BENCH_SIDE(volatile_lru) { answer(run_fixed_lru(cache_work_of(arguments))); }

}  // namespace buoy::bench
