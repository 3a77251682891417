// What a run remembers between steps, and how it stands in files.
#pragma once

#include "rankfold/trainer.h"
#include "train/loss_scale.h"
#include "train/optimizer.h"
#include "train/schedule.h"

#include <nlohmann/json_fwd.hpp>

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

namespace rankfold {

// Order, dropout and learning rate are functions of (seed, step), so the step is also the cursor and the state of every
// random number.
struct RunState {
  int64_t step = 0;
  int64_t optimizer_steps = 0;  // less than step where steps were skipped
  double epoch = 0;
  int64_t tokens_seen = 0;
  double loss_sum = 0;  // of the steps since the last log row
  int64_t loss_count = 0;
  double grad_norm = 0;  // of the last step that counted
  int64_t skipped = 0;
  int skipped_in_a_row = 0;
  LossScale loss_scale = {};
  std::vector<LogRow> log;
};

// What must be the same for a run to go on: name -> value.
nlohmann::json identity_of(const CausalLM& model, const Adapter& adapter, const Dataset& dataset,
                           const TrainConfig& config);

std::string run_state_json(const RunState& state, const nlohmann::json& identity, const TrainConfig& config);
// Error(kResumeRefused) names what differs and must not. `say` hears of settings that the run goes on with in place of
// those it was saved with, such as another learning rate.
RunState read_run_state(const std::filesystem::path& checkpoint, const nlohmann::json& identity,
                        const TrainConfig& config, const std::function<void(const std::string&)>& say);

void save_optimizer(const std::filesystem::path& folder, const Adapter& adapter, const AdamW& optimizer);
void load_optimizer(const std::filesystem::path& folder, const Adapter& adapter, AdamW& optimizer);

std::string trainer_state_json(const RunState& state, const TrainConfig& config, const StepPlan& plan);
std::string log_line(const LogRow& row);
std::string log_lines(const std::vector<LogRow>& rows);

}  // namespace rankfold
