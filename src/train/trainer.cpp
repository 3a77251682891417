#include "rankfold/trainer.h"

#include "adapter/adapter_files.h"
#include "checkpoint/checkpoint.h"
#include "core/check.h"
#include "core/config.h"
#include "core/guard.h"
#include "core/memory.h"
#include "core/write.h"
#include "ops/finite.h"
#include "ops/rowwise.h"
#include "rankfold/memory.h"
#include "train/memory_plan.h"
#include "train/optimizer.h"
#include "train/run_state.h"
#include "train/schedule.h"
#include "train/step_check.h"

#include <ATen/ATen.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <functional>
#include <numeric>
#include <set>
#include <thread>

namespace rankfold {
namespace fs = std::filesystem;
using namespace std::chrono_literals;

namespace {

using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

constexpr const char* kLogName = "train_log.jsonl";
constexpr int kMostSkippedInARow = 10;
constexpr auto kBetweenTries = 60s;  // of a checkpoint that could not be written
constexpr auto kWait = 2s;           // for space on a full disk, at the end

// The micro-batches of one optimizer step.
struct Window {
  std::vector<Batch> batches;
  int64_t labels = 0, tokens = 0;
};

}  // namespace

struct Trainer::State {
  CausalLM model;
  Adapter adapter;
  Dataset dataset;
  TrainConfig config;
  StepPlan plan;
  RunState run;
  AdamW optimizer;
  Checkpointing checkpointing = Checkpointing::none;
  nlohmann::json identity;  // reads from every tensor of the base: made once
  std::string run_id;
  std::vector<int64_t> order;  // of the rows in epoch order_epoch
  int64_t order_epoch = -1;
  int64_t saved_step = 0;                     // the newest checkpoint in output_dir; -1: none that auto would find
  bool in_a_step = false;                     // values are being changed
  std::optional<Clock::time_point> next_try;  // where the last checkpoint could not be written
  bool log_is_behind = false;
  bool base_is_finite = false;  // looked at, as it is only where a loss is not
  std::vector<std::pair<std::string, std::string>> files;
  std::function<void(const Progress&)> on_progress;
  std::function<void(const std::string&)> on_message;
  Stop stop;
  std::function<bool()> save_now;

  State(CausalLM m, Adapter a, Dataset d, TrainConfig c)
      : model(std::move(m)),
        adapter(std::move(a)),
        dataset(std::move(d)),
        config(std::move(c)),
        plan(dataset.size(), config),
        optimizer(model, adapter) {}

  void say(const std::string& line) const {
    if (on_message) on_message(line);
  }
  Window window(int64_t step);
  BatchSize largest_batch() const;
  BatchSize batch_of_longest_rows() const;
  void resume();
  void begin(const MemoryPlan& memory);
  bool steps();
  std::optional<std::vector<double>> backward(const Window& window);
  void update(const Window& window, const std::vector<double>& losses, double rate);
  void skip(const Window& window, const std::vector<double>& losses, double norm);
  void log_row(double rate, double tokens_per_second);
  void write_log(const std::function<void(const fs::path&)>& add);
  void write_files(const fs::path& folder) const;
  void save();
  void try_to_save();
  void save_after_failure();
  void finish();
  void write_at_the_end(const std::function<void()>& write) const;
};

// A function of (seed, step) alone.
Window Trainer::State::window(int64_t step) {
  if (order_epoch != plan.epoch_of(step)) {
    order_epoch = plan.epoch_of(step);
    order = epoch_order(dataset.size(), static_cast<uint64_t>(config.seed), order_epoch, config.shuffle);
  }
  const int64_t rows = config.per_device_train_batch_size, per_step = rows * config.gradient_accumulation_steps;
  const int64_t first = plan.window_of(step) * per_step, last = std::min(dataset.size(), first + per_step);
  Window window;
  for (int64_t begin = first; begin < last; begin += rows) {
    Batch batch = dataset.batch({order.begin() + begin, order.begin() + std::min(last, begin + rows)});
    batch.first_row = begin - first;
    batch.step = step;
    window.labels += batch.label_count();
    window.tokens += batch.token_count();
    window.batches.push_back(std::move(batch));
  }
  return window;
}

// Of all micro-batches of the run; of one that looks as if it was to go on until it is stopped, what the longest rows
// would make together.
BatchSize Trainer::State::largest_batch() const {
  constexpr int64_t kMostLooks = 30'000'000;  // at rows: half a second
  BatchSize largest;
  std::set<int64_t> sizes;
  int64_t longest = 0;
  const int64_t rows = config.per_device_train_batch_size;
  const int64_t epochs = config.shuffle ? plan.epoch_of(plan.total_steps - 1) + 1 : 1;
  if (epochs > std::max<int64_t>(1, kMostLooks / dataset.size())) return batch_of_longest_rows();
  for (int64_t epoch = 0; epoch < epochs; ++epoch) {
    leave_if(stop);
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

BatchSize Trainer::State::batch_of_longest_rows() const {
  BatchSize batch{.sizes = 0, .rows = std::min(config.per_device_train_batch_size, dataset.size())};
  std::vector<int64_t> lengths(static_cast<size_t>(dataset.size()));
  for (size_t i = 0; i < lengths.size(); ++i) lengths[i] = dataset.length(static_cast<int64_t>(i));
  std::partial_sort(lengths.begin(), lengths.begin() + batch.rows, lengths.end(), std::greater<>());
  batch.tokens = std::accumulate(lengths.begin(), lengths.begin() + batch.rows, int64_t{0});
  batch.longest = lengths[0];
  for (int64_t tokens = 1; tokens <= batch.tokens; tokens = ops::product_rows(tokens) + 1) ++batch.sizes;
  return batch;
}

void Trainer::State::resume() {
  if (config.resume_from_checkpoint.empty()) return;
  fs::path folder = config.resume_from_checkpoint;
  if (config.resume_from_checkpoint == "auto") {
    const auto newest = newest_checkpoint(config.output_dir, [&](const std::string& line) { say(line); });
    if (!newest) return say("no checkpoint in " + config.output_dir + ": starting at step 0");
    folder = newest->path;
  } else if (const std::string problem = damage(folder); !problem.empty()) {
    fail("resume_from_checkpoint: ", folder.string(), ": expected a whole checkpoint, but ", problem);
  }
  run = read_run_state(folder, identity, config, [this](const std::string& line) { say(line); });
  load_optimizer(folder, adapter, optimizer);
  optimizer.steps = run.optimizer_steps;
  run_id = run_of(folder);
  if (run.step > plan.total_steps)
    throw Error(ExitCode::kResumeRefused, join(folder.string(), ": it is at step ", run.step, ", beyond the ",
                                               plan.total_steps, " steps of this run"));
  say("resumed " + folder.string() + " at step " + std::to_string(run.step));
  // Another folder's checkpoint, or not the newest, is none that auto would go on from: begin() makes it one.
  std::error_code ignored;
  const auto newest = list_checkpoints(config.output_dir);
  const bool is_newest = !newest.empty() && fs::equivalent(folder, newest.front().path, ignored);
  saved_step = is_newest ? run.step : -1;
}

void Trainer::State::begin(const MemoryPlan& memory) {
  checkpointing = memory.checkpointing;
  if (model.dtype() == at::kHalf) run.loss_scale.value = LossScale::kStart;
  identity = identity_of(model, adapter, dataset, config);
  clean_up(config.output_dir);
  resume();
  say(memory.table());
  if (const std::string warning = rate_warning(config, plan.total_steps); !warning.empty()) say(warning);
  prepare_folder(config.output_dir);
  if (run_id.empty())
    run_id = start_run(config.output_dir);
  else
    continue_run(config.output_dir, run_id);
  // A resumed run forgets rows beyond its checkpoint.
  write_text(fs::path(config.output_dir) / kLogName, log_lines(run.log));
  if (saved_step != run.step) try_to_save();
}

// Sums the gradients of the micro-batches; gives each one's share of the window's loss, or nothing where the run is to
// stop.
std::optional<std::vector<double>> Trainer::State::backward(const Window& window) {
  optimizer.zero_gradient();
  at::Tensor shares = at::zeros({static_cast<int64_t>(window.batches.size())},
                                at::TensorOptions(model.device()).dtype(at::kDouble));  // read once a step
  for (size_t i = 0; i < window.batches.size(); ++i) {
    if (stop && stop()) return std::nullopt;
    const Batch& batch = window.batches[i];
    try {
      // The loss of the step is the mean over every label of the window, known before backward: a mean of micro-batch
      // means would weigh short rows more.
      const at::Tensor share =
          model.shared_model()->decoder.loss(batch, checkpointing) / static_cast<double>(window.labels);
      (run.loss_scale.value == 1 ? share : share * run.loss_scale.value).backward();
      shares[static_cast<int64_t>(i)].copy_(share.detach());
    } catch (const std::exception& error) {
      const auto wanted = out_of_memory(error);
      if (!wanted) throw;
      int64_t longest = 0;
      for (size_t b = 0; b + 1 < batch.offsets.size(); ++b)
        longest = std::max(longest, batch.offsets[b + 1] - batch.offsets[b]);
      throw Error(
          ExitCode::kOutOfMemory,
          join("out of memory in step ", run.step + 1, ", in a micro-batch of ", batch.rows(), " rows and ",
               batch.token_count(), " tokens, the longest row ", longest, wanted->empty() ? "" : ": ", *wanted));
    }
  }
  const at::Tensor read = shares.cpu();
  return std::vector<double>(read.const_data_ptr<double>(), read.const_data_ptr<double>() + read.numel());
}

// Takes the step, or leaves all state as it is where a number is not finite.
void Trainer::State::update(const Window& window, const std::vector<double>& losses, double rate) {
  const double loss = std::accumulate(losses.begin(), losses.end(), 0.0);
  const double norm = optimizer.clip(config.max_grad_norm, run.loss_scale.value);
  if (!std::isfinite(loss) || !std::isfinite(norm)) return skip(window, losses, norm);
  if (optimizer.steps == 0 && reaches_every_part(window.batches)) check_every_gradient(adapter);
  in_a_step = true;
  optimizer.step(config, rate);
  in_a_step = false;
  run.skipped_in_a_row = 0;
  if (model.dtype() == at::kHalf) run.loss_scale.counted();
  run.loss_sum += loss;
  ++run.loss_count;
  run.grad_norm = norm;
}

void Trainer::State::skip(const Window& window, const std::vector<double>& losses, double norm) {
  ++run.skipped;
  std::vector<int64_t> broken, all;
  for (size_t i = 0; i < losses.size(); ++i) {
    const auto& rows = window.batches[i].samples;
    all.insert(all.end(), rows.begin(), rows.end());
    if (!std::isfinite(losses[i])) broken.insert(broken.end(), rows.begin(), rows.end());
  }
  const double loss = std::accumulate(losses.begin(), losses.end(), 0.0);
  std::string line = join("step ", run.step + 1, ": skipped, loss ", loss, ", gradient norm ", norm, ", ",
                          rows_text(dataset, broken.empty() ? all : broken), " of the data");
  if (broken.empty() && run.loss_scale.value > 1) {  // how a scale is found, not a sign of trouble
    run.loss_scale.overflowed();
    return say(join(line, "; the loss scale is ", run.loss_scale.value, " now"));
  }
  say(line);
  if (!base_is_finite) check_base_is_finite(*model.shared_model());
  base_is_finite = true;
  if (++run.skipped_in_a_row >= kMostSkippedInARow)
    throw Error(ExitCode::kDiverged, join("step ", run.step + 1, ": the loss or the gradient was not finite ",
                                          kMostSkippedInARow, " steps in a row"));
}

// What cannot be written now comes with the next row: a log must not end a run.
void Trainer::State::log_row(double rate, double tokens_per_second) {
  run.log.push_back({.step = run.step,
                     .epoch = run.epoch,
                     .loss = run.loss_sum / static_cast<double>(run.loss_count),
                     .grad_norm = run.grad_norm,
                     .learning_rate = rate,
                     .tokens_per_second = tokens_per_second,
                     .peak_memory_bytes = peak_memory_bytes(model.device())});
  run.loss_sum = 0, run.loss_count = 0;
  write_log([this](const fs::path& path) { append_line(path, log_line(run.log.back())); });
}

// The whole log where a row is missing in the file, else what `add` adds to it.
void Trainer::State::write_log(const std::function<void(const fs::path&)>& add) {
  const fs::path path = fs::path(config.output_dir) / kLogName;
  try {
    if (log_is_behind)
      write_text(path, log_lines(run.log));
    else if (add)
      add(path);
    log_is_behind = false;
  } catch (const StorageError& error) {
    if (!log_is_behind) say(join("going on without the log: ", error.what()));
    log_is_behind = true;
  }
}

// What a result and a checkpoint have in common.
void Trainer::State::write_files(const fs::path& folder) const {
  for (const at::Tensor& saved : {adapter.flat_values(), optimizer.first_moment, optimizer.second_moment})
    if (!ops::all_finite(saved))
      throw Error(ExitCode::kDiverged, join("step ", run.step, ": trained values are not finite numbers; not saved"));
  write_adapter_files(adapter, *model.shared_model(), folder);
  for (const auto& [name, text] : files) write_text(folder / name, text);
  write_text(folder / "trainer_state.json", trainer_state_json(run, config, plan));
}

void Trainer::State::save() {
  save_checkpoint(config.output_dir, run_id, run.step, [&](const fs::path& folder) {
    write_files(folder);
    save_optimizer(folder, adapter, optimizer);
    write_text(folder / "training_state.json", run_state_json(run, identity, config));
  });
  saved_step = run.step;
  next_try.reset();
  try {
    clean_up(config.output_dir);
    remove_old_checkpoints(config.output_dir, run_id, config.save_total_limit);
  } catch (const StorageError& error) {  // the checkpoint stands
    say(error.what());
  }
}

// A full disk need not end a night's run: the last checkpoint stands, and the next try may succeed.
void Trainer::State::try_to_save() {
  try {
    save();
  } catch (const Error& error) {
    if (error.code() == ExitCode::kDiverged || error.code() == ExitCode::kOutOfMemory) throw;
    next_try = Clock::now() + kBetweenTries;
    say(join("not saved at step ", run.step, ", going on: ", error.what()));
  }
}

// For what ends the run by an exception: state is that of the last finished step.
void Trainer::State::save_after_failure() {
  if (saved_step == run.step || in_a_step) return;
  try {
    save();
    say(join("saved step ", run.step));
  } catch (const std::exception& error) {
    say(join("not saved at step ", run.step, ": ", error.what()));
  }
}

// True when all steps are done.
bool Trainer::State::steps() {
  const auto start = Clock::now();
  auto log_start = start;
  const int64_t first_step = run.step;
  int64_t tokens = 0, log_tokens = 0;
  while (run.step < plan.total_steps) {
    const Window window = this->window(run.step);
    const auto losses = backward(window);
    if (!losses) return false;
    const double rate = learning_rate(config, run.step, plan.total_steps);
    update(window, *losses, rate);
    ++run.step;
    run.optimizer_steps = optimizer.steps;
    run.tokens_seen += window.tokens;
    run.epoch = static_cast<double>(run.step) / static_cast<double>(plan.steps_per_epoch);
    tokens += window.tokens, log_tokens += window.tokens;

    Progress progress{.step = run.step, .total_steps = plan.total_steps, .epoch = run.epoch};
    if (run.step % config.logging_steps == 0 && run.loss_count > 0) {
      log_row(rate, static_cast<double>(log_tokens) / std::max(seconds_since(log_start), 1e-9));
      log_tokens = 0, log_start = Clock::now();
      progress.logged = &run.log.back();
    }
    if (on_progress) {
      const double elapsed = std::max(seconds_since(start), 1e-9);
      progress.tokens_per_second = static_cast<double>(tokens) / elapsed;
      progress.seconds_left =
          elapsed / static_cast<double>(run.step - first_step) * static_cast<double>(plan.total_steps - run.step);
      on_progress(progress);
    }
    if (run.step == plan.total_steps) break;
    const bool asked = save_now && save_now();
    if (asked || (config.save_steps > 0 && run.step % config.save_steps == 0) || (next_try && Clock::now() > *next_try))
      try_to_save();
    if (asked && saved_step == run.step) say(join("saved step ", run.step, ", going on"));
  }
  return true;
}

// What cannot be written for want of space is waited for, where that is wanted, until somebody makes room or stops the
// run.
void Trainer::State::write_at_the_end(const std::function<void()>& write) const {
  for (bool said = false;; said = true) {
    try {
      return write();
    } catch (const StorageError& error) {
      if (!error.is_disk_full() || meaning_of(kDiskFulls, config.on_disk_full) == DiskFull::kFail) throw;
      if (!said) say(join("waiting for space: ", error.what()));
      for (const auto end = Clock::now() + kWait; Clock::now() < end; std::this_thread::sleep_for(50ms))
        if (stop && stop()) {
          if (saved_step == run.step) throw Stopped();  // what is missing a resumed run makes from the checkpoint
          throw;
        }
    }
  }
}

void Trainer::State::finish() {
  write_at_the_end([this] {
    if (saved_step != run.step) save();
  });
  write_at_the_end([this] {
    FileSet result(config.output_dir);
    write_files(result.path());
    commit_result(result, {{"run_id", run_id}, {"step", run.step}});
  });
  write_log({});
}

Trainer::Trainer(CausalLM model, Adapter adapter, Dataset dataset, TrainConfig config) try {
  check_fields(config);
  state_ = std::make_shared<State>(std::move(model), std::move(adapter), std::move(dataset), std::move(config));
} catch (...) {
  rethrow_as_error();
}

void Trainer::add_file(const std::string& name, const std::string& text) { state_->files.emplace_back(name, text); }
void Trainer::on_progress(std::function<void(const Progress&)> callback) {
  state_->on_progress = from_caller(std::move(callback));
}
void Trainer::stop_when(Stop callback) { state_->stop = from_caller(std::move(callback)); }
void Trainer::save_when(std::function<bool()> callback) { state_->save_now = from_caller(std::move(callback)); }
void Trainer::on_message(std::function<void(const std::string&)> callback) {
  state_->on_message = from_caller(std::move(callback));
}
const std::vector<LogRow>& Trainer::log() const { return state_->run.log; }
int64_t Trainer::total_steps() const { return state_->plan.total_steps; }

bool Trainer::run() try {
  State& s = *state_;
  refuse_tied_head(s.model, s.adapter.modules());
  const bool is_alone = s.adapter.is_full() || s.model.active_adapters().size() == 1;
  RANKFOLD_CHECK(s.adapter.is_of(s.model) && s.adapter.is_active() && is_alone, "Trainer: the adapter '",
                 s.adapter.name(), "' must be the only active one of its model (CausalLM::set_active_adapters)");
  const MemoryPlan memory = plan_memory(*s.model.shared_model(), s.adapter, s.config, s.largest_batch());
  const FolderLock lock(s.config.output_dir);
  if (!lock.is_held())
    s.say(join(s.config.output_dir, ": this file system has no locks: let no other run write to it"));
  s.begin(memory);
  bool done = false;
  try {
    done = s.steps();
    if (done) s.finish();
  } catch (const Stopped&) {
    done = false;
  } catch (...) {
    s.save_after_failure();
    throw;
  }
  if (!done) {
    if (s.saved_step != s.run.step) s.save();
    s.say(join("stopped at step ", s.run.step, " of ", s.plan.total_steps,
               "; --resume_from_checkpoint auto goes on from there"));
    return false;
  }
  if (const ops::Backend* backend = ops::takes_kernels(s.adapter.flat_values()))
    s.say(join("attention: ", backend->attention_name()));
  s.say(
      join("peak memory ", bytes_text(peak_memory_bytes(s.model.device())), ", planned ", bytes_text(memory.total())));
  if (s.run.skipped > 0) s.say(join(s.run.skipped, " steps were skipped for a loss or gradient that was not finite"));
  s.say("saved " + s.config.output_dir);
  return true;
} catch (...) {
  rethrow_as_error();
}

}  // namespace rankfold
