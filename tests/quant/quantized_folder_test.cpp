#include "quant/quantized_folder.h"

#include "rankfold/error.h"
#include "support/quantized_layers.h"
#include "support/temp_folder.h"

#include <algorithm>
#include <functional>
#include <limits>

namespace rankfold {
namespace {

using nlohmann::json;
using testing::expect_error;
using testing::QuantizedLayer;
using testing::TempFolder;

at::Tensor decoded(const PackedWeight& weight, int64_t begin, int64_t end, int64_t first, int64_t last) {
  at::Tensor values = at::empty({end - begin, last - first});
  ops::decode(weight, begin, end, first, last, values);
  return values;
}

QuantizedFolder open(const TempFolder& folder) {
  auto opened = QuantizedFolder::open(ModelFolder::open(folder.path()));
  if (!opened) throw std::runtime_error("not quantised");
  return *opened;
}

// Opens the folder of a layer and reads the layer.
PackedWeight read(const QuantizedLayer& layer, const TempFolder& folder) {
  layer.write(folder.path());
  return open(folder).weight("m", layer.values.size(0), layer.values.size(1));
}

TEST(QuantizedFolder, ReadsEveryFormatToTheBit) {
  for (const QuantizedLayer& layer : testing::quantized_layers()) {
    SCOPED_TRACE(layer.text + " " + layer.settings.dump());
    const TempFolder folder;
    layer.write(folder.path());
    const QuantizedFolder opened = open(folder);
    EXPECT_EQ(opened.text(), layer.text);
    EXPECT_EQ(opened.notes(), "");
    EXPECT_TRUE(opened.holds("m"));
    EXPECT_FALSE(opened.holds("lm_head"));
    std::vector<std::string> names = opened.tensors_of("m"), written;
    for (const auto& [name, tensor] : layer.tensors) written.push_back(name);
    std::sort(names.begin(), names.end());
    std::sort(written.begin(), written.end());
    EXPECT_EQ(names, written);
    const int64_t rows = layer.values.size(0), columns = layer.values.size(1);
    const PackedWeight weight = opened.weight("m", rows, columns);
    EXPECT_TRUE(decoded(weight, 0, rows, 0, columns).equal(layer.values));
    EXPECT_TRUE(decoded(weight, 3, 5, 7, columns - 1).equal(layer.values.slice(0, 3, 5).slice(1, 7, columns - 1)));
    EXPECT_GE(weight.bytes(), weight.codes.numel());
  }
}

TEST(QuantizedFolder, SourceDtype) {
  const auto source = [](QuantizedLayer layer, const char* dtype) {
    const TempFolder folder;
    layer.write(folder.path());
    json config = json::parse(layer.config());
    config.erase("torch_dtype");
    if (dtype) config["dtype"] = dtype;
    folder.write("config.json", config.dump());
    return open(folder).source_dtype();
  };
  EXPECT_EQ(source(testing::table_layer({.dtype = "float16"}), "float32"), at::kHalf);
  EXPECT_EQ(source(testing::gptq_layer({}), "bfloat16"), at::kBFloat16);
  EXPECT_EQ(source(testing::gptq_layer({}), nullptr), at::kHalf);
  EXPECT_EQ(source(testing::packed_layer({}), nullptr), at::kBFloat16);
  EXPECT_EQ(source(testing::rows_layer(), nullptr), at::kFloat);
}

TEST(QuantizedFolder, WhatIsNotQuantised) {
  const TempFolder folder;
  write_tensor_file(folder / "model.safetensors", {{"m.weight", at::ones({2, 2})}});
  for (const char* config : {"{}", R"({"quantization_config": null})"}) {
    folder.write("config.json", config);
    EXPECT_FALSE(QuantizedFolder::open(ModelFolder::open(folder.path())));
  }
  folder.write("config.json", testing::gptq_layer({}).config());
  expect_error<UserError>(
      [&] { open(folder); },
      "config.json: quantization_config: expected layers that are stored as gptq has them, got none");
  // A layer that config.json does not leave out, and that is plain.
  QuantizedLayer layer = testing::block_layer(16, 16, 16);
  layer.set("n.weight", at::ones({2, 2}));
  layer.write(folder.path());
  EXPECT_FALSE(open(folder).holds("n"));
}

TEST(QuantizedFolder, LayersOfSeveralKinds) {
  const TempFolder folder;
  QuantizedLayer layer = testing::packed_layer({});
  const QuantizedLayer other = testing::fp8_layer("", testing::float_settings("channel"), {12, 1});
  for (const auto& [name, tensor] : other.tensors) layer.set("n" + name.substr(1), tensor);
  const QuantizedLayer third = testing::packed_layer({.bits = 8, .group = 0});
  for (const auto& [name, tensor] : third.tensors) layer.set("o" + name.substr(1), tensor);
  json& groups = layer.settings["config_groups"];
  groups["group_1"] = other.settings["config_groups"]["group_0"];
  groups["group_1"]["format"] = "float-quantized";
  groups["group_2"] = third.settings["config_groups"]["group_0"];
  groups["group_3"] = {{"targets", {"re:.*"}}, {"weights", nullptr}};
  layer.write(folder.path());
  const QuantizedFolder opened = open(folder);
  EXPECT_EQ(opened.text(), "compressed-tensors 4 bits in groups of 32 and fp8 by row and 8 bits by row");
  const auto values = [&](const char* name, const at::Tensor& expected) {
    const int64_t rows = expected.size(0), columns = expected.size(1);
    return decoded(opened.weight(name, rows, columns), 0, rows, 0, columns);
  };
  EXPECT_TRUE(values("m", layer.values).equal(layer.values));
  EXPECT_TRUE(values("n", other.values).equal(other.values));
  EXPECT_TRUE(values("o", third.values).equal(third.values));
}

// Two groups of config.json may fit the same tensors. Where they mean other values nobody can choose.
TEST(QuantizedFolder, KindsThatFitAlike) {
  const TempFolder folder;
  QuantizedLayer layer = testing::packed_layer({.symmetric = false});
  layer.set("m.weight_zero_point", at::zeros({2, 3}, at::kInt));
  json& groups = layer.settings["config_groups"];
  groups["group_1"] = groups["group_0"];
  groups["group_1"]["weights"]["symmetric"] = true;
  layer.write(folder.path());
  const int64_t rows = layer.values.size(0), columns = layer.values.size(1);
  expect_error<UserError>([&] { open(folder).weight("m", rows, columns); },
                          "config.json: quantization_config: expected one kind of weights that fits m, got 4 bits in "
                          "groups of 32 with zero points and 4 bits in groups of 32");
  groups["group_1"] = groups["group_0"];
  layer.write(folder.path());
  EXPECT_EQ(open(folder).weight("m", rows, columns).rows, rows);
}

TEST(QuantizedFolder, BiasesOfZerosBelongToGptq) {
  const TempFolder folder;
  QuantizedLayer layer = testing::gptq_layer({});
  const auto has_bias = [&](const at::Tensor& bias) {
    layer.set("m.bias", bias);
    layer.write(folder.path());
    const std::vector<std::string> names = open(folder).tensors_of("m");
    return std::find(names.begin(), names.end(), "m.bias") != names.end();
  };
  EXPECT_TRUE(has_bias(at::zeros({24}, at::kHalf)));
  EXPECT_FALSE(has_bias(at::ones({24}, at::kHalf)));
}

TEST(QuantizedFolder, UnknownKeysAreNamed) {
  const TempFolder folder;
  QuantizedLayer layer = testing::gptq_layer({});
  layer.settings.update({{"new_key", 1}, {"other", "x"}, {"nothing", nullptr}});
  layer.write(folder.path());
  EXPECT_EQ(open(folder).notes(),
            (folder / "config.json").string() + ": quantization_config.new_key, other: not known, and not used");
}

TEST(QuantizedFolder, RefusesSettings) {
  struct Case {
    QuantizedLayer layer;
    json changes;
    std::string line;
  };
  const QuantizedLayer gptq = testing::gptq_layer({}), awq = testing::awq_layer(24, 96, 32);
  const QuantizedLayer table = testing::table_layer({}), packed = testing::packed_layer({});
  const QuantizedLayer fp8 = testing::block_layer(16, 16, 16);
  const QuantizedLayer rows = testing::fp8_layer("", testing::float_settings("channel"), {12, 1});
  const QuantizedLayer modelopt = testing::fp8_layer("", {{"quant_method", "modelopt"}, {"quant_algo", "FP8"}}, {});
  const auto group = [](const json& weights) { return json{{"config_groups", {{"group_0", {{"weights", weights}}}}}}; };
  const std::vector<Case> cases = {
      {gptq, {{"quant_method", "hqq"}}, "quant_method: expected bitsandbytes, gptq, awq, fp8, fbgemm_fp8, compressed"},
      {gptq, {{"quant_method", nullptr}}, "quant_method: expected bitsandbytes, gptq"},
      {gptq, {{"quant_method", 4}}, "quant_method: expected a word, got 4"},
      {gptq, {{"bits", 3}}, "bits: expected 4 or 8, got 3"},
      {gptq, {{"bits", 2}}, "bits: expected 4 or 8, got 2"},
      {gptq, {{"bits", "4"}}, "bits: expected an integer, got \"4\""},
      {gptq, {{"group_size", 0}}, "group_size: expected a size, or -1, got 0"},
      {gptq, {{"group_size", 18446744073709551615ULL}}, "group_size: expected an integer, got 18446744073709551615"},
      {gptq, {{"checkpoint_format", "marlin"}}, "checkpoint_format: expected gptq or gptq_v2, got \"marlin\""},
      {gptq, {{"format", "gptq_v2"}}, "format: expected checkpoint_format's, got \"gptq_v2\""},
      {gptq, {{"is_marlin_format", true}}, "is_marlin_format: expected none (Marlin's layout is not read), got true"},
      {gptq, {{"pack_dtype", "int16"}}, "pack_dtype: expected int32, got \"int16\""},
      {gptq, {{"dynamic", {{"+:.*q_proj", {{"bits", 8}}}}}}, "dynamic: expected patterns that begin with -:"},
      {gptq, {{"desc_act", 1}}, "desc_act: expected true or false, got 1"},
      {awq, {{"version", "gemv"}}, "version: expected gemm, got \"gemv\""},
      {awq, {{"bits", 8}}, "bits: expected 4, got 8"},
      {awq, {{"zero_point", false}}, "zero_point: expected true, got false"},
      {table, {{"load_in_8bit", true}}, "load_in_4bit: expected either this or load_in_8bit, got true"},
      {table, {{"load_in_4bit", false}}, "load_in_4bit: expected either this or load_in_8bit, got false"},
      {table, {{"bnb_4bit_quant_type", "int4"}}, "bnb_4bit_quant_type: expected nf4 or fp4, got \"int4\""},
      {fp8, {{"fmt", "e5m2"}}, "fmt: expected e4m3, got \"e5m2\""},
      {fp8, {{"weight_block_size", {128}}}, "weight_block_size: expected two sizes, got [128]"},
      {fp8, {{"weight_block_size", {0, 128}}}, "weight_block_size: expected two sizes, got [0,128]"},
      {packed, {{"format", "nvfp4-pack-quantized"}}, "group_0.format: expected float-quantized, int-quantized, naive"},
      {packed, {{"kv_cache_scheme", {{"num_bits", 8}}}}, "kv_cache_scheme: expected none (quantised keys and values"},
      {packed, {{"sparsity_config", {{"format", "sparse-24-bitmask"}}}}, "sparsity_config: expected none (sparse and"},
      {packed, {{"transform_config", {{"config_groups", {{"a", 1}}}}}}, "transform_config: expected none (sparse and"},
      {packed, {{"quantization_status", "frozen"}}, "quantization_status: expected compressed, got \"frozen\""},
      {packed, {{"config_groups", 1}}, "config_groups: expected an object, got 1"},
      {packed, {{"config_groups", json::object()}}, "config_groups: expected a group with weights, got {}"},
      {packed, group({{"num_bits", 3}}), "config_groups.group_0.weights.num_bits: expected 4 or 8, got 3"},
      {packed, group({{"num_bits", 4}, {"type", "float"}}), "weights.type: expected int, got \"float\""},
      {packed, group({{"num_bits", 4}, {"dynamic", true}}),
       "weights.dynamic: expected none (weights have fixed scales)"},
      {packed, group({{"num_bits", 4}, {"strategy", "tensor_group"}}),
       "weights.strategy: expected tensor or channel or"},
      {packed, group({{"num_bits", 4}, {"strategy", "block"}, {"block_structure", {8, 8}}}),
       "strategy: expected tensor"},
      {rows, group({{"num_bits", 4}, {"type", "float"}}), "weights.num_bits: expected 8, got 4"},
      {rows, group({{"num_bits", 8}, {"type", "int"}}), "weights.type: expected float, got \"int\""},
      {rows, group({{"num_bits", 8}, {"type", "float"}, {"symmetric", false}}), "weights.symmetric: expected true"},
      {modelopt, {{"quant_algo", "NVFP4"}}, "quant_algo: expected fp8 or fp8_per_channel_per_token, got \"NVFP4\""},
      {modelopt, {{"quant_algo", nullptr}}, "quant_algo: expected FP8 or FP8_PER_CHANNEL_PER_TOKEN, got null"},
      {modelopt, {{"kv_cache_quant_algo", "FP8"}}, "kv_cache_quant_algo: expected none (quantised keys and values"},
  };
  for (const Case& one : cases) {
    SCOPED_TRACE(one.line);
    const TempFolder folder;
    QuantizedLayer layer = one.layer;
    layer.settings.update(one.changes);
    layer.write(folder.path());
    expect_error<UserError>([&] { open(folder); }, "config.json: quantization_config.");
    expect_error<UserError>([&] { open(folder); }, one.line);
  }
  const TempFolder folder;
  write_tensor_file(folder / "model.safetensors", {{"m.weight", at::ones({2, 2})}});
  folder.write("config.json", R"({"quantization_config": [4]})");
  expect_error<UserError>([&] { open(folder); }, "config.json: quantization_config: expected an object, got [4]");
}

TEST(QuantizedFolder, RefusesTensors) {
  using Change = std::function<void(QuantizedLayer&)>;
  struct Case {
    QuantizedLayer layer;
    Change change;
    std::string line;
  };
  const auto put = [](const char* name, const at::Tensor& value) -> Change {
    return [=](QuantizedLayer& layer) { layer.set(name, value); };
  };
  const auto drop = [](const char* name) -> Change { return [=](QuantizedLayer& layer) { layer.drop(name); }; };
  // One element becomes another number.
  const auto poison = [](const char* name, int64_t i, double x) -> Change {
    return [=](QuantizedLayer& layer) {
      layer[name] = layer[name].clone();
      layer[name].view(-1)[i] = x;
    };
  };
  const auto state = [](const char* text) -> Change {
    return [=](QuantizedLayer& layer) {
      layer.set("m.weight.quant_state.bitsandbytes__nf4", testing::bytes_of_text(text));
    };
  };
  const double nan = std::numeric_limits<double>::quiet_NaN(), inf = std::numeric_limits<double>::infinity();
  const QuantizedLayer gptq = testing::gptq_layer({}), acted = testing::gptq_layer({.desc_act = true});
  const QuantizedLayer awq = testing::awq_layer(24, 96, 32), rows = testing::rows_layer();
  const QuantizedLayer table = testing::table_layer({}), nested = testing::table_layer({.nested = true});
  const QuantizedLayer packed = testing::packed_layer({}), asymmetric = testing::packed_layer({.symmetric = false});
  const QuantizedLayer wide = testing::packed_layer({.symmetric = false, .has_wide_zeros = true});
  const QuantizedLayer indexed = testing::packed_layer({.has_groups = true}),
                       block = testing::block_layer(130, 200, 128);
  const QuantizedLayer fp8 = testing::fp8_layer("", testing::float_settings("channel"), {12, 1});
  const QuantizedLayer int8 = testing::int8_layer("channel");
  const std::string finite = "expected finite numbers, got others among them";
  const std::vector<Case> cases = {
      {gptq, drop("m.qzeros"), "no tensor 'm.qzeros'"},
      {gptq, drop("m.scales"), "no tensor 'm.scales'"},
      {acted, drop("m.g_idx"), "m.qweight: expected .g_idx beside it, as desc_act in config.json says, got nothing"},
      {gptq, put("m.qweight", at::zeros({10, 23}, at::kInt)), "m.qweight: expected I32 [10, 24], got I32 [10, 23]"},
      {gptq, put("m.qweight", at::zeros({10, 24})), "m.qweight: expected I32 [10, 24], got F32 [10, 24]"},
      {gptq, put("m.qzeros", at::zeros({2, 3}, at::kInt)), "m.qzeros: expected I32 [3, 3], got I32 [2, 3]"},
      {gptq, put("m.scales", at::ones({24, 3})), "m.scales: expected F32, F16 or BF16 [3, 24], got F32 [24, 3]"},
      {gptq, put("m.scales", at::ones({3, 24}, at::kInt)), "m.scales: expected F32, F16 or BF16 [3, 24], got I32"},
      {gptq, poison("m.scales", 71, inf), "m.scales: " + finite},
      {gptq, put("m.g_idx", at::zeros({81}, at::kInt)), "m.g_idx: expected I32 [80], got I32 [81]"},
      {gptq, poison("m.g_idx", 79, 3), "m.g_idx: expected groups in [0, 3), got 3 at 79"},
      {acted, poison("m.g_idx", 0, -1), "m.g_idx: expected groups in [0, 3), got -1 at 0"},
      {acted, poison("m.g_idx", 1, 2147483647), "m.g_idx: expected groups in [0, 3), got 2147483647 at 1"},
      {gptq, put("m.weight", at::ones({24, 80})), "m.weight: expected the weight once, got it packed, too"},
      {awq, put("m.qweight", at::zeros({96, 4}, at::kInt)), "m.qweight: expected I32 [96, 3], got I32 [96, 4]"},
      {awq, put("m.qzeros", at::zeros({3, 3}, at::kByte)), "m.qzeros: expected I32 [3, 3], got U8 [3, 3]"},
      {awq, poison("m.scales", 5, nan), "m.scales: " + finite},
      {rows, poison("m.SCB", 0, inf), "m.SCB: " + finite},
      {rows, put("m.SCB", at::ones({13})), "m.SCB: expected F32 [12], got F32 [13]"},
      {rows, put("m.weight", at::zeros({40, 12}, at::kChar)), "m.weight: expected I8 [12, 40], got I8 [40, 12]"},
      {rows, put("m.weight_format", at::ones({}, at::kByte)), "m.weight_format: expected 0 (rows), got another layout"},
      {table, drop("m.weight.absmax"), "no tensor 'm.weight.absmax'"},
      {table, drop("m.weight"), "no tensor 'm.weight'"},
      {table, put("m.weight", at::zeros({419, 1}, at::kByte)), "m.weight: expected U8 [420, 1], got U8 [419, 1]"},
      {table, put("m.weight", at::zeros({12, 35}, at::kChar)), "m.weight: expected U8 [420, 1], got I8 [12, 35]"},
      {table, put("m.weight.absmax", at::ones({13})), "m.weight.absmax: expected F32 [14], got F32 [13]"},
      {table, put("m.weight.absmax", at::zeros({14}, at::kByte)), "m.weight.absmax: expected F32 [14], got U8 [14]"},
      {table, poison("m.weight.absmax", 13, nan), "m.weight.absmax: " + finite},
      {table, put("m.weight.quant_map", at::ones({15})), "m.weight.quant_map: expected F32 [16], got F32 [15]"},
      {table, poison("m.weight.quant_map", 15, -inf), "m.weight.quant_map: " + finite},
      {nested, poison("m.weight.nested_quant_map", 255, nan), "m.weight.nested_quant_map: " + finite},
      {nested, poison("m.weight.nested_absmax", 0, nan), "m.weight.nested_absmax: " + finite},
      {nested, put("m.weight.nested_quant_map", at::ones({255})),
       "nested_quant_map: expected F32 [256], got F32 [255]"},
      {nested, put("m.weight.nested_absmax", at::ones({2})), "m.weight.nested_absmax: expected F32 [1], got F32 [2]"},
      {nested, put("m.weight.absmax", at::ones({14})), "m.weight.absmax: expected U8 [14], got F32 [14]"},
      {nested, state(R"({"quant_type":"nf4","blocksize":64,"dtype":"float32","shape":[12,70]})"),
       "bitsandbytes__nf4: nested_blocksize: expected a power of 2 in [32, 4096], got nothing"},
      {nested,
       state(R"({"quant_type":"nf4","blocksize":64,"dtype":"float32","shape":[12,70],"nested_blocksize":256,)"
             R"("nested_dtype":"float32","nested_offset":1e300})"),
       "nested_offset: expected a finite number, got 1e+300"},
      {nested,
       state(R"({"quant_type":"nf4","blocksize":64,"dtype":"float32","shape":[12,70],"nested_blocksize":256,)"
             R"("nested_dtype":"float16","nested_offset":0})"),
       "nested_dtype: expected float32, got \"float16\""},
      {table, state("{"), "m.weight.quant_state.bitsandbytes__nf4:1:2: "},
      {table, state("[]"), "m.weight.quant_state.bitsandbytes__nf4: expected an object, got []"},
      {table, state("{}"), "quant_type: expected \"nf4\", as the tensor's name says, got nothing"},
      {table, state(R"({"quant_type":"fp4"})"), "quant_type: expected \"nf4\", as the tensor's name says, got \"fp4\""},
      {table, state(R"({"quant_type":"nf4","blocksize":48})"),
       "blocksize: expected a power of 2 in [32, 4096], got 48"},
      {table, state(R"({"quant_type":"nf4","blocksize":16})"),
       "blocksize: expected a power of 2 in [32, 4096], got 16"},
      {table, state(R"({"quant_type":"nf4","blocksize":-64})"), "blocksize: expected a power of 2 in [32, 4096], got"},
      {table, state(R"({"quant_type":"nf4","blocksize":64.0})"), "blocksize: expected a power of 2 in [32, 4096], got"},
      {table, state(R"({"quant_type":"nf4","blocksize":64,"dtype":"int8"})"),
       "dtype: expected float32, bfloat16 or float16, got \"int8\""},
      {table, state(R"({"quant_type":"nf4","blocksize":64,"dtype":"float32","shape":[70,12]})"),
       "shape: expected [12, 70], got [70,12]"},
      {table, put("m.weight.quant_state.bitsandbytes__nf4", at::zeros({5000}, at::kByte)),
       "expected U8, at most 4096 bytes of JSON, got U8 [5000]"},
      {packed, drop("m.weight_shape"), "no tensor 'm.weight_shape'"},
      {packed, put("m.weight_shape", at::tensor({96, 12}, at::kLong)),
       "m.weight_shape: expected [12, 96], got [96, 12]"},
      {packed, put("m.weight_packed", at::zeros({12, 24}, at::kInt)), "weight_packed: expected I32 [12, 12], got I32"},
      {packed, put("m.weight_scale", at::ones({12, 4})),
       "weight_scale: expected F32, F16 or BF16 [12, 3], got F32 [12"},
      {packed, poison("m.weight_scale", 35, inf), "m.weight_scale: " + finite},
      {packed, put("m.weight_zero_point", at::ones({12, 3}, at::kChar)), "m.weight_zero_point: expected zeros, as"},
      {asymmetric, drop("m.weight_zero_point"), "no tensor 'm.weight_zero_point'"},
      {asymmetric, put("m.weight_zero_point", at::zeros({12, 3}, at::kInt)),
       "weight_zero_point: expected I32 [2, 3], got"},
      {wide, poison("m.weight_zero_point", 4, 8), "m.weight_zero_point: expected numbers in [-8, 8), got 8"},
      {indexed, poison("m.weight_g_idx", 95, 3), "m.weight_g_idx: expected groups in [0, 3), got 3 at 95"},
      {indexed, poison("m.weight_g_idx", 95, -2), "m.weight_g_idx: expected groups in [0, 3), got -2 at 95"},
      {block, put("m.weight_scale_inv", at::ones({1, 2})),
       "weight_scale_inv: expected F32, F16 or BF16 [2, 2], got F32"},
      {block, put("m.weight_scale_inv", at::ones({2, 2}, at::kDouble)), "expected F32, F16 or BF16 [2, 2], got F64"},
      {block, poison("m.weight_scale_inv", 3, nan), "m.weight_scale_inv: " + finite},
      {block, put("m.weight", at::ones({130, 200}, at::kByte)), "m.weight: expected F8_E4M3 [130, 200], got U8"},
      {fp8, put("m.weight_scale", at::ones({3})), "m.weight_scale: expected F32, F16 or BF16 [12, 1], got F32 [3]"},
      {fp8, put("m.weight_zero_point", at::ones({12, 1})), "m.weight_zero_point: expected zeros, as config.json says"},
      {int8, put("m.weight", testing::fp8_codes(12, 40)), "m.weight: expected I8 [12, 40], got F8_E4M3 [12, 40]"},
  };
  for (const Case& one : cases) {
    SCOPED_TRACE(one.line);
    const TempFolder folder;
    QuantizedLayer layer = one.layer;
    one.change(layer);
    const auto name_of_file = one.line.starts_with("no tensor") ? "" : "model.safetensors: ";
    expect_error<UserError>([&] { read(layer, folder); }, name_of_file);
    expect_error<UserError>([&] { read(layer, folder); }, one.line);
  }
  const TempFolder folder;
  expect_error<UserError>(
      [&] {
        table.write(folder.path());
        open(folder).weight("m", 70, 12);
      },
      "shape: expected [70, 12], got [12,70]");
  expect_error<UserError>(
      [&] {
        gptq.write(folder.path());
        open(folder).weight("m", 23, 80);
      },
      "m.qweight: expected a weight whose sides are multiples of 8, got [23, 80]");
}

}  // namespace
}  // namespace rankfold
