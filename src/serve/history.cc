#include "serve/history.h"

#include <algorithm>
#include <cmath>

namespace buoy::serve {
namespace {

using Json = nlohmann::json;

double rounded(double value) { return std::round(value * 1000) / 1000; }

// -1: there were no faults.
double quantile(const cli::Vitals& v, double share) {
  return rounded(cli::fault_time_quantile(v.fault_times, share).value_or(-1));
}

Json numbers_of(const cli::Vitals& v) {
  return {v.budget,
          v.resident,
          v.lazyfree,
          v.volatile_marked,
          v.standby,
          v.compressed,
          v.compressed_original,
          v.file,
          rounded(v.faults),
          rounded(v.major),
          rounded(v.in),
          rounded(v.out),
          quantile(v, 0.5),
          quantile(v, 0.99),
          rounded(v.pressure)};
}

Json run_of(const cli::SeenRun& run) {
  Json processes = Json::array();
  for (const cli::SeenProcess& process : run.processes) {
    Json one = {{"pid", process.pid}, {"command", process.command}};
    if (process.error.empty())
      one["v"] = numbers_of(process.vitals);
    else
      one["error"] = process.error;
    processes.push_back(std::move(one));
  }
  Json json = {{"pid", run.pid},
               {"command", run.command},
               {"not_shown", run.not_shown},
               {"processes", std::move(processes)}};
  if (run.error.empty())
    json["v"] = numbers_of(run.sum);
  else
    json["error"] = run.error;
  return json;
}

}  // namespace

const std::vector<const char*>& vitals_names() {
  static const std::vector<const char*> names = {
      "budget",  "resident", "lazyfree", "volatile", "standby", "compressed", "compressed_original",
      "file",    "faults",   "major",    "in",       "out",     "p50",        "p99",
      "pressure"};
  return names;
}

void History::add(double at, const std::vector<cli::SeenRun>& runs) {
  Sample sample;
  Json list = Json::array();
  for (const cli::SeenRun& run : runs) {
    list.push_back(run_of(run));
    sample.rows += 1 + run.processes.size();
  }
  sample.json = {{"at", rounded(at)}, {"runs", std::move(list)}};
  const std::lock_guard guard(mutex_);
  rows_ += sample.rows;
  samples_.push_back(std::move(sample));
  ++next_;
  while (samples_.size() > 1 && (samples_.size() > kMostSamples || rows_ > kMostRows)) {
    rows_ -= samples_.front().rows;
    samples_.pop_front();
  }
}

Json History::since(std::uint64_t number) const {
  const std::lock_guard guard(mutex_);
  const std::uint64_t oldest = next_ - samples_.size();
  const std::uint64_t first = std::clamp(number, oldest, next_);
  Json list = Json::array();
  for (std::uint64_t n = first; n < next_; ++n) list.push_back(samples_[n - oldest].json);
  return {
      {"first", first}, {"next", next_}, {"names", vitals_names()}, {"samples", std::move(list)}};
}

}  // namespace buoy::serve
