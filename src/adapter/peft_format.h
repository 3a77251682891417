// A LoRA adapter in PEFT's format: adapter_config.json and adapter_model.safetensors in a folder.
#pragma once

#include "adapter/match.h"
#include "rankfold/config.h"

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace rankfold {

struct AdapterFolder {
  std::filesystem::path path;
  LoraConfig config;
  std::string base_model;       // base_model_name_or_path; may be empty
  bool fan_in_fan_out = false;  // as in the file; only for layers with transposed weights, which we do not have
  std::map<std::string, std::pair<at::Tensor, at::Tensor>> tensors;  // module -> A [r, in], B [out, r], fp32 copies
  std::set<std::string> embeddings;         // the modules in `tensors` that are embeddings in the file
  std::map<std::string, at::Tensor> whole;  // key without the adapter's name -> a view of the file, in the stored dtype
};

// An adapter's tensors, matched to the modules and tensors of a base.
struct AdapterParts {
  std::vector<ModuleMatch> modules;
  std::vector<WholeTensor> tensors;  // each in AdapterFolder::whole; those that train first
};

inline constexpr const char* kAdapterName = "adapter_model.safetensors";

// Throws UserError that names an unknown key of adapter_config.json, unless its value is null, false, 0 or empty, or
// the key does not affect the computation. Every tensor must be A or B of a pair, or a whole weight or bias, and
// finite. An adapter's name in the keys, as in a state dict, is ignored if it is the same in all.
AdapterFolder read_adapter_folder(const std::filesystem::path& path);
// The same, but reads no tensors.
AdapterFolder read_adapter_config(const std::filesystem::path& path);

// Matches the adapter's tensors to this base. Each module that the config names must have a pair, with the module's
// shape and the config's rank, and no pair may be left over. The same holds for tensors that train as a whole. Other
// weights and biases replace the base's without being trained, as where PEFT has saved the embeddings; on a tied base
// they replace both. Names that match nothing are ignored, as in PEFT, and so is an embedding without a pair.
AdapterParts match_adapter(const AdapterFolder& folder, const BaseParts& base);

// What PEFT would warn of, or ignore, when it loads this adapter on such a model; one line each.
std::vector<std::string> notes_on(const AdapterFolder& folder, const std::vector<LinearModule>& modules);

// The key of a module's tensor; `which` is "A" or "B".
std::string lora_key(const LinearModule& module, const std::string& which);
// The key of the base's own weight, which PEFT writes beside the updates of an embedding or a head that is a target.
std::string base_weight_key(const std::string& module);
// Whether PEFT writes these: where target_modules names embed_tokens or lm_head.
bool saves_base_weights(const LoraConfig& config, const std::vector<std::string>& modules);

// Writes adapter_config.json, adapter_model.safetensors and README.md, each by AtomicFile, into an existing folder.
// `tensors` by their keys: "base_model.model.model.layers.0.self_attn.W_pack.lora_A.weight". The config holds the keys
// that PEFT 0.17 knows. `card`: the text of README.md; empty: a short one.
void write_adapter_folder(const std::filesystem::path& path, const LoraConfig& config, const std::string& base_model,
                          const std::vector<std::pair<std::string, at::Tensor>>& tensors, const std::string& card = {});

}  // namespace rankfold
