#include "cli/vitals.h"

#include <algorithm>

#include "cli/answer.h"

namespace buoy::cli {
namespace {

using Json = nlohmann::json;

bool counts_anew(const Totals& now, const Totals& before) {
  if (now.faults < before.faults || now.fault_ns < before.fault_ns || now.in < before.in ||
      now.out < before.out || now.major < before.major)
    return true;
  for (unsigned i = 0; i < kFaultTimeBuckets; ++i)
    if (now.fault_times[i] < before.fault_times[i]) return true;
  return false;
}

}  // namespace

double Vitals::ratio() const {
  return compressed == 0
             ? 0
             : static_cast<double>(compressed_original) / static_cast<double>(compressed);
}

void Vitals::add(const Vitals& other) {
  budget += other.budget;
  resident += other.resident;
  lazyfree += other.lazyfree;
  volatile_marked += other.volatile_marked;
  standby += other.standby;
  compressed += other.compressed;
  compressed_original += other.compressed_original;
  file += other.file;
  faults += other.faults;
  major += other.major;
  in += other.in;
  out += other.out;
  pressure += other.pressure;
  for (unsigned i = 0; i < kFaultTimeBuckets; ++i) fault_times[i] += other.fault_times[i];
}

Totals totals_of(const Json& stats) {
  Totals totals;
  totals.faults = number(stats, "pgfault");
  totals.major = number(stats, "pgmajfault");
  totals.in = number(stats, "pswpin");
  totals.out = number(stats, "pswpout");
  totals.fault_ns = number(stats, "fault_ns");
  for (unsigned i = 0; i < kFaultTimeBuckets; ++i)
    totals.fault_times[i] = number(stats, event_name(fault_time_bucket(i)).data());
  return totals;
}

Vitals vitals_of(const Json& stats, const Totals& now, const std::optional<Totals>& before,
                 double seconds) {
  Vitals vitals;
  vitals.budget = number(stats, "budget_bytes");
  vitals.resident = number(stats, "resident_bytes");
  vitals.lazyfree = number(stats, "lazyfree_bytes");
  vitals.volatile_marked = number(stats, "volatile_bytes");
  vitals.standby = number(stats, "standby_bytes");
  vitals.compressed = number(stats, "compressed_bytes");
  vitals.compressed_original = number(stats, "compressed_original_bytes");
  vitals.file = number(stats, "backing_file_bytes");
  if (!before || seconds <= 0 || counts_anew(now, *before)) return vitals;
  const auto rate = [&](std::uint64_t Totals::*of) {
    return static_cast<double>(now.*of - (*before).*of) / seconds;
  };
  vitals.faults = rate(&Totals::faults);
  vitals.major = rate(&Totals::major);
  vitals.in = rate(&Totals::in);
  vitals.out = rate(&Totals::out);
  vitals.pressure = rate(&Totals::fault_ns) / 1e9;
  for (unsigned i = 0; i < kFaultTimeBuckets; ++i)
    vitals.fault_times[i] = now.fault_times[i] - before->fault_times[i];
  return vitals;
}

std::optional<double> fault_time_quantile(const FaultTimes& times, double share) {
  std::uint64_t all = 0;
  for (const std::uint64_t n : times) all += n;
  if (all == 0) return std::nullopt;
  const double wanted = share * static_cast<double>(all);
  double below = 0;
  for (unsigned i = 0; i < kFaultTimeBuckets; ++i) {
    const auto here = static_cast<double>(times[i]);
    if (here > 0 && below + here >= wanted) {
      const auto from = static_cast<double>(fault_time_from_ns(i));
      const auto to = static_cast<double>(fault_time_from_ns(i + 1));
      return from + (to - from) * std::max(0.0, wanted - below) / here;
    }
    below += here;
  }
  return static_cast<double>(fault_time_from_ns(kFaultTimeBuckets));
}

}  // namespace buoy::cli
