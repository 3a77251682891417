// config.json of a model folder, checked.
#pragma once

#include "io/model_folder.h"
#include "rankfold/causal_lm.h"

namespace rankfold {

// Knows the spellings of transformers 4 and 5. Throws UserError "FOLDER/config.json: KEY: expected ..., got ..." for a
// value of the wrong type or range and for a setting that would change the maths in a way we do not follow.
ModelConfig read_model_config(const ModelFolder& folder);

// Whether config.json, or where it does not say so the family's default, ties the head to the embedding.
bool ties_embeddings(const ModelFolder& folder);

int64_t rotary_features(const ModelConfig& config);  // features of a head that positions turn

}  // namespace rankfold
