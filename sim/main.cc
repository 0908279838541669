// buoy-sim: traces through Buoy's engine and through reference policies. This is the command and its
// order of work; docs/simulator.md says what the numbers mean.
#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <exception>
#include <memory>
#include <stdexcept>

#include "cli/size.h"
#include "frames/budget.h"
#include "options.h"
#include "replay.h"
#include "report.h"

namespace buoy::sim {

namespace {

constexpr int kUsage = 2;

// A file that is known to be writable before anything is replayed.
class Output {
 public:
  explicit Output(const std::string& path)
      : path_(path), file_(path == "-" ? stdout : std::fopen(path.c_str(), "a")) {
    if (file_ == nullptr) fail();
  }
  ~Output() {
    if (file_ != stdout) std::fclose(file_);
  }
  Output(const Output&) = delete;
  Output& operator=(const Output&) = delete;
  void write(const std::string& text) {
    if (file_ != stdout && freopen(path_.c_str(), "w", file_) == nullptr) fail();
    if (std::fwrite(text.data(), 1, text.size(), file_) != text.size() || std::fflush(file_) != 0)
      fail();
  }

 private:
  [[noreturn]] void fail() const {
    throw std::runtime_error(fmt::format("{}: {}", path_, std::strerror(errno)));
  }
  std::string path_;
  std::FILE* file_;
};

int list() {
  fmt::print("patterns\n");
  for (const NamedPattern& p : patterns()) {
    std::string defaults;
    for (const auto& [name, value] : p.parameters)
      defaults += fmt::format("{}{}={}", defaults.empty() ? ":" : ",", name, value);
    fmt::print("  {:<44} {}\n", std::string(p.name) + defaults, p.what);
  }
  fmt::print("policies\n  {:<44} {}\n", "engine", "Buoy itself");
  for (const NamedPolicy& p : policies()) fmt::print("  {:<44} {}\n", p.name, p.what);
  return 0;
}

Trace make_trace(const Options& options) {
  Trace trace =
      options.trace.empty() ? generate(options.pattern) : read_trace(options.trace, options.format);
  trace.uncounted += options.warmup;
  if (trace.uncounted >= trace.accesses)
    throw std::runtime_error(
        fmt::format("--warmup leaves nothing to count: the trace has {} accesses", trace.accesses));
  return trace;
}

std::string title_of(const Options& options) {
  if (!options.trace.empty()) return options.trace;
  std::string title = options.pattern.name;
  for (const auto& [name, value] : options.pattern.parameters)
    title += fmt::format("{}{}={}", title == options.pattern.name ? ":" : ",", name, value);
  return title + fmt::format(", seed {}", options.pattern.seed);
}

std::vector<ByteSize> budgets_of(const Options& options, const Trace& trace) {
  constexpr std::uint64_t kLeastPages = 16;
  std::vector<ByteSize> budgets;
  for (const BudgetRequest& request : options.budgets) {
    const auto pages =
        static_cast<std::uint64_t>(request.part * static_cast<double>(trace.footprint));
    budgets.push_back(request.part == 0 ? request.bytes / kPageSize * kPageSize
                                        : std::max(pages, kLeastPages) * kPageSize);
  }
  std::sort(budgets.begin(), budgets.end());
  budgets.erase(std::unique(budgets.begin(), budgets.end()), budgets.end());
  return budgets;
}

void replay_all(const Options& options, const std::vector<ByteSize>& budgets, Report& report) {
  const Trace& trace = *report.trace;
  for (std::size_t i = 0; i < budgets.size(); ++i) {
    for (const std::string& name : options.policies) {
      if (const NamedPolicy* policy = find_policy(name); policy != nullptr) {
        report.results.push_back(replay_policy(*policy, trace, budgets[i]));
        continue;
      }
      if (budgets[i] < Budget::kMinimum) {
        report.not_run.push_back(
            {name, budgets[i],
             fmt::format("its smallest budget is {}", cli::format_size(Budget::kMinimum))});
        continue;
      }
      const EngineOptions engine{budgets[i], options.compressor, options.backing_file,
                                 options.stored, options.take_ns};
      const bool is_drawn = !options.html.empty() && i == budgets.size() / 2;
      report.results.push_back(
          replay_engine(engine, trace, is_drawn ? Detail::kPicture : Detail::kCounts));
    }
  }
  if (report.results.empty())
    throw std::runtime_error(
        fmt::format("{}: {}", report.not_run.front().policy, report.not_run.front().why));
}

std::string engine_of(const Options& options) {
  const std::string data = options.stored == 0
                               ? std::string("pages of one word")
                               : fmt::format("pages that compress to {}", options.stored);
  return fmt::format("{}, backing file {}", data, options.backing_file);
}

int run(const std::vector<std::string>& words) {
  const Options options = parse_options(words);
  if (options.action == Options::Action::kHelp) {
    std::fputs(help(), stdout);
    return 0;
  }
  if (options.action == Options::Action::kList) return list();
  std::unique_ptr<Output> json;
  std::unique_ptr<Output> html;
  if (!options.json.empty()) json = std::make_unique<Output>(options.json);
  if (!options.html.empty()) html = std::make_unique<Output>(options.html);
  const Trace trace = make_trace(options);
  if (!options.write_trace.empty()) write_trace(options.write_trace, trace);
  Report report;
  report.title = title_of(options);
  report.engine = engine_of(options);
  report.trace = &trace;
  replay_all(options, budgets_of(options, trace), report);
  if (json != nullptr) json->write(to_json(report));
  if (html != nullptr) html->write(to_html(report));
  if (options.html != "-")
    Output("-").write(options.json_to_stdout ? to_json(report) : to_table(report));
  return 0;
}

}  // namespace
}  // namespace buoy::sim

int main(int argc, char** argv) {
  try {
    return buoy::sim::run(
        std::vector<std::string>(argv + (argc > 0 ? 1 : 0), argv + (argc > 0 ? argc : 0)));
  } catch (const std::exception& e) {
    fmt::print(stderr, "buoy-sim: {}\n", e.what());
    return buoy::sim::kUsage;
  }
}
