// The folder where each `buoy run` has its control socket, PID.sock, by its own process id.
//
// A folder is used only if it is the user's (or root's) and nobody else can write to it. The first
// that can be had: $XDG_RUNTIME_DIR/buoy, /run/buoy, /tmp/buoy-UID. Who looks for runs looks in all
// of them.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

#include "cli/outcome.h"

namespace buoy::cli {

struct RunSocket {
  pid_t run = 0;
  std::string path;
};

// The folder for a new socket, made if need be. Failure: none can be had; the line says why not.
[[nodiscard]] Outcome<std::string> make_runtime_folder();

// Where runs of this user can be; for root, of all users. Folders that are there.
[[nodiscard]] std::vector<std::string> runtime_folders();

// The sockets in a folder, by number. Empty where it cannot be read.
[[nodiscard]] std::vector<RunSocket> sockets_in(const std::string& folder);

// A stream socket connected to the path. -1, with errno: ECONNREFUSED for a run that is no more.
[[nodiscard]] int connect_to(const std::string& path);

// Listens at FOLDER/PID.sock, which only the user can connect to; accepting does not block. Whoever sees the name finds
// somebody listening, or nobody for good. -1, with errno. Sockets of runs that are no more go first.
// Not while other threads make files: it sets the umask for a moment.
[[nodiscard]] int listen_in(const std::string& folder, std::string* path);

// Removes what dead runs left in a folder of this user's.
void remove_stale_sockets(const std::string& folder);

}  // namespace buoy::cli
