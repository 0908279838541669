// Starts the program as a child and stands in for it until it ends: what is sent to `buoy` goes to
// the program, what becomes of the program becomes of `buoy`.
//
//   terminal --(SIGINT, SIGTSTP, ...)--> both: they are in one process group; not forwarded
//   kill(buoy) ------------------------> forwarded to the program
//   the program stops -----------------> buoy stops, so that the shell sees it; SIGCONT undoes both
//   the program ends ------------------> buoy ends likewise: its status, or 128 + signal
//   SIGKILL for buoy ------------------> the kernel kills the program (parent-death signal)
#pragma once

#include <string>
#include <vector>

namespace buoy::cli {

struct ChildRequest {
  std::string path;                      // what to execute
  std::vector<std::string> arguments;    // argv, the name as the user gave it first
  std::vector<std::string> environment;  // whole; "NAME=VALUE"
  // A variable that gets the child's own process id: its name.
  std::string pid_variable;
};

// Blocks until the program has ended; the exit status for buoy. Called once, in a process with one
// thread.
[[nodiscard]] int supervise(const ChildRequest& request);

}  // namespace buoy::cli
