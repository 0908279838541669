// Benchmark `fragmentation`: what an arena is good for after hours of churn, with everything on it
// movable, beside (a) nothing movable and (c) nothing movable, but free frames given back singly.
//
// How the lines are to be read: docs/performance.md.
#include "fragmentation.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "arena_map.h"
#include "bench.h"
#include "child.h"
#include "machine.h"
#include "report.h"
#include "samples.h"

namespace buoy::bench {
namespace {

constexpr double kPatience = 120;  // seconds: only a hang takes so long
constexpr unsigned kHighestOrder = 9;

const Unit kSuccess{"success %", Better::kHigher};
const Unit kLatency{"us/allocation", Better::kLower};

// A side whose churn differs from run to run, and is the same for all sides of a round.
Side side_of(const std::string& name, const std::string& program, Arguments arguments) {
  return {name, [program, arguments, seed = 0]() mutable {
            arguments["seed"] = std::to_string(++seed);
            Child child(side_command(program, arguments));
            Sample sample = child.wait_for_answer(kPatience);
            child.finish(kPatience);
            return sample;
          }};
}

bool has(const Measured& side, const std::string& quantity) {
  return side.ok() && std::all_of(side.samples.begin(), side.samples.end(),
                                  [&](const Sample& s) { return s.contains(quantity); });
}

// As report_pair, for quantities that a side may not have.
void report_if_any(Report& report, const std::string& name, const Unit& unit, const Measured& buoy,
                   const Measured& peer, const std::string& quantity, const char* why_not) {
  if (buoy.ok() && !has(buoy, quantity)) {
    report.add_failure(name, why_not);
  } else if (buoy.ok() && peer.ok() && !has(peer, quantity)) {
    report.add_without_peer(name, unit, buoy.median(quantity), peer.name, why_not);
  } else {
    report_pair(report, name, unit, buoy, peer, quantity);
  }
}

// The kernel's own compaction, if we may start it.
Side kernel_side() {
  Side side = side_of("compact_memory of the kernel", "fragmentation_kernel", {});
  return {side.name, [run = side.run]() -> Sample {
            if (access(kCompactMemory, W_OK) != 0)
              throw Unavailable(because_errno(kCompactMemory) + "; it needs root");
            // Where the kernel puts pages, and so whether there is something to move, is chance.
            constexpr unsigned kTries = 3;
            for (unsigned i = 0; i < kTries; ++i)
              if (Sample sample = run(); sample.at("is_measured") > 0) return sample;
            throw Unavailable("it moved too few pages to tell, three times");
          }};
}

class Fragmentation {
 public:
  Fragmentation(const Settings& settings, Report& report)
      : settings_(settings), report_(report), blocks_(settings.quick ? 64 : 192) {}

  void run() {
    report_.note(fmt::format(
        "arena of {} MiB; buoy: everything movable, and compaction; peers: (a) nothing movable, "
        "(c) nothing movable, free frames given back with MADV_DONTNEED; bursts of requests for "
        "half of what is free; use is 90 % where no other is named",
        2 * blocks_));
    struct Part {
      std::vector<std::string> topics;
      void (Fragmentation::*run)();
    };
    const Part parts[] = {
        {{"order", "at 90 % use", "latency p99", "budget lost at", "budget lost, half freed",
          "returned as whole huge pages, half freed: bytes", "arena on huge pages",
          "access, a load at a random place", "read, a random object pinned and copied"},
         &Fragmentation::run_churn},
        {{"contiguous", "MiB latency", "MiB from the reserve", "reserve in use while idle"},
         &Fragmentation::run_contiguous},
        {{"migrate 4 KiB, a driver's pages", "migrate 4 KiB, compressed pool"},
         &Fragmentation::run_migrate},
        {{"foreground while compaction runs"}, &Fragmentation::run_foreground},
        {{"faults while compaction runs, p99.9"}, &Fragmentation::run_faults},
    };
    for (const Part& part : parts) {
      if (!wants_any(part.topics)) continue;
      hold_machine();
      (this->*part.run)();
    }
  }

 private:
  // Cases are run if part of their names, or what all their names have, was asked for.
  [[nodiscard]] bool wants_any(const std::vector<std::string>& about) const {
    return std::any_of(about.begin(), about.end(), [&](const std::string& topic) {
      return settings_.wants(topic) || settings_.only.find(topic) != std::string::npos;
    });
  }
  [[nodiscard]] Arguments churn_arguments(const char* treatment) const {
    return {{"treatment", treatment},
            {"blocks", std::to_string(blocks_)},
            {"rounds", settings_.quick ? "3" : "5"},
            {"epochs", settings_.quick ? "4" : "6"},
            {"reserve_mib", std::to_string(blocks_ / 8)}};
  }
  [[nodiscard]] std::vector<Measured> measure_all(const std::string& program) const {
    const auto side = [&](const char* name, const char* treatment) {
      return side_of(name, program, churn_arguments(treatment));
    };
    return run_interleaved({side("buoy", "moves"), side("(a) nothing movable", "stays"),
                            side("(c) 4 KiB MADV_DONTNEED", "discards")});
  }

  void run_churn() {
    const std::vector<Measured> m = measure_all("fragmentation_churn");
    for (const unsigned use : kUses)
      for (unsigned order = kLowestOrder; order <= kHighestOrder; ++order)
        if (use == kMainUse || order == 3 || order == 4 || order == 9) report_order(m, order, use);
    const auto line = [&](const std::string& name, const Unit& unit, const std::string& quantity) {
      if (!settings_.wants(name)) return;
      report_pair(report_, name, unit, m[0], m[1], quantity);
      report_pair(report_, name, unit, m[0], m[2], quantity);
    };
    for (const unsigned use : kUses)
      line(fmt::format("budget lost at {} % use", use), {"% of budget", Better::kLower},
           fmt::format("lost_{}", use));
    line("budget lost, half freed", {"% of budget", Better::kLower}, "lost_after");
    line("returned as whole huge pages, half freed", {"% of freed", Better::kHigher},
         "returned_percent");
    line("returned as whole huge pages, half freed: bytes", {"MiB", Better::kHigher},
         "returned_mib");
    line("arena on huge pages", {"% of resident", Better::kHigher},
         fmt::format("huge_{}", kMainUse));
    line("access, a load at a random place", {"ns/load", Better::kLower}, "access_ns");
    line("read, a random object pinned and copied", {"ns/object", Better::kLower}, "read_ns");
    note_disturbance(report_, m);
  }

  void report_order(const std::vector<Measured>& m, unsigned order, unsigned use) {
    std::string name = fmt::format("order {}", order);
    if (use != kMainUse) name += fmt::format(" at {} % use", use);
    for (const std::size_t peer : {1U, 2U}) {
      if (settings_.wants(name))
        report_pair(report_, name, kSuccess, m[0], m[peer], quantity_of("success", order, use));
      if (use != kMainUse) continue;
      for (const auto& [what, quantity] :
           {std::pair{" latency", "us"}, std::pair{" latency p99", "p99_us"}})
        if (settings_.wants(name + what))
          report_if_any(report_, name + what, kLatency, m[0], m[peer],
                        quantity_of(quantity, order, use),
                        "no such request was served in every run");
    }
  }

  void run_contiguous() {
    const std::vector<Measured> m = measure_all("fragmentation_contiguous");
    const unsigned reserve = blocks_ / 8;
    for (const unsigned mib : {reserve / 4, reserve / 2, reserve}) {
      const std::string general = fmt::format("contiguous {} MiB", mib);
      const std::string reserved = fmt::format("contiguous {} MiB from the reserve", mib);
      for (const std::size_t peer : {1U, 2U}) {
        report_contiguous(general, m[0], m[peer], fmt::format("general{}", mib));
        report_reserved(reserved, m[0], m[peer], mib);
      }
    }
    if (settings_.wants("reserve in use while idle") && m[0].ok())
      report_.add_without_peer("reserve in use while idle", {"% of reserve", Better::kHigher},
                               m[0].median("reserve_use"), m[1].name,
                               "what cannot leave a reserve may not borrow it");
    note_disturbance(report_, m);
  }

  void report_contiguous(const std::string& name, const Measured& buoy, const Measured& peer,
                         const std::string& prefix) {
    if (settings_.wants(name))
      report_pair(report_, name, kSuccess, buoy, peer, prefix + "_success");
    if (settings_.wants(name + " latency"))
      report_if_any(report_, name + " latency", kLatency, buoy, peer, prefix + "_us",
                    "no such request was served in every run");
  }

  // The peers have no reserve: they are asked for the same out of the whole arena.
  void report_reserved(const std::string& name, const Measured& buoy, const Measured& peer,
                       unsigned mib) {
    if (!settings_.wants(name)) return;
    if (!buoy.ok()) return report_.add_failure(name, buoy.why);
    const double ours = buoy.median(fmt::format("reserve{}_success", mib));
    if (!peer.ok()) return report_.add_without_peer(name, kSuccess, ours, peer.name, peer.why);
    report_.add({name, kSuccess, ours, peer.median(fmt::format("general{}_success", mib)),
                 peer.name + ", no reserve"});
  }

  void run_migrate() {
    const Arguments at{{"blocks", std::to_string(blocks_)}};
    const auto with = [&](const char* owner) {
      Arguments arguments = at;
      arguments["owner"] = owner;
      return side_of("buoy", "fragmentation_migrate", arguments);
    };
    const std::vector<Measured> m = run_interleaved({with("driver"), with("zpool"), kernel_side()});
    const Unit unit{"us/page", Better::kLower};
    if (settings_.wants("migrate 4 KiB, a driver's pages"))
      report_pair(report_, "migrate 4 KiB, a driver's pages", unit, m[0], m[2], "us");
    if (settings_.wants("migrate 4 KiB, compressed pool"))
      report_pair(report_, "migrate 4 KiB, compressed pool", unit, m[1], m[2], "us");
    if (m[2].ok())
      report_.note(fmt::format(
          "the kernel's without its look over all memory; with it {:.2f} us/page ({:.0f} moved, "
          "{:.0f} scanned)",
          m[2].median("us_in_all"), m[2].median("moved"), m[2].median("scanned")));
    note_disturbance(report_, m);
  }

  // One process measures both, in turn: the peer is Buoy without the thread that compacts.
  void report_against_itself(const std::vector<Measured>& m, const std::string& name,
                             const Unit& unit, const std::string& with,
                             const std::string& without) {
    if (!settings_.wants(name)) return;
    if (!m[0].ok()) return report_.add_failure(name, m[0].why);
    report_.add({name, unit, m[0].median(with), m[0].median(without), "no compaction meanwhile"});
  }

  void run_foreground() {
    Arguments arguments = churn_arguments("moves");
    arguments["slices"] = settings_.quick ? "10" : "30";
    const auto m =
        run_interleaved({side_of("buoy", "fragmentation_foreground", std::move(arguments))});
    report_against_itself(m, "foreground while compaction runs", {"operations/s", Better::kHigher},
                          "with", "without");
    if (m[0].ok())
      report_.note(
          fmt::format("frames moved meanwhile: {:.0f} a second", m[0].median("moved_per_second")));
    note_disturbance(report_, m);
  }

  void run_faults() {
    const auto m = run_interleaved(
        {side_of("buoy", "fragmentation_faults",
                 {{"budget_mib", "64"}, {"slices", settings_.quick ? "20" : "60"}})});
    const Unit unit{"us", Better::kLower};
    report_against_itself(m, "faults while compaction runs, p99.9", unit, "with", "without");
    report_against_itself(m, "faults while compaction runs, p50", unit, "with_p50", "without_p50");
    if (m[0].ok()) report_.note(fmt::format("frames moved: {:.0f}", m[0].median("moved")));
    note_disturbance(report_, m);
  }

  const Settings& settings_;
  Report& report_;
  const unsigned blocks_;
};

}  // namespace

BUOY_BENCH_WITH_MAP(fragmentation,
                    "runs and contiguous memory out of an arena after hours of churn") {
  if (settings.map != nullptr) draw_arena_map(settings.map);
  Fragmentation(settings, report).run();
}

}  // namespace buoy::bench
