#include "cli/serve.h"

#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "cli/outcome.h"
#include "cli/preload_library.h"

namespace buoy::cli {

int serve_command(const std::vector<std::string>& words) {
  const Outcome<std::string> server = find_part("buoy-serve");
  if (!server) {
    say(server.failure().line);
    return server.failure().status;
  }
  std::vector<char*> arguments{const_cast<char*>("buoy-serve")};
  for (const std::string& word : words) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  execv(server->c_str(), arguments.data());
  say(*server + ": " + std::strerror(errno));
  return kCannotExecute;
}

}  // namespace buoy::cli
