#include "report.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/units.h"
#include "cli/size.h"

namespace buoy::sim {

namespace {

std::string ratio_to(const Report& report, const Replayed& result, std::string_view peer) {
  const Replayed* other = report.find(peer, result.budget_bytes);
  if (other == nullptr || other->tally.misses == 0) return "-";
  return fmt::format("{:.3f}", static_cast<double>(result.tally.misses) /
                                   static_cast<double>(other->tally.misses));
}

std::string heading(const Report& report) {
  const Trace& trace = *report.trace;
  std::string text = fmt::format("{}: touches {} pages ({:.1f} MiB)", report.title, trace.footprint,
                                 static_cast<double>(trace.footprint * kPageSize) / (1 << 20));
  if (trace.lost_records != 0)
    text += fmt::format("; {} records were lost when it was recorded", trace.lost_records);
  return text + "\n";
}

}  // namespace

const Replayed* Report::find(std::string_view policy, std::uint64_t budget_bytes) const {
  const auto found = std::find_if(results.begin(), results.end(), [&](const Replayed& r) {
    return r.policy == policy && r.budget_bytes == budget_bytes;
  });
  return found == results.end() ? nullptr : &*found;
}

std::string to_table(const Report& report) {
  std::string text = heading(report);
  std::uint64_t budget = 0;
  const bool has_engine = std::any_of(report.results.begin(), report.results.end(),
                                      [](const Replayed& r) { return r.is_engine; });
  if (has_engine) text += "engine: " + report.engine + "\n";
  for (const Replayed& r : report.results) {
    if (r.budget_bytes != budget) {
      budget = r.budget_bytes;
      text += fmt::format(
          "\nbudget {} ({} pages, {:.1f} % of what is touched); {} accesses count, {} "
          "of them are a page's first\n",
          cli::format_size(budget), budget / kPageSize,
          100.0 * static_cast<double>(budget / kPageSize) /
              static_cast<double>(report.trace->footprint),
          r.tally.accesses, r.tally.first);
      text += fmt::format("{:<8} {:>12} {:>12} {:>8} {:>8} {:>14}\n", "policy", "misses",
                          "miss ratio", "x LRU", "x OPT", "accesses/s");
    }
    text += fmt::format(
        "{:<8} {:>12} {:>10.3f} % {:>8} {:>8} {:>14.0f}\n", r.policy, r.tally.misses,
        100 * r.tally.miss_ratio(), ratio_to(report, r, "lru"), ratio_to(report, r, "opt"),
        static_cast<double>(report.trace->accesses) / std::max(r.cpu_seconds, 1e-9));
    if (r.is_engine)
      text += fmt::format(
          "         standby touches {}, stores to kept copies {}, pages in {} ({} from the file), "
          "out {}\n",
          r.engine.standby_touches, r.engine.protect_faults, r.engine.pages_in,
          r.engine.pages_in_file, r.engine.pages_out);
  }
  for (const NotRun& n : report.not_run)
    text += fmt::format("{} was not run with {}: {}\n", n.policy, cli::format_size(n.budget_bytes),
                        n.why);
  return text;
}

std::string to_json(const Report& report) {
  using Json = nlohmann::ordered_json;
  const Trace& trace = *report.trace;
  Json json;
  json["trace"] = {{"title", report.title},
                   {"footprint_pages", trace.footprint},
                   {"accesses", trace.accesses},
                   {"uncounted_accesses", trace.uncounted},
                   {"lost_records", trace.lost_records}};
  json["engine"] = report.engine;
  json["results"] = Json::array();
  for (const Replayed& r : report.results) {
    Json one = {{"policy", r.policy},           {"budget_bytes", r.budget_bytes},
                {"accesses", r.tally.accesses}, {"first_accesses", r.tally.first},
                {"misses", r.tally.misses},     {"miss_ratio", r.tally.miss_ratio()},
                {"cpu_seconds", r.cpu_seconds}};
    if (r.is_engine) {
      one["major_faults_of_whole_trace"] = r.engine.major_faults;
      one["standby_touches"] = r.engine.standby_touches;
      one["protect_faults"] = r.engine.protect_faults;
      one["pages_in"] = r.engine.pages_in;
      one["pages_in_file"] = r.engine.pages_in_file;
      one["pages_out"] = r.engine.pages_out;
      one["tiers"] = Json::array();
      for (const TierSample& s : r.tiers)
        one["tiers"].push_back({{"access", s.access},
                                {"mapped_pages", s.mapped},
                                {"standby_pages", s.standby},
                                {"pool_frames", s.pool_frames},
                                {"compressed_pages", s.compressed},
                                {"file_pages", s.in_file},
                                {"misses", s.misses}});
    }
    json["results"].push_back(std::move(one));
  }
  json["not_run"] = Json::array();
  for (const NotRun& n : report.not_run)
    json["not_run"].push_back(
        {{"policy", n.policy}, {"budget_bytes", n.budget_bytes}, {"why", n.why}});
  return json.dump(1) + "\n";
}

}  // namespace buoy::sim
