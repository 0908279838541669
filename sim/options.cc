#include "options.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <stdexcept>

#include "cli/size.h"
#include "policy.h"

namespace buoy::sim {

namespace {

[[noreturn]] void refuse(const std::string& line) { throw std::runtime_error(line); }

std::uint64_t number_of(const std::string& option, const std::string& text, std::uint64_t least,
                        std::uint64_t most) {
  std::uint64_t n = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), n);
  if (error != std::errc() || end != text.data() + text.size() || n < least || n > most)
    refuse(fmt::format("{}: '{}' is no number from {} to {}", option, text, least, most));
  return n;
}

double decimal_of(const std::string& option, const std::string& text, double least, double most) {
  char* end = nullptr;
  const double value = std::strtod(text.c_str(), &end);
  if (text.empty() || *end != '\0' || !(value >= least) || !(value <= most))
    refuse(fmt::format("{}: '{}' is no number from {} to {}", option, text, least, most));
  return value;
}

std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> parts(1);
  for (const char c : text)
    if (c == ',')
      parts.emplace_back();
    else
      parts.back() += c;
  return parts;
}

// The smallest policy has room for one page here and one there.
constexpr ByteSize kLeastBudget = 16 * kPageSize;

BudgetRequest budget_of(const std::string& text) {
  BudgetRequest budget;
  if (!text.empty() && text.back() == '%') {
    budget.part = decimal_of("--budget", text.substr(0, text.size() - 1), 0.1, 1000) / 100;
    return budget;
  }
  const auto bytes = cli::parse_size(text);
  if (!bytes)
    refuse(fmt::format(
        "--budget: '{}' is no size, such as 64M, 1G or 50% (of what the trace touches)", text));
  if (*bytes < kLeastBudget)
    refuse(fmt::format("--budget: '{}' is below {}", text, cli::format_size(kLeastBudget)));
  budget.bytes = *bytes;
  return budget;
}

void add_policy(Options& options, const std::string& name) {
  const auto add = [&](std::string_view each) {
    if (std::find(options.policies.begin(), options.policies.end(), each) == options.policies.end())
      options.policies.emplace_back(each);
  };
  if (name == "all") {
    for (const NamedPolicy& policy : policies()) add(policy.name);
    return add("engine");
  }
  if (name != "engine" && find_policy(name) == nullptr)
    refuse(fmt::format("--policy: no policy '{}'; see `buoy-sim --list`", name));
  add(name);
}

swap::CompressorKind compressor_of(const std::string& text) {
  if (text == "lz4") return swap::CompressorKind::kLz4;
  if (text == "zstd") return swap::CompressorKind::kZstd;
  if (text == "none") return swap::CompressorKind::kNone;
  refuse(fmt::format("--compressor: '{}' is none of lz4, zstd, none", text));
}

std::string not_empty(const std::string& option, const std::string& text) {
  if (text.empty()) refuse(option + ": an empty name");
  return text;
}

// An option that takes a value.
struct Option {
  const char* name;
  void (*set)(Options& options, const std::string& value);
};

constexpr std::uint64_t kMostAccesses = 4'000'000'000;

const std::vector<Option>& options_table() {
  static const std::vector<Option> table = {
      {"--trace", [](Options& o, const std::string& v) { o.trace = not_empty("--trace", v); }},
      {"--format",
       [](Options& o, const std::string& v) {
         const auto format = trace_format_named(v);
         if (!format) refuse("--format: '" + v + "' is none of auto, binary, pages, lirs, arc");
         o.format = *format;
       }},
      {"--pattern", [](Options& o, const std::string& v) { parse_pattern(v, o.pattern); }},
      {"--pages",
       [](Options& o, const std::string& v) {
         o.pattern.pages = static_cast<Page>(number_of("--pages", v, 64, 1U << 28));
       }},
      {"--accesses",
       [](Options& o, const std::string& v) {
         o.pattern.accesses = number_of("--accesses", v, 1, kMostAccesses);
       }},
      {"--warmup",
       [](Options& o, const std::string& v) {
         o.warmup = number_of("--warmup", v, 0, kMostAccesses);
       }},
      {"--seed",
       [](Options& o, const std::string& v) {
         o.pattern.seed = number_of("--seed", v, 0, UINT64_MAX);
       }},
      {"--policy",
       [](Options& o, const std::string& v) {
         for (const std::string& name : split(v)) add_policy(o, name);
       }},
      {"--budget",
       [](Options& o, const std::string& v) {
         for (const std::string& each : split(v)) o.budgets.push_back(budget_of(each));
       }},
      {"--data",
       [](Options& o, const std::string& v) {
         o.stored = v == "uniform" ? 0 : decimal_of("--data", v, 0, 1);
       }},
      {"--backing-file",
       [](Options& o, const std::string& v) { o.backing_file = not_empty("--backing-file", v); }},
      {"--compressor", [](Options& o, const std::string& v) { o.compressor = compressor_of(v); }},
      {"--take-ns",
       [](Options& o, const std::string& v) {
         o.take_ns = static_cast<unsigned>(number_of("--take-ns", v, 1, 1'000'000));
       }},
      {"--html", [](Options& o, const std::string& v) { o.html = not_empty("--html", v); }},
      {"--write-trace",
       [](Options& o, const std::string& v) { o.write_trace = not_empty("--write-trace", v); }},
  };
  return table;
}

void fill_in(Options& options) {
  if (!options.trace.empty() && !options.pattern.name.empty())
    refuse("--trace and --pattern: one of them");
  if (options.trace.empty() && options.pattern.name.empty())
    refuse("nothing to replay: give --trace FILE or --pattern NAME; see `buoy-sim --help`");
  if (options.json_to_stdout && options.html == "-")
    refuse("--json and --html: one of them to standard output");
  if (options.policies.empty()) add_policy(options, "all");
  if (!options.budgets.empty()) return;
  if (options.html.empty())
    options.budgets = {{0, 0.5}};
  else
    for (const double part : {0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9})
      options.budgets.push_back({0, part});
}

}  // namespace

Options parse_options(const std::vector<std::string>& words) {
  Options options;
  options.pattern.pages = 65536;
  options.pattern.accesses = 2'000'000;
  options.stored = 0.33;
  for (auto word = words.begin(); word != words.end(); ++word) {
    if (*word == "--help" || *word == "-h") {
      options.action = Options::Action::kHelp;
      return options;
    }
    if (*word == "--list") {
      options.action = Options::Action::kList;
      return options;
    }
    const std::size_t equals = word->find('=');
    const std::string name = word->substr(0, equals);
    if (name == "--json") {  // its file may be left out
      if (equals != std::string::npos)
        options.json = not_empty(name, word->substr(equals + 1));
      else if (std::next(word) != words.end() && !std::next(word)->starts_with("--"))
        options.json = not_empty(name, *++word);
      else
        options.json_to_stdout = true;
      continue;
    }
    const auto& table = options_table();
    const auto option =
        std::find_if(table.begin(), table.end(), [&](const Option& o) { return o.name == name; });
    if (option == table.end())
      refuse(fmt::format("unknown option '{}'; see `buoy-sim --help`", name));
    if (equals != std::string::npos)
      option->set(options, word->substr(equals + 1));
    else if (std::next(word) != words.end())
      option->set(options, *++word);
    else
      refuse(name + " needs a value");
  }
  fill_in(options);
  return options;
}

const char* help() {
  return R"(Usage: buoy-sim --trace FILE [OPTION]...
       buoy-sim --pattern NAME[:KEY=VALUE,...] [OPTION]...
       buoy-sim --list

Replays a trace through Buoy's engine, on a page table in software, and through reference policies with
the same room, and says how often contents had to be brought back.

  --trace FILE            what `buoy run --trace` wrote, or text (docs/simulator.md)
  --format FORMAT         auto (default), binary, pages, lirs, arc
  --pattern NAME          a generated trace; --list names them and their parameters
  --pages N               pages of the pattern (default 65536, which is 256M)
  --accesses N            accesses of the pattern (default 2000000)
  --seed N                of the pattern (default 1)
  --warmup N              so many accesses first that do not count (filling the pages does not anyway)
  --policy NAME[,NAME]...
                          engine, opt, lru, clock, arc, lirs, s3fifo (default: all)
  --budget SIZE[,SIZE]...
                          bytes, with K, M, G, or N% of what the trace touches (default 50%, and with
                          --html 20% to 90%)
  --data uniform|PART     the engine's pages: of one word each, or compressible to PART (default 0.33)
  --backing-file auto|none|PATH
                          of the engine, as of `buoy run` (default auto)
  --compressor lz4|zstd|none
                          of the engine (default lz4)
  --take-ns N             what the engine believes a take of pages to cost (default 3000)
  --json [FILE]           JSON, in place of the table or to FILE
  --html FILE             one page with curves, tiers and a picture of where pages were
  --write-trace FILE      writes the trace that is replayed, in the binary format
  --list                  patterns and policies
  --help                  this text
)";
}

}  // namespace buoy::sim
