// What a run writes: its log, checkpoints and result in output_dir, and what a disk that is full makes of them. For the
// process that holds the folder's lock.
#pragma once

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

// What the run computes in that config.resume_from_checkpoint goes on with, as a word of kDtypes. nullopt: there is none,
// or none that can be read, which a resume tells of. All checkpoints of a run say the same, so the first will do.
std::optional<std::string> dtype_of_run(const TrainConfig& config);

class RunFolder {
 public:
  // `steps`, `config` and `messages` are to outlive it. `say` hears what was resumed, saved and not; `stop` is asked while
  // a full disk is waited for.
  RunFolder(Stepper& steps, const TrainConfig& config, std::function<void(const std::string&)> say, Stop stop,
            const RunMessages& messages);
  void add_file(const std::string& name, const std::string& text) { files_.emplace_back(name, text); }
  void describe(const RunDescription& description) { description_ = description; }

  // As config.resume_from_checkpoint says; nothing is written.
  void resume(const Evaluation& evaluation);
  void begin();  // marks the folder as this run's

  // Adds rows. What cannot be written now comes with the next ones: a log must not end a run.
  void log(std::vector<LogRow> rows);
  const std::vector<LogRow>& rows() const { return log_.rows; }
  const LogRow* row_of_last_step() const;  // of training; null where that step logged none

  // Answers of an evaluation. Given before its row, so that the page that is written then has them.
  void add_samples(std::vector<SampleAnswer> samples);
  const std::vector<SampleAnswer>& samples() const { return log_.samples; }
  Best& best() { return log_.best; }
  const Best& best() const { return log_.best; }

  // Evaluation and callbacks of a step may add rows to its log. Of a step that is saved before they have returned, a
  // checkpoint says that they are still to come.
  bool callbacks_are_due() const { return log_.callbacks_are_due; }
  void expect_callbacks() { log_.callbacks_are_due = true; }
  void callbacks_returned(std::vector<LogRow> rows);

  bool is_saved() const { return saved_step_ == steps_.state.step; }
  void save();
  // A full disk need not end a night's run: the last checkpoint stands, and the next try may succeed.
  void try_to_save();
  bool is_time_to_try_again() const;
  void save_after_failure();  // for what ends the run by an exception: never throws
  // The last checkpoint, and the result: with config.load_best_model_at_end the values of the best step, which the
  // adapter then has too. Throws UserError where that step's checkpoint is not whole, StorageError where nothing can be
  // written, Stopped where `stop` ends the wait for space.
  void finish();

 private:
  void write_log(const std::function<void(const std::filesystem::path&)>& add);
  void write_samples();
  void read_checkpoint();
  void bring_best();
  void write_files(const std::filesystem::path& folder, const std::filesystem::path& target,
                   int64_t step_of_values) const;
  nlohmann::json facts() const;  // of the run, in run.json and in manifests, besides its id and step
  void write_at_the_end(const std::function<void()>& write) const;
  RunReport report() const;

  Stepper& steps_;
  const TrainConfig& config_;
  const std::filesystem::path path_;
  std::function<void(const std::string&)> say_;
  Stop stop_;
  std::vector<std::pair<std::string, std::string>> files_;  // beside every adapter or model: name -> text
  RunDescription description_;
  Lineage lineage_;
  nlohmann::json identity_;  // reads all of the base: made once
  std::string run_id_;
  RunLog log_;
  bool log_is_behind_ = false;  // rows are missing in the file
  std::filesystem::path resumed_from_;
  int64_t eval_steps_ = 0;
  const RunMessages& messages_;
  std::optional<EventFile> events_;  // where config.report_to asks for it
  RunPage page_;
  int64_t saved_step_ = 0;  // the newest checkpoint in the folder; -1: none that auto would find
  std::optional<std::chrono::steady_clock::time_point> next_try_;  // where the last checkpoint could not be written
};

}  // namespace rankfold
