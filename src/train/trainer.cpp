#include "rankfold/trainer.h"

#include "checkpoint/checkpoint.h"
#include "core/check.h"
#include "core/file.h"
#include "ops/rowwise.h"
#include "rankfold/evaluate.h"
#include "train/memory_plan.h"
#include "train/optimizer.h"
#include "train/run_state.h"
#include "train/schedule.h"

#include <ATen/ATen.h>
#include <nlohmann/json.hpp>

#include <chrono>
#include <cmath>
#include <set>

namespace rankfold {
namespace fs = std::filesystem;

namespace {

using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

constexpr int kMostSkippedInARow = 10;

}  // namespace

struct Trainer::State {
  CausalLM model;
  Adapter adapter;
  Dataset dataset;
  TrainConfig config;
  StepPlan plan;
  RunState run;
  nlohmann::json identity;  // reads from every tensor of the base: made once
  std::string run_id;
  std::vector<int64_t> order;  // of the rows in epoch order_epoch
  int64_t order_epoch = -1;
  std::vector<std::pair<std::string, std::string>> files;
  std::function<void(const Progress&)> on_progress;
  std::function<void(const std::string&)> on_message;
  std::function<bool()> stop;

  State(CausalLM m, Adapter a, Dataset d, TrainConfig c)
      : model(std::move(m)),
        adapter(std::move(a)),
        dataset(std::move(d)),
        config(std::move(c)),
        plan(dataset.size(), config) {}

  void say(const std::string& line) const {
    if (on_message) on_message(line);
  }
  std::vector<Batch> window(int64_t step);
  BatchSize largest_batch() const;
  void save_files(const fs::path& folder) const;
  void save_result(const fs::path& folder) const;
  void save(const AdamW& optimizer);
  void resume(AdamW& optimizer);
};

// The micro-batches of one optimizer step: a function of (seed, step) alone.
std::vector<Batch> Trainer::State::window(int64_t step) {
  if (order_epoch != plan.epoch_of(step)) {
    order_epoch = plan.epoch_of(step);
    order = epoch_order(dataset.size(), static_cast<uint64_t>(config.seed), order_epoch, config.shuffle);
  }
  const int64_t rows = config.per_device_train_batch_size, per_step = rows * config.gradient_accumulation_steps;
  const int64_t first = plan.window_of(step) * per_step, last = std::min(dataset.size(), first + per_step);
  std::vector<Batch> batches;
  for (int64_t begin = first; begin < last; begin += rows) {
    Batch batch = dataset.batch({order.begin() + begin, order.begin() + std::min(last, begin + rows)});
    batch.first_row = begin - first;
    batch.step = step;
    batches.push_back(std::move(batch));
  }
  return batches;
}

// Of all micro-batches of the run.
BatchSize Trainer::State::largest_batch() const {
  BatchSize largest;
  std::set<int64_t> sizes;
  int64_t longest = 0;
  const int64_t rows = config.per_device_train_batch_size;
  const int64_t epochs = plan.epoch_of(plan.total_steps - 1) + 1;
  for (int64_t epoch = 0; epoch < (config.shuffle ? epochs : 1); ++epoch) {
    const auto order = epoch_order(dataset.size(), static_cast<uint64_t>(config.seed), epoch, config.shuffle);
    const int64_t steps = std::min(plan.steps_per_epoch, plan.total_steps - epoch * plan.steps_per_epoch);
    const int64_t end = std::min(dataset.size(), steps * rows * config.gradient_accumulation_steps);
    for (int64_t begin = 0; begin < end; begin += rows) {
      BatchSize batch{.rows = std::min(rows, dataset.size() - begin)};
      for (int64_t i = begin; i < begin + batch.rows; ++i) {
        const int64_t length = dataset.length(order[static_cast<size_t>(i)]);
        batch.tokens += length;
        longest = std::max(longest, length);
      }
      sizes.insert(ops::product_rows(batch.tokens));
      if (batch.tokens > largest.tokens) largest = batch;
    }
  }
  largest.sizes = static_cast<int64_t>(sizes.size());
  largest.longest = longest;
  return largest;
}

void Trainer::State::save_files(const fs::path& folder) const {
  for (const auto& [name, text] : files) write_text(folder / name, text);
}

void Trainer::State::save_result(const fs::path& folder) const {
  if (!adapter.flat_values().isfinite().all().item<bool>())
    throw Error(ExitCode::kDiverged, join("step ", run.step, ": trained values are not finite numbers; not saved"));
  adapter.save(folder);
  save_files(folder);
  write_text(folder / "trainer_state.json", trainer_state_json(run, config, plan));
}

void Trainer::State::save(const AdamW& optimizer) {
  save_checkpoint(config.output_dir, run_id, run.step, [&](const fs::path& folder) {
    save_result(folder);
    save_optimizer(folder, adapter, optimizer);
    write_text(folder / "training_state.json", run_state_json(run, identity));
  });
  remove_old_checkpoints(config.output_dir, run_id, config.save_total_limit);
}

void Trainer::State::resume(AdamW& optimizer) {
  if (config.resume_from_checkpoint.empty()) return;
  fs::path folder = config.resume_from_checkpoint;
  if (config.resume_from_checkpoint == "auto") {
    const auto newest = newest_checkpoint(config.output_dir, [&](const std::string& line) { say(line); });
    if (!newest) return say("no checkpoint in " + config.output_dir + ": starting at step 0");
    folder = newest->path;
  } else if (const std::string problem = damage(folder); !problem.empty()) {
    fail("resume_from_checkpoint: ", folder.string(), ": expected a whole checkpoint, but ", problem);
  }
  run = read_run_state(folder, identity);
  load_optimizer(folder, adapter, optimizer);
  optimizer.steps = run.optimizer_steps;
  run_id = run_of(folder);
  if (run.step > plan.total_steps)
    throw Error(ExitCode::kResumeRefused, join(folder.string(), ": it is at step ", run.step, ", beyond the ",
                                               plan.total_steps, " steps of this run"));
  say("resumed " + folder.string() + " at step " + std::to_string(run.step));
}

Trainer::Trainer(CausalLM model, Adapter adapter, Dataset dataset, TrainConfig config)
    : state_(std::make_shared<State>(std::move(model), std::move(adapter), std::move(dataset), std::move(config))) {
  if (state_->model.dtype() == at::kHalf)
    fail("dtype: expected bfloat16 or float32 for training, got float16, in which small gradients vanish");
  RANKFOLD_CHECK(!state_->config.output_dir.empty(), "output_dir: expected a path, got an empty text");
}

void Trainer::add_file(const std::string& name, const std::string& text) { state_->files.emplace_back(name, text); }
void Trainer::on_progress(std::function<void(const Progress&)> callback) { state_->on_progress = std::move(callback); }
void Trainer::stop_when(std::function<bool()> callback) { state_->stop = std::move(callback); }
void Trainer::on_message(std::function<void(const std::string&)> callback) { state_->on_message = std::move(callback); }
const std::vector<LogRow>& Trainer::log() const { return state_->run.log; }
int64_t Trainer::total_steps() const { return state_->plan.total_steps; }

bool Trainer::run() {
  State& s = *state_;
  const TrainConfig& config = s.config;
  RunState& run = s.run;
  AdamW optimizer(s.model, s.adapter);
  Decoder& decoder = *s.model.shared_decoder();
  const MemoryPlan memory = plan_memory(decoder, s.adapter, config, s.largest_batch());
  decoder.checkpointing = memory.checkpointing;
  s.identity = identity_of(s.model, s.adapter, s.dataset, config);
  s.resume(optimizer);
  s.say(memory.table());
  prepare_folder(config.output_dir);
  if (s.run_id.empty()) {
    s.run_id = start_run(config.output_dir);
  } else {
    continue_run(config.output_dir, s.run_id);
  }
  s.save_files(config.output_dir);
  const fs::path log_path = fs::path(config.output_dir) / "train_log.jsonl";
  write_text(log_path, log_lines(run.log));  // a resumed run forgets rows beyond its checkpoint

  const auto start = Clock::now();
  auto log_start = start;
  const int64_t first_step = run.step;
  int64_t tokens = 0, log_tokens = 0, saved_step = -1;
  while (run.step < s.plan.total_steps) {
    const std::vector<Batch> window = s.window(run.step);
    int64_t labels = 0, window_tokens = 0;
    for (const Batch& batch : window) labels += batch.label_count(), window_tokens += batch.token_count();
    // The loss of the step is the mean over every label of the window, known before backward: a mean of micro-batch
    // means would weigh short rows more.
    optimizer.zero_gradient();
    at::Tensor loss_sum = at::zeros({}, at::TensorOptions(s.model.device()).dtype(at::kDouble));  // read once a step
    bool stopped = false;
    for (const Batch& batch : window) {
      if ((stopped = s.stop && s.stop())) break;
      const at::Tensor mean = s.model.loss(batch) / static_cast<double>(labels);
      mean.backward();
      loss_sum.add_(mean.detach());
    }
    if (stopped) {
      if (saved_step != run.step && first_step < run.step) s.save(optimizer);
      s.say(join("stopped at step ", run.step, " of ", s.plan.total_steps,
                 "; --resume_from_checkpoint auto goes on from there"));
      return false;
    }
    const double loss = loss_sum.item<double>();
    const double rate = learning_rate(config, run.step, s.plan.total_steps);
    const double norm = optimizer.clip(config.max_grad_norm);
    if (std::isfinite(loss) && std::isfinite(norm)) {
      optimizer.step(config, rate);
      run.skipped_in_a_row = 0;
      run.loss_sum += loss;
      ++run.loss_count;
      run.grad_norm = norm;
    } else {
      ++run.skipped;
      s.say(join("step ", run.step + 1, ": skipped, loss ", loss, ", gradient norm ", norm));
      if (++run.skipped_in_a_row >= kMostSkippedInARow)
        throw Error(ExitCode::kDiverged, join("step ", run.step + 1, ": the loss or the gradient was not finite ",
                                              kMostSkippedInARow, " steps in a row"));
    }
    ++run.step;
    run.optimizer_steps = optimizer.steps;
    run.tokens_seen += window_tokens;
    run.epoch = static_cast<double>(run.step) / static_cast<double>(s.plan.steps_per_epoch);
    tokens += window_tokens, log_tokens += window_tokens;

    const bool last = run.step == s.plan.total_steps;
    Progress progress{.step = run.step, .total_steps = s.plan.total_steps, .epoch = run.epoch};
    if (run.step % config.logging_steps == 0 && run.loss_count > 0) {
      run.log.push_back(
          {.step = run.step,
           .epoch = run.epoch,
           .loss = run.loss_sum / static_cast<double>(run.loss_count),
           .grad_norm = run.grad_norm,
           .learning_rate = rate,
           .tokens_per_second = static_cast<double>(log_tokens) / std::max(seconds_since(log_start), 1e-9),
           .peak_memory_bytes = peak_memory_bytes(s.model.device())});
      run.loss_sum = 0, run.loss_count = 0, log_tokens = 0;
      log_start = Clock::now();
      append_line(log_path, log_line(run.log.back()));
      progress.logged = &run.log.back();
    }
    if (s.on_progress) {
      const double elapsed = std::max(seconds_since(start), 1e-9);
      progress.tokens_per_second = static_cast<double>(tokens) / elapsed;
      progress.seconds_left =
          elapsed / static_cast<double>(run.step - first_step) * static_cast<double>(s.plan.total_steps - run.step);
      s.on_progress(progress);
    }
    if (last || (config.save_steps > 0 && run.step % config.save_steps == 0)) {
      try {
        s.save(optimizer);
        saved_step = run.step;
      } catch (const Error& error) {
        // A full disk need not end a night's run: the last checkpoint stands, the next save may succeed.
        if (last || error.code() != ExitCode::kStorage) throw;
        s.say(join("not saved at step ", run.step, ", going on: ", error.what()));
      }
    }
  }
  s.save_result(config.output_dir);
  if (const ops::Backend* backend = ops::takes_kernels(s.adapter.flat_values()))
    s.say(join("attention: ", backend->attention_name()));
  s.say(
      join("peak memory ", bytes_text(peak_memory_bytes(s.model.device())), ", planned ", bytes_text(memory.total())));
  if (run.skipped > 0) s.say(join(run.skipped, " steps were skipped for a loss or gradient that was not finite"));
  s.say("saved " + config.output_dir);
  return true;
}

}  // namespace rankfold
