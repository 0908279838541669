#include "machine.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
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

struct CpuSeconds {
  double busy = 0;
  double total = 0;
};

// Of all CPUs since boot.
CpuSeconds cpu_seconds() {
  std::ifstream in("/proc/stat");
  std::string label;
  in >> label;
  const auto ticks_per_second = static_cast<double>(sysconf(_SC_CLK_TCK));
  constexpr int kIdle = 3;
  constexpr int kIoWait = 4;
  constexpr int kFields = 8;  // user to steal; guest time is in user's
  CpuSeconds sum;
  double value = 0;
  for (int field = 0; field < kFields && in >> value; ++field) {
    sum.total += value / ticks_per_second;
    if (field != kIdle && field != kIoWait) sum.busy += value / ticks_per_second;
  }
  return sum;
}

double own_cpu_seconds() {
  double sum = 0;
  for (const int who : {RUSAGE_SELF, RUSAGE_CHILDREN}) {
    rusage use{};
    getrusage(who, &use);
    for (const timeval& t : {use.ru_utime, use.ru_stime})
      sum += static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_usec) / 1e6;
  }
  return sum;
}

}  // namespace

OthersWatch::OthersWatch() : own_(own_cpu_seconds()) {
  const CpuSeconds now = cpu_seconds();
  busy_ = now.busy;
  total_ = now.total;
}

double OthersWatch::part() const {
  const CpuSeconds now = cpu_seconds();
  if (now.total <= total_) return 0;
  const double others = now.busy - busy_ - (own_cpu_seconds() - own_);
  return std::max(others, 0.0) / (now.total - total_);
}

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
