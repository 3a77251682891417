#include "train/run_folder.h"

#include "adapter/adapter_files.h"
#include "core/card_file.h"
#include "core/check.h"
#include "core/checksum.h"
#include "core/file.h"
#include "core/same_path.h"
#include "core/write.h"
#include "model/model.h"
#include "ops/finite.h"
#include "train/log_row.h"
#include "train/model_card.h"

#include <filesystem>
#include <iterator>
#include <thread>

namespace rankfold {
namespace fs = std::filesystem;
using namespace std::chrono_literals;

namespace {

using Clock = std::chrono::steady_clock;

constexpr const char* kLogName = "train_log.jsonl";
constexpr const char* kSamplesName = "eval_samples.jsonl";
constexpr auto kBetweenTries = 60s;  // of a checkpoint that could not be written
constexpr auto kWait = 2s;           // for space on a full disk, at the end

// Of a best whose values no checkpoint holds.
void forget_step(Best& best) { best.value.reset(), best.step = 0; }

}  // namespace

std::optional<std::string> dtype_of_run(const TrainConfig& config) {
  if (config.resume_from_checkpoint.empty()) return std::nullopt;
  if (config.resume_from_checkpoint != "auto") return dtype_in(config.resume_from_checkpoint);
  const std::string run = run_of(config.output_dir);
  for (const Checkpoint& checkpoint : list_checkpoints(config.output_dir)) {
    if (checkpoint.run_id.empty() || (!run.empty() && checkpoint.run_id != run)) continue;
    if (auto dtype = dtype_in(checkpoint.path)) return dtype;
  }
  return std::nullopt;
}

namespace {

// The same file, wherever it is now; where there is no file to compare, the same path.
void check_parent(const fs::path& checkpoint, const fs::path& parent, const fs::path& output_dir) {
  const auto refuse = [&](const auto&... parts) {
    throw Error(ExitCode::kResumeRefused, one_line(join(checkpoint.string(), ": its run began from ", parts...,
                                                        ", or begin a new run in another output_dir")));
  };
  const std::vector<Ancestor> parents = read_lineage(read_manifest(checkpoint)).parents;
  if (parents.empty()) refuse("no adapter, this one from adapter_name_or_path ", parent.string(), ": leave that out");
  const Ancestor& first = parents.front();
  const bool is_at_path = is_same_path(parent, first.path);
  // The result of the run itself may be there by now.
  const bool is_own_result = is_same_path(parent, output_dir) || is_same_path(parent, checkpoint.parent_path());
  const fs::path file = parent / kAdapterName;
  const bool is_there = what_stands_at(file) == "a file";
  if (!is_there || first.checksum.empty() || (is_at_path && is_own_result)) {
    if (!is_at_path)
      refuse(first.path, ", this one from adapter_name_or_path ", parent.string(),
             is_there ? ", and no checksum was kept to compare them" : ", which is not there to compare", ": give ",
             first.path);
    return;
  }
  const auto weights = File::open(file);
  const std::string checksum = checksum_text(checksum_of(*weights, weights->size()));
  if (checksum != first.checksum)
    refuse(first.path, ", whose ", kAdapterName, " had the checksum ", first.checksum,
           ", this one from adapter_name_or_path ", parent.string(), ", whose has ", checksum, ": give that adapter");
}

}  // namespace

std::optional<fs::path> checkpoint_to_resume(const TrainConfig& config, const fs::path& parent, const Messages& say) {
  if (config.resume_from_checkpoint.empty()) return std::nullopt;
  fs::path folder = config.resume_from_checkpoint;
  if (config.resume_from_checkpoint == "auto") {
    const auto newest = newest_checkpoint(config.output_dir, say);
    if (!newest) {
      say("no checkpoint in " + config.output_dir + ": starting at step 0");
      return std::nullopt;
    }
    folder = newest->path;
  } else if (const std::string problem = damage(folder); !problem.empty()) {
    fail("resume_from_checkpoint: ", folder.string(), ": expected a whole checkpoint, but ", problem);
  }
  if (!parent.empty()) check_parent(folder, parent, config.output_dir);
  return folder;
}

std::pair<StepState, RunLog> read_resumption(const fs::path& checkpoint, const nlohmann::json& identity,
                                             const CausalLM& model, const TrainConfig& config, int64_t total_steps,
                                             const Messages& say) {
  auto read = read_run_state(checkpoint, identity, model, config, say);
  if (const int64_t step = read.first.step; step > total_steps)
    throw Error(ExitCode::kResumeRefused, join(checkpoint.string(), ": it is at step ", step, ", beyond the ",
                                               total_steps, " steps of this run"));
  return read;
}

RunFolder::RunFolder(Stepper& steps, const TrainConfig& config, std::function<void(const std::string&)> say, Stop stop,
                     const RunMessages& messages)
    : steps_(steps),
      config_(config),
      path_(config.output_dir),
      say_(std::move(say)),
      stop_(std::move(stop)),
      messages_(messages),
      page_(path_, say_) {
  if (meaning_of(kReports, config.report_to) == Report::kTensorboard) events_.emplace(path_, say_);
}

void RunFolder::resume(const Evaluation& evaluation) {
  eval_steps_ = evaluation.steps_between();
  identity_ = identity_of(steps_.model(), steps_.adapter(), steps_.dataset(), config_, stop_);
  clean_up(path_);
  if (!read_checkpoint()) lineage_ = lineage_of(steps_.model().folder(), description_.parent);
  const Best before = log_.best;
  if (evaluation.begin(log_.best))
    say_(join("the best step so far, ", before.step, ", was found ",
              before.metric == log_.best.metric ? "on other held-out rows" : "by " + before.metric,
              ": the best is looked for anew"));
}

bool RunFolder::read_checkpoint() {
  const auto checkpoint = checkpoint_to_resume(config_, description_.parent, say_);
  if (!checkpoint) return false;
  const fs::path& folder = *checkpoint;
  std::tie(steps_.state, log_) =
      read_resumption(folder, identity_, steps_.model(), config_, steps_.plan().total_steps, say_);
  load_optimizer(folder, steps_.adapter(), steps_.optimizer);
  const int64_t step = steps_.state.step;
  steps_.optimizer.steps = steps_.state.optimizer_steps;
  run_id_ = run_of(folder);
  resumed_from_ = fs::absolute(folder).lexically_normal();
  lineage_ = read_lineage(read_manifest(folder));
  say_(join("resumed ", folder.string(), " at step ", step));
  // Another folder's checkpoint, or not the newest, is none that auto would go on from: begin() makes it one.
  std::error_code ignored;
  const auto newest = list_checkpoints(path_);
  const bool is_newest = !newest.empty() && fs::equivalent(folder, newest.front().path, ignored);
  saved_step_ = is_newest ? step : -1;
  return true;
}

void RunFolder::begin() {
  prepare_folder(path_);
  const nlohmann::json more = facts();
  if (run_id_.empty())
    run_id_ = start_run(path_, &more);
  else
    continue_run(path_, run_id_, &more);
  write_text(path_ / kLogName, log_lines(log_.rows));  // a resumed run forgets rows beyond its checkpoint
  write_samples();
  bring_best();
  if (events_) events_->begin(log_.rows);
  if (!is_saved()) try_to_save();
  if (!is_saved() && !steps_.is_done() && log_.best.step == steps_.state.step) forget_step(log_.best);
}

void RunFolder::log(std::vector<LogRow> rows) {
  bool has_evaluation = false;
  for (LogRow& row : rows) {
    log_.rows.push_back(std::move(row));
    has_evaluation |= is_of_evaluation(log_.rows.back());
    write_log([this](const fs::path& path) { append_line(path, log_line(log_.rows.back())); });
    if (events_) events_->add(log_.rows);
  }
  const auto now = [this] { return report(); };
  if (has_evaluation)
    page_.write(now);
  else if (!rows.empty())
    page_.write_now_and_then(now);
}

RunReport RunFolder::report() const {
  std::string settings;
  for (const auto& [name, text] : files_)
    if (name == "rankfold_config.json") settings = text;
  return report_of(steps_, log_, config_, settings, messages_);
}

void RunFolder::add_samples(std::vector<SampleAnswer> samples) {
  if (samples.empty()) return;
  std::move(samples.begin(), samples.end(), std::back_inserter(log_.samples));
  try {
    write_samples();
  } catch (const StorageError& error) {
    say_(join("going on without the sample answers: ", error.what()));
  }
}

// All of them, or none of an earlier run's.
void RunFolder::write_samples() {
  if (log_.samples.empty())
    remove_file(path_ / kSamplesName);
  else
    write_text(path_ / kSamplesName, sample_lines(log_.samples));
}

// The checkpoint of the best step, into an output_dir that is not the one where it was found.
void RunFolder::bring_best() {
  Best& best = log_.best;
  if (best.step == 0 || best.step == steps_.state.step) return;
  if (carry_checkpoint(resumed_from_.parent_path(), path_, run_id_, best.step)) return;
  say_(join("the best step so far, ", best.step, ", has no whole checkpoint in ", resumed_from_.parent_path().string(),
            ": the best is looked for anew"));
  forget_step(best);
}

const LogRow* RunFolder::row_of_last_step() const {
  const bool logged = !rows().empty() && rows().back().step == steps_.state.step && rows().back().metric("loss");
  return logged ? &rows().back() : nullptr;
}

void RunFolder::callbacks_returned(std::vector<LogRow> rows) {
  if (std::exchange(log_.callbacks_are_due, false) && is_saved()) saved_step_ = -1;  // without these rows
  log(std::move(rows));
}

// The whole log where a row is missing in the file, else what `add` adds to it.
void RunFolder::write_log(const std::function<void(const fs::path&)>& add) {
  const fs::path path = path_ / kLogName;
  try {
    if (log_is_behind_)
      write_text(path, log_lines(log_.rows));
    else if (add)
      add(path);
    log_is_behind_ = false;
  } catch (const StorageError& error) {
    if (!log_is_behind_) say_(join("going on without the log: ", error.what()));
    log_is_behind_ = true;
  }
}

nlohmann::json RunFolder::facts() const {
  nlohmann::json facts = lineage_json(lineage_);
  facts["finetuning_type"] = identity_.at("finetuning_type");
  facts["max_steps"] = steps_.plan().total_steps;
  return facts;
}

// What a result and a checkpoint have in common. The folder's files are to come into `target`.
void RunFolder::write_files(const fs::path& folder, const fs::path& target, int64_t step_of_values) const {
  const AdamW& optimizer = steps_.optimizer;
  for (const at::Tensor& saved : {optimizer.values, optimizer.first_moment, optimizer.second_moment})
    if (!ops::all_finite(saved))
      throw Error(ExitCode::kDiverged,
                  join("step ", steps_.state.step, ": trained values are not finite numbers; not saved"));
  write_adapter_files(
      steps_.adapter(), *steps_.model().shared_model(), folder,
      model_card({steps_, step_of_values, config_, log_.rows, log_.best, identity_, description_, lineage_}));
  for (const auto& [name, text] : files_) write_text(folder / name, text);
  write_text(folder / "trainer_state.json",
             trainer_state_json(steps_.state, log_, config_, steps_.plan(), eval_steps_));
  if (keep_own_readme(folder, target))
    say_(join((target / kCard).string(), " is not Rankfold's and stays; the model card is ", kCardBeside));
}

void RunFolder::save() {
  const nlohmann::json more = facts();
  const auto fill = [&](const fs::path& folder) {
    write_files(folder, path_ / join("checkpoint-", steps_.state.step), steps_.state.step);
    save_optimizer(folder, steps_.adapter(), steps_.optimizer);
    write_text(folder / kStateName, run_state_json(steps_.state, log_, identity_, config_));
  };
  save_checkpoint(path_, run_id_, steps_.state.step, fill, &more);
  saved_step_ = steps_.state.step;
  next_try_.reset();
  try {
    clean_up(path_);
    remove_old_checkpoints(path_, run_id_, config_.save_total_limit, log_.best.step);
  } catch (const StorageError& error) {  // the checkpoint stands
    say_(error.what());
  }
  page_.write([this] { return report(); });
}

void RunFolder::try_to_save() {
  try {
    save();
  } catch (const Error& error) {
    if (error.code() == ExitCode::kDiverged || error.code() == ExitCode::kOutOfMemory) throw;
    next_try_ = Clock::now() + kBetweenTries;
    say_(join("not saved at step ", steps_.state.step, ", going on: ", error.what()));
  }
}

bool RunFolder::is_time_to_try_again() const { return next_try_ && Clock::now() > *next_try_; }

// The state is that of the last finished step.
void RunFolder::save_after_failure() {
  if (is_saved() || !steps_.is_between_steps()) return;
  try {
    save();
    say_(join("saved step ", steps_.state.step));
  } catch (const std::exception& error) {
    say_(join("not saved at step ", steps_.state.step, ": ", error.what()));
  }
}

// What cannot be written for want of space is waited for, where that is wanted, until somebody makes room or stops the
// run.
void RunFolder::write_at_the_end(const std::function<void()>& write) const {
  for (bool said = false;; said = true) {
    try {
      return write();
    } catch (const StorageError& error) {
      if (!error.is_disk_full() || meaning_of(kDiskFulls, config_.on_disk_full) == DiskFull::kFail) throw;
      if (!said) say_(join("waiting for space: ", error.what()));
      for (const auto end = Clock::now() + kWait; Clock::now() < end; std::this_thread::sleep_for(50ms))
        if (stop_ && stop_()) {
          if (is_saved()) throw Stopped();  // what is missing a resumed run makes from the checkpoint
          throw;
        }
    }
  }
}

void RunFolder::finish() {
  write_at_the_end([this] {
    if (!is_saved()) save();
  });
  const int64_t last = steps_.state.step, best = log_.best.step;
  const bool is_of_best = config_.load_best_model_at_end && best > 0 && best != last;
  if (is_of_best) {
    const fs::path folder = path_ / join("checkpoint-", best);
    if (const std::string problem = damage(folder); !problem.empty())
      fail("load_best_model_at_end: ", folder.string(), ": expected a whole checkpoint, but ", problem);
    load_values(folder, steps_.adapter(), steps_.optimizer);
  }
  write_at_the_end([&] {
    FileSet result(path_);
    write_files(result.path(), path_, is_of_best ? best : last);
    nlohmann::json more = facts();
    more.update({{"run_id", run_id_}, {"step", last}});
    if (is_of_best) more[kStepOfValues] = best;
    commit_result(result, more);
  });
  write_log({});
  page_.write([this] { return report(); });
}

}  // namespace rankfold
