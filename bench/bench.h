// What a benchmark of buoy-bench is, and how one registers. README.md in this folder tells how to
// add one.
//
// A benchmark compares Buoy with a peer, case by case, and gives its results to a Report. Each side
// of a pair runs in a process of its own (child.h), in turn (samples.h), so that neither sees the
// memory that the other left behind.
#pragma once

#include <cstddef>
#include <cstdio>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace buoy::bench {

class Report;

// The least number of pairs that a median stands on; --quick shrinks the data, never this.
inline constexpr std::size_t kPairs = 5;

struct Settings {
  bool quick = false;
  std::string only;          // cases whose name does not contain this are passed over
  std::FILE* map = nullptr;  // --map: where a benchmark that can draws its map, as a page of HTML

  [[nodiscard]] bool wants(std::string_view case_name) const {
    return case_name.find(only) != std::string_view::npos;
  }
};

struct Benchmark {
  std::string name;
  std::string summary;  // one line, for --list
  void (*run)(const Settings&, Report&);
  bool draws_map = false;  // knows Settings::map
};

// What one side of a pair does in its own process: `buoy-bench --side NAME KEY=VALUE...`.
using Arguments = std::map<std::string, std::string>;
struct SideProgram {
  std::string name;
  void (*run)(const Arguments&);
};

[[nodiscard]] std::vector<Benchmark>& benchmarks();
[[nodiscard]] std::vector<SideProgram>& side_programs();

struct Registration {
  explicit Registration(Benchmark b) { benchmarks().push_back(std::move(b)); }
  explicit Registration(SideProgram p) { side_programs().push_back(std::move(p)); }
};

// BUOY_BENCH(swap, "one line") { ...settings, report... }
#define BUOY_BENCH(name, summary) BUOY_BENCH_AS(name, summary, false)
// The same for one that takes --map.
#define BUOY_BENCH_WITH_MAP(name, summary) BUOY_BENCH_AS(name, summary, true)
#define BUOY_BENCH_AS(name, summary, draws_map)                                           \
  static void buoy_bench_##name(const ::buoy::bench::Settings&, ::buoy::bench::Report&);  \
  static const ::buoy::bench::Registration buoy_bench_registration_##name{                \
      ::buoy::bench::Benchmark{#name, summary, buoy_bench_##name, draws_map}};            \
  static void buoy_bench_##name([[maybe_unused]] const ::buoy::bench::Settings& settings, \
                                ::buoy::bench::Report& report)

// BUOY_BENCH_SIDE(swap_library) { ...arguments... }
#define BUOY_BENCH_SIDE(name)                                                   \
  static void buoy_bench_side_##name(const ::buoy::bench::Arguments&);          \
  static const ::buoy::bench::Registration buoy_bench_side_registration_##name{ \
      ::buoy::bench::SideProgram{#name, buoy_bench_side_##name}};               \
  static void buoy_bench_side_##name(const ::buoy::bench::Arguments& arguments)

}  // namespace buoy::bench
