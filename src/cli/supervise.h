// Starts the program as a child and stands in for it until it ends: what is sent to `buoy` goes to
// the program, what becomes of the program becomes of `buoy`.
//
//   terminal --(SIGINT, SIGTSTP, ...)--> both: they are in one process group; not forwarded
//   kill(buoy) ------------------------> forwarded to the program
//   the program stops -----------------> buoy stops, so that the shell sees it; SIGCONT undoes both
//   the program ends ------------------> buoy ends likewise: its status, or 128 + signal
//   SIGKILL for buoy ------------------> the kernel kills the program (parent-death signal)
#pragma once

#include <sys/types.h>

#include <functional>
#include <string>
#include <vector>

namespace buoy::cli {

struct ChildRequest {
  std::string path;                      // what to execute
  std::vector<std::string> arguments;    // argv, the name as the user gave it first
  std::vector<std::string> environment;  // whole; "NAME=VALUE"
  // A variable that gets the child's own process id: its name.
  std::string pid_variable;
  // Called in buoy once the program is on its way, with every signal blocked. A descriptor to watch
  // meanwhile, or -1.
  std::function<int()> when_started;
  // Called whenever that is readable; must not block.
  std::function<void()> when_readable;
};

struct Ending {
  pid_t child = 0;  // 0: it never started
  int status = 0;   // the exit status for buoy
  int signal = 0;   // that ended the program; 0: it ended by itself
};

// Blocks until the program has ended. Called once, in a process with one
// thread (when_started may add more).
[[nodiscard]] Ending supervise(const ChildRequest& request);

}  // namespace buoy::cli
