#include "adapter/peft_format.h"

#include "core/card_file.h"
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
#include <optional>

namespace rankfold {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;  // of a pattern the first entry that matches counts

namespace {

constexpr const char* kConfigName = "adapter_config.json";
constexpr std::string_view kPrefix = kAdapterPrefix, kBaseLayer = ".base_layer", kSaved = ".modules_to_save.",
                           kWeight = ".weight", kBias = ".bias";

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
  if (!at::isFloatingType(info.dtype) || c10::elementSize(info.dtype) < 2 || info.shape.empty() ||
      info.shape.size() > 2)
    fail(file.path().string(), ": tensor '", info.name, "': expected a floating-point matrix or bias, got ", info.dtype,
         " ", at::IntArrayRef(info.shape));
  const at::Tensor tensor = file.tensor(info.name);
  if (!tensor.isfinite().all().item<bool>())
    fail(file.path().string(), ": tensor '", info.name, "': expected finite numbers, got NaN or infinity");
  return tensor;
}

// What a key of the file stands for.
struct Key {
  std::string module;  // of A and B
  std::string which;   // "A", "B"; empty: a whole tensor
  bool is_embedding = false;
  std::string whole;    // the key of a whole tensor without an adapter's name
  std::string adapter;  // the name that stands in it; empty: none
};

// Of what follows a module's name in `key`: the tensor's adapter where that is ".NAME" + suffix or suffix alone.
std::optional<std::string> adapter_in(std::string_view rest, std::string_view suffix) {
  if (rest == suffix) return "";
  if (!rest.starts_with('.') || !rest.ends_with(suffix) || rest.size() < suffix.size() + 2) return std::nullopt;
  const std::string_view name = rest.substr(1, rest.size() - suffix.size() - 1);
  return name.find('.') == std::string_view::npos ? std::optional(std::string(name)) : std::nullopt;
}

Key split_key(const std::string& key, const std::string& source) {
  for (const bool is_embedding : {false, true})
    for (const std::string which : {"A", "B"}) {
      const std::string mark = (is_embedding ? ".lora_embedding_" : ".lora_") + which;
      const size_t at = key.rfind(mark);
      if (!key.starts_with(kPrefix) || at == std::string::npos || at <= kPrefix.size()) continue;
      const auto adapter = adapter_in(std::string_view(key).substr(at + mark.size()), is_embedding ? "" : kWeight);
      if (adapter) return {key.substr(kPrefix.size(), at - kPrefix.size()), which, is_embedding, "", *adapter};
    }
  for (const std::string_view suffix : {kWeight, kBias}) {
    if (!key.starts_with(kPrefix) || !key.ends_with(suffix) || key.find(".lora_") != std::string::npos) continue;
    const size_t at = key.rfind(kSaved);
    if (at == std::string::npos) return {"", "", false, key, ""};
    const auto adapter = adapter_in(std::string_view(key).substr(at + kSaved.size() - 1), suffix);
    if (adapter) return {"", "", false, key.substr(0, at) + std::string(suffix), *adapter};
  }
  fail(source, ": tensor '", key, "': expected ", kPrefix,
       "MODULE.lora_A.weight or .lora_B.weight, or a tensor of the "
       "base after ",
       kPrefix);
}

void check_pair(const AdapterFolder& folder, const std::string& module, const at::Tensor& a, const at::Tensor& b) {
  const std::string source = (folder.path / kAdapterName).string();
  const LinearModule linear{.name = module, .is_embedding = folder.embeddings.contains(module)};
  for (const auto& [tensor, which] : {std::pair{a, "A"}, std::pair{b, "B"}}) {
    if (!tensor.defined()) fail(source, ": tensor '", lora_key(linear, which), "' is missing");
    if (tensor.dim() != 2)
      fail(source, ": tensor '", lora_key(linear, which), "': expected a floating-point matrix, got ",
           tensor.scalar_type(), " ", tensor.sizes());
  }
  if (a.size(0) != b.size(1))
    fail(source, ": module '", module, "': expected A and B of one rank, got A ", a.sizes(), " and B ", b.sizes());
}

void read_tensors(AdapterFolder& folder) {
  const TensorFile file = TensorFile::open(folder.path / kAdapterName);
  const std::string source = file.path().string();
  std::optional<std::string> adapter;
  for (const TensorInfo& info : file.tensors()) {
    const Key key = split_key(info.name, source);
    const bool may_have_name = !key.which.empty() || !key.adapter.empty();
    if (may_have_name && adapter && *adapter != key.adapter)
      fail(source, ": tensor '", info.name, "': expected tensors of one adapter, got '", *adapter, "' and '",
           key.adapter, "': keep those of one");
    if (may_have_name) adapter = key.adapter;
    const at::Tensor tensor = read_tensor(file, info);
    if (key.which.empty()) {
      if (!folder.whole.emplace(key.whole, tensor).second)
        fail(source, ": tensor '", info.name, "': expected it once, got it with and without an adapter's name");
      continue;
    }
    auto& [a, b] = folder.tensors[key.module];
    (key.which == "A" ? a : b) = tensor.to(at::kFloat, /*non_blocking=*/false, /*copy=*/true);
    if (key.is_embedding) folder.embeddings.insert(key.module);
  }
  if (folder.tensors.empty()) fail(source, ": holds no adapter");
  for (const auto& [module, pair] : folder.tensors) check_pair(folder, module, pair.first, pair.second);
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
    for (const auto& [name, tensor] : tensors)
      if (const Key key = split_key(name, kAdapterName); !key.which.empty())
        names.insert(key.module.substr(key.module.rfind('.') + 1));
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
      {"modules_to_save", config.modules_to_save.empty() ? Json() : Json(config.modules_to_save)},
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
  return sign_card(join("---\nbase_model: ", base,
                        "\nlibrary_name: peft\npipeline_tag: text-generation\ntags:\n- lora\n---\n\n",
                        "# LoRA adapter\n\nRank ", config.r, ", alpha ", config.lora_alpha, ", for ", base_model,
                        ".\nTrained with Rankfold; loads with `peft.PeftModel.from_pretrained(base, folder)`.\n"));
}

}  // namespace

namespace {

// Whether some key is like that. By the file's header alone, as the tensors need not have been read.
template <class Is>
bool has_key(const AdapterFolder& folder, Is&& is) {
  const TensorFile file = TensorFile::open(folder.path / kAdapterName);
  return std::any_of(file.tensors().begin(), file.tensors().end(),
                     [&](const TensorInfo& info) { return is(info.name); });
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

std::vector<std::string> notes_on(const AdapterFolder& folder, const std::vector<LinearModule>& modules) {
  const std::string source = (folder.path / kConfigName).string();
  std::vector<std::string> notes;
  if (const StringList idle = idle_targets(folder.config, modules); !idle.empty())
    notes.push_back(one_line(join(source, ": target_modules: ", brief(Json(idle)),
                                  " match no linear layer of this model and are passed over")));
  for (const ModuleMatch& match : match_modules(folder.config, modules, IdleEntries::kAllowed))
    if (match.module.is_embedding &&
        !has_key(folder, [&](const std::string& key) { return key.starts_with(lora_key(match.module, "A")); }))
      notes.push_back(join(source, ": target_modules: ", match.module.name, " has no tensors in ", kAdapterName,
                           " and is passed over"));
  if (folder.config.bias == "lora_only" &&
      !has_key(folder, [](const std::string& key) { return key.ends_with(kBias); }))
    notes.push_back(join(source, ": bias: lora_only, but ", kAdapterName,
                         " holds no bias, as earlier PEFT saved it: the base's biases stay and do not train"));
  if (folder.fan_in_fan_out)
    notes.push_back(source + ": fan_in_fan_out: true is passed over: no linear layer of this model is transposed");
  return notes;
}

namespace {

// Embeddings and heads are misshaped where the vocabulary has grown.
[[noreturn]] void refuse_rows(const std::string& source, const std::string& what, int64_t rows, int64_t base_rows) {
  fail(source, ": ", what, ": the adapter brings embeddings of ", rows, " rows, the base has ", base_rows,
       ": grow the base's vocabulary to ", rows, " and save it, or give the base that the adapter was trained on");
}

void check_shapes(const std::string& source, const ModuleMatch& match, const at::Tensor& stored_a,
                  const at::Tensor& stored_b) {
  const LinearModule& module = match.module;
  const std::string name = join("module '", module.name, "'");
  if (stored_a.size(0) != match.r)
    fail(source, ": ", name, ": expected rank ", match.r, " as in ", kConfigName, ", got A ", stored_a.sizes(),
         " and B ", stored_b.sizes());
  if (module.is_head && stored_b.size(0) != module.out_features)
    refuse_rows(source, name, stored_b.size(0), module.out_features);
  if (module.is_embedding && stored_a.size(1) != module.in_features)
    refuse_rows(source, name, stored_a.size(1), module.in_features);
  const std::array<int64_t, 2> a{match.r, module.in_features}, b{module.out_features, match.r};
  if (stored_a.sizes() != at::IntArrayRef(a) || stored_b.sizes() != at::IntArrayRef(b))
    fail(source, ": ", name, ": expected A ", at::IntArrayRef(a), " and B ", at::IntArrayRef(b), ", got ",
         stored_a.sizes(), " and ", stored_b.sizes());
}

std::vector<ModuleMatch> match_pairs(const AdapterFolder& folder, const BaseParts& base) {
  const std::string source = (folder.path / kAdapterName).string();
  std::set<std::string> names;
  for (const LinearModule& module : base.modules) names.insert(module.name);
  for (const auto& [module, pair] : folder.tensors)
    if (!names.contains(module))
      fail(source, ": module '", module, "' is not in the base model", did_you_mean(nearest(module, names)));
  std::vector<ModuleMatch> wanted, matches;
  try {
    wanted = match_modules(folder.config, base.modules, IdleEntries::kAllowed);
  } catch (const UserError& error) {
    fail((folder.path / kConfigName).string(), ": ", error.what());
  }
  for (const ModuleMatch& match : wanted) {
    const LinearModule& module = match.module;
    const auto found = folder.tensors.find(module.name);
    if (found == folder.tensors.end() && module.is_embedding) continue;
    if (found == folder.tensors.end())
      fail(source, ": module '", module.name, "': expected its tensors, as target_modules names it, got none");
    if (folder.embeddings.contains(module.name) != module.is_embedding)
      fail(source, ": module '", module.name, "': expected '", lora_key(module, "A"), "', got that of ",
           module.is_embedding ? "a linear layer" : "an embedding");
    check_shapes(source, match, found->second.first, found->second.second);
    matches.push_back(match);
    names.erase(module.name);
  }
  for (const auto& [module, pair] : folder.tensors)
    if (names.contains(module))
      fail(source, ": module '", module, "' is not among the target_modules of ", kConfigName);
  return matches;
}

// The base's tensor that a key which nothing asked for stands in place of.
WholeTensor brought(const std::string& source, const std::string& key, const std::vector<ModuleMatch>& matches,
                    const BaseParts& base) {
  std::string name = key.substr(kPrefix.size());
  std::string module = name.substr(0, name.rfind('.'));
  const std::string suffix = name.substr(module.size());
  const bool is_base_layer = module.ends_with(kBaseLayer);
  if (is_base_layer) module.resize(module.size() - kBaseLayer.size());
  name = module + suffix;
  if (!base.tensors.contains(name)) {
    std::vector<std::string> names;
    for (const auto& [tensor, shape] : base.tensors) names.push_back(tensor);
    fail(source, ": tensor '", key, "' is none of the base model's", did_you_mean(nearest(name, names)));
  }
  const bool is_adapted = std::any_of(matches.begin(), matches.end(),
                                      [&](const ModuleMatch& match) { return match.module.name == module; });
  if (is_base_layer && !is_adapted) fail(source, ": tensor '", key, "' belongs to no adapted module");
  if (!is_base_layer && is_adapted)
    fail(source, ": tensor '", key, "': expected '", kPrefix, module, kBaseLayer, suffix,
         "', as the module is adapted");
  return {.name = name, .key = key, .trains = false};
}

// What PEFT loads into one of two tied tensors it loads into both.
void share_tied(const AdapterFolder& folder, const BaseParts& base, std::vector<WholeTensor>& tensors) {
  const auto find = [&](const std::string& name) {
    return std::find_if(tensors.begin(), tensors.end(), [&](const WholeTensor& t) { return t.name == name; });
  };
  const auto embedding = find(base.embedding), head = find(base.head);
  const auto is_frozen = [&](const auto& at) { return at != tensors.end() && !at->trains; };
  if (is_frozen(embedding) && is_frozen(head)) {
    if (!folder.whole.at(embedding->key).equal(folder.whole.at(head->key)))
      fail((folder.path / kAdapterName).string(), ": tensor '", head->key, "': expected the values of '",
           embedding->key,
           "', as the base ties the two (tie_word_embeddings), got others: untie the base's weights first");
    head->key = embedding->key;
  } else if (is_frozen(embedding) && head == tensors.end()) {
    tensors.push_back({.name = base.head, .key = embedding->key, .trains = false});
  } else if (is_frozen(head) && embedding == tensors.end()) {
    tensors.push_back({.name = base.embedding, .key = head->key, .trains = false});
  }
}

}  // namespace

AdapterParts match_adapter(const AdapterFolder& folder, const BaseParts& base) {
  const std::string source = (folder.path / kAdapterName).string();
  AdapterParts parts;
  parts.modules = match_pairs(folder, base);
  try {
    parts.tensors = match_tensors(folder.config, parts.modules, base, IdleEntries::kAllowed);
  } catch (const UserError& error) {
    fail((folder.path / kConfigName).string(), ": ", error.what());
  }
  // Earlier PEFT saved no biases under lora_only: then the base's stay.
  if (folder.config.bias == "lora_only")
    std::erase_if(parts.tensors, [&](const WholeTensor& tensor) {
      return tensor.key.ends_with(kBias) && !folder.whole.contains(tensor.key);
    });
  std::set<std::string> asked;
  for (const WholeTensor& tensor : parts.tensors) {
    if (!folder.whole.contains(tensor.key))
      fail(source, ": tensor '", tensor.key, "' is missing, which ", kConfigName, " says is trained");
    asked.insert(tensor.key);
  }
  for (const auto& [key, value] : folder.whole)
    if (!asked.contains(key)) parts.tensors.push_back(brought(source, key, parts.modules, base));
  for (const WholeTensor& tensor : parts.tensors) {
    const at::IntArrayRef shape = base.tensors.at(tensor.name), stored = folder.whole.at(tensor.key).sizes();
    if (stored == shape) continue;
    if ((tensor.name == base.embedding || tensor.name == base.head) && stored.size() == 2 && stored[1] == shape[1])
      refuse_rows(source, join("tensor '", tensor.key, "'"), stored[0], shape[0]);
    fail(source, ": tensor '", tensor.key, "': expected ", shape, ", got ", stored);
  }
  if (base.is_tied) share_tied(folder, base, parts.tensors);
  return parts;
}

std::string lora_key(const LinearModule& module, const std::string& which) {
  const std::string start = std::string(kPrefix) + module.name;
  return module.is_embedding ? start + ".lora_embedding_" + which : start + ".lora_" + which + std::string(kWeight);
}

std::string base_weight_key(const std::string& module) { return join(kPrefix, module, kBaseLayer, kWeight); }

bool saves_base_weights(const LoraConfig& config, const std::vector<std::string>& modules) {
  constexpr const char* kEmbeddings[] = {"embed_tokens", "lm_head"};  // as PEFT has them
  if (const auto* list = std::get_if<StringList>(&config.target_modules))
    return std::any_of(list->begin(), list->end(), [&](const std::string& x) { return is_among(kEmbeddings, x); });
  return std::any_of(modules.begin(), modules.end(),
                     [&](const std::string& x) { return is_among(kEmbeddings, x.substr(x.rfind('.') + 1)); });
}

void write_adapter_folder(const fs::path& path, const LoraConfig& config, const std::string& base_model,
                          const std::vector<std::pair<std::string, at::Tensor>>& tensors, const std::string& card) {
  write_tensor_file(path / kAdapterName, tensors);
  write_text(path / kConfigName, config_text(config, base_model, tensors));
  write_text(path / kCard, card.empty() ? readme_text(config, base_model) : card);
}

}  // namespace rankfold
