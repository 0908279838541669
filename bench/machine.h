// The machine the numbers come from: its facts, its small control files, and the right to use it
// alone.
#pragma once

#include <stdexcept>
#include <string>
#include <string_view>

namespace buoy::bench {

// Something that a side of a pair needs is not to be had; what() is the reason to print.
class Unavailable : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// What was asked to be written somewhere cannot be: a mistake of the command line.
class UnusableOutput : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// A process was killed because its memory limit could not be held.
class OutOfMemory : public Unavailable {
 public:
  OutOfMemory() : Unavailable("killed: out of memory") {}
};

// "Linux 6.1, 2 CPUs (model), 16 GiB, THP madvise, ..."
[[nodiscard]] std::string machine_facts();

// The contents of a small file of /proc or /sys, without the final newline.
[[nodiscard]] std::string read_file(const std::string& path);  // throws Unavailable
[[nodiscard]] bool file_exists(const std::string& path);
void write_file(const std::string& path, std::string_view text);  // throws Unavailable

// "a: b" of errno.
[[nodiscard]] std::string because_errno(std::string_view what);

// How busy others keep the machine, between its making and part().
class OthersWatch {
 public:
  OthersWatch();
  // CPU time that neither this process nor the children it has waited for used, as a part of all
  // CPUs' time; 0 if it cannot be told.
  [[nodiscard]] double part() const;

 private:
  double busy_;
  double own_;
  double total_;
};

// Benchmarks that change the machine (swap devices, cgroups) or measure time run one at a time:
// the first call waits for the others, the lock is held until the process and its guardian
// (undo.h) are gone.
void hold_machine();

}  // namespace buoy::bench
