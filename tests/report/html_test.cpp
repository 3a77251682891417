#include "report/html.h"

#include "report/run_report.h"
#include "report/well_formed.h"

#include <chrono>
#include <cmath>
#include <iostream>
#include <limits>

namespace rankfold {
namespace {

const std::string kHostile = "<script>alert(1)</script><img src=x onerror='alert(2)'>\"&amp;\x1b[31m\xC3";

bool holds(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

// What a browser would run or fetch.
void expect_inert(const std::string& html) {
  for (const char* tag : {"<script", "<img", "<link", "<iframe", "onerror='", "http://example", "url(", "@import"})
    EXPECT_FALSE(holds(html, tag)) << tag;
  EXPECT_TRUE(holds(html, "default-src 'none'"));
}

TEST(Escaped, IsTextAgain) {
  EXPECT_EQ(escaped("a<b>&\"'c\n\td"), "a&lt;b&gt;&amp;&quot;&#39;c\n\td");
  EXPECT_EQ(escaped("二甲双胍 é"), "二甲双胍 é");
  EXPECT_EQ(escaped(std::string_view("\0\x1b\xFF", 3)), "\uFFFD\uFFFD\uFFFD");
}

TEST(ShortNumber, ReadsWell) {
  EXPECT_EQ(short_number(0.00005), "5e-5");
  EXPECT_EQ(short_number(1.23456, 4), "1.235");
  EXPECT_EQ(short_number(1234), "1234");
  EXPECT_EQ(short_number(123456), "123.5k");
  EXPECT_EQ(short_number(-2.5e9), "-2.5G");
  EXPECT_EQ(short_number(std::nan("")), "-");
  EXPECT_EQ(short_number(std::numeric_limits<double>::infinity()), "-");
}

TEST(Page, HoldsHostileTextsAsText) {
  const Table table = {.columns = {{kHostile}, {"n", true}}, .rows = {{kHostile, {"7", true}}}};
  const std::string html =
      page_html(kHostile, kHostile,
                section_html(kHostile, table_html(table) + folded_html(kHostile, text_block_html(kHostile)) +
                                           figures_html({figure_html(kHostile, paragraph_html(kHostile))})));
  expect_inert(html);
  EXPECT_TRUE(holds(html, "&lt;script&gt;alert(1)&lt;/script&gt;"));
  EXPECT_TRUE(holds(html, "<td class=\"number best\">7</td>"));
  EXPECT_EQ(xml_problem(html.substr(html.find("<body>"), html.find("</body>") + 7 - html.find("<body>"))), "");
}

RunReport hostile_run() {
  RunReport run = {.name = kHostile, .facts = {kHostile}, .step = 7, .total_steps = 9};
  run.curves = {{.metric = "loss", .points = {{1, 2}, {2, 1}}}, {.metric = kHostile, .points = {{1, 2}}}};
  run.evaluations = {{.step = 3, .epoch = 1, .metrics = {{"eval_loss", 2}, {kHostile, 3}}},
                     {.step = 6, .epoch = 2, .metrics = {{"eval_loss", 1.5}}},
                     {.step = 7, .epoch = 3, .metrics = {{"eval_loss", std::nan("")}}}};
  run.norms = {{.module = "model.layers.0." + kHostile, .norm = 1}, {.module = kHostile, .norm = 2}};
  run.samples = {{.step = 3, .prompt = kHostile, .expected = kHostile, .answer = kHostile},
                 {.step = 6, .prompt = kHostile, .expected = kHostile, .answer = "newest"}};
  run.settings = {{.name = "r", .value = kHostile, .usual = "8"}, {.name = "seed", .value = "42", .usual = "42"}};
  run.messages = {{.step = 2, .text = kHostile}};
  run.messages_left_out = 4;
  run.best_step = 6;
  return run;
}

TEST(RunReport, HoldsHostileTextsAsText) {
  const std::string html = report_html(hostile_run());
  expect_inert(html);
  EXPECT_EQ(xml_problem(html.substr(html.find("<body>"), html.find("</body>") + 7 - html.find("<body>"))), "");
  EXPECT_EQ(xml_problem(training_loss_svg(hostile_run())), "");
}

TEST(RunReport, HasAllThatARunHas) {
  RunReport run = hostile_run();
  run.total_steps = 12345, run.tokens_seen = 7654321;
  run.curves.push_back({.metric = "tokens_per_second", .points = {{1, 20123.4}}});
  const std::string html = report_html(run);
  for (const char* part : {"7 / 12,345", "7,654,321", ">20,123<", "Best eval_loss: step 6.",
                           "<td class=\"number best\">1.5</td>", "Earlier answers: 1 of 1", "newest",
                           "Norms of the updates", "step 2  ", "4 later messages are left out", "All 2 settings"})
    EXPECT_TRUE(holds(html, part)) << part;
  // Settings that are not as usual stand first, and seed is not among them.
  const size_t changed = html.find(">default<"), all = html.find("All 2 settings");
  EXPECT_FALSE(holds(html.substr(changed, all - changed), "seed"));
  EXPECT_TRUE(holds(html.substr(all), "seed"));
}

TEST(RunReport, OfARunThatHasJustBegunIsWhole) {
  const RunReport run = {.name = "out", .total_steps = 9};
  EXPECT_TRUE(holds(report_html(run), "The log has no row yet."));
  EXPECT_EQ(xml_problem(training_loss_svg(run)), "");
}

TEST(RunReport, NamesTheBestStep) {
  RunReport run = {.name = "out", .best_metric = "eval_accuracy", .best_step = 2};
  run.evaluations = {{.step = 1, .metrics = {{"eval_accuracy", 0.5}}},
                     {.step = 2, .metrics = {{"eval_accuracy", 0.75}}},
                     {.step = 3, .metrics = {{"eval_accuracy", 0.25}}}};
  EXPECT_TRUE(holds(report_html(run), "Best eval_accuracy: step 2."));
  run.best_step = 0;
  EXPECT_FALSE(holds(report_html(run), "Best eval_accuracy"));
}

TEST(RunReport, OfALongRunIsSmall) {
  RunReport run = {.name = "out", .step = 100000, .total_steps = 100000};
  for (const char* metric : {"loss", "grad_norm", "learning_rate", "tokens_per_second", "peak_memory_bytes"}) {
    run.curves.push_back({.metric = metric});
    for (int i = 0; i < 100000; ++i) run.curves.back().points.push_back({double(i), 1 + std::sin(i * 1.7)});
  }
  for (int i = 0; i < 1000; ++i) run.evaluations.push_back({.step = i, .metrics = {{"eval_loss", 1.0}}});
  const auto start = std::chrono::steady_clock::now();
  const size_t size = report_html(run).size() + training_loss_svg(run).size();
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  std::cout << "report of 100,000 rows: " << size << " bytes in " << seconds << " s\n";
  EXPECT_LT(size, 500000u);
}

}  // namespace
}  // namespace rankfold
