// One side of a pair in a fresh process: buoy-bench executed again (or another program), in a
// cgroup from its first page on.
//
// A side program measures, calls answer(), which prints its sample, and waits until the parent has
// looked at it (how much the cgroup and zram hold while it is alive); then it ends.
#pragma once

#include <sys/types.h>

#include <array>
#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "bench.h"
#include "samples.h"

namespace buoy::bench {

struct Command {
  std::vector<std::string> words;
  std::string join_cgroup;  // a cgroup.procs file; empty: stays where the parent is
};

// `prefix` comes before buoy-bench, as in {"buoy", "run", ...}.
[[nodiscard]] Command side_command(const std::string& side, const Arguments& arguments,
                                   const std::vector<std::string>& prefix = {});

// The folder of this program, where `buoy` is too.
[[nodiscard]] std::string program_folder();

// What a program that knows nothing of answers left when it had ended well.
struct Ended {
  std::uint64_t output_hash = 0;  // of its standard output
  std::uint64_t peak_rss_bytes = 0;
  std::uint64_t major_faults = 0;  // the kernel's
};

class Child {
 public:
  // Throws Unavailable.
  explicit Child(const Command& command);
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;
  ~Child();  // kills it if it still runs

  // Blocks until the child answers. Throws Unavailable if it ends without an answer, or takes
  // longer than `seconds`.
  [[nodiscard]] Sample wait_for_answer(double seconds);
  // Lets it end, and waits for that. Throws Unavailable if it fails.
  void finish(double seconds);
  // For other programs: reads their output and waits for their end. Throws Unavailable
  // (OutOfMemory) if they do not end with status 0 within `seconds`.
  [[nodiscard]] Ended run_to_end(double seconds);

 private:
  // Reads more of the child's output, at most until `deadline`; empty at its end.
  [[nodiscard]] std::string_view read_some(std::chrono::steady_clock::time_point deadline);
  void wait_for_end();  // throws Unavailable (OutOfMemory) unless it ends with status 0

  std::array<char, 65536> buffer_;
  std::uint64_t peak_rss_bytes_ = 0;  // these two: known when it has ended
  std::uint64_t major_faults_ = 0;
  pid_t pid_ = -1;
  int input_ = -1;  // closing it lets the child go on
  int output_ = -1;
};

// In a side program: hands the sample to the parent and waits until it has looked.
void answer(const Sample& sample);

// The side's arguments; a missing one is a mistake of the benchmark and ends the process.
[[nodiscard]] const std::string& text_of(const Arguments& arguments, const std::string& key);
[[nodiscard]] double number_of(const Arguments& arguments, const std::string& key);

}  // namespace buoy::bench
