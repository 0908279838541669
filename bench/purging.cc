// Benchmark `purging`: wall time of real programs in half of their memory, with malloc told to let
// go of memory at once, when that is lazily freed, against when it is discarded, and against a malloc
// that keeps all that it ever had.
#include <fmt/format.h>

#include <algorithm>

#include "bench.h"
#include "cgroup.h"
#include "child.h"
#include "machine.h"
#include "programs.h"
#include "report.h"
#include "samples.h"

namespace buoy::bench {
namespace {

constexpr std::uint64_t kMiB = 1U << 20;
constexpr std::uint64_t kSmallestBudget = 16 * kMiB;
constexpr const char* kDiscardingPeer = "buoy run, MADV_DONTNEED";
constexpr const char* kKeepingPeer = "buoy run, malloc keeps what is freed";

enum class Frees { kLazily, kDiscarding, kNever };

Side side(const char* name, const Program& program, std::uint64_t budget, double expected,
          Frees frees) {
  return {name, [&program, budget, expected, frees] {
            const bool lazily = frees == Frees::kLazily;
            const std::string conf =
                fmt::format("BUOY_MALLOC_CONF=dirty_decay_ms:{},retain:{}",
                            frees == Frees::kNever ? -1 : 0, lazily ? "false" : "true");
            Sample sample =
                run_program(program, MemoryCgroup::kNoLimit, false,
                            {"env", conf, fmt::format("BUOY_LAZY_FREE={}", lazily ? 1 : 0),
                             program_folder() + "/buoy", "run", "--budget", std::to_string(budget),
                             "--backing-file", "auto", "--"});
            if (sample.at("output_hash") != expected) throw Unavailable("its output was wrong");
            return sample;
          }};
}

}  // namespace

BUOY_BENCH(purging,
           "real programs whose malloc frees at once, lazily: against discarding, and keeping") {
  hold_machine();
  std::vector<Program> programs = real_programs(settings.quick);
  programs.push_back(buffers_program());
  for (const Program& program : programs) {
    if (!settings.wants(program.name)) continue;
    if (!program.missing.empty()) {
      report.note(program.name + " is passed over: " + program.missing);
      continue;
    }
    const Sample native = run_program(program, MemoryCgroup::kNoLimit, false);
    const auto peak = static_cast<std::uint64_t>(native.at("peak_rss_bytes"));
    const std::uint64_t budget = std::max(peak / 2, kSmallestBudget);
    report.note(fmt::format("{}: native peak {} MiB, budget {} MiB, dirty_decay_ms:0", program.name,
                            peak / kMiB, budget / kMiB));
    const double expected = native.at("output_hash");
    const std::vector<Measured> sides =
        run_interleaved({side("buoy", program, budget, expected, Frees::kLazily),
                         side(kDiscardingPeer, program, budget, expected, Frees::kDiscarding),
                         side(kKeepingPeer, program, budget, expected, Frees::kNever)});
    for (std::size_t peer = 1; peer < sides.size(); ++peer)
      report_pair(report, program.name + " 1/2 wall", {"s", Better::kLower}, sides[0], sides[peer],
                  "wall_s");
    note_disturbance(report, sides);
  }
}

}  // namespace buoy::bench
