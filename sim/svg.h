// Charts as inline SVG: axes with ticks and labels, lines, stacked areas, a legend.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace buoy::sim {

struct Series {
  std::string name;
  std::string colour;
  std::vector<std::pair<double, double>> points;
  double width = 1.5;
};

struct Axis {
  std::string label;  // with its unit
  double most = 1;    // from 0 on
};

class Chart {
 public:
  // Sizes in pixels.
  Chart(std::string_view title, int width, int height, Axis x, Axis y);
  void add_line(const Series& series);
  // Areas on top of each other, the first at the bottom; all have the same x.
  void add_stack(const std::vector<Series>& layers);
  // Whatever else, drawn in the plot: `svg` in the chart's pixels.
  void add(const std::string& svg) { body_ += svg; }
  void add_legend(const std::string& name, const std::string& colour);
  [[nodiscard]] std::string svg() const;

  [[nodiscard]] double x_of(double value) const;
  [[nodiscard]] double y_of(double value) const;

 private:
  void draw_axes();

  std::string title_;
  int width_, height_;
  Axis x_, y_;
  std::string body_;
  std::string axes_;
  std::vector<std::pair<std::string, std::string>> legend_;
};

// A number that is easy to read, at least `value`.
[[nodiscard]] double round_up(double value);
[[nodiscard]] std::string escaped(std::string_view text);

}  // namespace buoy::sim
