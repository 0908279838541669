#include "samples.h"

#include <fmt/format.h>

#include <algorithm>

#include "machine.h"

namespace buoy::bench {

namespace {
constexpr double kDisturbed = 0.1;
}  // namespace

double Measured::median(const std::string& quantity) const {
  std::vector<double> values;
  values.reserve(samples.size());
  for (const Sample& s : samples) values.push_back(s.at(quantity));
  std::sort(values.begin(), values.end());
  const std::size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

std::vector<Measured> run_interleaved(const std::vector<Side>& sides, std::size_t rounds) {
  std::vector<Measured> measured(sides.size());
  for (std::size_t i = 0; i < sides.size(); ++i) measured[i].name = sides[i].name;
  for (std::size_t round = 0; round < rounds; ++round) {
    for (std::size_t i = 0; i < sides.size(); ++i) {
      if (!measured[i].why.empty()) continue;
      try {
        const OthersWatch others;
        Sample sample = sides[i].run();
        sample["others_part"] = others.part();
        measured[i].samples.push_back(std::move(sample));
      } catch (const Unavailable& e) {
        measured[i].why = e.what();
      }
    }
  }
  return measured;
}

void note_disturbance(Report& report, const std::vector<Measured>& sides) {
  for (const Measured& side : sides) {
    const double part = side.ok() ? side.median("others_part") : 0;
    if (part > kDisturbed)
      report.note(fmt::format("disturbed: other programs had {:.0f} % of the CPUs while {} ran",
                              part * 100, side.name));
  }
}

void report_pair(Report& report, const std::string& case_name, const Unit& unit,
                 const Measured& buoy, const Measured& peer, const std::string& quantity) {
  if (!buoy.ok()) {
    report.add_failure(case_name, buoy.why);
  } else if (!peer.ok()) {
    report.add_without_peer(case_name, unit, buoy.median(quantity), peer.name, peer.why);
  } else {
    report.add({case_name, unit, buoy.median(quantity), peer.median(quantity), peer.name});
  }
}

}  // namespace buoy::bench
