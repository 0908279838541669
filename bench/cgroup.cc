#include "cgroup.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <fstream>
#include <sstream>
#include <thread>

#include "machine.h"
#include "undo.h"

namespace buoy::bench {
namespace {

struct Hierarchy {
  bool v2;
  std::string root;
};

// Where the memory controller is mounted; in version 2, children are given it.
Hierarchy find_hierarchy() {
  std::ifstream mounts("/proc/self/mounts");
  for (std::string line; std::getline(mounts, line);) {
    std::istringstream words(line);
    std::string device;
    std::string where;
    std::string type;
    std::string options;
    words >> device >> where >> type >> options;
    if (type == "cgroup" && ("," + options + ",").find(",memory,") != std::string::npos)
      return {false, where};
    if (type == "cgroup2" &&
        (" " + read_file(where + "/cgroup.controllers") + " ").find(" memory ") !=
            std::string::npos) {
      write_file(where + "/cgroup.subtree_control", "+memory");
      return {true, where};
    }
  }
  throw Unavailable("no memory cgroup controller is mounted");
}

}  // namespace

MemoryCgroup::MemoryCgroup() {
  static unsigned made = 0;
  const Hierarchy hierarchy = find_hierarchy();
  v2_ = hierarchy.v2;
  path_ = hierarchy.root + "/buoy-bench." + std::to_string(getpid()) + "." + std::to_string(++made);
  undo_at_end(Undo::kRemoveDir, path_);
  if (mkdir(path_.c_str(), 0755) != 0) throw Unavailable(because_errno(path_));
}

MemoryCgroup::~MemoryCgroup() {
  // A group outlives its last process by a moment; what stays is removed by the guardian.
  for (int i = 0; i < 100 && rmdir(path_.c_str()) != 0 && errno == EBUSY; ++i) {
    std::ifstream members(procs_file());
    for (pid_t pid = 0; members >> pid;) kill(pid, SIGKILL);
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
}

void MemoryCgroup::set_limit(std::uint64_t bytes) {
  const std::string file = path_ + (v2_ ? "/memory.max" : "/memory.limit_in_bytes");
  const std::string none = v2_ ? "max" : "-1";
  write_file(file, bytes == kNoLimit ? none : std::to_string(bytes));
}

void MemoryCgroup::allow_swap(bool allowed) {
  if (v2_)
    write_file(path_ + "/memory.swap.max", allowed ? "max" : "0");
  else
    write_file(path_ + "/memory.swappiness", allowed ? "60" : "0");
}

std::uint64_t MemoryCgroup::peak() const {
  return std::stoull(read_file(path_ + (v2_ ? "/memory.peak" : "/memory.max_usage_in_bytes")));
}

std::jthread MemoryCgroup::keep_statistics_fresh() const {
  return std::jthread([file = path_ + "/memory.stat"](const std::stop_token& stop) {
    // A moment's work that must not wait for the machine's other programs; if it may not, it waits.
    const sched_param lowest_real_time = {.sched_priority = 1};
    (void)pthread_setschedparam(pthread_self(), SCHED_RR, &lowest_real_time);
    while (!stop.stop_requested()) {
      (void)read_file(file);
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
  });
}

}  // namespace buoy::bench
