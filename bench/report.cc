#include "report.h"

#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "machine.h"

namespace buoy::bench {
namespace {

using Json = nlohmann::ordered_json;

// Three significant digits: more would be noise.
double rounded(double value) {
  if (value == 0 || !std::isfinite(value)) return value;
  const double scale = std::pow(10.0, 3 - std::ceil(std::log10(std::fabs(value))));
  return std::round(value * scale) / scale;
}

std::string number(double value) {
  value = rounded(value);
  return std::fabs(value) >= 100 ? fmt::format("{:.0f}", value) : fmt::format("{:.3g}", value);
}

double ratio(const Result& r) {
  return r.unit.better == Better::kLower ? r.peer / r.buoy : r.buoy / r.peer;
}

}  // namespace

Report::Report(std::string bench, Format format, std::FILE* out)
    : bench_(std::move(bench)), format_(format), out_(out) {
  if (format_ == Format::kTable) fmt::print(out_, "# {}\n", machine_facts());
}

void Report::print_headings_once() {
  if (headings_printed_) return;
  headings_printed_ = true;
  fmt::print(out_, "{:<52} {:>10} {:>10}  {:<12} {:>6}  {}\n", "case", "buoy", "peer", "unit",
             "ratio", "peer is");
}

void Report::add(const Result& r) {
  // A quantity that is zero on one side has no ratio; JSON says null then.
  const double quotient = ratio(r);
  const bool comparable = std::isfinite(quotient) && quotient > 0;
  if (format_ == Format::kJson) {
    const Json line = {{"bench", bench_},
                       {"case", r.case_name},
                       {"buoy", r.buoy},
                       {"peer", r.peer},
                       {"peer_name", r.peer_name},
                       {"unit", r.unit.name},
                       {"ratio", comparable ? Json(rounded(quotient)) : Json()}};
    fmt::print(out_, "{}\n", line.dump());
  } else {
    print_headings_once();
    fmt::print(out_, "{:<52} {:>10} {:>10}  {:<12} {:>6}  {}\n", r.case_name, number(r.buoy),
               number(r.peer), r.unit.name, comparable ? fmt::format("{:.2f}", quotient) : "-",
               r.peer_name);
  }
  std::fflush(out_);
}

void Report::add_without_peer(std::string_view case_name, const Unit& unit, double buoy,
                              std::string_view peer_name, std::string_view why) {
  if (format_ == Format::kJson) {
    const Json line = {
        {"bench", bench_},        {"case", case_name}, {"buoy", buoy},     {"peer", nullptr},
        {"peer_name", peer_name}, {"unit", unit.name}, {"ratio", nullptr}, {"why", why}};
    fmt::print(out_, "{}\n", line.dump());
  } else {
    print_headings_once();
    fmt::print(out_, "{:<52} {:>10} {:>10}  {:<12} {:>6}  {}: {}\n", case_name, number(buoy), "-",
               unit.name, "-", peer_name, why);
  }
  std::fflush(out_);
}

void Report::add_failure(std::string_view case_name, std::string_view why) {
  failed_ = true;
  if (format_ == Format::kJson) {
    const Json line = {{"bench", bench_}, {"case", case_name}, {"buoy", nullptr},
                       {"peer", nullptr}, {"ratio", nullptr},  {"why", why}};
    fmt::print(out_, "{}\n", line.dump());
  } else {
    print_headings_once();
    fmt::print(out_, "{:<52} FAILED: {}\n", case_name, why);
  }
  std::fflush(out_);
}

void Report::note(std::string_view text) {
  if (format_ != Format::kTable) return;
  fmt::print(out_, "# {}\n", text);
  std::fflush(out_);
}

}  // namespace buoy::bench
