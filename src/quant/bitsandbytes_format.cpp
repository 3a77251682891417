#include "quant/bitsandbytes_format.h"

#include "core/check.h"
#include "io/dtype.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <nlohmann/json.hpp>

#include <cstring>
#include <string_view>

namespace rankfold {
namespace {

// As Python writes it, byte for byte.
std::string state_text(const PackedWeight& weight, const char* type, at::ScalarType source) {
  std::string text = join("{\"quant_type\": \"", type, "\", \"blocksize\": ", weight.block, ", \"dtype\": \"",
                          model_dtype_name(source), "\", \"shape\": [", weight.rows, ", ", weight.columns, "]");
  if (weight.nested_codes.defined())
    text +=
        join(", \"nested_blocksize\": ", weight.nested_block, ", \"nested_dtype\": \"float32\", \"nested_offset\": ",
             nlohmann::json(static_cast<double>(weight.offset)).dump());
  return text + "}";
}

at::Tensor bytes_of(std::string_view text) {
  at::Tensor bytes = at::empty({static_cast<int64_t>(text.size())}, at::kByte);
  std::memcpy(bytes.mutable_data_ptr(), text.data(), text.size());
  return bytes;
}

}  // namespace

std::vector<std::pair<std::string, at::Tensor>> bitsandbytes_tensors(const std::string& name,
                                                                     const PackedWeight& weight, Quantization type,
                                                                     at::ScalarType source) {
  constexpr std::string_view kWeight = ".weight";
  RANKFOLD_CHECK(name.ends_with(kWeight), name, ": expected the name of a weight");
  if (type == Quantization::int8) {
    const std::string module = name.substr(0, name.size() - kWeight.size());
    return {{name, weight.codes},
            {module + ".SCB", weight.scale.flatten()},
            {module + ".weight_format", at::zeros({}, at::kByte)}};  // rows
  }
  const bool is_nf4 = type == Quantization::nf4;
  RANKFOLD_CHECK(is_nf4 || type == Quantization::fp4, name, ": bitsandbytes has nf4, fp4 and int8");
  const char* word = is_nf4 ? "nf4" : "fp4";
  std::vector<std::pair<std::string, at::Tensor>> tensors{{name, weight.codes.view({-1, 1})},
                                                          {name + ".quant_map", weight.table}};
  if (weight.nested_codes.defined()) {
    tensors.emplace_back(name + ".absmax", weight.nested_codes);
    tensors.emplace_back(name + ".nested_absmax", weight.scale);
    tensors.emplace_back(name + ".nested_quant_map", weight.nested_table);
  } else {
    tensors.emplace_back(name + ".absmax", weight.scale);
  }
  tensors.emplace_back(name + ".quant_state.bitsandbytes__" + word, bytes_of(state_text(weight, word, source)));
  return tensors;
}

nlohmann::json bitsandbytes_config(const BaseStorage& storage, at::ScalarType source,
                                   const std::vector<std::string>& kept) {
  const bool in_8 = storage.type == Quantization::int8;
  RANKFOLD_CHECK(in_8 || storage.type == Quantization::nf4 || storage.type == Quantization::fp4,
                 "bitsandbytes has nf4, fp4 and int8, not ", text_of(storage));
  return {{"quant_method", "bitsandbytes"},
          {"load_in_4bit", !in_8},
          {"load_in_8bit", in_8},
          {"_load_in_4bit", !in_8},
          {"_load_in_8bit", in_8},
          {"bnb_4bit_compute_dtype", model_dtype_name(source)},
          {"bnb_4bit_quant_storage", "uint8"},
          {"bnb_4bit_quant_type", storage.type == Quantization::nf4 ? "nf4" : "fp4"},
          {"bnb_4bit_use_double_quant", storage.is_nested},
          {"llm_int8_enable_fp32_cpu_offload", false},
          {"llm_int8_has_fp16_weight", false},
          {"llm_int8_skip_modules", kept.empty() && !storage.has_head ? nlohmann::json() : nlohmann::json(kept)},
          {"llm_int8_threshold", 6.0}};
}

}  // namespace rankfold
