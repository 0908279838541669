#include "cli/outcome.h"

#include <unistd.h>

namespace buoy::cli {

void say(const std::string& line) {
  const std::string whole = "buoy: " + line + "\n";
  (void)!::write(STDERR_FILENO, whole.data(), whole.size());
}

}  // namespace buoy::cli
