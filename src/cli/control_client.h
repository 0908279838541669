// The other end of the control socket: what `buoy ps`, `stat`, `set` and `reclaim` find runs by and
// talk to them through.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "cli/outcome.h"
#include "cli/runtime_folder.h"

namespace buoy::cli {

// A connection to one run.
class ControlClient {
 public:
  // Failure: it ended, is another user's, or does not answer.
  [[nodiscard]] static Outcome<ControlClient> connect(const RunSocket& run);
  ControlClient() = default;
  ~ControlClient();
  ControlClient(ControlClient&& other) noexcept;
  ControlClient& operator=(ControlClient&& other) noexcept;

  // Sends a request (a line without its newline) and waits for its answer, as such a line.
  [[nodiscard]] Outcome<std::string> ask(const std::string& request, std::chrono::seconds patience);
  // The next line of a subscription.
  [[nodiscard]] Outcome<std::string> next_line(std::chrono::seconds patience);

 private:
  int fd_ = -1;
  pid_t run_ = 0;
  std::string unread_;
};

// All runs that can be talked to by this user, by number. Leftovers of dead ones are removed.
[[nodiscard]] std::vector<RunSocket> find_runs();

// A run, or one process of a run, and the connection to it.
struct Target {
  ControlClient client;
  pid_t process = 0;  // 0: the whole run
};
// `pid`: that of `buoy run`, or of a process in a run. Failure: there is none, or it is not ours.
[[nodiscard]] Outcome<Target> find_target(pid_t pid);

}  // namespace buoy::cli
