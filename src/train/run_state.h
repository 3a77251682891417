// The state of a run between steps, and its format in files.
#pragma once

#include "rankfold/trainer.h"
#include "train/evaluation.h"
#include "train/optimizer.h"
#include "train/schedule.h"
#include "train/stepper.h"

#include <nlohmann/json_fwd.hpp>

#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace rankfold {

// Log rows and sample answers so far, the best step, and whether evaluation and callbacks of the last step are still
// due.
struct RunLog {
  std::vector<LogRow> rows;
  std::vector<SampleAnswer> samples;
  Best best;
  bool callbacks_are_due = false;
};

inline constexpr const char* kStateName = "training_state.json";  // in a checkpoint

// What must be the same to resume a run: name -> value. Reads every weight of the base; `stop` as in base_checksum().
nlohmann::json identity_of(const CausalLM& model, const Adapter& adapter, const Dataset& dataset,
                           const TrainConfig& config, const Stop& stop = {});

std::string run_state_json(const StepState& state, const RunLog& log, const nlohmann::json& identity,
                           const TrainConfig& config);
// Throws Error(kResumeRefused) that names what differs but must not. Passes to `say` allowed changes of settings, such
// as another learning rate, and environment variables that change the numbers.
std::pair<StepState, RunLog> read_run_state(const std::filesystem::path& checkpoint, nlohmann::json identity,
                                            const CausalLM& model, const TrainConfig& config,
                                            const std::function<void(const std::string&)>& say);

// The dtype of the checkpoint's run, as a word of kDtypes; nullopt if its state cannot be read.
std::optional<std::string> dtype_in(const std::filesystem::path& checkpoint);

void save_optimizer(const std::filesystem::path& folder, const Adapter& adapter, const AdamW& optimizer);
void load_optimizer(const std::filesystem::path& folder, const Adapter& adapter, AdamW& optimizer);
// Loads the trained values without the moments.
void load_values(const std::filesystem::path& folder, const Adapter& adapter, AdamW& optimizer);

// `eval_steps`: steps between evaluations; 0: it does not go by steps.
std::string trainer_state_json(const StepState& state, const RunLog& log, const TrainConfig& config,
                               const StepPlan& plan, int64_t eval_steps);
std::string sample_lines(const std::vector<SampleAnswer>& samples);  // JSON Lines

}  // namespace rankfold
