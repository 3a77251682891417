// Charts as SVG that we draw ourselves: line charts and bars. All functions are pure. An <svg> of these is part of a
// page (report/html.h has the style in it), or a file of its own by svg_file().
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace rankfold {

struct Point {
  double x = 0, y = 0;
};

struct Series {
  std::string name;                // of the legend; empty: none
  std::vector<Point> points = {};  // in the order of x
  bool is_faint = false;           // drawn thin and pale, behind the others, such as what another series smooths
  bool has_marks = false;          // a dot at each point, whatever their number; few points have one anyway
  int color = -1;                  // 0 to 7; -1: that of its place
};

struct LineChart {
  std::string title = {};    // for those who hear the page
  std::string x_label = {};  // below the axis
  std::vector<Series> series = {};
  bool is_log = false;       // y axis; points that are not above 0 are left out
  bool starts_at_0 = false;  // the y axis
  bool has_whole_x = true;   // ticks of x are integers
  double width = 520, height = 250;
};

// Points that are not finite are left out, their line is broken there, and the legend says how many. A long series is
// thinned to what its width can show; each extreme stays. Linear time.
std::string line_chart_svg(const LineChart& chart);

struct Bar {
  std::string name;
  double value = 0;       // 0 or more is drawn; what is not finite has no bar
  std::string text = {};  // beside the bar; empty: the value
  int color = 0;
};
struct BarChart {
  std::string title = {};
  std::vector<Bar> bars = {};  // from top to bottom
  double width = 520;
};
std::string bar_chart_svg(const BarChart& chart);

// An <svg> with its own style and ground, as a file that a browser, GitHub or an editor shows.
std::string svg_file(const std::string& svg, const std::string& title);

std::string chart_style();  // CSS of the classes used in an <svg>

// The parts of it, for tests.

// About `count` round values (1, 2, 2.5 or 5 times a power of ten apart) within [low, high]; whole: of integers.
std::vector<double> round_ticks(double low, double high, int count, bool whole = false);
std::vector<double> log_ticks(double low, double high);  // for 0 < low <= high

// In each of `buckets` equal parts of [low, high]: the first, the lowest, the highest and the last point, in their order.
// A point of NaN stands after a part in which points that are not finite were left out. Few points stay as they are.
std::vector<Point> thinned(const std::vector<Point>& points, double low, double high, size_t buckets);

// An exponential moving average that starts without bias; points that are not finite are left out. weight: of what was
// before, in [0, 1).
std::vector<Point> smoothed(const std::vector<Point>& points, double weight);

}  // namespace rankfold
