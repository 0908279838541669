// The page of HTML: miss-ratio curves and tier sizes side by side, below them where pages were, then
// the table. Laid out for a window of 1280 x 800.
#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "base/units.h"
#include "cli/size.h"
#include "report.h"
#include "svg.h"

namespace buoy::sim {

namespace {

constexpr int kHalfWidth = 616;
constexpr int kWholeWidth = 1240;
constexpr int kUpperHeight = 330;
constexpr int kLowerHeight = 360;
constexpr double kMiB = 1 << 20;

// Okabe and Ito's colours, which also the colour-blind tell apart.
std::string colour_of(std::string_view policy) {
  constexpr std::array<std::pair<std::string_view, std::string_view>, 7> kColours = {
      {{"engine", "#000000"},
       {"opt", "#999999"},
       {"lru", "#d55e00"},
       {"clock", "#e69f00"},
       {"arc", "#0072b2"},
       {"lirs", "#009e73"},
       {"s3fifo", "#cc79a7"}}};
  for (const auto& [name, colour] : kColours)
    if (name == policy) return std::string(colour);
  return "#000000";
}

constexpr const char* kMapped = "#0072b2";
constexpr const char* kStandby = "#56b4e9";
constexpr const char* kPool = "#e69f00";
constexpr const char* kFile = "#cccccc";
constexpr const char* kFault = "#d00000";

double mib_of_pages(std::uint64_t pages) { return static_cast<double>(pages * kPageSize) / kMiB; }

std::string draw_curves(const Report& report) {
  std::vector<Series> all;
  double most_ratio = 0;
  double most_budget = 0;
  for (const Replayed& r : report.results) {
    auto found =
        std::find_if(all.begin(), all.end(), [&](const Series& s) { return s.name == r.policy; });
    if (found == all.end())
      found =
          all.insert(all.end(), Series{r.policy, colour_of(r.policy), {}, r.is_engine ? 3.0 : 1.5});
    const double budget = static_cast<double>(r.budget_bytes) / kMiB;
    found->points.emplace_back(budget, 100 * r.tally.miss_ratio());
    most_ratio = std::max(most_ratio, 100 * r.tally.miss_ratio());
    most_budget = std::max(most_budget, budget);
  }
  Chart chart("Misses", kHalfWidth, kUpperHeight, {"budget (MiB)", round_up(most_budget)},
              {"misses (% of accesses)", round_up(most_ratio)});
  for (const Series& series : all) chart.add_line(series);
  return chart.svg();
}

const Replayed* drawn_engine(const Report& report) {
  const auto found = std::find_if(report.results.begin(), report.results.end(),
                                  [](const Replayed& r) { return r.picture.columns != 0; });
  return found == report.results.end() ? nullptr : &*found;
}

double millions(std::uint64_t accesses) { return static_cast<double>(accesses) / 1e6; }

std::string draw_tiers(const Replayed& engine) {
  std::vector<Series> layers = {{"mapped", kMapped, {}},
                                {"standby", kStandby, {}},
                                {"compressed pool (frames)", kPool, {}},
                                {"in the file", kFile, {}}};
  double most = 0;
  for (const TierSample& s : engine.tiers) {
    const double x = millions(s.access);
    const std::array<double, 4> sizes = {mib_of_pages(s.mapped), mib_of_pages(s.standby),
                                         mib_of_pages(s.pool_frames), mib_of_pages(s.in_file)};
    double sum = 0;
    for (std::size_t i = 0; i < sizes.size(); ++i) {
      layers[i].points.emplace_back(x, sizes[i]);
      sum += sizes[i];
    }
    most = std::max(most, sum);
  }
  const double budget = static_cast<double>(engine.budget_bytes) / kMiB;
  Chart chart(fmt::format("Tiers of the engine, budget {:.1f} MiB (dashed)", budget), kHalfWidth,
              kUpperHeight, {"accesses (million)", millions(engine.tiers.back().access)},
              {"size (MiB)", round_up(std::max(most, budget))});
  chart.add_stack(layers);
  chart.add(fmt::format("<path d='M{:.1f} {:.1f}H{:.1f}' stroke='black' stroke-dasharray='6 4'/>",
                        chart.x_of(0), chart.y_of(budget),
                        chart.x_of(millions(engine.tiers.back().access))));
  return chart.svg();
}

std::string colour_of_tier(Picture::Tier tier) {
  switch (tier) {
    case Picture::Tier::kMapped:
      return kMapped;
    case Picture::Tier::kStandby:
      return kStandby;
    case Picture::Tier::kCompressed:
      return kPool;
    default:
      return kFile;
  }
}

// All cells of one tier as one path, runs of a column joined.
std::string draw_cells(const Picture& picture, const Chart& chart, Picture::Tier tier,
                       double x_most, double y_most) {
  std::string path;
  for (unsigned column = 0; column < picture.columns; ++column) {
    const double x = chart.x_of(x_most * column / picture.columns);
    const double width = chart.x_of(x_most * (column + 1) / picture.columns) - x;
    for (unsigned row = 0; row < picture.rows;) {
      if (picture.tiers[picture.cell(row, column)] != tier) {
        ++row;
        continue;
      }
      unsigned end = row;
      while (end < picture.rows && picture.tiers[picture.cell(end, column)] == tier) ++end;
      const double bottom = chart.y_of(y_most * row / picture.rows);
      const double top = chart.y_of(y_most * end / picture.rows);
      path += fmt::format("M{:.1f} {:.1f}h{:.1f}V{:.1f}h-{:.1f}z", x, bottom, width, top, width);
      row = end;
    }
  }
  return fmt::format("<path d='{}' fill='{}'/>", path, colour_of_tier(tier));
}

// A dot in each cell with misses, the larger the more of them.
std::string draw_misses(const Picture& picture, const Chart& chart, double x_most, double y_most) {
  const std::uint32_t most = *std::max_element(picture.misses.begin(), picture.misses.end());
  if (most == 0) return {};
  std::string path;
  constexpr double kLargest = 2.4;
  for (unsigned column = 0; column < picture.columns; ++column) {
    for (unsigned row = 0; row < picture.rows; ++row) {
      const std::uint32_t misses = picture.misses[picture.cell(row, column)];
      if (misses == 0) continue;
      const double size = std::max(kLargest * misses / most, 0.5);
      path +=
          fmt::format("M{:.1f} {:.1f}h{:.1f}v{:.1f}h-{:.1f}z",
                      chart.x_of(x_most * (column + 0.5) / picture.columns) - size / 2,
                      chart.y_of(y_most * (row + 0.5) / picture.rows) - size / 2, size, size, size);
    }
  }
  return fmt::format("<path d='{}' fill='{}'/>", path, kFault);
}

std::string draw_picture(const Report& report, const Replayed& engine) {
  const Picture& picture = engine.picture;
  const double x_most = millions(engine.tiers.back().access);
  const double y_most = mib_of_pages(report.trace->pages);
  Chart chart(fmt::format("Where pages were: a cell is {} pages by {} accesses",
                          picture.pages_per_row, picture.accesses_per_column),
              kWholeWidth, kLowerHeight, {"accesses (million)", x_most}, {"page (MiB)", y_most});
  const std::array<std::pair<Picture::Tier, const char*>, 4> tiers = {
      {{Picture::Tier::kMapped, "most mapped"},
       {Picture::Tier::kStandby, "most on standby"},
       {Picture::Tier::kCompressed, "most compressed in the pool"},
       {Picture::Tier::kFile, "most in the file"}}};
  for (const auto& [tier, name] : tiers) {
    chart.add(draw_cells(picture, chart, tier, x_most, y_most));
    chart.add_legend(name, colour_of_tier(tier));
  }
  chart.add(draw_misses(picture, chart, x_most, y_most));
  chart.add_legend("misses: larger dots, more of them", kFault);
  return chart.svg();
}

constexpr const char* kStyle = R"(<style>
body { margin: 0 auto; width: 1240px; padding: 8px 20px; font: 13px sans-serif; color: #111;
  background: #fff; }
h1 { font-size: 17px; margin: 4px 0; }
p { margin: 2px 0 6px; }
svg { font: 11px sans-serif; }
svg .title { font-size: 13px; font-weight: bold; }
svg .grid { stroke: #000; stroke-opacity: 0.12; }
svg .tick { stroke: #444; }
svg .axis { stroke: #444; fill: none; }
pre { font-size: 12px; }
</style>
)";

}  // namespace

std::string to_html(const Report& report) {
  std::string html = "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>\n";
  html += fmt::format("<title>buoy-sim: {}</title>\n", escaped(report.title));
  html += kStyle;
  html += fmt::format("</head><body>\n<h1>buoy-sim: {}</h1>\n", escaped(report.title));
  html += fmt::format(
      "<p>{} accesses, {} of them to fill memory and not counted; {} pages ({:.1f} MiB) touched. "
      "Engine: {}.</p>\n",
      report.trace->accesses, report.trace->uncounted, report.trace->footprint,
      mib_of_pages(report.trace->footprint), escaped(report.engine));
  html += "<div>" + draw_curves(report);
  if (const Replayed* engine = drawn_engine(report); engine != nullptr)
    html += draw_tiers(*engine) + "</div>\n<div>" + draw_picture(report, *engine);
  html += "</div>\n<pre>" + escaped(to_table(report)) + "</pre>\n</body></html>\n";
  return html;
}

}  // namespace buoy::sim
