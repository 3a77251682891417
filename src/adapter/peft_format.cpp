#include "adapter/peft_format.h"

#include "core/check.h"
#include "core/config.h"
#include "core/file.h"
#include "core/json.h"
#include "core/write.h"
#include "rankfold/tensor_file.h"

#include <ATen/ATen.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <cmath>
#include <set>

namespace rankfold {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;  // of a pattern the first entry that matches counts

namespace {

constexpr const char* kConfigName = "adapter_config.json";
constexpr std::string_view kPrefix = "base_model.model.", kA = ".lora_A.weight", kB = ".lora_B.weight",
                           kBase = ".base_layer.weight";

bool is_unset(const Json& value) {
  return value.is_null() || value == false || value == 0 || value == "" || (value.is_structured() && value.empty());
}

// Keys that say where an adapter is from or how it began, and nothing of what it computes. Those of an initialiser are
// among them, as init_lora_weights itself is looked at; those at the end are other trainers'.
constexpr const char* kWithoutMeaning[] = {"auto_mapping",   "base_model_name_or_path",
                                           "inference_mode", "megatron_core",
                                           "peft_version",   "qalora_group_size",
                                           "revision",       "runtime_config",
                                           "task_type",      "corda_config",
                                           "eva_config",     "loftq_config",
                                           "lora_ga_config", "lora_dtype",
                                           "lorap_lr_ratio", "merge_weights"};

// Of these the base's weights stay as they were. The others start from another base, which its folder does not hold.
constexpr const char* kInitialisers[] = {"gaussian", "eva", "orthogonal", "mica"};

template <class Names>
bool is_among(const Names& names, const std::string& name) {
  return std::find(std::begin(names), std::end(names), name) != std::end(names);
}

// Under its own name: an alias is another key, which PEFT does not read.
bool is_field(const Fields& fields, const std::string& key) {
  return std::any_of(fields.begin(), fields.end(), [&key](const Field& field) { return field.name == key; });
}

// Features of PEFT that change what an adapter computes and that we do not follow.
void refuse_foreign_features(const Json& config, const Fields& ours, const std::string& source) {
  const auto refuse = [&](const std::string& key, const Json& value, const std::string& expected) {
    fail(source, ": ", key, ": expected ", expected, ", got ", brief(value));
  };
  if (!config.contains("peft_type")) fail(source, ": peft_type: expected \"LORA\", got nothing");
  for (const auto& [key, value] : config.items()) {
    if (key == "peft_type") {
      if (value != "LORA") refuse(key, value, "\"LORA\" (no other is supported)");
    } else if (key == "init_lora_weights") {
      if (value.is_string() && !is_among(kInitialisers, value.get<std::string>()))
        refuse(key, value, "an adapter that was converted to plain LoRA");
    } else if (key == "layers_pattern") {
      if (!is_unset(value) && value != "layers" && value != Json::array({"layers"}))
        refuse(key, value, "\"layers\" (no other is supported)");
    } else if (key == "fan_in_fan_out") {
      if (!value.is_null() && !value.is_boolean()) refuse(key, value, "true or false");
    } else if (!is_unset(value) && !is_among(kWithoutMeaning, key) && !is_field(ours, key)) {
      refuse(key, value, "nothing (it is not supported)");
    }
  }
}

LoraConfig read_config(const Json& object, const std::string& source) {
  if (!object.is_object()) fail(source, ": expected an object, got ", brief(object));
  LoraConfig config;
  const Fields fields = fields_of(config);
  refuse_foreign_features(object, fields, source);
  read_fields(object, source, fields, /*unknown_is_error=*/false);
  return config;
}

// "medical and checkpoint-200": the sub-folders that hold an adapter; empty: none does.
std::string adapters_below(const fs::path& path) {
  constexpr size_t kMost = 5;
  StringList names;
  std::error_code error;
  for (fs::directory_iterator entry(path, error), end; !error && entry != end; entry.increment(error))
    if (what_stands_at(entry->path() / kConfigName) == "a file") names.push_back(entry->path().filename().string());
  std::sort(names.begin(), names.end());
  std::string text;
  for (size_t i = 0; i < names.size() && i < kMost; ++i) text += (i ? ", " : "") + names[i];
  return names.size() > kMost ? join(text, " and ", names.size() - kMost, " more") : text;
}

at::Tensor read_tensor(const TensorFile& file, const TensorInfo& info) {
  if (!at::isFloatingType(info.dtype) || info.shape.size() != 2)
    fail(file.path().string(), ": tensor '", info.name, "': expected a floating-point matrix, got ", info.dtype, " ",
         at::IntArrayRef(info.shape));
  at::Tensor tensor = file.tensor(info.name).to(at::kFloat, /*non_blocking=*/false, /*copy=*/true);
  if (!tensor.isfinite().all().item<bool>())
    fail(file.path().string(), ": tensor '", info.name, "': expected finite numbers, got NaN or infinity");
  return tensor;
}

// "base_model.model.X.lora_A.weight" -> X, and which of A, B and the base's weight it is.
std::pair<std::string, std::string_view> split_key(const std::string& key, const std::string& source) {
  for (const std::string_view suffix : {kA, kB, kBase})
    if (key.starts_with(kPrefix) && key.ends_with(suffix) && key.size() > kPrefix.size() + suffix.size())
      return {key.substr(kPrefix.size(), key.size() - kPrefix.size() - suffix.size()), suffix};
  fail(source, ": tensor '", key, "': expected base_model.model.MODULE.lora_A.weight or .lora_B.weight");
}

void check_pair(const AdapterFolder& folder, const std::string& module, const at::Tensor& a, const at::Tensor& b) {
  const std::string source = (folder.path / kAdapterName).string();
  for (const auto& [tensor, suffix] : {std::pair{a, kA}, std::pair{b, kB}})
    if (!tensor.defined()) fail(source, ": tensor '", kPrefix, module, suffix, "' is missing");
  if (a.size(0) != b.size(1))
    fail(source, ": module '", module, "': expected A and B of one rank, got A ", a.sizes(), " and B ", b.sizes());
}

void read_tensors(AdapterFolder& folder) {
  const TensorFile file = TensorFile::open(folder.path / kAdapterName);
  for (const TensorInfo& info : file.tensors()) {
    const auto [module, kind] = split_key(info.name, file.path().string());
    at::Tensor tensor = read_tensor(file, info);
    if (kind == kBase)
      folder.base_weights[module] = tensor;
    else
      (kind == kA ? folder.tensors[module].first : folder.tensors[module].second) = tensor;
  }
  if (folder.tensors.empty()) fail(file.path().string(), ": holds no adapter");
  for (const auto& [module, pair] : folder.tensors) check_pair(folder, module, pair.first, pair.second);
  for (const auto& [module, weight] : folder.base_weights)
    if (!folder.tensors.contains(module))
      fail(file.path().string(), ": tensor '", kPrefix, module, kBase, "' belongs to no adapted module");
}

// A whole number as PEFT's integers are written.
Json number(double value) {
  return value == std::floor(value) && std::abs(value) < 1e15 ? Json(static_cast<int64_t>(value)) : Json(value);
}

// As PEFT does, all-linear is written as what it stood for: readers that are no Hugging Face model would take the head.
Json target_names(const LoraConfig& config, const std::vector<std::pair<std::string, at::Tensor>>& tensors) {
  StringList list;
  if (const auto* text = std::get_if<std::string>(&config.target_modules)) {
    if (!is_all_linear(*text)) return *text;
    std::set<std::string> names;
    for (const auto& [key, tensor] : tensors) {
      const std::string module = split_key(key, kAdapterName).first;
      names.insert(module.substr(module.rfind('.') + 1));
    }
    list.assign(names.begin(), names.end());
  } else {
    list = std::get<StringList>(config.target_modules);
    std::sort(list.begin(), list.end());
  }
  return list;
}

Json excluded_names(const LoraConfig& config) {
  if (const auto* text = std::get_if<std::string>(&config.exclude_modules)) return text->empty() ? Json() : Json(*text);
  const auto& list = std::get<StringList>(config.exclude_modules);
  return list.empty() ? Json() : Json(list);
}

std::string config_text(const LoraConfig& config, const std::string& base_model,
                        const std::vector<std::pair<std::string, at::Tensor>>& tensors) {
  Json alphas = Json::object();
  for (const auto& [pattern, alpha] : config.alpha_pattern) alphas[pattern] = number(alpha);
  const Json layers = config.layers_to_transform.empty() ? Json() : Json(config.layers_to_transform);
  const Json object = {
      {"alpha_pattern", alphas},
      {"auto_mapping", nullptr},
      {"base_model_name_or_path", base_model},
      {"bias", config.bias},
      {"corda_config", nullptr},
      {"eva_config", nullptr},
      {"exclude_modules", excluded_names(config)},
      {"fan_in_fan_out", false},
      {"inference_mode", true},
      {"init_lora_weights", true},
      {"layer_replication", nullptr},
      {"layers_pattern", nullptr},
      {"layers_to_transform", layers},
      {"loftq_config", Json::object()},
      {"lora_alpha", number(config.lora_alpha)},
      {"lora_bias", false},
      {"lora_dropout", config.lora_dropout},
      {"megatron_config", nullptr},
      {"megatron_core", "megatron.core"},
      {"modules_to_save", nullptr},
      {"peft_type", "LORA"},
      {"qalora_group_size", 16},
      {"r", config.r},
      {"rank_pattern", config.rank_pattern},
      {"revision", nullptr},
      {"target_modules", target_names(config, tensors)},
      {"target_parameters", nullptr},
      {"task_type", "CAUSAL_LM"},
      {"trainable_token_indices", nullptr},
      {"use_dora", false},
      {"use_qalora", false},
      {"use_rslora", config.use_rslora},
  };
  return object.dump(2, ' ', /*ensure_ascii=*/true);
}

std::string readme_text(const LoraConfig& config, const std::string& base_model) {
  const std::string base = Json(base_model).dump();  // a JSON string is a YAML string
  return join("---\nbase_model: ", base, "\nlibrary_name: peft\npipeline_tag: text-generation\ntags:\n- lora\n---\n\n",
              "# LoRA adapter\n\nRank ", config.r, ", alpha ", config.lora_alpha, ", for ", base_model,
              ".\nTrained with Rankfold; loads with `peft.PeftModel.from_pretrained(base, folder)`.\n");
}

}  // namespace

AdapterFolder read_adapter_config(const fs::path& path) {
  if (const std::string kind = what_stands_at(path); kind != "a folder")
    fail(path.string(), ": expected an adapter folder, got ", kind);
  const std::string source = (path / kConfigName).string();
  if (what_stands_at(source) == "nothing")
    if (const std::string below = adapters_below(path); !below.empty())
      fail(path.string(), ": expected an adapter folder, got one without ", kConfigName, "; there is one in ", below,
           ": give that folder");
  AdapterFolder folder;
  folder.path = path;
  const Json object = read_ordered_json(source, kLargestConfig);
  folder.config = read_config(object, source);
  folder.fan_in_fan_out = object.value("fan_in_fan_out", Json()) == true;
  if (const auto base = object.find("base_model_name_or_path"); base != object.end() && base->is_string())
    folder.base_model = base->get<std::string>();
  return folder;
}

AdapterFolder read_adapter_folder(const fs::path& path) {
  AdapterFolder folder = read_adapter_config(path);
  if (what_stands_at(path / kAdapterName) == "nothing" && what_stands_at(path / "adapter_model.bin") == "a file")
    fail(path.string(), ": expected ", kAdapterName,
         ", got adapter_model.bin, a pickle, which may run code and is refused;"
         " load it with PEFT and save it again");
  read_tensors(folder);
  return folder;
}

std::vector<std::string> notes_on(const AdapterFolder& folder, const std::vector<LinearModule>& linears) {
  const std::string source = (folder.path / kConfigName).string();
  std::vector<std::string> notes;
  if (const StringList idle = idle_targets(folder.config, linears); !idle.empty())
    notes.push_back(one_line(join(source, ": target_modules: ", brief(Json(idle)),
                                  " match no linear layer of this model and are passed over")));
  if (folder.fan_in_fan_out)
    notes.push_back(source + ": fan_in_fan_out: true is passed over: no linear layer of this model is transposed");
  return notes;
}

std::vector<ModuleMatch> match_adapter(const AdapterFolder& folder, const std::vector<LinearModule>& linears) {
  const std::string source = (folder.path / kAdapterName).string();
  std::set<std::string> names;
  for (const LinearModule& module : linears) names.insert(module.name);
  for (const auto& [module, pair] : folder.tensors)
    if (!names.contains(module))
      fail(source, ": module '", module, "' is not in the base model", did_you_mean(nearest(module, names)));
  std::vector<ModuleMatch> matches;
  try {
    matches = match_modules(folder.config, linears, IdleEntries::kAllowed);
  } catch (const UserError& error) {
    fail((folder.path / kConfigName).string(), ": ", error.what());
  }
  for (const ModuleMatch& match : matches) {
    const LinearModule& module = match.module;
    const auto found = folder.tensors.find(module.name);
    if (found == folder.tensors.end())
      fail(source, ": module '", module.name, "': expected its tensors, as target_modules names it, got none");
    const auto& [stored_a, stored_b] = found->second;
    if (stored_a.size(0) != match.r)
      fail(source, ": module '", module.name, "': expected rank ", match.r, " as in ", kConfigName, ", got A ",
           stored_a.sizes(), " and B ", stored_b.sizes());
    const std::array<int64_t, 2> a{match.r, module.in_features}, b{module.out_features, match.r};
    if (stored_a.sizes() != at::IntArrayRef(a) || stored_b.sizes() != at::IntArrayRef(b))
      fail(source, ": module '", module.name, "': expected A ", at::IntArrayRef(a), " and B ", at::IntArrayRef(b),
           ", got ", stored_a.sizes(), " and ", stored_b.sizes());
    if (const auto base = folder.base_weights.find(module.name); base != folder.base_weights.end())
      if (base->second.size(0) != module.out_features || base->second.size(1) != module.in_features)
        fail(source, ": module '", module.name, "': expected a base weight of [", module.out_features, ", ",
             module.in_features, "], got ", base->second.sizes());
    names.erase(module.name);
  }
  for (const auto& [module, pair] : folder.tensors)
    if (names.contains(module))
      fail(source, ": module '", module, "' is not among the target_modules of ", kConfigName);
  return matches;
}

std::string lora_key(const std::string& module, const std::string& which) {
  return std::string(kPrefix) + module + ".lora_" + which + ".weight";
}

void write_adapter_folder(const fs::path& path, const LoraConfig& config, const std::string& base_model,
                          const std::vector<std::pair<std::string, at::Tensor>>& tensors) {
  std::vector<std::pair<std::string, at::Tensor>> stored;
  for (const auto& [key, tensor] : tensors) stored.emplace_back(key, tensor.detach().to(at::kFloat));
  write_tensor_file(path / kAdapterName, stored);
  write_text(path / kConfigName, config_text(config, base_model, tensors));
  write_text(path / "README.md", readme_text(config, base_model));
}

}  // namespace rankfold
