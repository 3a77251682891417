// config.json of a model folder, checked.
#pragma once

#include "io/model_folder.h"
#include "rankfold/causal_lm.h"

namespace rankfold {

// Reads the keys of transformers 4 and 5. Throws UserError "FOLDER/config.json: KEY: expected ..., got ..." for a value
// of the wrong type or range, and for a setting that asks for a computation which is not supported.
ModelConfig read_model_config(const ModelFolder& folder);

// Whether the head is tied to the embedding: by config.json, else by the family's default.
bool ties_embeddings(const ModelFolder& folder);

int64_t rotary_features(const ModelConfig& config);  // features of a head that get rotary positions

}  // namespace rankfold
