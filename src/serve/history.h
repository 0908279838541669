// History: what was seen in the last minutes, for plots, as JSON. Bounded: what is oldest goes first.
//
//   {"first":120,"next":480,"interval_ms":1000,"samples":[{"at":1790000000.5,"runs":[
//     {"pid":4710,"command":"sort big","processes":[{"pid":4711,"command":"sort big","v":[...]}]}]}]}
//
// "v": the numbers that vitals_names() names, in their order.
#pragma once

#include <cstdint>
#include <deque>
#include <mutex>
#include <nlohmann/json.hpp>
#include <vector>

#include "cli/census.h"

namespace buoy::serve {

[[nodiscard]] const std::vector<const char*>& vitals_names();

// Thread-safe.
class History {
 public:
  // `at`: seconds since 1970.
  void add(double at, const std::vector<cli::SeenRun>& runs);
  // The samples from this number on that are still there.
  [[nodiscard]] nlohmann::json since(std::uint64_t number) const;

 private:
  static constexpr std::size_t kMostSamples = 900;
  static constexpr std::size_t kMostRows = 20'000;  // a row: one process at one time
  struct Sample {
    nlohmann::json json;
    std::size_t rows = 0;
  };

  mutable std::mutex mutex_;  // guards what follows
  std::deque<Sample> samples_;
  std::size_t rows_ = 0;
  std::uint64_t next_ = 0;  // the number of the next sample
};

}  // namespace buoy::serve
