// The model card of a run: README.md beside its checkpoints and its result, for people and for Hugging Face's tools.
// Equal runs have equal cards: no dates, no speeds, nothing of the machine.
#pragma once

#include "rankfold/trainer.h"
#include "train/evaluation.h"
#include "train/lineage.h"
#include "train/stepper.h"

#include <nlohmann/json_fwd.hpp>

#include <string>
#include <vector>

namespace rankfold {

// The contents of a card. All references must be valid during the call.
struct CardFacts {
  const Stepper& steps;
  int64_t step_of_values;  // the step of the values beside the card; for a result perhaps the best step
  const TrainConfig& config;
  const std::vector<LogRow>& rows;
  const Best& best;
  const nlohmann::json& identity;  // identity_of()
  const RunDescription& run;
  const Lineage& lineage;
};

// YAML front matter as PEFT's create_or_update_model_card writes it, then sections under the headings of Hugging Face's
// template, all of them filled; signed (core/card_file.h).
std::string model_card(const CardFacts& facts);

}  // namespace rankfold
