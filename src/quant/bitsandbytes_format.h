// Writes bitsandbytes' tensors and settings, as transformers saves them.
#pragma once

#include "ops/packed_weight.h"
#include "quant/base_storage.h"

#include <nlohmann/json_fwd.hpp>

#include <string>
#include <utility>
#include <vector>

namespace rankfold {

// Returns the tensors of a layer's weight (nf4, fp4 or int8) under their names in a file; `name` ends in ".weight".
// `source`: the weight's dtype before quantisation.
std::vector<std::pair<std::string, at::Tensor>> bitsandbytes_tensors(const std::string& name,
                                                                     const PackedWeight& weight, Quantization type,
                                                                     at::ScalarType source);
// Returns the quantization_config of config.json. `kept`: modules that are not quantised.
nlohmann::json bitsandbytes_config(const BaseStorage& storage, at::ScalarType source,
                                   const std::vector<std::string>& kept);

}  // namespace rankfold
