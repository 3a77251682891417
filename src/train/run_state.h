// What a run remembers between steps, and how it stands in files.
#pragma once

#include "rankfold/trainer.h"
#include "train/optimizer.h"
#include "train/schedule.h"
#include "train/stepper.h"

#include <nlohmann/json_fwd.hpp>

#include <filesystem>
#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace rankfold {

// Rows so far, and whether the callbacks of the last step, which may add some, are still to be called.
struct RunLog {
  std::vector<LogRow> rows;
  bool callbacks_are_due = false;
};

// What must be the same for a run to go on: name -> value. Reads every weight of the base; `stop` as in base_checksum().
nlohmann::json identity_of(const CausalLM& model, const Adapter& adapter, const Dataset& dataset,
                           const TrainConfig& config, const Stop& stop = {});

std::string run_state_json(const StepState& state, const RunLog& log, const nlohmann::json& identity,
                           const TrainConfig& config);
// Error(kResumeRefused) names what differs and must not. `say` hears of settings that the run goes on with in place of
// those it was saved with, such as another learning rate, and of switches of the environment that change its numbers.
std::pair<StepState, RunLog> read_run_state(const std::filesystem::path& checkpoint, nlohmann::json identity,
                                            const CausalLM& model, const TrainConfig& config,
                                            const std::function<void(const std::string&)>& say);

void save_optimizer(const std::filesystem::path& folder, const Adapter& adapter, const AdamW& optimizer);
void load_optimizer(const std::filesystem::path& folder, const Adapter& adapter, AdamW& optimizer);

std::string trainer_state_json(const StepState& state, const std::vector<LogRow>& log, const TrainConfig& config,
                               const StepPlan& plan);

}  // namespace rankfold
