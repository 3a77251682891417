// The format of a base's linear layers in memory: as the folder stores them, or quantised while the folder is loaded.
#pragma once

#include "ops/packed_weight.h"
#include "rankfold/config.h"

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <optional>
#include <string>

namespace rankfold {

struct BaseStorage {
  Quantization type;
  bool is_nested = false;  // the scales of nf4 and fp4 are quantised to 8 bits
  bool has_head = false;   // lm_head is quantised, too

  bool operator==(const BaseStorage&) const = default;
};

// The format that the settings request; nullopt: as stored. Throws UserError where they contradict each other.
std::optional<BaseStorage> storage_of(const LoadConfig& config);
int64_t bits_of(Quantization type);                // 4 or 8
std::string text_of(const BaseStorage& storage);   // "nf4, nested scales, with lm_head"
std::string flags_of(const BaseStorage& storage);  // "--quantization_type nf4 --double_quantization"

// Quantises a floating-point matrix [N, K]. Throws UserError that names `file` and `tensor` where a value is not
// finite.
PackedWeight quantized(const at::Tensor& weight, const BaseStorage& storage, const std::filesystem::path& file,
                       const std::string& tensor);

}  // namespace rankfold
