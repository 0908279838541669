// buoy-bench: Buoy beside its peers. Benchmarks register themselves (bench.h); this is the command
// line and nothing else.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "bench.h"
#include "machine.h"
#include "report.h"
#include "undo.h"

namespace buoy::bench {

std::vector<Benchmark>& benchmarks() {
  static std::vector<Benchmark> all;
  return all;
}

std::vector<SideProgram>& side_programs() {
  static std::vector<SideProgram> all;
  return all;
}

namespace {

constexpr int kUsage = 2;
constexpr const char* kHelp = R"(Usage: buoy-bench NAME [--json] [--quick] [--case TEXT]
       buoy-bench fragmentation [--map FILE.html] ...
       buoy-bench --list

Measures Buoy and a peer in turn, five pairs or more, and prints the medians. A ratio above 1 means
that Buoy is better.

  --list       the benchmarks
  --json       one object a line: bench, case, buoy, peer, peer_name, unit, ratio (and why, if the
               peer could not be set up)
  --quick      less data; as many pairs
  --case TEXT  only the cases whose name contains TEXT
  --map FILE   fragmentation: draws the arena before and after compaction, a cell a page by kind, as
               one page of HTML
)";

int refuse(const std::string& line) {
  fmt::print(stderr, "buoy-bench: {}\n", line);
  return kUsage;
}

template <typename Registered>
const Registered* find(const std::vector<Registered>& all, const std::string& name) {
  const auto found =
      std::find_if(all.begin(), all.end(), [&](const Registered& r) { return r.name == name; });
  return found == all.end() ? nullptr : &*found;
}

int list() {
  std::vector<Benchmark> all = benchmarks();
  std::sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a.name < b.name; });
  for (const Benchmark& b : all) fmt::print("{:<16} {}\n", b.name, b.summary);
  return 0;
}

int run_side(const std::vector<std::string>& words) {
  const SideProgram* side = words.size() < 2 ? nullptr : find(side_programs(), words[1]);
  if (side == nullptr) return refuse("--side is for buoy-bench itself");
  Arguments arguments;
  for (std::size_t i = 2; i < words.size(); ++i) {
    const auto equals = words[i].find('=');
    if (equals == std::string::npos) return refuse("--side: '" + words[i] + "' is not KEY=VALUE");
    arguments[words[i].substr(0, equals)] = words[i].substr(equals + 1);
  }
  try {
    side->run(arguments);
  } catch (const std::exception& e) {
    fmt::print(stderr, "buoy-bench: {}: {}\n", side->name, e.what());
    return 1;
  }
  return 0;
}

int run_benchmark(const Benchmark& benchmark, const Settings& settings, Report::Format format) {
  Report report(benchmark.name, format, stdout);
  int status = 0;
  try {
    benchmark.run(settings, report);
  } catch (const UnusableOutput& e) {
    status = refuse(e.what());
  } catch (const std::exception& e) {
    fmt::print(stderr, "buoy-bench: {}: {}\n", benchmark.name, e.what());
    status = 1;
  }
  undo_all();
  return report.failed() ? 1 : status;
}

int main_with(const std::vector<std::string>& words) {
  if (!words.empty() && words.front() == "--side") return run_side(words);
  Settings settings;
  Report::Format format = Report::Format::kTable;
  std::string name;
  std::string map;
  bool wants_map = false;
  for (auto word = words.begin(); word != words.end(); ++word) {
    if (*word == "--help" || *word == "-h") {
      std::fputs(kHelp, stdout);
      return 0;
    }
    if (*word == "--list") return list();
    if (*word == "--json") {
      format = Report::Format::kJson;
    } else if (*word == "--quick") {
      settings.quick = true;
    } else if (*word == "--case") {
      if (++word == words.end()) return refuse("--case needs a value");
      settings.only = *word;
    } else if (*word == "--map") {
      if (++word == words.end() || word->empty()) return refuse("--map needs a file to write");
      map = *word;
      wants_map = true;
    } else if (word->rfind('-', 0) == 0) {
      return refuse("unknown option '" + *word + "'; see `buoy-bench --help`");
    } else if (!name.empty()) {
      return refuse("one benchmark at a time; see `buoy-bench --help`");
    } else {
      name = *word;
    }
  }
  if (name.empty()) return refuse("no benchmark given; see `buoy-bench --list`");
  const Benchmark* benchmark = find(benchmarks(), name);
  if (benchmark == nullptr)
    return refuse("unknown benchmark '" + name + "'; see `buoy-bench --list`");
  if (!wants_map) return run_benchmark(*benchmark, settings, format);
  if (!benchmark->draws_map) return refuse("'" + name + "' draws no map: --map is for others");
  // Opened before anything is measured; what is there is replaced when the map is drawn.
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(map.c_str(), "a"),
                                                             &std::fclose);
  if (file == nullptr) return refuse("--map: " + because_errno(map));
  settings.map = file.get();
  return run_benchmark(*benchmark, settings, format);
}

}  // namespace
}  // namespace buoy::bench

int main(int argc, char** argv) {
  return buoy::bench::main_with(
      std::vector<std::string>(argv + (argc > 0 ? 1 : 0), argv + (argc > 0 ? argc : 0)));
}
