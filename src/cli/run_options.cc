#include "cli/run_options.h"
#include "cli/size.h"

#include <algorithm>
#include <array>
#include <functional>
#include <initializer_list>
#include <string_view>

namespace buoy::cli {
namespace {

Failure wrong(std::string line) { return {kUsage, std::move(line)}; }

std::string quoted(std::string_view text) { return "'" + std::string(text) + "'"; }

// Null, or why the value is refused.
using Setter = std::function<std::string(RunOptions&, const std::string& value)>;

struct Option {
  std::string_view name;
  Setter set;
};

// A bound on where pages go: less than this is no use to anybody.
std::string set_bound(ByteSize& into, const std::string& value, const char* without) {
  constexpr ByteSize kSmallest = ByteSize{1} << 20;
  const auto bytes = parse_size(value);
  if (!bytes) return not_a_size(value);
  if (*bytes < kSmallest)
    return quoted(value) + " is below the smallest, " + format_size(kSmallest) + without;
  into = *bytes;
  return {};
}

// Takes `value` if it is one of the words.
std::string choose(std::string& into, const std::string& value,
                   std::initializer_list<std::string_view> words) {
  std::string list;
  for (const std::string_view word : words) {
    if (value == word) {
      into = value;
      return {};
    }
    list += (list.empty() ? "" : ", ") + std::string(word);
  }
  return quoted(value) + " is none of " + list;
}

std::string set_faults(RunOptions& options, const std::string& value) {
  std::string word;
  std::string why = choose(word, value, {"auto", "thread", "signal"});
  if (!why.empty()) return why;
  options.faults = word == "thread"   ? FaultDelivery::kThread
                   : word == "signal" ? FaultDelivery::kSignal
                                      : FaultDelivery::kAuto;
  return {};
}

std::string set_not_empty(std::string& into, const std::string& value) {
  if (value.empty()) return "an empty name";
  into = value;
  return {};
}

const std::array<Option, 14>& options_table() {
  static const std::array<Option, 14> table = {{
      {"--budget", [](RunOptions& o, const std::string& v) { return set_budget(o.budget, v); }},
      {"--budget-scope",
       [](RunOptions& o, const std::string& v) {
         return choose(o.scope, v, {"process", "tree"});
       }},
      {"--min-budget",
       [](RunOptions& o, const std::string& v) { return set_least_budget(o.budget, v); }},
      {"--backing-file",
       [](RunOptions& o, const std::string& v) { return set_not_empty(o.backing_file, v); }},
      {"--backing-file-size",
       [](RunOptions& o, const std::string& v) {
         return set_bound(o.backing_file_size, v, "; for none, `--backing-file none`");
       }},
      {"--backing-file-encryption",
       [](RunOptions& o, const std::string& v) {
         return choose(o.encryption, v, {"none", "chacha20"});
       }},
      {"--compressed-size",
       [](RunOptions& o, const std::string& v) { return set_bound(o.compressed_size, v, ""); }},
      {"--compressor",
       [](RunOptions& o, const std::string& v) {
         return choose(o.compressor, v, {"lz4", "zstd", "none"});
       }},
      {"--faults", set_faults},
      {"--on-exhausted",
       [](RunOptions& o, const std::string& v) {
         return choose(o.on_exhausted, v, {"sigbus", "wait", "enomem"});
       }},
      {"--unmanaged-exec",
       [](RunOptions& o, const std::string& v) {
         return choose(o.unmanaged_exec, v, {"refuse", "allow"});
       }},
      {"--show-budget",
       [](RunOptions& o, const std::string& v) {
         return choose(o.show_budget, v, {"yes", "no"});
       }},
      {"--stats", [](RunOptions& o, const std::string& v) { return set_not_empty(o.stats, v); }},
      {"--trace", [](RunOptions& o, const std::string& v) { return set_not_empty(o.trace, v); }},
  }};
  return table;
}

}  // namespace

Outcome<RunOptions> parse_run_options(const std::vector<std::string>& words) {
  RunOptions options;
  auto word = words.begin();
  for (; word != words.end() && word->size() > 1 && word->front() == '-'; ++word) {
    if (*word == "--") {
      ++word;
      break;
    }
    if (*word == "--help" || *word == "-h") {
      options.help = true;
      return options;
    }
    const std::size_t equals = word->find('=');
    const std::string name = word->substr(0, equals);
    const auto& table = options_table();
    const auto* option =
        std::find_if(table.begin(), table.end(), [&](const Option& o) { return o.name == name; });
    if (option == table.end())
      return wrong("run: unknown option " + quoted(name) + "; see `buoy run --help`");
    std::string value;
    if (equals != std::string::npos) {
      value = word->substr(equals + 1);
    } else if (++word != words.end()) {
      value = *word;
    } else {
      return wrong("run: " + name + " needs a value");
    }
    if (const std::string why = option->set(options, value); !why.empty())
      return wrong("run: " + name + ": " + why);
  }
  options.program.assign(word, words.end());
  if (options.backing_file == "none" && options.backing_file_size != 0)
    return wrong("run: --backing-file-size: there is no file with --backing-file none");
  using Kind = BudgetRequest::Kind;
  if (options.budget.kind == Kind::kNone)
    return wrong("run: --budget SIZE is missing, as in `buoy run --budget 256M PROGRAM`");
  if (options.budget.kind == Kind::kSize && options.budget.least != 0)
    return wrong("run: --min-budget is for a budget that is computed: --budget auto, --budget 75%");
  if (options.scope == "tree" && options.budget.kind == Kind::kPressure)
    return wrong(
        "run: --budget auto:pressure finds what one process needs; with --budget-scope tree "
        "there is --budget auto");
  if (options.scope == "tree" && options.on_exhausted == "enomem")
    return wrong(
        "run: --on-exhausted enomem promises what one process has; it cannot be had with "
        "--budget-scope tree");
  if (options.program.empty()) return wrong("run: no program given; see `buoy run --help`");
  return options;
}

const char* word_of(FaultDelivery faults) {
  switch (faults) {
    case FaultDelivery::kThread:
      return "thread";
    case FaultDelivery::kSignal:
      return "signal";
    case FaultDelivery::kAuto:
      break;
  }
  return "auto";
}

const char* run_help() {
  return R"(Usage: buoy run --budget SIZE [OPTION]... [--] PROGRAM [ARG...]

Runs PROGRAM, unmodified, within SIZE bytes of resident memory. What does not fit is compressed,
and what does not fit compressed is written to a backing file. SIZE is bytes, or with K, M, G
(powers of 1024).

  --budget SIZE|N%|auto|auto:pressure
                              hard limit of resident managed memory, 16M or more. It is each
                              process's own: a child of PROGRAM has a budget of the same size.
                              N%: of the cgroup's memory limit, or of the machine's memory.
                              auto: what that leaves, shared by the processes of the run, and
                              changed as it changes. auto:pressure: the same, and no more than the
                              program needs to have 100 faults a second that it waits for
                              (auto:pressure=N: N); what that was is said at the end
  --budget-scope process|tree whose budget it is: each process's own (default), or one for PROGRAM and
                              all that it starts together, of which each has 16M at least
  --min-budget SIZE           what N% and auto do not go below; default 16M
  --backing-file auto|none|PATH
                              where compressed pages go when memory is full: an unlinked file in
                              $TMPDIR (default, unless that is on tmpfs), nowhere, or PATH,
                              which must not exist yet
  --backing-file-size SIZE    what the backing files of all processes may take together, 1M or more;
                              default: half of what is free there at the start
  --backing-file-encryption none|chacha20
                              whether what is written there is encrypted, with a key that is in the
                              process's memory only; default none
  --compressed-size SIZE      the most that compressed pages take of a process's budget, 1M or more;
                              default: what they are worth
  --compressor lz4|zstd|none  default lz4
  --faults auto|signal|thread how faults reach Buoy. signal: in the thread that faults, with the
                              system calls of the program passing a gate; needs no rights. thread:
                              handler threads; needs the right to handle faults of the kernel (see
                              `buoy info`). auto (default): signal where the gate can be built
  --on-exhausted sigbus|wait|enomem
                              when nothing more fits anywhere: SIGBUS to the toucher (default); wait
                              until something is freed; or malloc and mmap answer NULL and ENOMEM
                              ahead of that, while there is still a reserve
  --unmanaged-exec refuse|allow
                              when PROGRAM executes one that cannot have a budget (statically
                              linked, setuid, not x86-64): it fails with EACCES (default), or runs
                              without a budget; a line on stderr says so
  --show-budget yes|no        whether PROGRAM, when it asks how much memory there is (sysinfo, sysconf,
                              /proc/meminfo, its memory cgroup), is told of the budget, and so sizes
                              its heap by it (default yes; not with handler threads)
  --stats FILE|-              one JSON object per process, when it ends, to FILE (FILE.PID for all
                              processes but the first) or to stderr; `buoy stat` shows it meanwhile
  --trace FILE                what each process does to its memory (faults, advice, mappings), for
                              buoy-sim, to FILE (FILE.PID for all processes but the first)
  --help                      this text

Standard input, output and error, signals and the exit status pass through. Death by signal N ends
as 128+N. Exit 2: bad usage, or a kernel that cannot serve; 126: PROGRAM cannot be executed, or not
within a budget (statically linked, setuid); 127: PROGRAM is not found.
)";
}

}  // namespace buoy::cli
