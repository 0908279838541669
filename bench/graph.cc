// Benchmark `graph`: a random graph is built (a list of edges, then its adjacency arrays) and walked
// pass by pass, in a half of the memory that it wants. Its data hardly compresses, so what counts is
// which pages are kept: the arrays that are wanted again and again, not the list that goes by once.
// Against a memory cgroup of the same size that swaps to a file on the same disk.
#include <fmt/format.h>
#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <span>
#include <sstream>
#include <string>
#include <utility>

#include "access_pattern.h"
#include "bench.h"
#include "cgroup.h"
#include "child.h"
#include "machine.h"
#include "programs.h"
#include "report.h"
#include "samples.h"
#include "swap_area.h"
#include "undo.h"

namespace buoy::bench {
namespace {

constexpr std::size_t kMiB = std::size_t{1} << 20;
constexpr std::size_t kDegree = 32;
constexpr int kPasses = 20;

template <typename T>
std::span<T> array(std::size_t n) {
  void* const p =
      mmap(nullptr, n * sizeof(T), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) throw Unavailable(because_errno("mmap"));
  return {static_cast<T*>(p), n};
}

// A number of a statistics file.
double stat_of(const std::string& path, const std::string& name) {
  std::ifstream in(path);
  std::stringstream text;
  text << in.rdbuf();
  const std::string key = "\"" + name + "\":";
  const std::size_t at = text.str().find(key);
  if (at == std::string::npos) throw Unavailable("no " + name + " in " + path);
  return std::strtod(text.str().c_str() + at + key.size(), nullptr);
}

Program graph_program(std::size_t bytes) {
  const Command command = side_command("graph", {{"bytes", std::to_string(bytes)}});
  return {"graph", command.words, {}, {}};
}

}  // namespace

// bytes=N: what its arrays take together.
BUOY_BENCH_SIDE(graph) {
  const std::size_t edges = std::stoull(arguments.at("bytes")) / 12;
  const auto nodes = static_cast<std::uint32_t>(edges / kDegree);
  Random random(1);
  const auto from = array<std::uint32_t>(edges);
  const auto to = array<std::uint32_t>(edges);
  for (std::size_t e = 0; e < edges; ++e) {
    from[e] = static_cast<std::uint32_t>(random.below(nodes));
    to[e] = static_cast<std::uint32_t>(random.below(nodes));
  }
  const auto begin = array<std::uint32_t>(nodes + 1);
  const auto next = array<std::uint32_t>(nodes);
  const auto neighbours = array<std::uint32_t>(edges);
  for (const std::uint32_t node : from) ++begin[node + 1];
  for (std::uint32_t v = 0; v < nodes; ++v) {
    begin[v + 1] += begin[v];
    next[v] = begin[v];
  }
  for (std::size_t e = 0; e < edges; ++e) neighbours[next[from[e]]++] = to[e];

  auto rank = array<float>(nodes);
  auto fresh = array<float>(nodes);
  for (float& r : rank) r = 1;
  for (int pass = 0; pass < kPasses; ++pass) {
    for (std::uint32_t v = 0; v < nodes; ++v) {
      float sum = 0;
      for (std::uint32_t k = begin[v]; k < begin[v + 1]; ++k) sum += rank[neighbours[k]];
      fresh[v] = 0.15F + 0.85F * sum / kDegree;
    }
    std::swap(rank, fresh);
  }
  double total = 0;
  for (const float r : rank) total += static_cast<double>(r);
  fmt::print("{:.6f}\n", total);
}

BUOY_BENCH(graph,
           "a graph is built and walked in half of its memory: `buoy run` against a swap file") {
  const std::size_t bytes = (settings.quick ? 141 : 400) * kMiB;
  hold_machine();
  std::string why;
  try {
    swap_to_file(2 * bytes);
  } catch (const Unavailable& e) {
    why = e.what();
  }
  const Program program = graph_program(bytes);
  const Sample native = run_program(program, MemoryCgroup::kNoLimit, false);
  const std::size_t budget = bytes / 2;
  report.note(fmt::format("peak {} MiB, budget {} MiB, natively {:.1f} s", bytes / kMiB,
                          budget / kMiB, native.at("wall_s")));
  const auto checked = [&native](Sample sample) {
    if (sample.at("output_hash") != native.at("output_hash"))
      throw Unavailable("its output was wrong");
    return sample;
  };
  const char* folder = std::getenv("TMPDIR");
  const std::string stats =
      fmt::format("{}/buoy-bench.{}.graph", folder != nullptr ? folder : "/tmp", getpid());
  undo_at_end(Undo::kRemoveFile, stats);
  double charged = static_cast<double>(budget);
  const Side buoy = {"buoy", [&] {
                       Sample sample = checked(run_program(
                           program, MemoryCgroup::kNoLimit, false,
                           {program_folder() + "/buoy", "run", "--budget", std::to_string(budget),
                            "--backing-file", "auto", "--stats", stats, "--"}));
                       sample["major_faults"] = stat_of(stats, "pgmajfault");
                       charged = sample.at("cgroup_peak_bytes");
                       return sample;
                     }};
  // The swap file is no memory: the limit is all that the peer is charged.
  const Side kernel = {
      "cgroup + swap file, page-cluster 3", [&] {
        if (!why.empty()) throw Unavailable(why);
        return checked(run_program(program, static_cast<std::uint64_t>(charged), true));
      }};
  const std::vector<Measured> measured = run_interleaved({buoy, kernel});
  report_pair(report, "1/2 wall", {"s", Better::kLower}, measured[0], measured[1], "wall_s");
  report_pair(report, "1/2 major faults", {"faults", Better::kLower}, measured[0], measured[1],
              "major_faults");
  note_disturbance(report, measured);
}

}  // namespace buoy::bench
