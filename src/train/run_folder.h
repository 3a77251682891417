// Writes a run's log, checkpoints and result to output_dir, and handles a full disk. The process must have the folder's
// lock. Not thread-safe.
#pragma once

#include "checkpoint/checkpoint.h"
#include "rankfold/config.h"
#include "rankfold/error.h"
#include "rankfold/trainer.h"
#include "train/event_file.h"
#include "train/lineage.h"
#include "train/run_page.h"
#include "train/run_state.h"
#include "train/stepper.h"

#include <nlohmann/json.hpp>

#include <chrono>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace rankfold {

// The dtype of the run that config.resume_from_checkpoint continues, as a word of kDtypes. nullopt: there is no
// checkpoint, or none that can be read; resume() reports that. All checkpoints of a run have the same dtype.
std::optional<std::string> dtype_of_run(const TrainConfig& config);

// The checkpoint that config.resume_from_checkpoint continues. nullopt: there is none, so the run starts at step 0.
// `parent`: the folder of the adapter that the run began from; empty: not compared. Its values are in the checkpoint,
// so the folder may be gone. Throws UserError for a given checkpoint that is not whole, Error(kResumeRefused) if all
// of output_dir's are damaged or the checkpoint's run did not begin from `parent`.
std::optional<std::filesystem::path> checkpoint_to_resume(const TrainConfig& config,
                                                          const std::filesystem::path& parent, const Messages& say);

// Reads the state in a checkpoint. Throws Error(kResumeRefused) that names what differs but must not, or if its step is
// beyond `total_steps`.
std::pair<StepState, RunLog> read_resumption(const std::filesystem::path& checkpoint, const nlohmann::json& identity,
                                             const CausalLM& model, const TrainConfig& config, int64_t total_steps,
                                             const Messages& say);

class RunFolder {
 public:
  // `steps`, `config` and `messages` must outlive it. `say` gets messages on what was resumed, saved or not saved. It
  // calls `stop` while it waits for space on a full disk.
  RunFolder(Stepper& steps, const TrainConfig& config, std::function<void(const std::string&)> say, Stop stop,
            const RunMessages& messages);
  void add_file(const std::string& name, const std::string& text) { files_.emplace_back(name, text); }
  void describe(const RunDescription& description) { description_ = description; }

  // Resumes as config.resume_from_checkpoint says. Writes nothing.
  void resume(const Evaluation& evaluation);
  void begin();  // marks the folder as this run's

  // Adds rows. If they cannot be written now, they are written with the next ones: a log must not end a run.
  void log(std::vector<LogRow> rows);
  const std::vector<LogRow>& rows() const { return log_.rows; }
  const LogRow* row_of_last_step() const;  // with training metrics; null if that step logged none

  // Adds the answers of an evaluation. Call it before log() of the evaluation, which writes the page.
  void add_samples(std::vector<SampleAnswer> samples);
  const std::vector<SampleAnswer>& samples() const { return log_.samples; }
  Best& best() { return log_.best; }
  const Best& best() const { return log_.best; }

  // Evaluation and callbacks of a step may add rows to its log. A checkpoint that is saved before they return records
  // that they are still due.
  bool callbacks_are_due() const { return log_.callbacks_are_due; }
  void expect_callbacks() { log_.callbacks_are_due = true; }
  void callbacks_returned(std::vector<LogRow> rows);

  bool is_saved() const { return saved_step_ == steps_.state.step; }
  void save();
  // save(), but a full disk does not end the run: the last checkpoint stays, and a later try may succeed.
  void try_to_save();
  bool is_time_to_try_again() const;
  void save_after_failure();  // after an exception that ends the run; never throws
  // Writes the last checkpoint, and the result. With config.load_best_model_at_end the adapter and the result get the
  // values of the best step. Throws UserError if that step's checkpoint is incomplete, StorageError if nothing can be
  // written, Stopped if `stop` ends the wait for space.
  void finish();

 private:
  void write_log(const std::function<void(const std::filesystem::path&)>& add);
  void write_samples();
  bool read_checkpoint();  // false: the run starts at step 0
  void bring_best();
  void write_files(const std::filesystem::path& folder, const std::filesystem::path& target,
                   int64_t step_of_values) const;
  nlohmann::json facts() const;  // more keys for run.json and manifests, besides id and step
  void write_at_the_end(const std::function<void()>& write) const;
  RunReport report() const;

  Stepper& steps_;
  const TrainConfig& config_;
  const std::filesystem::path path_;
  std::function<void(const std::string&)> say_;
  Stop stop_;
  std::vector<std::pair<std::string, std::string>> files_;  // written beside every adapter or model: name, text
  RunDescription description_;
  Lineage lineage_;
  nlohmann::json identity_;  // computed once, because it reads the whole base
  std::string run_id_;
  RunLog log_;
  bool log_is_behind_ = false;  // rows are missing in the file
  std::filesystem::path resumed_from_;
  int64_t eval_steps_ = 0;
  const RunMessages& messages_;
  std::optional<EventFile> events_;  // where config.report_to asks for it
  RunPage page_;
  int64_t saved_step_ = 0;  // the newest checkpoint in the folder; -1: none that auto would find
  std::optional<std::chrono::steady_clock::time_point> next_try_;  // set if the last checkpoint could not be written
};

}  // namespace rankfold
