// One linear layer, "m", in every format of quantised folders, and its values: written with plain loops, for tests and as
// seeds of the fuzzer.
#pragma once

#include "rankfold/tensor_file.h"

#include <ATen/ATen.h>
#include <nlohmann/json.hpp>

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

namespace rankfold::testing {

struct QuantizedLayer {
  std::string text;         // what QuantizedFolder says
  nlohmann::json settings;  // quantization_config
  std::vector<std::pair<std::string, at::Tensor>> tensors;
  at::Tensor values;  // fp32 [rows, columns]

  void set(const std::string& name, const at::Tensor& value) {
    for (auto& [key, tensor] : tensors)
      if (key == name) {
        tensor = value;
        return;
      }
    tensors.emplace_back(name, value);
  }
  void drop(const std::string& name) {
    std::erase_if(tensors, [&](const auto& each) { return each.first == name; });
  }
  at::Tensor& operator[](const std::string& name) {
    for (auto& [key, tensor] : tensors)
      if (key == name) return tensor;
    throw std::out_of_range(name);
  }
  std::string config() const {
    return nlohmann::json{{"torch_dtype", "bfloat16"}, {"quantization_config", settings}}.dump();
  }
  void write(const std::filesystem::path& folder) const {
    std::ofstream(folder / "config.json") << config();
    write_tensor_file(folder / "model.safetensors", tensors);
  }
};

// Integers in [0, count), the same ones for a seed.
inline at::Tensor numbers_below(int64_t count, at::IntArrayRef shape, uint64_t seed) {
  at::Tensor numbers = at::empty(shape, at::kInt);
  for (int64_t i = 0; i < numbers.numel(); ++i) {
    seed = seed * 6364136223846793005ULL + 1442695040888963407ULL;
    numbers.data_ptr<int32_t>()[i] = static_cast<int32_t>((seed >> 33) % static_cast<uint64_t>(count));
  }
  return numbers;
}
// Of both signs, none of them 0.
inline at::Tensor scales_of_shape(at::IntArrayRef shape, uint64_t seed, at::ScalarType dtype = at::kFloat) {
  return ((numbers_below(997, shape, seed).to(at::kFloat) - 498.5) / 3000).to(dtype);
}

// Words along `dim`, the first code in the lowest bits; what is missing from the last word is 0.
inline at::Tensor in_words(const at::Tensor& codes, int bits, int64_t dim) {
  const int64_t per_word = 32 / bits;
  std::vector<int64_t> shape = codes.sizes().vec();
  shape[static_cast<size_t>(dim)] = (codes.size(dim) + per_word - 1) / per_word;
  at::Tensor words = at::zeros(shape, at::kInt);
  for (int64_t i = 0; i < codes.size(0); ++i)
    for (int64_t j = 0; j < codes.size(1); ++j) {
      const int64_t along = dim == 0 ? i : j;
      int32_t& word =
          words.data_ptr<int32_t>()[(dim == 0 ? i / per_word : i) * words.size(1) + (dim == 0 ? j : j / per_word)];
      const auto code = static_cast<uint32_t>(codes.data_ptr<int32_t>()[i * codes.size(1) + j]);
      word = static_cast<int32_t>(static_cast<uint32_t>(word) | code << (bits * (along % per_word)));
    }
  return words;
}
// Within each word of 8, the columns in the order 0 2 4 6 1 3 5 7.
inline at::Tensor in_awq_order(const at::Tensor& codes) {
  return codes.view({codes.size(0), -1, 8}).index_select(2, at::tensor({0, 2, 4, 6, 1, 3, 5, 7})).view(codes.sizes());
}

// (codes - zeros) * scales, of the group of each column, in the dtype of the scales.
inline at::Tensor grouped_values(const at::Tensor& codes, const at::Tensor& zeros, const at::Tensor& scales,
                                 const at::Tensor& group_of) {
  const at::Tensor group = group_of.to(at::kLong), of_dtype = scales.index_select(1, group);
  return ((codes - zeros.index_select(1, group)).to(at::kFloat) * of_dtype.to(at::kFloat))
      .to(scales.scalar_type())
      .to(at::kFloat);
}
inline at::Tensor regular_groups(int64_t columns, int64_t group) {
  return at::arange(columns, at::kInt).floor_divide(group).to(at::kInt);
}

struct GptqShape {
  int bits = 4;
  int64_t rows = 24, columns = 80, group = 32;
  bool desc_act = false, is_v2 = false;
  at::ScalarType dtype = at::kHalf;
};
inline QuantizedLayer gptq_layer(const GptqShape& s) {
  const int64_t group = s.group == -1 ? s.columns : s.group, groups = (s.columns + group - 1) / group;
  const int64_t count = int64_t{1} << s.bits;
  const at::Tensor codes = numbers_below(count, {s.rows, s.columns}, 1);
  const at::Tensor zeros = numbers_below(count, {s.rows, groups}, 2);
  const at::Tensor scales = scales_of_shape({s.rows, groups}, 3, s.dtype);
  const at::Tensor group_of = s.desc_act ? numbers_below(groups, {s.columns}, 4) : regular_groups(s.columns, group);
  const at::Tensor stored = s.is_v2 ? zeros : (zeros - 1).bitwise_and(count - 1);
  QuantizedLayer layer;
  layer.text = "gptq " + std::to_string(s.bits) + " bits " +
               (s.group == -1 ? "by row" : "in groups of " + std::to_string(s.group));
  layer.settings = {{"quant_method", "gptq"}, {"bits", s.bits}, {"group_size", s.group},
                    {"desc_act", s.desc_act}, {"sym", false},   {"checkpoint_format", s.is_v2 ? "gptq_v2" : "gptq"}};
  layer.tensors = {{"m.qweight", in_words(codes.t().contiguous(), s.bits, 0)},
                   {"m.qzeros", in_words(stored.t().contiguous(), s.bits, 1)},
                   {"m.scales", scales.t().contiguous()},
                   {"m.g_idx", group_of}};
  layer.values = grouped_values(codes, zeros, scales, group_of);
  return layer;
}

inline QuantizedLayer awq_layer(int64_t rows, int64_t columns, int64_t group, at::ScalarType dtype = at::kHalf) {
  const int64_t groups = (columns + group - 1) / group;
  const at::Tensor codes = numbers_below(16, {rows, columns}, 5), zeros = numbers_below(16, {rows, groups}, 6);
  const at::Tensor scales = scales_of_shape({rows, groups}, 7, dtype);
  QuantizedLayer layer;
  layer.text = "awq 4 bits in groups of " + std::to_string(group);
  layer.settings = {
      {"quant_method", "awq"}, {"bits", 4}, {"group_size", group}, {"zero_point", true}, {"version", "gemm"}};
  layer.tensors = {{"m.qweight", in_words(in_awq_order(codes.t().contiguous()), 4, 1)},
                   {"m.qzeros", in_words(in_awq_order(zeros.t().contiguous()), 4, 1)},
                   {"m.scales", scales.t().contiguous()}};
  layer.values = grouped_values(codes, zeros, scales, regular_groups(columns, group));
  return layer;
}

struct PackedShape {
  int bits = 4;
  int64_t rows = 12, columns = 96, group = 32;  // 0: by row
  bool symmetric = true, has_groups = false, has_wide_zeros = false;
  at::ScalarType dtype = at::kBFloat16;
};
inline QuantizedLayer packed_layer(const PackedShape& s) {
  const int64_t group = s.group == 0 ? s.columns : s.group, groups = (s.columns + group - 1) / group;
  const int64_t count = int64_t{1} << s.bits;
  const at::Tensor codes = numbers_below(count, {s.rows, s.columns}, 8);
  const at::Tensor zeros =
      s.symmetric ? at::full({s.rows, groups}, count / 2, at::kInt) : numbers_below(count, {s.rows, groups}, 9);
  const at::Tensor scales = scales_of_shape({s.rows, groups}, 10, s.dtype);
  const at::Tensor group_of = s.has_groups ? numbers_below(groups, {s.columns}, 11) : regular_groups(s.columns, group);
  nlohmann::json weights = {{"num_bits", s.bits},
                            {"type", "int"},
                            {"symmetric", s.symmetric},
                            {"strategy", s.group == 0 ? "channel" : "group"},
                            {"group_size", s.group == 0 ? nlohmann::json() : nlohmann::json(s.group)},
                            {"dynamic", false}};
  QuantizedLayer layer;
  layer.text = "compressed-tensors " + std::to_string(s.bits) + " bits " +
               (s.group == 0 ? "by row" : "in groups of " + std::to_string(s.group));
  layer.settings = {{"quant_method", "compressed-tensors"},
                    {"format", "pack-quantized"},
                    {"quantization_status", "compressed"},
                    {"config_groups", {{"group_0", {{"targets", {"Linear"}}, {"weights", weights}}}}},
                    {"ignore", {"lm_head"}},
                    {"kv_cache_scheme", nullptr}};
  layer.tensors = {{"m.weight_packed", in_words(codes, s.bits, 1)},
                   {"m.weight_scale", scales},
                   {"m.weight_shape", at::tensor({s.rows, s.columns}, at::kLong)}};
  if (!s.symmetric)
    layer.set("m.weight_zero_point", s.has_wide_zeros ? (zeros - count / 2).to(at::kChar) : in_words(zeros, s.bits, 0));
  if (s.has_groups) layer.set("m.weight_g_idx", group_of);
  layer.values = grouped_values(codes, zeros, scales, group_of);
  return layer;
}

inline at::Tensor fp8_codes(int64_t rows, int64_t columns) {
  return ((numbers_below(2001, {rows, columns}, 12).to(at::kFloat) - 1000) / 7).to(at::kFloat8_e4m3fn);
}
// Scales [ceil(rows / scale_rows), ceil(columns / scale_columns)], repeated.
inline at::Tensor spread(const at::Tensor& scales, int64_t rows, int64_t columns, int64_t scale_rows,
                         int64_t scale_columns) {
  return scales.to(at::kFloat)
      .repeat_interleave(scale_rows, 0)
      .repeat_interleave(scale_columns, 1)
      .narrow(0, 0, rows)
      .narrow(1, 0, columns);
}
inline QuantizedLayer block_layer(int64_t rows, int64_t columns, int64_t block, at::ScalarType dtype = at::kFloat) {
  const at::Tensor codes = fp8_codes(rows, columns);
  const at::Tensor scales = scales_of_shape({(rows + block - 1) / block, (columns + block - 1) / block}, 13, dtype);
  QuantizedLayer layer;
  layer.text = "fp8 in blocks of " + std::to_string(block) + " x " + std::to_string(block);
  layer.settings = {{"quant_method", "fp8"},
                    {"fmt", "e4m3"},
                    {"activation_scheme", "dynamic"},
                    {"weight_block_size", {block, block}},
                    {"modules_to_not_convert", {"lm_head"}}};
  layer.tensors = {{"m.weight", codes}, {"m.weight_scale_inv", scales}};
  layer.values = codes.to(at::kFloat) * spread(scales, rows, columns, block, block);
  return layer;
}

inline nlohmann::json float_settings(const char* strategy) {
  return {{"quant_method", "compressed-tensors"},
          {"format", "float-quantized"},
          {"config_groups",
           {{"group_0",
             {{"targets", {"Linear"}},
              {"input_activations", {{"num_bits", 8}, {"type", "float"}, {"dynamic", true}, {"strategy", "token"}}},
              {"weights", {{"num_bits", 8}, {"type", "float"}, {"symmetric", true}, {"strategy", strategy}}}}}}}};
}
// Scales [rows, 1], [rows], [1], or [] of fp8.
inline QuantizedLayer fp8_layer(const std::string& text, const nlohmann::json& settings, at::IntArrayRef shape,
                                at::ScalarType dtype = at::kFloat) {
  constexpr int64_t kRows = 12, kColumns = 40;
  const at::Tensor codes = fp8_codes(kRows, kColumns), scales = scales_of_shape(shape, 14, dtype);
  QuantizedLayer layer;
  layer.text = text;
  layer.settings = settings;
  layer.tensors = {{"m.weight", codes}, {"m.weight_scale", scales}, {"m.input_scale", at::ones({1})}};
  layer.values = codes.to(at::kFloat) *
                 (scales.numel() == 1 ? scales.to(at::kFloat).view({1, 1}) : scales.to(at::kFloat).view({kRows, 1}));
  return layer;
}

inline QuantizedLayer int8_layer(const char* strategy, int64_t rows = 12, int64_t columns = 40) {
  const bool is_row = std::string(strategy) == "channel";
  const at::Tensor codes = numbers_below(256, {rows, columns}, 15) - 128;
  const at::Tensor scales = scales_of_shape(is_row ? at::IntArrayRef({rows, 1}) : at::IntArrayRef({1}), 16, at::kHalf);
  QuantizedLayer layer;
  layer.text = std::string("compressed-tensors int8") + (is_row ? " by row" : "");
  layer.settings = float_settings(strategy);
  layer.settings["format"] = "int-quantized";
  layer.settings["config_groups"]["group_0"]["weights"]["type"] = "int";
  layer.tensors = {{"m.weight", codes.to(at::kChar)}, {"m.weight_scale", scales}};
  layer.values = (codes.to(at::kFloat) * scales.to(at::kFloat)).to(at::kHalf).to(at::kFloat);
  return layer;
}

inline at::Tensor bytes_of_text(const std::string& text) {
  at::Tensor bytes = at::empty({static_cast<int64_t>(text.size())}, at::kByte);
  std::memcpy(bytes.data_ptr(), text.data(), text.size());
  return bytes;
}
struct TableShape {
  std::string type = "nf4";
  int64_t rows = 12, columns = 70, block = 64;
  bool nested = false;
  std::string dtype = "bfloat16";
  int64_t nested_block = 32;
};
inline QuantizedLayer table_layer(const TableShape& s) {
  const int64_t count = s.rows * s.columns, blocks = (count + s.block - 1) / s.block;
  const int64_t outer = (blocks + s.nested_block - 1) / s.nested_block;
  const at::Tensor nibbles = numbers_below(16, {count}, 17), table = scales_of_shape({16}, 18) * 6;
  at::Tensor codes = at::zeros({(count + 1) / 2, 1}, at::kByte);
  for (int64_t i = 0; i < count; ++i)
    codes.data_ptr<uint8_t>()[i / 2] |= static_cast<uint8_t>(nibbles.data_ptr<int32_t>()[i] << (i % 2 == 0 ? 4 : 0));
  QuantizedLayer layer;
  layer.text = "bitsandbytes " + s.type + (s.nested ? ", nested scales" : "");
  layer.settings = {{"quant_method", "bitsandbytes"},
                    {"load_in_4bit", true},
                    {"load_in_8bit", false},
                    {"bnb_4bit_quant_type", s.type},
                    {"bnb_4bit_use_double_quant", s.nested},
                    {"llm_int8_skip_modules", {"lm_head"}}};
  layer.tensors = {{"m.weight", codes}, {"m.weight.quant_map", table}};
  nlohmann::json state = {
      {"quant_type", s.type}, {"blocksize", s.block}, {"dtype", s.dtype}, {"shape", {s.rows, s.columns}}};
  at::Tensor absmax = scales_of_shape({blocks}, 19);
  if (s.nested) {
    const at::Tensor inner = numbers_below(256, {blocks}, 20), map = scales_of_shape({256}, 21) * 6;
    const at::Tensor scale = scales_of_shape({outer}, 22);
    layer.set("m.weight.absmax", inner.to(at::kByte));
    layer.set("m.weight.nested_absmax", scale);
    layer.set("m.weight.nested_quant_map", map);
    state.update({{"nested_blocksize", s.nested_block}, {"nested_dtype", "float32"}, {"nested_offset", 0.03125}});
    absmax = map.index_select(0, inner.to(at::kLong)) * scale.repeat_interleave(s.nested_block).narrow(0, 0, blocks);
    absmax = absmax + 0.03125;
  } else {
    layer.set("m.weight.absmax", absmax);
  }
  layer.set("m.weight.quant_state.bitsandbytes__" + s.type, bytes_of_text(state.dump()));
  const at::ScalarType dtype = s.dtype == "bfloat16" ? at::kBFloat16 : s.dtype == "float16" ? at::kHalf : at::kFloat;
  layer.values = (table.index_select(0, nibbles.to(at::kLong)) * absmax.repeat_interleave(s.block).narrow(0, 0, count))
                     .to(dtype)
                     .to(at::kFloat)
                     .view({s.rows, s.columns});
  return layer;
}

inline QuantizedLayer rows_layer(int64_t rows = 12, int64_t columns = 40) {
  const at::Tensor codes = numbers_below(256, {rows, columns}, 23) - 128, scales = scales_of_shape({rows}, 24).abs();
  QuantizedLayer layer;
  layer.text = "bitsandbytes int8";
  layer.settings = {{"quant_method", "bitsandbytes"}, {"load_in_8bit", true}, {"llm_int8_threshold", 6.0}};
  layer.tensors = {{"m.weight", codes.to(at::kChar)}, {"m.SCB", scales}, {"m.weight_format", at::zeros({}, at::kByte)}};
  layer.values = codes.to(at::kFloat) * scales.view({rows, 1}) * at::full({1}, 7.874015718698502e-3f);
  return layer;
}

inline std::vector<QuantizedLayer> quantized_layers() {
  const nlohmann::json fbgemm = {{"quant_method", "fbgemm_fp8"}, {"activation_scale_ub", 1200.0}};
  const nlohmann::json modelopt = {
      {"quant_method", "modelopt"}, {"quant_algo", "FP8"}, {"producer", {{"name", "modelopt"}}}};
  nlohmann::json whole = block_layer(16, 16, 16).settings;
  whole["weight_block_size"] = nullptr;
  QuantizedLayer tensor_scale = fp8_layer("fp8", whole, {}, at::kBFloat16);
  tensor_scale.set("m.weight_scale_inv", tensor_scale["m.weight_scale"]);
  tensor_scale.drop("m.weight_scale");
  QuantizedLayer called_float = table_layer({.columns = 64});
  called_float.set("m.weight", called_float["m.weight"].flatten().view(at::kBFloat16).view({-1, 1}));
  QuantizedLayer unused_groups = packed_layer({});
  unused_groups.set("m.weight_g_idx", at::full({96}, -1, at::kInt));
  QuantizedLayer no_index = gptq_layer({});
  no_index.drop("m.g_idx");
  return {table_layer({}),
          table_layer({.rows = 5, .columns = 13, .block = 32, .dtype = "float32"}),
          table_layer({.type = "fp4", .rows = 33, .columns = 67, .nested = true, .dtype = "float16"}),
          table_layer({.rows = 40, .columns = 128, .nested = true, .nested_block = 64}),
          called_float,
          rows_layer(),
          gptq_layer({}),
          gptq_layer({.bits = 8, .is_v2 = true}),
          gptq_layer({.desc_act = true, .dtype = at::kBFloat16}),
          gptq_layer({.bits = 8, .desc_act = true}),
          gptq_layer({.group = -1, .dtype = at::kFloat}),
          gptq_layer({.rows = 200, .columns = 1096, .group = 128}),
          no_index,
          awq_layer(24, 96, 32),
          awq_layer(168, 333, 128, at::kFloat),
          packed_layer({}),
          packed_layer({.bits = 8, .group = 0, .dtype = at::kHalf}),
          packed_layer({.columns = 90, .group = 45}),
          packed_layer({.columns = 91, .symmetric = false}),
          packed_layer({.bits = 8, .rows = 13, .symmetric = false}),
          packed_layer({.symmetric = false, .has_wide_zeros = true}),
          packed_layer({.has_groups = true, .dtype = at::kFloat}),
          unused_groups,
          block_layer(130, 200, 128),
          block_layer(48, 40, 16, at::kBFloat16),
          tensor_scale,
          fp8_layer("fbgemm_fp8 by row", fbgemm, {12, 1}),
          fp8_layer("modelopt fp8", modelopt, {}),
          fp8_layer("compressed-tensors fp8 by row", float_settings("channel"), {12, 1}, at::kBFloat16),
          fp8_layer("compressed-tensors fp8 by row", float_settings("channel"), {12}),
          fp8_layer("compressed-tensors fp8", float_settings("tensor"), {1}),
          int8_layer("channel"),
          int8_layer("tensor")};
}

}  // namespace rankfold::testing
