// Census: all processes of all runs of this user, asked again and again, and what changed between two
// times. An observer: it asks for statistics, and changes nothing.
//
// Not thread-safe. take() waits for runs that do not answer, all at once, for some seconds.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "cli/outcome.h"
#include "cli/vitals.h"

namespace buoy::cli {

struct SeenProcess {
  pid_t pid = 0;
  std::string command;
  std::string error;  // why it did not answer; its vitals are nothing then
  Vitals vitals;
};

struct SeenRun {
  pid_t pid = 0;
  std::string command;
  std::string error;            // why the run did not answer; empty: it did
  std::uint64_t budget = 0;     // of processes that start from now on
  std::uint64_t not_shown = 0;  // processes without a place
  std::vector<SeenProcess> processes;
  Vitals sum;
  nlohmann::json answer;  // the whole of it; null without one
};

class Census {
 public:
  // By number. The first look has no rates.
  [[nodiscard]] std::vector<SeenRun> take();

 private:
  using Clock = std::chrono::steady_clock;
  using Key = std::pair<pid_t, pid_t>;  // run, process
  struct Past {
    Totals totals;
    Clock::time_point when;
  };
  void fill(SeenRun& run, Clock::time_point now, std::map<Key, Past>* next);

  std::map<Key, Past> past_;
};

}  // namespace buoy::cli
