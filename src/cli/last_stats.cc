#include "cli/last_stats.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "api/pool.h"
#include "cli/outcome.h"

namespace buoy::cli {
namespace {

// The place of the process, also if it was given back since; null if it never had one.
const control::Place* place_of(control::Block& block, pid_t process) {
  for (unsigned i = 0; i < control::kPlaces; ++i) {
    const control::Place& place = block.place(i);
    if (control::Block::pid_of(place.ready.load()) == process) return &place;
  }
  return nullptr;
}

}  // namespace

std::string format_last_stats(control::Block* block, const Ending& ending) {
  std::string line = "{\"ended_by_signal\":" + std::to_string(ending.signal);
  const control::Place* place = block == nullptr ? nullptr : place_of(*block, ending.child);
  for (std::size_t i = 0; place != nullptr && i < Pool::stat_count(); ++i)
    line += ",\"" + std::string(Pool::stat_name(i)) +
            "\":" + std::to_string(place->words[i].load(std::memory_order_relaxed));
  return line + "}\n";
}

void write_last_stats(const std::string& where, control::Block* block, const Ending& ending) {
  const std::string line = format_last_stats(block, ending);
  const bool is_stderr = where == "-";
  const int fd = is_stderr ? STDERR_FILENO
                           : open(where.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0 || write(fd, line.data(), line.size()) != static_cast<ssize_t>(line.size()))
    say("cannot write statistics to " + where + ": " + std::strerror(errno));
  if (fd >= 0 && !is_stderr) close(fd);
}

}  // namespace buoy::cli
