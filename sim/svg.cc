#include "svg.h"

#include <fmt/format.h>

#include <cmath>

namespace buoy::sim {

namespace {
constexpr int kLeft = 62;
constexpr int kRight = 14;
constexpr int kTop = 46;
constexpr int kBottom = 40;

// A step of 1, 2 or 5 times a power of ten that gives about `wanted` ticks.
double step_for(double most, int wanted) {
  const double raw = most / wanted;
  const double power = std::pow(10, std::floor(std::log10(raw)));
  for (const double factor : {1.0, 2.0, 5.0})
    if (raw <= factor * power * 1.0001) return factor * power;
  return 10 * power;
}

std::string number(double value) {
  if (value >= 1e6) return fmt::format("{:g}M", value / 1e6);
  if (value >= 1e4) return fmt::format("{:g}k", value / 1e3);
  return fmt::format("{:g}", std::round(value * 1e6) / 1e6);
}
}  // namespace

std::string escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '<')
      out += "&lt;";
    else if (c == '>')
      out += "&gt;";
    else if (c == '&')
      out += "&amp;";
    else
      out += c;
  }
  return out;
}

double round_up(double value) {
  if (!(value > 0)) return 1;
  const double step = step_for(value, 5);
  return std::ceil(value / step - 1e-9) * step;
}

Chart::Chart(std::string_view title, int width, int height, Axis x, Axis y)
    : title_(title), width_(width), height_(height), x_(std::move(x)), y_(std::move(y)) {
  draw_axes();
}

double Chart::x_of(double value) const {
  return kLeft + value / x_.most * (width_ - kLeft - kRight);
}
double Chart::y_of(double value) const {
  return height_ - kBottom - value / y_.most * (height_ - kTop - kBottom);
}

void Chart::draw_axes() {
  const double left = x_of(0);
  const double bottom = y_of(0);
  const double right = x_of(x_.most);
  const double top = y_of(y_.most);
  const double x_step = step_for(x_.most, 8);
  for (double v = 0; v <= x_.most * 1.0001; v += x_step)
    axes_ += fmt::format(
        "<line class='tick' x1='{0:.1f}' x2='{0:.1f}' y1='{1:.1f}' y2='{2:.1f}'/>"
        "<text x='{0:.1f}' y='{3:.1f}' text-anchor='middle'>{4}</text>",
        x_of(v), bottom, bottom + 4, bottom + 16, number(v));
  const double y_step = step_for(y_.most, 5);
  for (double v = 0; v <= y_.most * 1.0001; v += y_step)
    axes_ += fmt::format(
        "<line class='grid' x1='{0:.1f}' x2='{1:.1f}' y1='{2:.1f}' y2='{2:.1f}'/>"
        "<text x='{3:.1f}' y='{4:.1f}' text-anchor='end'>{5}</text>",
        left, right, y_of(v), left - 6, y_of(v) + 4, number(v));
  axes_ += fmt::format("<path class='axis' d='M{0:.1f} {1:.1f}V{2:.1f}H{3:.1f}'/>", left, top,
                       bottom, right);
  axes_ += fmt::format("<text x='{:.1f}' y='{}' text-anchor='middle'>{}</text>", (left + right) / 2,
                       height_ - 6, escaped(x_.label));
  axes_ += fmt::format(
      "<text transform='translate(14 {:.1f}) rotate(-90)' text-anchor='middle'>{}</text>",
      (top + bottom) / 2, escaped(y_.label));
}

void Chart::add_legend(const std::string& name, const std::string& colour) {
  legend_.emplace_back(name, colour);
}

void Chart::add_line(const Series& series) {
  std::string path;
  std::string dots;
  for (const auto& [x, y] : series.points) {
    path += fmt::format("{}{:.1f} {:.1f}", path.empty() ? "M" : "L", x_of(x), y_of(y));
    dots += fmt::format("<circle cx='{:.1f}' cy='{:.1f}' r='{:.1f}' fill='{}'/>", x_of(x), y_of(y),
                        series.width + 1, series.colour);
  }
  body_ += fmt::format("<path d='{}' fill='none' stroke='{}' stroke-width='{}'/>", path,
                       series.colour, series.width);
  body_ += dots;
  add_legend(series.name, series.colour);
}

void Chart::add_stack(const std::vector<Series>& layers) {
  if (layers.empty()) return;
  std::vector<double> below(layers.front().points.size(), 0);
  for (const Series& layer : layers) {
    std::string up;
    std::string back;
    for (std::size_t i = 0; i < layer.points.size(); ++i) {
      const auto [x, y] = layer.points[i];
      back.insert(0, fmt::format("L{:.1f} {:.1f}", x_of(x), y_of(below[i])));
      below[i] += y;
      up += fmt::format("{}{:.1f} {:.1f}", up.empty() ? "M" : "L", x_of(x), y_of(below[i]));
    }
    body_ += fmt::format("<path d='{}{}Z' fill='{}'/>", up, back, layer.colour);
    add_legend(layer.name, layer.colour);
  }
}

std::string Chart::svg() const {
  std::string text = fmt::format(
      "<svg viewBox='0 0 {0} {1}' width='{0}' height='{1}' role='img'><title>{2}</title>"
      "<text class='title' x='{3}' y='16'>{2}</text>",
      width_, height_, escaped(title_), kLeft);
  double at = kLeft;
  for (const auto& [name, colour] : legend_) {
    text += fmt::format(
        "<rect x='{:.1f}' y='24' width='12' height='10' fill='{}'/><text x='{:.1f}' "
        "y='33'>{}</text>",
        at, colour, at + 16, escaped(name));
    at += 30 + 6.6 * static_cast<double>(name.size());
  }
  return text + body_ + axes_ + "</svg>";
}

}  // namespace buoy::sim
