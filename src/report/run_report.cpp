#include "report/run_report.h"

#include "core/number_text.h"
#include "report/html.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>

namespace rankfold {
namespace {

using Curve = RunReport::Curve;

constexpr size_t kSmoothed = 100;  // points from which on a moving average is drawn
constexpr double kSpan = 50;       // highest to lowest from which on an axis is logarithmic
constexpr size_t kShownEvaluations = 50, kShownAnswers = 12;

// Null where no row has it: a curve that is found has a point.
const Curve* find(const RunReport& run, const std::string& metric) {
  for (const Curve& curve : run.curves)
    if (curve.metric == metric && !curve.points.empty()) return &curve;
  return nullptr;
}

bool is_of_evaluation(const std::string& metric) { return metric.starts_with("eval_"); }

// How fast an evaluation was, which says nothing of the model.
bool is_speed(const std::string& metric) { return metric.ends_with("_runtime") || metric.ends_with("_per_second"); }

bool spans_much(const std::vector<Series>& series) {
  double low = INFINITY, high = -INFINITY;
  for (const Series& one : series)
    for (const Point& p : one.points)
      if (std::isfinite(p.y)) low = std::min(low, p.y), high = std::max(high, p.y);
  return low > 0 && high > kSpan * low;
}

std::vector<Series> with_average(const Curve& curve, const std::string& name, int color) {
  if (curve.points.size() < kSmoothed) return {{.name = name, .points = curve.points, .color = color}};
  const double window = std::clamp(static_cast<double>(curve.points.size()) / 50, 4.0, 250.0);
  return {{.name = name, .points = curve.points, .is_faint = true, .color = color},
          {.name = name + ", moving average", .points = smoothed(curve.points, 1 - 1 / window), .color = color}};
}

LineChart loss_chart(const RunReport& run) {
  LineChart chart = {.title = "Loss by step", .x_label = "step"};
  if (const Curve* loss = find(run, "loss")) chart.series = with_average(*loss, "training", 0);
  if (const Curve* loss = find(run, "eval_loss"))
    chart.series.push_back({.name = "evaluation", .points = loss->points, .color = 1});
  chart.is_log = spans_much(chart.series);
  return chart;
}

// A chart of one metric; `title` is its caption, `unit` what a point is multiplied by.
std::string figure_of(const Curve& curve, const std::string& title, bool from_0, double unit = 1) {
  LineChart chart = {.title = title + " by step", .x_label = "step", .series = {{.name = "", .points = curve.points}}};
  for (Point& p : chart.series[0].points) p.y *= unit;
  chart.starts_at_0 = from_0;
  chart.is_log = !from_0 && spans_much(chart.series);
  if (chart.is_log) return figure_html(title + " (logarithmic)", line_chart_svg(chart));
  return figure_html(title, line_chart_svg(chart));
}

std::string training_section(const RunReport& run) {
  std::vector<std::string> figures;
  if (find(run, "loss") || find(run, "eval_loss")) {
    const LineChart chart = loss_chart(run);
    figures.push_back(figure_html(chart.is_log ? "Loss (logarithmic)" : "Loss", line_chart_svg(chart)));
  }
  if (const Curve* rate = find(run, "learning_rate")) figures.push_back(figure_of(*rate, "Learning rate", true));
  if (const Curve* norm = find(run, "grad_norm"))
    figures.push_back(figure_of(*norm, "Gradient norm, before clipping", false));
  if (const Curve* speed = find(run, "tokens_per_second"))
    figures.push_back(figure_of(*speed, "Training tokens per second", true));
  if (const Curve* memory = find(run, "peak_memory_bytes")) {
    double most = 0;
    for (const Point& p : memory->points) most = std::max(most, p.y);
    const bool is_large = most >= 1 << 30;
    figures.push_back(
        figure_of(*memory, is_large ? "Peak memory, GiB" : "Peak memory, MiB", true, is_large ? 0x1p-30 : 0x1p-20));
  }
  if (figures.empty()) return section_html("Training", paragraph_html("The log has no row yet."));
  return section_html("Training", figures_html(figures));
}

// "model.layers.3.self_attn.W_pack" -> 3, "self_attn.W_pack"; -1 and the whole name where no part is a number.
std::pair<int64_t, std::string> layer_and_kind(const std::string& module) {
  for (size_t begin = 0; begin < module.size();) {
    const size_t end = std::min(module.find('.', begin), module.size());
    const bool is_number =
        end > begin && end - begin < 10 &&
        std::all_of(module.begin() + static_cast<std::ptrdiff_t>(begin),
                    module.begin() + static_cast<std::ptrdiff_t>(end), [](char c) { return c >= '0' && c <= '9'; });
    if (is_number && end < module.size()) return {std::stoll(module.substr(begin)), module.substr(end + 1)};
    begin = end + 1;
  }
  return {-1, module};
}

std::string norms_section(const RunReport& run) {
  if (run.norms.empty()) return "";
  std::map<std::string, std::vector<Point>> kinds;
  BarChart others = {.title = "Norms of updates outside layers"};
  for (const auto& [module, norm] : run.norms) {
    const auto [layer, kind] = layer_and_kind(module);
    if (layer < 0)
      others.bars.push_back({.name = kind, .value = norm});
    else
      kinds[kind].push_back({static_cast<double>(layer), norm});
  }
  LineChart chart = {.title = "Norm of the update by layer", .x_label = "layer", .starts_at_0 = true};
  for (auto& [kind, points] : kinds) {
    std::sort(points.begin(), points.end(), [](const Point& a, const Point& b) { return a.x < b.x; });
    chart.series.push_back({.name = kind.substr(kind.rfind('.') + 1), .points = points});
  }
  std::vector<std::string> figures;
  if (!kinds.empty()) figures.push_back(figure_html("By layer", line_chart_svg(chart)));
  if (!others.bars.empty()) figures.push_back(figure_html("Others", bar_chart_svg(others)));
  return section_html("Norms of the updates",
                      paragraph_html("Frobenius norm of scale * B A at step " + with_commas(run.step) +
                                     ": how far each module has moved from the base.") +
                          figures_html(figures));
}

// The place of the best evaluation; that of none where there is no best.
size_t best_of(const RunReport& run) {
  const auto is_best = [&](const auto& evaluation) { return run.best_step > 0 && evaluation.step == run.best_step; };
  const auto found = std::find_if(run.evaluations.begin(), run.evaluations.end(), is_best);
  return static_cast<size_t>(found - run.evaluations.begin());
}

std::string evaluation_table(const RunReport& run, size_t first, size_t best) {
  Table table = {.columns = {{"step", true}, {"epoch", true}}};
  std::vector<std::string> names;
  for (const auto& evaluation : run.evaluations)
    for (const auto& [name, number] : evaluation.metrics)
      if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
  for (const std::string& name : names) table.columns.push_back({name, true});
  table.columns.push_back({""});
  for (size_t i = first; i < run.evaluations.size(); ++i) {
    const auto& evaluation = run.evaluations[i];
    std::vector<Cell> row = {with_commas(evaluation.step), short_number(evaluation.epoch, 3)};
    for (const std::string& name : names) {
      Cell cell = "";
      for (const auto& [metric, number] : evaluation.metrics)
        if (metric == name) cell = {short_number(number, 5), i == best && name == run.best_metric};
      row.push_back(cell);
    }
    row.push_back(i == best ? "best" : "");
    table.rows.push_back(std::move(row));
  }
  return table_html(table);
}

std::string evaluation_section(const RunReport& run) {
  if (run.evaluations.empty()) return "";
  const size_t count = run.evaluations.size(), first = count > kShownEvaluations ? count - kShownEvaluations : 0;
  const size_t best = best_of(run);
  std::string body;
  if (best < count)
    body += paragraph_html("Best " + run.best_metric + ": step " + with_commas(run.evaluations[best].step) + ".");
  if (first > 0)
    body += paragraph_html("The last " + std::to_string(kShownEvaluations) + " of " +
                           with_commas(static_cast<int64_t>(count)) + " evaluations.");
  body += evaluation_table(run, first, best);
  std::vector<std::string> figures;
  for (const Curve& curve : run.curves)
    if (is_of_evaluation(curve.metric) && !is_speed(curve.metric) && curve.metric != "eval_loss")
      figures.push_back(figure_of(curve, curve.metric, false));
  return section_html("Evaluation", body + (figures.empty() ? "" : figures_html(figures)));
}

std::string other_metrics_section(const RunReport& run) {
  static const std::vector<std::string> shown = {"loss", "learning_rate", "grad_norm", "tokens_per_second",
                                                 "peak_memory_bytes"};
  std::vector<std::string> figures;
  for (const Curve& curve : run.curves)
    if (!is_of_evaluation(curve.metric) && std::find(shown.begin(), shown.end(), curve.metric) == shown.end())
      figures.push_back(figure_of(curve, curve.metric, false));
  return figures.empty() ? "" : section_html("Other metrics", figures_html(figures));
}

// Of each prompt the newest answer, and the earlier ones behind it.
std::string samples_section(const RunReport& run) {
  std::vector<std::string> prompts;
  std::map<std::string, std::vector<const RunReport::Sample*>> answers;
  for (const RunReport::Sample& sample : run.samples) {
    auto& of_prompt = answers[sample.prompt];
    if (of_prompt.empty()) prompts.push_back(sample.prompt);
    of_prompt.push_back(&sample);
  }
  std::string body;
  for (const std::string& prompt : prompts) {
    const auto& of_prompt = answers[prompt];
    const RunReport::Sample& newest = *of_prompt.back();
    Table now = {.columns = {{""}, {""}}};
    now.rows = {{"Prompt", prompt}, {"Expected", newest.expected}};
    now.rows.push_back({"Step " + with_commas(newest.step), newest.answer});
    body += table_html(now);
    if (of_prompt.size() == 1) continue;
    Table before = {.columns = {{"step", true}, {"answer"}}};
    const size_t count = of_prompt.size() - 1, shown = std::min(count, kShownAnswers);
    for (size_t i = 0; i < shown; ++i) {  // evenly, the first and the last among them
      const RunReport::Sample& sample = *of_prompt[shown < 2 ? 0 : i * (count - 1) / (shown - 1)];
      before.rows.push_back({with_commas(sample.step), sample.answer});
    }
    body +=
        folded_html("Earlier answers: " + std::to_string(shown) + " of " + std::to_string(count), table_html(before));
  }
  return body.empty() ? "" : section_html("Answers to prompts of held-out rows", body);
}

std::string settings_section(const RunReport& run) {
  if (run.settings.empty()) return "";
  Table changed = {.columns = {{"setting"}, {"value"}, {"default"}}}, all = {.columns = {{"setting"}, {"value"}}};
  for (const auto& setting : run.settings) {
    if (!setting.is_usual())
      changed.rows.push_back({setting.name, setting.value, setting.usual == "[]" ? "" : setting.usual});
    all.rows.push_back({setting.name, setting.value});
  }
  return section_html(
      "Settings",
      table_html(changed) + folded_html("All " + std::to_string(run.settings.size()) + " settings", table_html(all)));
}

std::string messages_section(const RunReport& run) {
  if (run.messages.empty()) return "";
  std::string text;
  for (const auto& message : run.messages)
    text += "step " + with_commas(message.step) + "  " + message.text + (message.text.ends_with('\n') ? "" : "\n");
  std::string body = text_block_html(text);
  if (run.messages_left_out > 0)
    body += paragraph_html(with_commas(run.messages_left_out) + " later messages are left out.");
  return section_html("Messages", body);
}

std::string last_of(const RunReport& run, const std::string& metric, int digits) {
  const Curve* curve = find(run, metric);
  if (!curve) return "";
  return short_number(curve->points.back().y, digits);
}

std::string summary(const RunReport& run) {
  Table table = {.columns = {}};
  std::vector<Cell> row;
  const auto add = [&](const std::string& head, const std::string& value) {
    if (value.empty()) return;
    table.columns.push_back({head, true});
    row.push_back(value);
  };
  add("step", with_commas(run.step) + " / " + with_commas(run.total_steps));
  add("epoch", short_number(run.epoch, 3));
  add("training loss", last_of(run, "loss", 4));
  add("eval_loss", last_of(run, "eval_loss", 4));
  if (const size_t best = best_of(run); best < run.evaluations.size())
    for (const auto& [name, number] : run.evaluations[best].metrics)
      if (name == run.best_metric)
        add("best " + name, short_number(number, 4) + " at step " + with_commas(run.evaluations[best].step));
  if (const Curve* speed = find(run, "tokens_per_second"); speed && std::abs(speed->points.back().y) < 1e15)
    add("tokens/s", with_commas(std::llround(speed->points.back().y)));
  add("tokens seen", with_commas(run.tokens_seen));
  if (run.skipped_steps > 0) add("skipped steps", with_commas(run.skipped_steps));
  table.rows.push_back(std::move(row));
  return table_html(table);
}

}  // namespace

std::string report_html(const RunReport& run) {
  std::string lead;
  for (const std::string& fact : run.facts) lead += (lead.empty() ? "" : " · ") + fact;
  return page_html(run.name, lead,
                   summary(run) + training_section(run) + evaluation_section(run) + samples_section(run) +
                       other_metrics_section(run) + norms_section(run) + settings_section(run) + messages_section(run));
}

std::string training_loss_svg(const RunReport& run) {
  LineChart chart = loss_chart(run);
  chart.width = 720, chart.height = 360;
  return svg_file(line_chart_svg(chart), run.name);
}

}  // namespace rankfold
