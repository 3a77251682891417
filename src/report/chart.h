// Line charts and bar charts as SVG. All functions are pure. An <svg> from here is either part of a page (report/html.h
// contains its style), or becomes a file with svg_file().
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace rankfold {

struct Point {
  double x = 0, y = 0;
};

struct Series {
  std::string name;                // in the legend; empty: none
  std::vector<Point> points = {};  // sorted by x
  bool is_faint = false;           // drawn thin and pale behind the others, such as the raw data of a smoothed series
  bool has_marks = false;          // a dot at each point, even if there are many; few points always have dots
  int color = -1;                  // 0 to 7; -1: by its position in the list
};

struct LineChart {
  std::string title = {};    // for screen readers
  std::string x_label = {};  // below the axis
  std::vector<Series> series = {};
  bool is_log = false;       // logarithmic y axis; omits points that are not above 0
  bool starts_at_0 = false;  // the y axis starts at 0
  bool has_whole_x = true;   // x ticks are integers
  double width = 520, height = 250;
};

// Draws a line chart. It omits points that are not finite, breaks the line there, and gives their number in the legend.
// It thins a long series to what the width can show, but keeps every extreme. Linear time.
std::string line_chart_svg(const LineChart& chart);

struct Bar {
  std::string name;
  double value = 0;       // must be 0 or more; a value that is not finite has no bar
  std::string text = {};  // label beside the bar; empty: the value
  int color = 0;
};
struct BarChart {
  std::string title = {};
  std::vector<Bar> bars = {};  // from top to bottom
  double width = 520;
};
std::string bar_chart_svg(const BarChart& chart);

// A complete SVG file with style and background, for a browser, GitHub or an editor.
std::string svg_file(const std::string& svg, const std::string& title);

std::string chart_style();  // CSS of the classes used in an <svg>

// Internals, declared for tests.

// About `count` round values within [low, high], in steps of 1, 2, 2.5 or 5 times a power of ten; whole: integers only.
std::vector<double> round_ticks(double low, double high, int count, bool whole = false);
std::vector<double> log_ticks(double low, double high);  // for 0 < low <= high

// Thins points: of each of `buckets` equal parts of [low, high], keeps the first, lowest, highest and last point, in
// order. A NaN point follows a part in which points that are not finite were omitted. Few points are returned
// unchanged.
std::vector<Point> thinned(const std::vector<Point>& points, double low, double high, size_t buckets);

// Exponential moving average with bias correction; omits points that are not finite. weight: of the earlier average, in
// [0, 1).
std::vector<Point> smoothed(const std::vector<Point>& points, double weight);

}  // namespace rankfold
