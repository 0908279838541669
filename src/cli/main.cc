// buoy: the command. Each subcommand has a file of its own.
#include <cstdio>
#include <string>
#include <vector>

#include "cli/info.h"
#include "cli/observe.h"
#include "cli/outcome.h"
#include "cli/run.h"
#include "cli/serve.h"
#include "cli/steer.h"
#include "cli/top.h"

namespace {

constexpr const char* kHelp = R"(Usage: buoy run --budget SIZE [OPTION]... [--] PROGRAM [ARG...]
       buoy ps | top | stat PID | set PID --budget SIZE | reclaim PID SIZE
       buoy serve [--listen ADDRESS:PORT]
       buoy info
       buoy --help | --version

  run      run a program within a memory budget (`buoy run --help`)
  ps       what runs within a budget
  top      the same, as a live picture
  serve    the same, for browsers, and metrics for Prometheus
  stat     the statistics of a run or a process
  set      another budget for what runs
  reclaim  take memory away from what runs
  info     what this kernel and these rights allow, and the remedy for what is missing
)";

}  // namespace

int main(int argc, char** argv) {
  using namespace buoy::cli;
  const std::vector<std::string> words(argv + (argc > 0 ? 1 : 0), argv + argc);
  if (words.empty()) {
    say("no command given; see `buoy --help`");
    return kUsage;
  }
  const std::string& command = words.front();
  const std::vector<std::string> rest(words.begin() + 1, words.end());
  if (command == "run") return run_command(rest);
  if (command == "ps") return ps_command(rest);
  if (command == "serve") return serve_command(rest);
  if (command == "top") return top_command(rest);
  if (command == "stat") return stat_command(rest);
  if (command == "set") return set_command(rest);
  if (command == "reclaim") return reclaim_command(rest);
  if (command == "--help" || command == "-h" || command == "help") {
    std::fputs(kHelp, stdout);
    return 0;
  }
  if (command == "--version") {
    std::puts("buoy " BUOY_VERSION);
    return 0;
  }
  if (command == "info") {
    if (rest.empty()) return info_command();
    say("info: takes no arguments");
    return kUsage;
  }
  say("unknown command '" + command + "'; see `buoy --help`");
  return kUsage;
}
