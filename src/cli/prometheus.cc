#include "cli/prometheus.h"

#include <functional>

#include "api/pool.h"
#include "base/counters.h"
#include "cli/answer.h"

namespace buoy::cli {
namespace {

using Json = nlohmann::json;

// As a label's value wants it. It is one line of UTF-8 already.
std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '\\' || c == '"') out += '\\';
    out += c;
  }
  return out;
}

// The lines of one process: its statistics, and the labels without their braces.
using Samples = std::function<std::string(const Json& stats, const std::string& labels)>;

// A family, of every process of every run. Empty if there is none.
std::string family(const std::vector<Json>& answers, const std::string& name, const char* type,
                   const Samples& samples) {
  std::string lines;
  for (const Json& answer : answers) {
    const std::string run = std::to_string(number(answer["run"], "pid"));
    for (const Json& process : answer["processes"]) {
      if (!process.contains("stats")) continue;
      lines += samples(process["stats"],
                       "run=\"" + run + "\",pid=\"" + std::to_string(number(process, "pid")) +
                           "\",command=\"" + escaped(text(process, "command")) + "\"");
    }
  }
  return lines.empty() ? lines : "# TYPE " + name + " " + type + "\n" + lines;
}

std::string sample(const std::string& name, const std::string& labels, const std::string& value) {
  return name + "{" + labels + "} " + value + "\n";
}

// Nanoseconds as seconds, exactly.
std::string seconds(std::uint64_t ns) {
  constexpr std::uint64_t kPerSecond = 1'000'000'000;
  const std::string fraction = std::to_string(kPerSecond + ns % kPerSecond).substr(1);
  return std::to_string(ns / kPerSecond) + "." + fraction;
}

// How long faults took, as a histogram: its buckets hold all that are below them as well.
std::string fault_times(const std::vector<Json>& answers) {
  const std::string name = "buoy_fault_seconds";
  return family(answers, name, "histogram", [&](const Json& stats, const std::string& labels) {
    std::string lines;
    std::uint64_t below = 0;
    for (unsigned i = 0; i < kFaultTimeBuckets; ++i) {
      below += number(stats, event_name(fault_time_bucket(i)).data());
      const bool is_last = i + 1 == kFaultTimeBuckets;
      const std::string end = is_last ? "+Inf" : seconds(fault_time_from_ns(i + 1));
      lines += sample(name + "_bucket", labels + ",le=\"" + end + "\"", std::to_string(below));
    }
    return lines +
           sample(name + "_sum", labels,
                  seconds(number(stats, event_name(Event::fault_ns).data()))) +
           sample(name + "_count", labels, std::to_string(below));
  });
}

// Told by the histogram.
bool is_of_fault_times(std::size_t i) {
  if (!Pool::is_counter(i)) return false;
  const auto e = static_cast<Event>(i - Pool::kGaugeCount);
  return e == Event::fault_ns ||
         (e >= fault_time_bucket(0) && e <= fault_time_bucket(kFaultTimeBuckets - 1));
}

}  // namespace

std::string format_prometheus(const std::vector<Json>& answers) {
  std::string out;
  for (std::size_t i = 0; i < Pool::stat_count(); ++i) {
    if (is_of_fault_times(i)) continue;
    const std::string name(Pool::stat_name(i));
    const std::string full = "buoy_" + name + (Pool::is_counter(i) ? "_total" : "");
    out += family(answers, full, Pool::is_counter(i) ? "counter" : "gauge",
                  [&](const Json& stats, const std::string& labels) {
                    return sample(full, labels, std::to_string(number(stats, name.c_str())));
                  });
  }
  return out + fault_times(answers);
}

}  // namespace buoy::cli
