#include "cli/census.h"

#include <future>

#include "cli/answer.h"

namespace buoy::cli {
namespace {

using Json = nlohmann::json;

// Longer than a run waits for a process of its own.
constexpr std::chrono::seconds kForStats{4};

Outcome<Json> ask_run(const RunSocket& run) {
  Outcome<ControlClient> client = ControlClient::connect(run);
  if (!client) return client.failure();
  return ask(*client, {{"op", "stats"}}, kForStats);
}

}  // namespace

std::vector<SeenRun> Census::take() {
  std::vector<std::pair<RunSocket, std::future<Outcome<Json>>>> asked;
  for (RunSocket& run : find_runs()) {
    auto answer = std::async(std::launch::async, [run] { return ask_run(run); });
    asked.emplace_back(std::move(run), std::move(answer));
  }
  std::vector<SeenRun> runs;
  std::map<Key, Past> next;
  for (auto& [socket, future] : asked) {
    SeenRun& run = runs.emplace_back();
    run.pid = socket.run;
    Outcome<Json> answer = future.get();
    if (answer) {
      run.answer = std::move(*answer);
      fill(run, Clock::now(), &next);
    } else {
      run.error = answer.failure().line;
    }
  }
  past_ = std::move(next);
  return runs;
}

void Census::fill(SeenRun& run, Clock::time_point now, std::map<Key, Past>* next) {
  const Json& facts = run.answer["run"];
  run.command = text(facts, "command");
  run.budget = number(facts, "budget_bytes");
  run.not_shown = number(facts, "not_shown");
  for (const Json& each : run.answer["processes"]) {
    SeenProcess& process = run.processes.emplace_back();
    process.pid = static_cast<pid_t>(number(each, "pid"));
    process.command = text(each, "command");
    process.error = text(each, "error");
    if (!each.contains("stats")) continue;
    const Key key{run.pid, process.pid};
    const Totals totals = totals_of(each["stats"]);
    const auto past = past_.find(key);
    std::optional<Totals> before;
    double seconds = 0;
    if (past != past_.end()) {
      before = past->second.totals;
      seconds = std::chrono::duration<double>(now - past->second.when).count();
    }
    process.vitals = vitals_of(each["stats"], totals, before, seconds);
    run.sum.add(process.vitals);
    (*next)[key] = {totals, now};
  }
}

}  // namespace buoy::cli
