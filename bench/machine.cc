#include "machine.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <sstream>

namespace buoy::bench {
namespace {

constexpr const char* kLockFile = "/tmp/buoy-bench.lock";

std::string cpu_model() {
  std::ifstream in("/proc/cpuinfo");
  for (std::string line; std::getline(in, line);)
    if (line.rfind("model name", 0) == 0)
      if (const auto colon = line.find(": "); colon != std::string::npos)
        return line.substr(colon + 2);
  return "unknown processor";
}

// The bracketed word of "always [madvise] never".
std::string chosen(const std::string& path) {
  std::ifstream in(path);
  std::string text;
  std::getline(in, text);
  const auto open = text.find('[');
  const auto close = text.find(']');
  return open < close && close != std::string::npos ? text.substr(open + 1, close - open - 1)
                                                    : "unknown";
}

std::string first_line(const std::string& path) {
  std::ifstream in(path);
  std::string text;
  return std::getline(in, text) ? text : "unknown";
}

}  // namespace

std::string machine_facts() {
  utsname system{};
  uname(&system);
  struct sysinfo memory {};
  sysinfo(&memory);
  return fmt::format("{} {} {}, {} CPUs ({}), {:.1f} GiB memory, THP {}, page-cluster {}, load {}",
                     system.sysname, system.release, system.machine, get_nprocs(), cpu_model(),
                     static_cast<double>(memory.totalram) * memory.mem_unit / (1 << 30),
                     chosen("/sys/kernel/mm/transparent_hugepage/enabled"),
                     first_line("/proc/sys/vm/page-cluster"),
                     first_line("/proc/loadavg").substr(0, 4));
}

std::string because_errno(std::string_view what) {
  return fmt::format("{}: {}", what, std::strerror(errno));
}

std::string read_file(const std::string& path) {
  std::ifstream in(path);
  std::ostringstream text;
  text << in.rdbuf();
  if (!in) throw Unavailable(because_errno(path));
  std::string result = text.str();
  if (!result.empty() && result.back() == '\n') result.pop_back();
  return result;
}

bool file_exists(const std::string& path) { return access(path.c_str(), F_OK) == 0; }

void write_file(const std::string& path, std::string_view text) {
  // One write(2), no creation: control files take a value whole.
  const int fd = open(path.c_str(), O_WRONLY | O_CLOEXEC | O_TRUNC);
  if (fd < 0) throw Unavailable(because_errno(path));
  const bool written = write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size());
  const int error = errno;
  close(fd);
  errno = error;
  if (!written) throw Unavailable(because_errno(fmt::format("{} into {}", text, path)));
}

void hold_machine() {
  // The descriptor is kept, and inherited by fork, for the life of the processes that matter.
  static const int fd = [] {
    const int lock = open(kLockFile, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (lock < 0) throw Unavailable(because_errno(kLockFile));
    if (flock(lock, LOCK_EX | LOCK_NB) != 0) {
      fmt::print(stderr, "buoy-bench: waiting for another buoy-bench to end\n");
      while (flock(lock, LOCK_EX) != 0)
        if (errno != EINTR) throw Unavailable(because_errno(kLockFile));
    }
    return lock;
  }();
  (void)fd;
}

}  // namespace buoy::bench
