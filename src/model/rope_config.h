// Rotary settings of config.json.
#pragma once

#include "model/architecture.h"
#include "model/config_reader.h"

namespace rankfold {

// Fills config.rope, and config.local_rope where the family has one. Sizes of heads must have been read.
void read_rope(const ConfigReader& reader, const Architecture& family, ModelConfig& config);

}  // namespace rankfold
