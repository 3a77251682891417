#include "rankfold/trainer.h"

#include "core/check.h"
#include "core/config.h"
#include "core/guard.h"
#include "core/number_text.h"
#include "core/write.h"
#include "rankfold/memory.h"
#include "train/evaluation.h"
#include "train/log_row.h"
#include "train/memory_plan.h"
#include "train/run_folder.h"
#include "train/stepper.h"

#include <algorithm>
#include <chrono>
#include <set>

namespace rankfold {
namespace {

using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }
double per_second(int64_t tokens, Clock::time_point start) {
  return static_cast<double>(tokens) / std::max(seconds_since(start), 1e-9);
}

// How fast the steps are taken; what callbacks do between them does not count.
struct Pace {
  Clock::time_point start = Clock::now(), row_start = start;
  int64_t steps = 0, tokens = 0, row_tokens = 0;

  void add(int64_t more) { ++steps, tokens += more, row_tokens += more; }
  double take_row() {
    const double pace = per_second(row_tokens, row_start);
    row_tokens = 0, row_start = Clock::now();
    return pace;
  }
  double tokens_per_second() const { return per_second(tokens, start); }
  double seconds_for(int64_t more) const {
    return steps == 0 ? 0 : seconds_since(start) / static_cast<double>(steps) * static_cast<double>(more);
  }
  void leave_out(Clock::duration time) { start += time, row_start += time; }
};

}  // namespace

struct Trainer::State {
  TrainConfig config;
  std::function<void(const Progress&)> on_progress;
  std::function<void(const std::string&)> on_message;
  std::vector<std::function<void(StepView&)>> after_step;
  Stop stop;
  std::function<bool()> save_now;
  RunMessages messages;
  Stepper steps;
  RunFolder folder;
  std::optional<Dataset> held_out;
  std::optional<Evaluation> evaluation;  // while it runs
  Pace pace;
  Clock::time_point began = Clock::now();  // run()

  State(CausalLM model, Adapter adapter, Dataset dataset, TrainConfig c)
      : config(std::move(c)),
        steps(std::move(model), std::move(adapter), std::move(dataset), config, speaker(), stopper()),
        folder(steps, config, speaker(), stopper(), messages) {}

  // The callbacks may be set later than what is given these.
  std::function<void(const std::string&)> speaker() {
    return [this](const std::string& line) { say(line); };
  }
  Stop stopper() {
    return [this] { return stop && stop(); };
  }
  void say(const std::string& line) {
    messages.add(steps.state.step, line);
    if (on_message) on_message(line);
  }
  const LogRow* log_row(double rate);
  Progress progress(const LogRow* logged) const;
  void prepare_evaluation(const MemoryPlan& memory);
  void evaluate_at_start();
  void say_evaluation(double loss) const;
  void finish_step(StepView& view);
  void save_where_due(const StepView& view, bool is_best);
  bool is_done() const { return steps.is_done() || evaluation->ends_run(folder.best()); }
};

const LogRow* Trainer::State::log_row(double rate) {
  const StepState& now = steps.state;
  if (now.step % config.logging_steps != 0 || now.loss_count == 0) return nullptr;
  const double grad_norm = now.grad_norm;
  folder.log({make_row(now.step, now.epoch,
                       {{"loss", steps.take_mean_loss()},
                        {"grad_norm", grad_norm},
                        {"learning_rate", rate},
                        {"tokens_per_second", pace.take_row()},
                        {"peak_memory_bytes", peak_memory_bytes(steps.model().device())}})});
  return &folder.rows().back();
}

Progress Trainer::State::progress(const LogRow* logged) const {
  const int64_t step = steps.state.step, total = steps.plan().total_steps;
  return {.step = step,
          .total_steps = total,
          .epoch = steps.state.epoch,
          .tokens_per_second = pace.tokens_per_second(),
          .seconds_left = pace.seconds_for(total - step),
          .logged = logged,
          .seconds_elapsed = seconds_since(began)};
}

void Trainer::State::prepare_evaluation(const MemoryPlan& memory) {
  evaluation.emplace(held_out, config, steps.plan(), memory.batch.tokens);
  if (held_out && after_step.empty() && metric_name(config) != "eval_loss")
    fail("metric_for_best_model: expected eval_loss, or a metric that a callback logs, got ",
         config.metric_for_best_model);
}

// No message of the page, which has a table of them.
void Trainer::State::say_evaluation(double loss) const {
  if (!on_message) return;
  const std::string best = text_of(folder.best());
  on_message(join("step ", steps.state.step, "/", steps.plan().total_steps, "  eval_loss ", printed("%.4f", loss),
                  best.empty() ? "" : "  ", best));
}

void Trainer::State::evaluate_at_start() {
  const bool has_row = !folder.rows().empty() && folder.rows().front().step == 0;
  if (steps.state.step > 0 || has_row || !evaluation->is_due(0)) return;
  LogRow row = make_row(0, 0, evaluation->metrics(steps.model(), stopper()));
  folder.add_samples(evaluation->answers(steps.model(), 0, stopper()));
  say_evaluation(*row.metric("eval_loss"));
  folder.log({std::move(row)});
}

// Evaluation, then the callbacks, then a checkpoint where one is due. Until all callbacks have returned, what is saved says
// that they are still to come.
void Trainer::State::finish_step(StepView& view) {
  const auto start = Clock::now();
  const int64_t step = steps.state.step;
  const Best before = folder.best();
  bool is_best = false;
  if (evaluation->is_due(step)) {
    view.log(evaluation->metrics(steps.model(), stopper()));
    const double loss = *view.rows_.front().metric("eval_loss");
    std::vector<SampleAnswer> samples = evaluation->answers(steps.model(), step, stopper());
    for (const auto& callback : after_step) callback(view);
    is_best = evaluation->update(folder.best(), step, view.rows_);
    folder.add_samples(std::move(samples));
    say_evaluation(loss);
  } else {
    for (const auto& callback : after_step) callback(view);
  }
  folder.callbacks_returned(std::move(view.rows_));
  pace.leave_out(Clock::now() - start);
  save_where_due(view, is_best);
  if (is_best && !is_done() && !folder.is_saved()) {  // a best that no file holds is none
    folder.best().value = before.value;
    folder.best().step = before.step;
  }
  if (view.wants_stop_ && !is_done()) throw Stopped();
}

void Trainer::State::save_where_due(const StepView& view, bool is_best) {
  if (is_done()) return;  // which saves and ends
  const int64_t step = steps.state.step;
  const bool asked = (save_now && save_now()) || view.wants_save_;
  if (asked || is_best || (config.save_steps > 0 && step % config.save_steps == 0) || folder.is_time_to_try_again())
    folder.try_to_save();
  if (asked && folder.is_saved()) say(join("saved step ", step, ", going on"));
}

void StepView::log(std::vector<Metric> metrics) {
  std::set<std::string> names = {"step", "epoch"};
  for (const Metric& metric : metrics)
    RANKFOLD_CHECK(!metric.name.empty() && names.insert(metric.name).second, "StepView::log: metric \"", metric.name,
                   "\": expected a name that the row does not have yet");
  rows_.push_back(make_row(progress_.step, progress_.epoch, std::move(metrics)));
}

Trainer::Trainer(CausalLM model, Adapter adapter, Dataset dataset, TrainConfig config) try {
  check_fields(config);
  state_ = std::make_shared<State>(std::move(model), std::move(adapter), std::move(dataset), std::move(config));
} catch (...) {
  rethrow_as_error();
}

void Trainer::evaluate_on(Dataset held_out) { state_->held_out = std::move(held_out); }
void Trainer::add_file(const std::string& name, const std::string& text) { state_->folder.add_file(name, text); }
void Trainer::describe(const RunDescription& description) { state_->folder.describe(description); }
void Trainer::on_progress(std::function<void(const Progress&)> callback) {
  state_->on_progress = from_caller(std::move(callback));
}
void Trainer::stop_when(Stop callback) { state_->stop = from_caller(std::move(callback)); }
void Trainer::save_when(std::function<bool()> callback) { state_->save_now = from_caller(std::move(callback)); }
void Trainer::on_message(std::function<void(const std::string&)> callback) {
  state_->on_message = from_caller(std::move(callback));
}
void Trainer::after_step(std::function<void(StepView&)> callback) {
  RANKFOLD_CHECK(callback, "after_step: expected a function, got an empty one");
  state_->after_step.push_back(from_caller(std::move(callback)));
}
const std::vector<LogRow>& Trainer::log() const { return state_->folder.rows(); }
const std::vector<SampleAnswer>& Trainer::samples() const { return state_->folder.samples(); }
int64_t Trainer::total_steps() const { return state_->steps.plan().total_steps; }

std::string Trainer::memory_plan() try {
  const MemoryPlan memory = state_->steps.plan_memory();
  state_->prepare_evaluation(memory);  // what a run refuses a dry run refuses too
  return memory.table();
} catch (...) {
  rethrow_as_error();
}

bool Trainer::run() try {
  State& s = *state_;
  const MemoryPlan memory = s.steps.plan_memory();
  s.prepare_evaluation(memory);
  const FolderLock lock(s.config.output_dir);
  if (!lock.is_held())
    s.say(join(s.config.output_dir, ": this file system has no locks: let no other run write to it"));
  s.folder.resume(*s.evaluation);
  s.say(memory.table());
  if (const std::string warning = rate_warning(s.config, total_steps()); !warning.empty()) s.say(warning);
  s.folder.begin();
  s.began = Clock::now();
  try {
    s.evaluate_at_start();
    s.pace = {};
    if (s.folder.callbacks_are_due()) {
      const Progress progress = s.progress(s.folder.row_of_last_step());
      StepView view(progress);
      s.finish_step(view);
    }
    while (!s.is_done()) {
      const Stepper::Taken taken = s.steps.take();
      if (!s.after_step.empty() || s.evaluation->is_due(s.steps.state.step)) s.folder.expect_callbacks();
      s.pace.add(taken.tokens);
      const Progress progress = s.progress(s.log_row(taken.rate));
      StepView view(progress);
      if (s.on_progress) s.on_progress(progress);
      s.finish_step(view);
    }
    if (!s.steps.is_done())
      s.say(join("early stopping at step ", s.steps.state.step, ": ", s.folder.best().without_gain,
                 " evaluations without a better ", s.folder.best().metric));
    s.folder.finish();
    if (const Best& best = s.folder.best(); s.config.load_best_model_at_end && best.step > 0)
      s.say("the result is that of the " + text_of(best));
  } catch (const Stopped&) {
    if (!s.folder.is_saved()) s.folder.save();
    s.say(join("stopped at step ", s.steps.state.step, " of ", total_steps(),
               "; --resume_from_checkpoint auto goes on from there"));
    return false;
  } catch (...) {
    s.folder.save_after_failure();
    throw;
  }
  if (const ops::Backend* backend = ops::backend_for(s.steps.adapter().flat_values()))
    s.say(join("attention: ", backend->attention_name()));
  s.say(join("peak memory ", bytes_text(peak_memory_bytes(s.steps.model().device())), ", planned ",
             bytes_text(memory.total())));
  if (s.steps.state.skipped > 0)
    s.say(join(s.steps.state.skipped, " steps were skipped for a loss or gradient that was not finite"));
  s.say("saved " + s.config.output_dir);
  return true;
} catch (...) {
  rethrow_as_error();
}

}  // namespace rankfold
