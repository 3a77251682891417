// A LoRA adapter as PEFT keeps it: adapter_config.json and adapter_model.safetensors in a folder.
#pragma once

#include "adapter/match.h"
#include "rankfold/config.h"

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace rankfold {

struct AdapterFolder {
  std::filesystem::path path;
  LoraConfig config;
  std::string base_model;       // base_model_name_or_path; may be empty
  bool fan_in_fan_out = false;  // of layers that keep their weights transposed, which no linear layer does
  std::map<std::string, std::pair<at::Tensor, at::Tensor>> tensors;  // module -> A [r, in], B [out, r], fp32 copies
  std::map<std::string, at::Tensor> base_weights;  // module -> the base's own weight, which PEFT adds for lm_head
};

inline constexpr const char* kAdapterName = "adapter_model.safetensors";

// A key of adapter_config.json that we do not know is refused by name, unless it is null, false, 0 or empty, or says
// nothing of what the adapter computes. Every tensor must be A or B of a pair, and finite.
AdapterFolder read_adapter_folder(const std::filesystem::path& path);
// The same without the tensors, which stay unread.
AdapterFolder read_adapter_config(const std::filesystem::path& path);

// The modules of this model that the config names; each must have its pair, with the module's shape and the rank that the
// config gives it, and no pair may be left over. Names that match nothing are passed over, as PEFT does.
std::vector<ModuleMatch> match_adapter(const AdapterFolder& folder, const std::vector<LinearModule>& linears);

// What PEFT would warn of, or pass over, when it loads this adapter on such a model; a line each.
std::vector<std::string> notes_on(const AdapterFolder& folder, const std::vector<LinearModule>& linears);

// The key of a module's tensor; `which` is "A" or "B".
std::string lora_key(const std::string& module, const std::string& which);

// adapter_config.json, adapter_model.safetensors (fp32) and README.md, each through AtomicFile, into a folder that is
// there. `tensors` by their keys: "base_model.model.model.layers.0.self_attn.W_pack.lora_A.weight". The config holds the
// keys that PEFT 0.17 knows.
void write_adapter_folder(const std::filesystem::path& path, const LoraConfig& config, const std::string& base_model,
                          const std::vector<std::pair<std::string, at::Tensor>>& tensors);

}  // namespace rankfold
