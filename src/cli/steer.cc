#include "cli/steer.h"

#include <cstdio>

#include "cli/answer.h"
#include "cli/run_options.h"
#include "cli/size.h"
#include "cli/words.h"
#include "frames/budget.h"

namespace buoy::cli {
namespace {

using Json = nlohmann::json;

// A little longer than a run waits for its processes.
constexpr std::chrono::seconds kForWork{75};

int fail(const Failure& failure) {
  say(failure.line);
  return failure.status;
}

Outcome<Json> request_of(int pid, Json request) {
  Outcome<Target> target = find_target(pid);
  if (!target) return target.failure();
  if (target->process != 0) request["pid"] = target->process;
  return ask(target->client, request, kForWork);
}

}  // namespace

Outcome<Json> change_budget(int pid, ByteSize bytes) {
  if (bytes < Budget::kMinimum || bytes > kLargestBudget)
    return Failure{kUsage, "a budget is from " + format_size(Budget::kMinimum) + " to " +
                               format_size(kLargestBudget)};
  return request_of(pid, {{"op", "set-budget"}, {"bytes", bytes}});
}

int set_command(const std::vector<std::string>& words) {
  Words line(
      "buoy set",
      "Changes the budget of what runs: of a whole run, with the processes that it starts "
      "later, or of one process. It is each process's own. Returns when memory is down to it.",
      "buoy set 4711 --budget 128M");
  int pid = 0;
  ByteSize budget = 0;
  line.take_pid(&pid);
  line.take_size("--budget", &budget, "the new budget, 16M or more");
  if (const auto status = line.parse(words)) return *status;
  const Outcome<Json> answer = change_budget(pid, budget);
  if (!answer) return fail(answer.failure());
  for (const Json& process : (*answer)["processes"])
    if (process.contains("budget_bytes"))
      std::printf("process %llu: budget %s, resident %s\n",
                  static_cast<unsigned long long>(number(process, "pid")),
                  format_size(number(process, "budget_bytes")).c_str(),
                  readable_size(number(process, "resident_bytes")).c_str());
  return say_errors(*answer) ? kFailed : 0;
}

int reclaim_command(const std::vector<std::string>& words) {
  Words line("buoy reclaim",
             "Takes memory away from what runs, the least used first, without changing its budget: "
             "it may come back as the program touches it.",
             "buoy reclaim 4711 64M");
  int pid = 0;
  ByteSize bytes = 0;
  line.take_pid(&pid);
  line.take_size("SIZE", &bytes, "how much, of all processes together");
  if (const auto status = line.parse(words)) return *status;
  if (bytes == 0 || bytes > kLargestBudget)
    return fail({kUsage, "reclaim: SIZE: from 1 to " + format_size(kLargestBudget)});
  const Outcome<Json> answer = request_of(pid, {{"op", "reclaim"}, {"bytes", bytes}});
  if (!answer) return fail(answer.failure());
  for (const Json& process : (*answer)["processes"])
    if (process.contains("reclaimed_bytes"))
      std::printf("process %llu: reclaimed %s, resident %s\n",
                  static_cast<unsigned long long>(number(process, "pid")),
                  readable_size(number(process, "reclaimed_bytes")).c_str(),
                  readable_size(number(process, "resident_bytes")).c_str());
  return say_errors(*answer) ? kFailed : 0;
}

}  // namespace buoy::cli
