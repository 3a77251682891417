#include "train/run_page.h"

#include "adapter/match.h"
#include "adapter/peft_format.h"
#include "core/check.h"
#include "core/config.h"
#include "core/number_text.h"
#include "core/write.h"
#include "model/model.h"
#include "train/evaluation.h"
#include "train/log_row.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <nlohmann/json.hpp>

#include <ctime>
#include <map>
#include <utility>

namespace rankfold {
namespace fs = std::filesystem;
using namespace std::chrono_literals;
namespace {

constexpr size_t kMostMessages = 300;
constexpr auto kBetweenPages = 10s;
constexpr int kShareOfTime = 200;  // a page between others takes at most one part in so many of a run's time

std::string utc_now() {
  const std::time_t seconds = std::time(nullptr);
  std::tm time{};
  ::gmtime_r(&seconds, &time);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S UTC", &time);
  return text;
}

std::string shown(const nlohmann::ordered_json& value) {
  if (value.is_string()) return value.get<std::string>();
  std::string text = value.dump();
  if (value.is_number_float() && text.ends_with(".0")) text.resize(text.size() - 2);
  return text;
}

// Every setting beside its default.
std::vector<RunReport::Setting> settings_of(const nlohmann::ordered_json& given) {
  RunConfig usual;
  const nlohmann::ordered_json defaults = to_json(usual);
  std::vector<RunReport::Setting> settings;
  for (const auto& [name, value] : given.items())
    settings.push_back({name, shown(value), defaults.contains(name) ? shown(defaults[name]) : ""});
  return settings;
}

nlohmann::ordered_json config_of(const Adapter& adapter, TrainConfig config, const std::string& text) {
  if (!text.empty()) return nlohmann::ordered_json::parse(text);
  nlohmann::ordered_json all = to_json(config);
  if (adapter.is_full()) return all;
  LoraConfig lora = adapter.config();
  all.update(to_json(lora));
  return all;
}

double value_of(const Metric& metric) {
  return std::visit([](auto value) { return static_cast<double>(value); }, metric.value);
}

void add_rows(RunReport& run, const std::vector<LogRow>& rows) {
  std::map<std::string, size_t, std::less<>> places;  // of curves
  for (const LogRow& row : rows) {
    RunReport::Evaluation evaluation = {.step = row.step, .epoch = row.epoch};
    for (const Metric& metric : row.metrics) {
      const auto [at, is_new] = places.try_emplace(metric.name, run.curves.size());
      if (is_new) run.curves.push_back({.metric = metric.name});
      run.curves[at->second].points.push_back({static_cast<double>(row.step), value_of(metric)});
      if (metric.name.starts_with("eval_")) evaluation.metrics.emplace_back(metric.name, value_of(metric));
    }
    if (!evaluation.metrics.empty()) run.evaluations.push_back(std::move(evaluation));
  }
}

}  // namespace

void RunMessages::add(int64_t step, const std::string& text) {
  if (lines_.size() < kMostMessages)
    lines_.push_back({step, text});
  else
    ++left_out_;
}

// |B A|^2 = sum of (B^T B) * (A A^T): of r x r matrices, element by element.
std::vector<RunReport::ModuleNorm> update_norms(const Adapter& adapter) {
  if (adapter.is_full()) return {};
  const at::NoGradGuard no_grad;
  std::map<std::string, at::Tensor> values;
  for (const Parameter& p : adapter.named_parameters()) values[p.name] = p.value;
  const ModuleRanks ranks(adapter.config());
  std::vector<at::Tensor> squares;
  std::vector<RunReport::ModuleNorm> norms;
  for (const std::string& name : adapter.modules()) {
    LinearModule module = {.name = name};
    module.is_embedding = !values.contains(lora_key(module, "A"));
    const at::Tensor a = values.at(lora_key(module, "A")), b = values.at(lora_key(module, "B"));  // [r, in], [out, r]
    squares.push_back((b.t().matmul(b) * a.matmul(a.t())).sum());
    norms.push_back({name, ranks.match(module).scale});
  }
  if (norms.empty()) return norms;
  const at::Tensor roots = at::stack(squares).clamp_min(0).sqrt().cpu();  // one transfer
  for (size_t i = 0; i < norms.size(); ++i) norms[i].norm *= roots.const_data_ptr<float>()[i];
  return norms;
}

RunReport report_of(const Stepper& steps, const RunLog& log, const TrainConfig& config, const std::string& config_text,
                    const RunMessages& messages) {
  const Adapter& adapter = steps.adapter();
  RunReport run = {.name = config.output_dir};
  run.facts = {
      join(adapter.is_full() ? "full tuning" : "LoRA", " of ", steps.model().shared_model()->folder.path().string()),
      with_commas(adapter.parameter_count()) + " trained values", "written " + utc_now()};
  run.step = steps.state.step, run.total_steps = steps.plan().total_steps, run.epoch = steps.state.epoch;
  run.tokens_seen = steps.state.tokens_seen, run.skipped_steps = steps.state.skipped;
  add_rows(run, log.rows);
  run.best_metric = metric_name(config), run.best_step = log.best.step;
  run.norms = update_norms(adapter);
  for (const SampleAnswer& s : log.samples) run.samples.push_back({s.step, s.prompt, s.expected, s.answer});
  run.settings = settings_of(config_of(adapter, config, config_text));
  run.messages = messages.lines(), run.messages_left_out = messages.left_out();
  return run;
}

void RunPage::write(const std::function<RunReport()>& report) {
  const auto start = Clock::now();
  try {
    const RunReport run = report();
    write_text(folder_ / "report.html", report_html(run));
    write_text(folder_ / "training_loss.svg", training_loss_svg(run));
    has_failed_ = false;
  } catch (const std::exception& error) {
    if (!has_failed_) say_(join("going on without report.html: ", error.what()));
    has_failed_ = true;
  }
  written_ = Clock::now();
  took_ = written_ - start;
}

void RunPage::write_now_and_then(const std::function<RunReport()>& report) {
  const auto passed = Clock::now() - written_;
  if (passed > kBetweenPages && passed > kShareOfTime * took_) write(report);
}

}  // namespace rankfold
