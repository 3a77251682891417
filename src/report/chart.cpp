#include "report/chart.h"

#include "report/html.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <map>

namespace rankfold {
namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr double kLetter = 6.3, kLine = 18;  // about the size of the labels' letters; 11 pixels high
constexpr size_t kMarked = 60;               // points of a line that have a dot each
constexpr int kColors = 8;

// A coordinate: a tenth of a pixel is enough, and a small file.
std::string at(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1f", value);
  std::string number = text;
  if (number.ends_with(".0")) number.resize(number.size() - 2);
  return number == "-0" ? "0" : number;
}

double width_of(const std::string& text) {
  double width = 0;
  for (const char c : text)
    if ((static_cast<unsigned char>(c) & 0xC0) != 0x80) width += static_cast<unsigned char>(c) < 0x80 ? 1 : 2;
  return width * kLetter;
}

std::string text_at(double x, double y, const char* anchor, const std::string& text) {
  return "<text x=\"" + at(x) + "\" y=\"" + at(y) + "\" text-anchor=\"" + anchor + "\">" + escaped(text) + "</text>\n";
}

std::string line_at(double x1, double y1, double x2, double y2, const char* kind) {
  return std::string("<line class=\"") + kind + "\" x1=\"" + at(x1) + "\" y1=\"" + at(y1) + "\" x2=\"" + at(x2) +
         "\" y2=\"" + at(y2) + "\"/>\n";
}

std::string svg_open(double width, double height, const std::string& title) {
  return "<svg class=\"chart\" xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 " + at(width) + " " + at(height) +
         "\" role=\"img\">\n<title>" + escaped(title) + "</title>\n";
}

std::string color_class(int color) { return "c" + std::to_string(((color % kColors) + kColors) % kColors); }

struct Range {
  double low = std::numeric_limits<double>::infinity(), high = -std::numeric_limits<double>::infinity();
  void add(double value) { low = std::min(low, value), high = std::max(high, value); }
  bool is_empty() const { return low > high; }
};

// A position on an axis: linear, or of logarithms.
struct Axis {
  double low, high, begin, end;
  bool is_log;
  double operator()(double value) const {
    const auto place = [this](double v) { return is_log ? std::log10(v) : v; };
    const double share = (place(value) - place(low)) / (place(high) - place(low));
    return begin + share * (end - begin);
  }
};

double step_of(const std::vector<double>& ticks) { return ticks.size() < 2 ? 0 : ticks[1] - ticks[0]; }

// All ticks of an axis with as many digits as their distance needs.
std::string tick_text(double value, double step) {
  const double largest = std::max(std::abs(value), step);
  if (step <= 0 || largest >= 1e4 || largest < 1e-3) return short_number(value, 6);
  const int digits = std::max(0, static_cast<int>(std::ceil(-std::log10(step) - 1e-9)));
  const bool is_quarter = std::abs(step * std::pow(10, digits) - std::round(step * std::pow(10, digits))) > 1e-6;
  char text[32];
  std::snprintf(text, sizeof text, "%.*f", digits + is_quarter, value);
  return text;
}

// Not finite where it cannot be drawn. Numbers near the ends of their type are taken so, too: no axis could go beyond.
double drawable(const LineChart& chart, const Point& p) {
  constexpr double kLargest = 1e250, kSmallest = 1e-250;
  const bool is_there = std::abs(p.x) <= kLargest && std::abs(p.y) <= kLargest && (!chart.is_log || p.y >= kSmallest);
  return is_there ? p.y : kNaN;
}

Axis y_axis(const LineChart& chart, Range y, double top, double bottom) {
  if (y.is_empty()) y = {1, 1};
  if (chart.is_log) {
    const double factor = y.low == y.high ? 2 : std::pow(y.high, 0.05) / std::pow(y.low, 0.05);
    return {y.low / factor, y.high * factor, bottom, top, true};
  }
  if (chart.starts_at_0) y.add(0);
  const double around = y.low == 0 ? 1 : std::max(std::abs(y.low) / 10, 1e-12);  // a constant
  const double margin = y.low == y.high ? around : 0.05 * (y.high - y.low);
  const bool is_ground = chart.starts_at_0 && y.low == 0;
  return {is_ground ? 0 : y.low - margin, y.high + margin, bottom, top, false};
}

std::string path_of(const LineChart& chart, const Series& series, const Axis& x, const Axis& y) {
  std::vector<Point> points = series.points;
  for (Point& p : points) p.y = drawable(chart, p);
  const auto buckets = static_cast<size_t>(std::max(1.0, x.end - x.begin));
  points = thinned(points, x.low, x.high, buckets);
  std::string path, dots;
  const bool has_dots = series.has_marks || (!series.is_faint && points.size() <= kMarked);
  bool is_drawing = false;
  size_t in_line = 0;  // of the part that is drawn: one point alone is a dot
  for (size_t i = 0; i < points.size(); ++i) {
    const Point& p = points[i];
    if (!std::isfinite(p.y)) {
      is_drawing = false;
      continue;
    }
    const std::string px = at(x(p.x)), py = at(y(p.y));
    path += (is_drawing ? "L" : "M") + px + " " + py;
    in_line = is_drawing ? in_line + 1 : 1;
    is_drawing = true;
    const bool is_alone = in_line == 1 && (i + 1 == points.size() || !std::isfinite(points[i + 1].y));
    if (has_dots || is_alone)
      dots += "<circle cx=\"" + px + "\" cy=\"" + py + "\" r=\"2.5\"><title>" +
              escaped(short_number(p.x, 8) + ": " + short_number(p.y, 5)) + "</title></circle>\n";
  }
  return (path.empty() ? "" : "<path d=\"" + path + "\"/>\n") + dots;
}

std::string legend_text(const LineChart& chart, const Series& series) {
  const auto drawn = std::count_if(series.points.begin(), series.points.end(),
                                   [&](const Point& p) { return std::isfinite(drawable(chart, p)); });
  const auto left_out = static_cast<std::ptrdiff_t>(series.points.size()) - drawn;
  if (left_out == 0) return series.name;
  return series.name + (series.name.empty() ? "" : " ") + "(" + std::to_string(left_out) +
         (chart.is_log ? " not finite or not above 0)" : " not finite)");
}

int color_of(const LineChart& chart, size_t i) {
  return chart.series[i].color >= 0 ? chart.series[i].color : static_cast<int>(i);
}

// Names of the series in rows from the top; `height` becomes what they take.
std::string legend(const LineChart& chart, double& height) {
  constexpr double kSwatch = 20, kGap = 16;
  std::string svg;
  double x = 4, y = 0;
  for (size_t i = 0; i < chart.series.size(); ++i) {
    const std::string name = legend_text(chart, chart.series[i]);
    if (name.empty()) continue;
    const double width = kSwatch + width_of(name) + kGap;
    if (y == 0) y = kLine - 4;
    if (x > 4 && x + width > chart.width) x = 4, y += kLine;
    svg += "<g class=\"" + color_class(color_of(chart, i)) + (chart.series[i].is_faint ? " faint" : "") + "\">" +
           "<path d=\"M" + at(x) + " " + at(y - 4) + "h14\"/></g>\n" + text_at(x + kSwatch, y, "start", name);
    x += width;
  }
  height = y == 0 ? 6 : y + 8;
  return svg;
}

}  // namespace

std::string line_chart_svg(const LineChart& chart) {
  Range x_range, y_range;
  for (const Series& series : chart.series)
    for (const Point& p : series.points)
      if (std::isfinite(drawable(chart, p))) x_range.add(p.x), y_range.add(p.y);
  double top = 0;
  const std::string names = legend(chart, top);
  const double bottom = chart.height - (chart.x_label.empty() ? 22 : 38), right = chart.width - 14;
  const Axis y = y_axis(chart, y_range, top + 4, bottom);
  const std::vector<double> y_ticks = chart.is_log ? log_ticks(y.low, y.high) : round_ticks(y.low, y.high, 5);
  std::vector<std::string> y_texts;
  double left = 0;
  for (const double tick : y_ticks) {
    y_texts.push_back(tick_text(tick, chart.is_log ? 0 : step_of(y_ticks)));
    left = std::max(left, width_of(y_texts.back()) + 12);
  }
  if (x_range.is_empty()) x_range = {0, 1};
  if (x_range.low == x_range.high) x_range = {x_range.low - 1, x_range.high + 1};
  const Axis x = {x_range.low, x_range.high, left + 4, right, false};
  const std::vector<double> x_ticks = round_ticks(x.low, x.high, chart.width < 600 ? 6 : 8, chart.has_whole_x);

  std::string svg = svg_open(chart.width, chart.height, chart.title) + names;
  for (size_t i = 0; i < y_ticks.size(); ++i)
    svg += line_at(left, y(y_ticks[i]), right, y(y_ticks[i]), "grid") +
           text_at(left - 6, y(y_ticks[i]) + 4, "end", y_texts[i]);
  svg += line_at(left, bottom, right, bottom, "axis");
  for (const double tick : x_ticks)
    svg += line_at(x(tick), bottom, x(tick), bottom + 4, "axis") +
           text_at(x(tick), bottom + 17, "middle", tick_text(tick, step_of(x_ticks)));
  if (!chart.x_label.empty()) svg += text_at((left + right) / 2, chart.height - 5, "middle", chart.x_label);
  for (const bool is_faint : {true, false})
    for (size_t i = 0; i < chart.series.size(); ++i)
      if (chart.series[i].is_faint == is_faint)
        svg += "<g class=\"" + color_class(color_of(chart, i)) + (is_faint ? " faint" : "") + "\">\n" +
               path_of(chart, chart.series[i], x, y) + "</g>\n";
  return svg + "</svg>\n";
}

std::string bar_chart_svg(const BarChart& chart) {
  constexpr double kBar = 24;
  double names = 0, texts = 0, largest = 0;
  std::vector<std::string> shown;
  for (const Bar& bar : chart.bars) {
    shown.push_back(bar.text.empty() ? short_number(bar.value) : bar.text);
    names = std::max(names, width_of(bar.name));
    texts = std::max(texts, width_of(shown.back()));
    if (std::isfinite(bar.value)) largest = std::max(largest, bar.value);
  }
  const double left = std::min(names, chart.width / 2) + 10;
  const double room = std::max(20.0, chart.width - left - texts - 14);
  std::string svg = svg_open(chart.width, kBar * static_cast<double>(chart.bars.size()) + 4, chart.title);
  for (size_t i = 0; i < chart.bars.size(); ++i) {
    const Bar& bar = chart.bars[i];
    const double y = kBar * static_cast<double>(i) + 4;
    const bool has_bar = std::isfinite(bar.value) && bar.value > 0;
    const double width = has_bar ? std::max(1.0, bar.value / largest * room) : 0;
    svg += text_at(left - 8, y + 13, "end", bar.name);
    if (has_bar)
      svg += "<g class=\"" + color_class(bar.color) + "\"><rect x=\"" + at(left) + "\" y=\"" + at(y) + "\" width=\"" +
             at(width) + "\" height=\"" + at(kBar - 7) + "\" rx=\"2\"/></g>\n";
    svg += text_at(left + width + 6, y + 13, "start", shown[i]);
  }
  return svg + "</svg>\n";
}

std::string chart_style() {
  return R"(
svg.chart { --paper: #ffffff; --label: #656d76; --grid: #eaeef2; --axis: #afb8c1;
  --c0: #0969da; --c1: #d1622b; --c2: #1a7f37; --c3: #8250df; --c4: #bf8700; --c5: #0e8a8a; --c6: #bf3989; --c7: #6e7781;
  display: block; width: 100%; height: auto; font: 11px system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
@media (prefers-color-scheme: dark) {
  svg.chart { --paper: #14171c; --label: #9aa4af; --grid: #262c34; --axis: #4a535e;
    --c0: #58a6ff; --c1: #f0883e; --c2: #3fb950; --c3: #bc8cff; --c4: #d8a31a; --c5: #39c5c5; --c6: #f778ba; --c7: #8b949e; }
}
svg.chart text { fill: var(--label); }
svg.chart .paper { fill: var(--paper); }
svg.chart .grid { stroke: var(--grid); }
svg.chart .axis { stroke: var(--axis); }
svg.chart path { fill: none; stroke: currentColor; stroke-width: 1.75; stroke-linejoin: round; stroke-linecap: round; }
svg.chart circle, svg.chart rect { fill: currentColor; }
svg.chart .faint path { stroke-width: 1; opacity: 0.4; }
svg.chart .c0 { color: var(--c0); } svg.chart .c1 { color: var(--c1); } svg.chart .c2 { color: var(--c2); }
svg.chart .c3 { color: var(--c3); } svg.chart .c4 { color: var(--c4); } svg.chart .c5 { color: var(--c5); }
svg.chart .c6 { color: var(--c6); } svg.chart .c7 { color: var(--c7); }
)";
}

std::string svg_file(const std::string& svg, const std::string& title) {
  const size_t body = svg.find('>') + 1;
  return svg.substr(0, body) + "\n<style>" + chart_style() + "</style>\n" +
         "<rect class=\"paper\" width=\"100%\" height=\"100%\" style=\"fill: var(--paper)\"/>\n" +
         (title.empty() ? "" : "<desc>" + escaped(title) + "</desc>\n") + svg.substr(body + 1);
}

std::vector<double> round_ticks(double low, double high, int count, bool whole) {
  const double rough = (high / 2 - low / 2) / std::max(1, count) * 2;
  if (!(rough > 0) || !std::isfinite(rough)) return {low};
  const double power = std::pow(10, std::floor(std::log10(rough)));
  double step = 10 * power;
  for (const double factor : {1.0, 2.0, 2.5, 5.0})
    if (factor * power >= rough * (1 - 1e-9)) {
      step = factor * power;
      break;
    }
  if (whole) step = step < 1 ? 1 : std::ceil(step);
  std::vector<double> ticks;
  const double first = std::ceil(low / step - 1e-9);
  for (double i = first; i * step <= high + step * 1e-9 && ticks.size() < 100; ++i)
    ticks.push_back(i == 0 ? 0 : i * step);
  return ticks;
}

std::vector<double> log_ticks(double low, double high) {
  const double first = std::floor(std::log10(low)), last = std::ceil(std::log10(high));
  const double every = std::max(1.0, std::ceil((last - first) / 6));  // powers of ten
  const auto within = [&](std::initializer_list<double> factors) {
    std::vector<double> ticks;
    for (double power = first; power <= last; power += every)
      for (const double factor : factors)
        if (const double tick = factor * std::pow(10, power); tick >= low && tick <= high) ticks.push_back(tick);
    return ticks;
  };
  std::vector<double> ticks = within({1});
  if (ticks.size() < 3 && every == 1) ticks = within({1, 2, 5});
  return ticks.size() < 2 ? round_ticks(low, high, 5) : ticks;
}

std::vector<Point> thinned(const std::vector<Point>& points, double low, double high, size_t buckets) {
  if (points.size() <= 4 * buckets || !(high > low)) return points;
  const auto bucket_of = [&](const Point& p) {
    const double share = std::isfinite(p.x) ? (p.x - low) / (high - low) : 0;
    return static_cast<size_t>(std::clamp(share, 0.0, 1.0) * static_cast<double>(buckets - 1) + 0.5);
  };
  std::vector<Point> kept;
  for (size_t begin = 0, end; begin < points.size(); begin = end) {
    constexpr size_t kNone = std::numeric_limits<size_t>::max();
    size_t first = kNone, last = kNone, lowest = kNone, highest = kNone;
    bool has_gap = false;
    for (end = begin; end < points.size() && bucket_of(points[end]) == bucket_of(points[begin]); ++end) {
      if (!std::isfinite(points[end].y)) {
        has_gap = true;
        continue;
      }
      if (first == kNone) first = lowest = highest = end;
      last = end;
      if (points[end].y < points[lowest].y) lowest = end;
      if (points[end].y > points[highest].y) highest = end;
    }
    if (first != kNone) {
      size_t order[] = {first, lowest, highest, last};
      std::sort(std::begin(order), std::end(order));
      const auto distinct = std::unique(std::begin(order), std::end(order));
      for (const size_t* i = order; i != distinct; ++i) kept.push_back(points[*i]);
    }
    if (has_gap) kept.push_back({points[end - 1].x, kNaN});
  }
  return kept;
}

std::vector<Point> smoothed(const std::vector<Point>& points, double weight) {
  std::vector<Point> result;
  result.reserve(points.size());
  double mean = 0, share = 0;  // of all weights that have been given
  for (const Point& p : points) {
    if (!std::isfinite(p.y)) continue;
    mean = weight * mean + (1 - weight) * p.y;
    share = weight * share + (1 - weight);
    result.push_back({p.x, mean / share});
  }
  return result;
}

}  // namespace rankfold
