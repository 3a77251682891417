#include "train/evaluation.h"

#include "core/check.h"
#include "core/checksum.h"
#include "core/number_text.h"
#include "rankfold/evaluate.h"
#include "rankfold/generate.h"

#include <algorithm>
#include <chrono>
#include <cmath>

namespace rankfold {
namespace {

constexpr std::string_view kOfEvaluation = "eval_";

// As transformers has it, where nothing else is said.
bool lower_is_better(std::string_view metric) { return metric.ends_with("loss") || metric.ends_with("perplexity"); }

// Of a row with several answers, the last.
struct Asked {
  std::vector<int32_t> prompt, answer;
};

Asked split_row(const Example& row) {
  size_t end = row.labels.size();
  while (end > 0 && row.labels[end - 1] == kIgnoreIndex) --end;
  size_t begin = end;
  while (begin > 0 && row.labels[begin - 1] != kIgnoreIndex) --begin;
  const auto ids = row.input_ids.begin();
  const auto at = [ids](size_t i) { return ids + static_cast<ptrdiff_t>(i); };
  return {{at(0), at(begin)}, {at(begin), at(end)}};
}

}  // namespace

std::string text_of(const Best& best) {
  return best.step > 0 ? join("best ", best.metric, " ", printed("%.4f", *best.value), " at step ", best.step) : "";
}

std::string metric_name(const TrainConfig& config) {
  const std::string& name = config.metric_for_best_model;
  return name.starts_with(kOfEvaluation) ? name : std::string(kOfEvaluation) + name;
}

Evaluation::Evaluation(std::optional<Dataset> rows, const TrainConfig& config, const StepPlan& plan,
                       int64_t most_tokens)
    : rows_(std::move(rows)), config_(config), plan_(plan), most_tokens_(most_tokens) {
  const EvalStrategy asked = meaning_of(kEvalStrategies, config.eval_strategy);
  const char* wants_some = config.eval_on_start                 ? "eval_on_start"
                           : config.load_best_model_at_end      ? "load_best_model_at_end"
                           : config.early_stopping_patience > 0 ? "early_stopping_patience"
                                                                : nullptr;
  if (!rows_) {
    const char* key = asked == EvalStrategy::kSteps || asked == EvalStrategy::kEpoch ? "eval_strategy"
                      : wants_some                                                   ? wants_some
                      : asked == EvalStrategy::kAuto && config.eval_steps > 0        ? "eval_steps"
                                                                                     : nullptr;
    if (key) fail(key, ": expected held-out rows with it (eval_dataset or val_size), got none");
    return;
  }
  strategy_ = asked != EvalStrategy::kAuto ? asked
              : config.eval_steps > 0      ? EvalStrategy::kSteps
                                           : EvalStrategy::kEpoch;
  if (strategy_ == EvalStrategy::kNo && wants_some)
    fail(wants_some, ": expected eval_strategy steps or epoch with it, got no");
}

int64_t Evaluation::steps_between() const {
  if (strategy_ != EvalStrategy::kSteps) return 0;
  if (config_.eval_steps == 0) return config_.logging_steps;
  if (config_.eval_steps >= 1) return static_cast<int64_t>(config_.eval_steps);
  return static_cast<int64_t>(std::ceil(config_.eval_steps * static_cast<double>(plan_.total_steps)));
}

int64_t Evaluation::interval() const {
  return strategy_ == EvalStrategy::kEpoch ? plan_.steps_per_epoch : steps_between();
}

bool Evaluation::is_due(int64_t step) const {
  if (interval() == 0) return false;
  if (step == 0) return config_.eval_on_start;
  return step == plan_.total_steps || step % interval() == 0;
}

int64_t Evaluation::count() const {
  if (interval() == 0) return 0;
  return (plan_.total_steps - 1) / interval() + 1 + (is_due(0) ? 1 : 0);
}

int64_t Evaluation::rows_per_batch() const {
  int64_t longest = 1;
  for (int64_t i = 0; i < rows_->size(); ++i) longest = std::max(longest, rows_->length(i));
  return std::clamp(most_tokens_ / longest, int64_t{1}, config_.per_device_eval_batch_size);
}

std::vector<Metric> Evaluation::metrics(const CausalLM& model, const Stop& stop) const {
  const int64_t rows = rows_per_batch();
  const auto start = std::chrono::steady_clock::now();
  const EvalResult measured = evaluate(model, *rows_, rows, stop);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  const auto per_second = [seconds](int64_t count) { return static_cast<double>(count) / std::max(seconds, 1e-9); };
  return {{"eval_loss", measured.loss},
          {"eval_runtime", seconds},
          {"eval_samples_per_second", per_second(rows_->size())},
          {"eval_steps_per_second", per_second((rows_->size() + rows - 1) / rows)}};
}

std::vector<SampleAnswer> Evaluation::answers(const CausalLM& model, int64_t step, const Stop& stop) const {
  std::vector<SampleAnswer> samples;
  if (!model.has_tokenizer()) return samples;
  const Tokenizer& tokenizer = model.tokenizer();
  std::vector<std::vector<int32_t>> prompts;
  for (int64_t i = 0; i < rows_->size() && static_cast<int64_t>(samples.size()) < config_.eval_samples; ++i) {
    Asked asked = split_row((*rows_)[i]);
    if (asked.prompt.empty()) continue;
    samples.push_back({step, tokenizer.decode(asked.prompt), tokenizer.decode(asked.answer), ""});
    prompts.push_back(std::move(asked.prompt));
  }
  GenerateConfig config{.max_new_tokens = config_.eval_max_new_tokens};
  if (const ChatTemplate* chat = rows_->chat_template())
    for (const int32_t id : chat->stop_token_ids()) config.stop_token_ids.push_back(id);
  const std::vector<Completion> answers = complete(model, prompts, config, {}, stop);
  for (size_t i = 0; i < answers.size(); ++i) samples[i].answer = answers[i].text;
  return samples;
}

bool Evaluation::begin(Best& best) const {
  const Best empty{.rows = rows_ ? checksum_text(rows_->fingerprint()) : "", .metric = metric_name(config_)};
  if (best.rows == empty.rows && best.metric == empty.metric) return false;
  const bool had_one = best.step > 0;
  best = empty;
  return had_one;
}

bool Evaluation::update(Best& best, int64_t step, const std::vector<LogRow>& rows) const {
  std::optional<double> value;
  std::string names;
  for (const LogRow& row : rows)
    for (const Metric& metric : row.metrics) {
      if (!metric.name.starts_with(kOfEvaluation)) continue;
      if (metric.name == best.metric) value = row.metric(metric.name);
      names += (names.empty() ? "" : ", ") + metric.name;
    }
  if (!value) fail("metric_for_best_model: expected a metric of the evaluation (", names, "), got ", best.metric);
  // How much better it is than the best. A number that is not finite would stay the best for ever.
  const double gain = !std::isfinite(*value)         ? -INFINITY
                      : !best.value                  ? INFINITY
                      : lower_is_better(best.metric) ? *best.value - *value
                                                     : *value - *best.value;
  best.without_gain = gain > config_.early_stopping_threshold ? 0 : best.without_gain + 1;
  if (!(gain > 0)) return false;
  best.value = value;
  best.step = step;
  return true;
}

bool Evaluation::ends_run(const Best& best) const {
  return config_.early_stopping_patience > 0 && best.without_gain >= config_.early_stopping_patience;
}

}  // namespace rankfold
