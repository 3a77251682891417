#include "report/chart.h"

#include "report/well_formed.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <regex>

namespace rankfold {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN(), kInf = std::numeric_limits<double>::infinity();

size_t count_of(const std::string& text, const std::string& part) {
  size_t count = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

Series noisy(size_t count) {
  Series series = {.name = "loss"};
  for (size_t i = 0; i < count; ++i)
    series.points.push_back({static_cast<double>(i), 2 + std::sin(static_cast<double>(i * i % 1009))});
  return series;
}

// The y coordinates of a chart's paths.
std::vector<double> heights(const std::string& svg) {
  static const std::regex point("[ML]([-0-9.]+) ([-0-9.]+)");
  std::vector<double> ys;
  for (auto found = std::sregex_iterator(svg.begin(), svg.end(), point); found != std::sregex_iterator(); ++found)
    ys.push_back(std::stod((*found)[2]));
  return ys;
}

TEST(Ticks, AreRoundAndWithin) {
  EXPECT_EQ(round_ticks(0, 10, 5), (std::vector<double>{0, 2, 4, 6, 8, 10}));
  EXPECT_EQ(round_ticks(1, 500, 5), (std::vector<double>{100, 200, 300, 400, 500}));
  EXPECT_EQ(round_ticks(0, 3, 6, true), (std::vector<double>{0, 1, 2, 3}));
  EXPECT_EQ(round_ticks(2, 2, 5), (std::vector<double>{2}));
  EXPECT_EQ(log_ticks(0.5, 2000), (std::vector<double>{1, 10, 100, 1000}));
  EXPECT_EQ(log_ticks(0.9, 6), (std::vector<double>{1, 2, 5}));
  for (const auto& [low, high] : {std::pair{-1.5e-9, 3e-9}, {1e6, 1.1e6}, {-8e307, 8e307}, {0.1, 0.30001}}) {
    const std::vector<double> ticks = round_ticks(low, high, 5);
    ASSERT_GE(ticks.size(), 3u) << low;
    EXPECT_LE(ticks.size(), 7u) << low;
    EXPECT_TRUE(std::is_sorted(ticks.begin(), ticks.end()));
    EXPECT_GE(ticks.front(), low - (high / 2 - low / 2) * 1e-6);
    EXPECT_LE(ticks.back(), high + (high / 2 - low / 2) * 1e-6);
  }
  for (const double high : {1e-300, 1.0001, 7.0, 1e300}) {
    const std::vector<double> ticks = log_ticks(1e-308, high);
    EXPECT_GE(ticks.size(), 2u) << high;
    EXPECT_LE(ticks.size(), 20u) << high;
  }
}

TEST(Thinned, KeepsExtremesAndEnds) {
  std::vector<Point> points = noisy(100000).points;
  points[31234].y = 99;
  points[77777].y = -99;
  const std::vector<Point> kept = thinned(points, 0, 99999, 500);
  EXPECT_LE(kept.size(), 5 * 500u);
  EXPECT_GE(kept.size(), 500u);
  EXPECT_TRUE(std::is_sorted(kept.begin(), kept.end(), [](const Point& a, const Point& b) { return a.x < b.x; }));
  const auto has = [&](size_t i) {
    return std::any_of(kept.begin(), kept.end(),
                       [&](const Point& p) { return p.x == points[i].x && p.y == points[i].y; });
  };
  for (const size_t i : {size_t{0}, size_t{31234}, size_t{77777}, size_t{99999}}) EXPECT_TRUE(has(i)) << i;
  // Of each part its own extremes, too.
  for (const size_t part : {100u, 250u, 400u}) {
    double low = kInf, high = -kInf, kept_low = kInf, kept_high = -kInf;
    const auto is_in = [&](const Point& p) { return std::llround(p.x / 99999 * 499) == static_cast<long long>(part); };
    for (const Point& p : points)
      if (is_in(p)) low = std::min(low, p.y), high = std::max(high, p.y);
    for (const Point& p : kept)
      if (is_in(p)) kept_low = std::min(kept_low, p.y), kept_high = std::max(kept_high, p.y);
    EXPECT_EQ(low, kept_low);
    EXPECT_EQ(high, kept_high);
  }
}

TEST(Thinned, MarksWhatIsNotFinite) {
  std::vector<Point> points = noisy(10000).points;
  for (size_t i = 5000; i < 5100; ++i) points[i].y = i % 2 ? kNan : kInf;
  const std::vector<Point> kept = thinned(points, 0, 9999, 100);
  const auto gaps = std::count_if(kept.begin(), kept.end(), [](const Point& p) { return std::isnan(p.y); });
  EXPECT_GE(gaps, 1);
  EXPECT_LE(gaps, 3);
  const std::vector<Point> few(points.begin(), points.begin() + 400);
  EXPECT_EQ(thinned(few, 0, 399, 100).size(), 400u);
}

TEST(Smoothed, IsAMeanOfWhatIsThere) {
  const std::vector<Point> same = smoothed({{1, 3}, {2, 3}, {3, kNan}, {4, 3}}, 0.9);
  ASSERT_EQ(same.size(), 3u);
  for (const Point& p : same) EXPECT_NEAR(p.y, 3, 1e-12);
  const std::vector<Point> two = smoothed({{1, 0}, {2, 1}}, 0.5);
  EXPECT_NEAR(two[1].y, 2.0 / 3, 1e-12);  // weights 1/4 and 1/2
}

TEST(LineChart, IsXmlWhateverItsTextsAndNumbers) {
  const std::string hostile = "</title><script>alert('1')</script>&\"\x01\xFF]]>";
  for (const bool is_log : {false, true})
    for (const auto& ys : std::vector<std::vector<double>>{{},
                                                           {1},
                                                           {kNan, kInf, -kInf},
                                                           {0, 0, 0},
                                                           {-1, 1e308, -1e308},
                                                           {1e-320, 1e-300, 1e300},
                                                           {1e-249, 1e249},
                                                           {5, kNan, 6, kNan, 7},
                                                           {1, 2, 3}}) {
      LineChart chart = {.title = hostile, .x_label = hostile, .series = {{.name = hostile}}, .is_log = is_log};
      for (size_t i = 0; i < ys.size(); ++i) chart.series[0].points.push_back({static_cast<double>(i), ys[i]});
      const std::string svg = line_chart_svg(chart);
      EXPECT_EQ(xml_problem(svg), "") << svg;
      EXPECT_EQ(xml_problem(svg_file(svg, hostile)), "");
      EXPECT_EQ(svg.find("<script"), std::string::npos);
      for (const char* number : {"nan", "inf"}) EXPECT_EQ(svg.find(number), std::string::npos) << svg;
      for (const double y : heights(svg)) EXPECT_TRUE(y >= 0 && y <= chart.height) << svg;
    }
}

TEST(LineChart, LeavesOutWhatIsNotFiniteAndSaysSo) {
  LineChart chart = {.series = {{.name = "loss", .points = {{1, 1}, {2, 2}, {3, kNan}, {4, 3}, {5, 4}}}}};
  const std::string svg = line_chart_svg(chart);
  EXPECT_EQ(count_of(svg, "<circle"), 4u);
  EXPECT_NE(svg.find("loss (1 not finite)"), std::string::npos);
  static const std::regex broken("M[-0-9. ]+L[-0-9. ]+M[-0-9. ]+L");
  EXPECT_TRUE(std::regex_search(svg, broken)) << svg;
  chart.is_log = true;
  chart.series[0].points[0].y = 0;
  EXPECT_NE(line_chart_svg(chart).find("loss (2 not finite or not above 0)"), std::string::npos);
}

TEST(LineChart, ShowsASpikeOfALongRunInASmallFile) {
  LineChart chart = {.series = {noisy(100000)}};
  chart.series[0].points[54321].y = 50;
  const std::string svg = line_chart_svg(chart);
  EXPECT_LT(svg.size(), 60000u);
  const std::vector<double> ys = heights(svg);
  EXPECT_LT(*std::min_element(ys.begin(), ys.end()), 40);  // at the top
}

TEST(LineChart, OfAConstantOrOnePointHasTheLineInTheMiddle) {
  for (const size_t count : {1u, 3u}) {
    LineChart chart = {.series = {{.name = ""}}};
    for (size_t i = 0; i < count; ++i) chart.series[0].points.push_back({static_cast<double>(i), 0.25});
    const std::vector<double> ys = heights(line_chart_svg(chart));
    ASSERT_EQ(ys.size(), count);
    for (const double y : ys) EXPECT_NEAR(y, chart.height / 2, 20);
  }
}

TEST(LineChart, OfZerosHasAnAxisThatCanBeRead) {
  for (const bool starts_at_0 : {false, true}) {
    const std::string svg =
        line_chart_svg({.series = {{.name = "", .points = {{1, 0}, {2, 0}}}}, .starts_at_0 = starts_at_0});
    EXPECT_NE(svg.find(">1.0<"), std::string::npos) << svg;
  }
}

TEST(BarChart, DrawsBarsInProportion) {
  const std::string svg = bar_chart_svg({.bars = {{"<b>", 1}, {"two & more", 2}, {"none", kNan}, {"zero", 0}}});
  EXPECT_EQ(xml_problem(svg), "");
  static const std::regex bar("<rect x=\"[^\"]*\" y=\"[^\"]*\" width=\"([0-9.]+)\"");
  std::vector<double> widths;
  for (auto found = std::sregex_iterator(svg.begin(), svg.end(), bar); found != std::sregex_iterator(); ++found)
    widths.push_back(std::stod((*found)[1]));
  ASSERT_EQ(widths.size(), 2u);
  EXPECT_NEAR(widths[1], 2 * widths[0], 0.2);
}

}  // namespace
}  // namespace rankfold
