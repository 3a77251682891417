#include "quant/quantization_config.h"

#include "core/check.h"
#include "core/json.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cctype>
#include <cstring>
#include <initializer_list>
#include <set>

namespace rankfold {
namespace {

using nlohmann::json;

constexpr int64_t kLargestGroup = int64_t{1} << 31;
constexpr const char* kMethods = "bitsandbytes, gptq, awq, fp8, fbgemm_fp8, compressed-tensors or modelopt";

// The keys of one object, with the line that says what is wrong with one.
class Settings {
 public:
  Settings(const json& object, std::string place) : object_(object), place_(std::move(place)) {}

  const json& at(const std::string& key) const {
    static const json none;
    asked_.insert(key);
    const auto found = object_.find(key);
    return found == object_.end() ? none : *found;
  }
  [[noreturn]] void refuse(const std::string& key, const std::string& expected) const {
    fail(place_, key, ": expected ", expected, ", got ", object_.contains(key) ? brief(at(key)) : "nothing");
  }
  bool flag(const std::string& key, bool fallback) const {
    const json& value = at(key);
    if (value.is_null()) return fallback;
    if (!value.is_boolean()) refuse(key, "true or false");
    return value.get<bool>();
  }
  int64_t integer(const std::string& key, int64_t fallback) const {
    const json& value = at(key);
    if (value.is_null()) return fallback;
    if (value.is_number_unsigned() && value.get<uint64_t>() > static_cast<uint64_t>(kLargestGroup))
      refuse(key, "an integer");
    if (!value.is_number_integer()) refuse(key, "an integer");
    return value.get<int64_t>();
  }
  // In lower case; "" where there is none.
  std::string word(const std::string& key) const {
    const json& value = at(key);
    if (value.is_null()) return "";
    if (!value.is_string()) refuse(key, "a word");
    std::string text = value.get<std::string>();
    for (char& c : text) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    return text;
  }
  // Refuses a word that is not in the list; absent is in it.
  std::string word_of(const std::string& key, std::initializer_list<const char*> words) const {
    const std::string text = word(key);
    if (!text.empty() && std::find(words.begin(), words.end(), text) == words.end()) {
      std::string list;
      for (const char* each : words) list += (list.empty() ? "" : " or ") + std::string(each);
      refuse(key, list);
    }
    return text;
  }
  // Refuses what is neither absent nor empty.
  void no(const std::string& key, const char* why) const {
    const json& value = at(key);
    if (!value.is_null() && !((value.is_object() || value.is_array()) && value.empty()) && value != json(false))
      refuse(key, std::string("none (") + why + ")");
  }
  Settings inner(const std::string& key) const {
    const json& value = at(key);
    if (!value.is_object()) refuse(key, "an object");
    return {value, place_ + key + "."};
  }
  // Have no effect on the values of the weights.
  void ignore(std::initializer_list<const char*> keys) const { asked_.insert(keys.begin(), keys.end()); }
  const json& object() const { return object_; }

  std::string unknown() const {
    constexpr size_t kMost = 5;
    std::string names;
    size_t count = 0;
    for (const auto& [key, value] : object_.items())
      if (!asked_.contains(key) && !value.is_null() && ++count <= kMost) names += (names.empty() ? "" : ", ") + key;
    if (count > kMost) names += join(" and ", count - kMost, " more");
    return names.empty() ? "" : one_line(join(place_, names, ": not known, and not used"));
  }

 private:
  const json& object_;
  std::string place_;
  mutable std::set<std::string> asked_;
};

void parse_bitsandbytes(const Settings& settings, QuantizationConfig& config) {
  const bool in_4 = settings.flag("load_in_4bit", false), in_8 = settings.flag("load_in_8bit", false);
  if (in_4 == in_8) settings.refuse("load_in_4bit", "either this or load_in_8bit");
  settings.word_of("bnb_4bit_quant_type", {"nf4", "fp4"});
  settings.ignore({"_load_in_4bit", "_load_in_8bit", "bnb_4bit_compute_dtype", "bnb_4bit_quant_storage",
                   "bnb_4bit_use_double_quant", "llm_int8_enable_fp32_cpu_offload", "llm_int8_has_fp16_weight",
                   "llm_int8_skip_modules", "llm_int8_threshold"});
  config.schemes.push_back({.layout = in_4 ? Layout::table : Layout::rows, .bits = in_4 ? 4 : 8});
}

int64_t parse_group_size(const Settings& settings, const char* key, int64_t fallback) {
  const int64_t size = settings.integer(key, fallback);
  if (size != -1 && (size < 1 || size > kLargestGroup)) settings.refuse(key, "a size, or -1");
  return size;
}

Scheme grouped_scheme(Layout layout, int bits, int64_t group_size) {
  return {.layout = layout,
          .bits = bits,
          .grain = group_size == -1 ? Grain::row : Grain::group,
          .group_size = std::max<int64_t>(group_size, 0)};
}

void parse_gptq(const Settings& settings, QuantizationConfig& config) {
  const int64_t bits = settings.integer("bits", 0);
  if (bits != 4 && bits != 8) settings.refuse("bits", "4 or 8");
  std::string format = settings.word_of("checkpoint_format", {"gptq", "gptq_v2"});
  const std::string other = settings.word_of("format", {"gptq", "gptq_v2"});
  if (!format.empty() && !other.empty() && format != other) settings.refuse("format", "checkpoint_format's");
  if (format.empty()) format = other;
  settings.word_of("pack_dtype", {"int32"});
  settings.no("is_marlin_format", "Marlin's layout is not read");
  const json& dynamic = settings.at("dynamic");
  if (!dynamic.is_null() && !dynamic.is_object() && dynamic != json(false)) settings.refuse("dynamic", "an object");
  if (dynamic.is_object())  // "-:PATTERN" leaves modules as they are
    for (const auto& [pattern, changes] : dynamic.items())
      if (!pattern.starts_with("-:"))
        settings.refuse("dynamic", "patterns that begin with -: (layers with settings of their own are not read)");
  settings.ignore({"_name_or_path",
                   "act_group_aware",
                   "backend",
                   "batch_size",
                   "block_name_to_quantize",
                   "cache_block_outputs",
                   "damp_percent",
                   "damp_auto_increment",
                   "dataset",
                   "exllama_config",
                   "lm_head",
                   "max_input_length",
                   "meta",
                   "method",
                   "model_file_base_name",
                   "model_name_or_path",
                   "model_seqlen",
                   "module_name_preceding_first_block",
                   "modules_in_block_to_quantize",
                   "modules_to_not_convert",
                   "mse",
                   "pad_token_id",
                   "static_groups",
                   "sym",
                   "tokenizer",
                   "true_sequential",
                   "use_cuda_fp16",
                   "use_exllama",
                   "disable_exllama"});
  config.needs_groups = settings.flag("desc_act", false);
  config.has_lesser_zeros = format != "gptq_v2";
  config.schemes.push_back(
      grouped_scheme(Layout::gptq, static_cast<int>(bits), parse_group_size(settings, "group_size", 128)));
}

void parse_awq(const Settings& settings, QuantizationConfig& config) {
  const auto key = [&](const char* name, const char* other) { return settings.at(name).is_null() ? other : name; };
  const char* bits = key("bits", "w_bit");
  if (settings.integer(bits, 4) != 4) settings.refuse(bits, "4");
  if (!settings.flag("zero_point", true)) settings.refuse("zero_point", "true");
  for (const char* version : {"version", "format", "checkpoint_format"}) settings.word_of(version, {"gemm"});
  settings.word_of("pack_dtype", {"int32"});
  settings.no("dynamic", "layers with settings of their own are not read");
  settings.ignore({"backend",
                   "do_fuse",
                   "fuse_max_seq_len",
                   "modules_to_fuse",
                   "modules_to_not_convert",
                   "exllama_config",
                   "sym",
                   "desc_act",
                   "damp_percent",
                   "meta",
                   "lm_head",
                   "true_sequential",
                   "dataset",
                   "tokenizer",
                   "method",
                   "act_group_aware",
                   "batch_size",
                   "block_name_to_quantize",
                   "cache_block_outputs",
                   "max_input_length",
                   "model_seqlen",
                   "module_name_preceding_first_block",
                   "modules_in_block_to_quantize",
                   "pad_token_id"});
  const char* group = key("group_size", "q_group_size");
  config.schemes.push_back(grouped_scheme(Layout::awq, 4, parse_group_size(settings, group, 128)));
}

void parse_blocks(const Settings& settings, const char* key, Scheme& scheme) {
  const json& sizes = settings.at(key);
  const auto is_size = [](const json& x) {
    return x.is_number_unsigned() && x.get<uint64_t>() >= 1 &&
           x.get<uint64_t>() <= static_cast<uint64_t>(kLargestGroup);
  };
  if (!sizes.is_array() || sizes.size() != 2 || !is_size(sizes[0]) || !is_size(sizes[1]))
    settings.refuse(key, "two sizes");
  scheme.grain = Grain::block;
  scheme.block_rows = sizes[0].get<int64_t>(), scheme.block_columns = sizes[1].get<int64_t>();
}

void parse_fp8(const Settings& settings, QuantizationConfig& config) {
  Scheme scheme{.layout = Layout::scaled, .scale = ".weight_scale_inv"};
  settings.word_of("fmt", {"e4m3"});
  settings.word_of("scale_fmt", {"float", "ue8m0"});  // what the scales were rounded to
  settings.ignore(
      {"activation_scheme", "dequantize", "ignored_layers", "modules_to_convert", "modules_to_not_convert"});
  scheme.grain = Grain::tensor;
  if (!settings.at("weight_block_size").is_null()) parse_blocks(settings, "weight_block_size", scheme);
  config.schemes.push_back(scheme);
}

void parse_row_or_tensor(QuantizationConfig& config) {
  for (Grain grain : {Grain::row, Grain::tensor}) config.schemes.push_back({.layout = Layout::scaled, .grain = grain});
}

void parse_fbgemm(const Settings& settings, QuantizationConfig& config) {
  settings.ignore({"activation_scale_ub", "modules_to_not_convert"});
  parse_row_or_tensor(config);
}

void parse_modelopt(const Settings& settings, QuantizationConfig& config) {
  if (settings.word_of("quant_algo", {"fp8", "fp8_per_channel_per_token"}).empty())
    settings.refuse("quant_algo", "FP8 or FP8_PER_CHANNEL_PER_TOKEN");
  settings.no("kv_cache_quant_algo", "quantised keys and values are not read");
  settings.no("kv_cache_scheme", "quantised keys and values are not read");
  settings.ignore({"config_groups", "exclude_modules", "ignore", "producer"});
  parse_row_or_tensor(config);
}

// One of config_groups. It may leave weights as they are.
void parse_weight_group(const Settings& group, const std::string& folder_format, QuantizationConfig& config) {
  if (group.at("weights").is_null()) return;
  std::string format = group.word("format");
  if (format.empty()) format = folder_format;
  const Settings weights = group.inner("weights");
  const int64_t bits = weights.integer("num_bits", 8);
  const bool is_float = weights.word_of("type", {"int", "float"}) == "float";
  Scheme scheme{.layout = Layout::scaled, .bits = static_cast<int>(bits)};
  if (format == "pack-quantized") {
    scheme.layout = Layout::packed;
    if (is_float) weights.refuse("type", "int");
    if (bits != 4 && bits != 8) weights.refuse("num_bits", "4 or 8");
  } else if (format == "float-quantized" || format == "int-quantized" || format == "naive-quantized") {
    if (bits != 8) weights.refuse("num_bits", "8");
    if (format != "naive-quantized" && is_float != (format == "float-quantized"))
      weights.refuse("type", is_float ? "int" : "float");
    scheme.stored = is_float ? at::kFloat8_e4m3fn : at::kChar;
  } else {
    group.refuse("format", "float-quantized, int-quantized, naive-quantized or pack-quantized");
  }
  weights.no("dynamic", "weights have fixed scales");
  scheme.is_symmetric = weights.flag("symmetric", true);
  if (!scheme.is_symmetric && scheme.layout == Layout::scaled) weights.refuse("symmetric", "true");
  std::string strategy = weights.word_of("strategy", {"tensor", "channel", "group", "block"});
  if (strategy.empty()) strategy = weights.at("group_size").is_null() ? "tensor" : "group";
  if (strategy == "group") {
    const Scheme sized = grouped_scheme(scheme.layout, scheme.bits, parse_group_size(weights, "group_size", 0));
    scheme.grain = sized.grain, scheme.group_size = sized.group_size;
  } else if (strategy == "block") {
    if (!is_float) weights.refuse("strategy", "tensor, channel or group");
    parse_blocks(weights, "block_structure", scheme);
  } else {
    scheme.grain = strategy == "tensor" ? Grain::tensor : Grain::row;
  }
  config.schemes.push_back(scheme);
}

void parse_compressed_tensors(const Settings& settings, QuantizationConfig& config) {
  const std::string format = settings.word("format");
  settings.no("kv_cache_scheme", "quantised keys and values are not read");
  for (const char* key : {"sparsity_config", "transform_config"}) {
    const json& value = settings.at(key);
    // Writers leave the object where there is nothing to say in it.
    const bool says_nothing = value.is_object() && (value.value("format", json()) == json("dense") ||
                                                    value.value("config_groups", json(1)) == json::object());
    if (!says_nothing) settings.no(key, "sparse and transformed weights are not read");
  }
  settings.word_of("quantization_status", {"compressed"});
  settings.ignore({"global_compression_ratio", "ignore", "version", "run_compressed", "dequantize", "producer"});
  const Settings groups = settings.inner("config_groups");
  constexpr size_t kMostGroups = 64;
  if (groups.object().size() > kMostGroups) settings.refuse("config_groups", join("at most ", kMostGroups));
  for (const auto& [name, group] : groups.object().items()) parse_weight_group(groups.inner(name), format, config);
  if (config.schemes.empty()) settings.refuse("config_groups", "a group with weights");
}

}  // namespace

QuantizationConfig read_quantization_config(const ModelFolder& folder) {
  const std::string source = (folder.path() / "config.json").string() + ": ";
  const Settings all(folder.config(), source);
  const Settings settings = all.inner("quantization_config");
  QuantizationConfig config;
  config.method = settings.word("quant_method");
  // transformers' first folders of bitsandbytes do not say it.
  if (config.method.empty() && (settings.flag("load_in_4bit", false) || settings.flag("load_in_8bit", false)))
    config.method = "bitsandbytes";
  struct Method {
    const char* name;
    void (*read)(const Settings&, QuantizationConfig&);
  };
  constexpr Method kReaders[] = {{"bitsandbytes", parse_bitsandbytes},
                                 {"gptq", parse_gptq},
                                 {"awq", parse_awq},
                                 {"fp8", parse_fp8},
                                 {"fbgemm_fp8", parse_fbgemm},
                                 {"compressed-tensors", parse_compressed_tensors},
                                 {"modelopt", parse_modelopt}};
  for (const Method& method : kReaders) {
    if (config.method != method.name) continue;
    method.read(settings, config);
    config.notes = settings.unknown();
    return config;
  }
  settings.refuse("quant_method", kMethods);
}

std::string text_of(const Scheme& scheme) {
  const std::string bits =
      scheme.layout == Layout::scaled ? (scheme.stored == at::kChar ? "int8" : "fp8") : join(scheme.bits, " bits");
  switch (scheme.grain) {
    case Grain::tensor:
      return bits;
    case Grain::row:
      return bits + " by row";
    case Grain::group:
      return join(bits, " in groups of ", scheme.group_size);
    case Grain::block:
      return join(bits, " in blocks of ", scheme.block_rows, " x ", scheme.block_columns);
  }
  return bits;
}

}  // namespace rankfold
