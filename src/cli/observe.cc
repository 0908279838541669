#include "cli/observe.h"

#include <cstdio>

#include "api/pool.h"
#include "cli/answer.h"
#include "cli/prometheus.h"
#include "cli/words.h"

namespace buoy::cli {
namespace {

using Json = nlohmann::json;
using std::chrono::seconds;

constexpr seconds kForStats{5};

// The command as one column can show it.
std::string shortened(std::string command) {
  constexpr std::size_t kMost = 40;
  if (command.size() > kMost) command = command.substr(0, kMost - 3) + "...";
  return command;
}

void print_processes(const Json& answer) {
  const std::uint64_t run = number(answer["run"], "pid");
  for (const Json& process : answer["processes"]) {
    if (!process.contains("stats")) continue;
    const Json& stats = process["stats"];
    const auto size = [&](const char* name) { return readable_size(number(stats, name)); };
    std::printf("%7llu %7llu %9s %9s %10s %8s %10llu  %s\n",
                static_cast<unsigned long long>(number(process, "pid")),
                static_cast<unsigned long long>(run), size("budget_bytes").c_str(),
                size("resident_bytes").c_str(), size("compressed_bytes").c_str(),
                size("backing_file_bytes").c_str(),
                static_cast<unsigned long long>(number(stats, "pgfault")),
                shortened(text(process, "command")).c_str());
  }
  if (const std::uint64_t more = number(answer["run"], "not_shown"); more != 0)
    say("run " + std::to_string(run) + ": " + std::to_string(more) +
        " processes found no place and are not shown");
}

// Nothing to be seen: because nothing runs, or because no run can be seen?
void say_why_none() {
  const Outcome<std::string> folder = make_runtime_folder();
  say(folder ? "nothing runs; `buoy run --budget 256M PROGRAM` starts something"
             : folder.failure().line + "; what runs cannot be seen without");
}

void print_text(const Json& answer) {
  for (const Json& process : answer["processes"]) {
    if (!process.contains("stats")) continue;
    std::printf("# process %llu: %s\n", static_cast<unsigned long long>(number(process, "pid")),
                text(process, "command").c_str());
    for (std::size_t i = 0; i < Pool::stat_count(); ++i) {
      const std::string name(Pool::stat_name(i));
      std::printf("%-34s %llu\n", name.c_str(),
                  static_cast<unsigned long long>(number(process["stats"], name.c_str())));
    }
  }
}

enum class Form { kText, kJson, kPrometheus };

void print_as(Form form, const Json& answer) {
  switch (form) {
    case Form::kText:
      print_text(answer);
      break;
    case Form::kJson:
      std::puts(answer.dump(-1, ' ', false, Json::error_handler_t::replace).c_str());
      break;
    case Form::kPrometheus:
      std::fputs(format_prometheus(std::vector<Json>(1, answer)).c_str(), stdout);
      break;
  }
  std::fflush(stdout);
}

int fail(const Failure& failure) {
  say(failure.line);
  return failure.status;
}

Outcome<Json> next(ControlClient& client, seconds patience) {
  const Outcome<std::string> line = client.next_line(patience);
  if (!line) return line.failure();
  return parse_answer(*line);
}

}  // namespace

int ps_command(const std::vector<std::string>& words) {
  Words line("buoy ps",
             "Lists what runs within a budget: each process of every `buoy run` of yours.",
             "buoy ps");
  bool as_json = false;
  line.take_flag("--json", &as_json, "one JSON object a line, a line a run");
  if (const auto status = line.parse(words)) return *status;
  bool any = false;
  bool has_header = false;
  int worst = 0;
  for (const RunSocket& run : find_runs()) {
    any = true;
    Outcome<ControlClient> client = ControlClient::connect(run);
    const Outcome<Json> answer =
        client ? ask(*client, {{"op", "stats"}}, kForStats) : Outcome<Json>(client.failure());
    if (!answer) {
      worst = fail(answer.failure());
      continue;
    }
    if (say_errors(*answer)) worst = kFailed;
    if (as_json) {
      print_as(Form::kJson, *answer);
      continue;
    }
    if (!has_header)
      std::puts("    PID     RUN    BUDGET  RESIDENT COMPRESSED     FILE     FAULTS  COMMAND");
    has_header = true;
    print_processes(*answer);
  }
  if (!any) say_why_none();
  return worst;
}

int stat_command(const std::vector<std::string>& words) {
  Words line("buoy stat", "Shows the statistics of a run, or of one of its processes.",
             "buoy stat 4711 --json --watch 1");
  int pid = 0;
  bool as_json = false;
  bool as_prometheus = false;
  double interval = 0;
  line.take_pid(&pid);
  line.take_flag("--json", &as_json, "one JSON object on one line");
  line.take_flag("--prometheus", &as_prometheus, "the text format of Prometheus");
  line.exclude("--prometheus", "--json");
  line.take_seconds("--watch", &interval, "again every so many seconds, until the run ends");
  if (const auto status = line.parse(words)) return *status;
  const Form form = as_json ? Form::kJson : as_prometheus ? Form::kPrometheus : Form::kText;
  Outcome<Target> target = find_target(pid);
  if (!target) return fail(target.failure());
  Json request = {{"op", "stats"}};
  if (interval > 0)
    request = {{"op", "subscribe"}, {"interval_ms", static_cast<std::uint64_t>(interval * 1000)}};
  if (target->process != 0) request["pid"] = target->process;
  Outcome<Json> answer = ask(target->client, request, kForStats);
  if (!answer) return fail(answer.failure());
  for (;;) {
    const bool has_errors = say_errors(*answer);
    print_as(form, *answer);
    if (interval <= 0) return has_errors ? kFailed : 0;
    if (std::ferror(stdout) != 0) return kFailed;
    answer = next(target->client, kForStats + seconds(static_cast<long>(interval)));
    if (!answer) return 0;  // the run has ended, which is the end of watching it
  }
}

}  // namespace buoy::cli
