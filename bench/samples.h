// Measurements by name, taken from several sides in turn.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "bench.h"
#include "report.h"

namespace buoy::bench {

// What one run of one side measured: quantity -> value.
using Sample = std::map<std::string, double>;

struct Side {
  std::string name;
  std::function<Sample()> run;  // throws Unavailable
};

// All samples of one side, or why there are none: the first run that fails ends the side.
struct Measured {
  std::string name;
  std::vector<Sample> samples;
  std::string why;  // empty: measured

  [[nodiscard]] bool ok() const { return why.empty() && !samples.empty(); }
  [[nodiscard]] double median(const std::string& quantity) const;
};

// Runs the sides interleaved, A B C A B C ..., `rounds` times. Each sample gets "others_part": how
// much of the machine other programs had meanwhile (OthersWatch).
[[nodiscard]] std::vector<Measured> run_interleaved(const std::vector<Side>& sides,
                                                    std::size_t rounds = kPairs);

// A note below the results if other programs had much of the machine.
void note_disturbance(Report& report, const std::vector<Measured>& sides);

// Reports one quantity of a case: the medians of Buoy's side against those of a peer.
void report_pair(Report& report, const std::string& case_name, const Unit& unit,
                 const Measured& buoy, const Measured& peer, const std::string& quantity);

}  // namespace buoy::bench
