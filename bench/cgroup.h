// A memory cgroup of our own, version 1 or 2, for one run of one side: its peak cannot be reset
// everywhere. Removed when the object goes, or at the end (undo.h).
#pragma once

#include <cstdint>
#include <string>
#include <thread>

namespace buoy::bench {

class MemoryCgroup {
 public:
  static constexpr std::uint64_t kNoLimit = UINT64_MAX;

  // Makes an empty group directly below the root. Throws Unavailable.
  MemoryCgroup();
  MemoryCgroup(const MemoryCgroup&) = delete;
  MemoryCgroup& operator=(const MemoryCgroup&) = delete;
  ~MemoryCgroup();  // kills what is left inside, and removes the group

  // Memory the members may hold, in bytes; swap is not limited.
  void set_limit(std::uint64_t bytes);
  // Whether members may be swapped out at all.
  void allow_swap(bool allowed);
  // The most that was charged to it since it was made, kernel memory included.
  [[nodiscard]] std::uint64_t peak() const;

  // Keeps the kernel's own statistics of the group fresh for as long as the result lives, by
  // reading them 50 times a second.
  //
  // Reclaim decides by them which pages to deactivate, and refreshes them about every two seconds;
  // a group that fills faster than that looks as if nothing could be taken, and its members are
  // killed with most of the swap free (seen on Linux 6.18: all pages active, none inactive).
  [[nodiscard]] std::jthread keep_statistics_fresh() const;

  // The file a process writes "0" into to join.
  [[nodiscard]] std::string procs_file() const { return path_ + "/cgroup.procs"; }

 private:
  bool v2_;
  std::string path_;
};

}  // namespace buoy::bench
