#include "adapter/merge_plan.h"

#include "adapter/adapter_files.h"
#include "core/check.h"
#include "core/json.h"
#include "model/architecture.h"
#include "model/load_network.h"
#include "model/model_config.h"
#include "model/tensor_list.h"

#include <ATen/ATen.h>
#include <nlohmann/json.hpp>

namespace rankfold {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

bool is_tied(const ModelFolder& base) { return ties_embeddings(base) && !head_differs_from_embedding(base); }

// The family's names for embedding and head, by one of them that is there.
void find_ends(const ModelFolder& folder, BaseParts& parts) {
  for (const bool by_head : {false, true})
    for (const std::string& name : architecture_names()) {
      const Architecture& family = find_architecture(name);
      if (!folder.contains((by_head ? family.head : family.embedding) + kWeightSuffix)) continue;
      parts.embedding = family.embedding + kWeightSuffix, parts.head = family.head + kWeightSuffix;
      return;
    }
}

// Where two tied weights are to become two: the one that the base's files lack is added.
void untie(const ModelFolder& base, const BaseParts& parts, MergePlan& plan) {
  const auto key_of = [&](const std::string& name) {
    const auto found = plan.replaced.find(name);
    return found == plan.replaced.end() ? "" : found->second;
  };
  plan.is_untied = key_of(parts.embedding) != key_of(parts.head);
  const std::string& lacking = base.contains(parts.head) ? parts.embedding : parts.head;
  if (plan.is_untied && !base.contains(lacking)) {
    plan.added = lacking;
    plan.twin = lacking == parts.head ? parts.embedding : parts.head;
  }
}

void refuse_heads(const ModelFolder& base, const BaseParts& parts, const MergePlan& plan) {
  const std::string source = (base.path() / "config.json").string();
  for (const auto& [weight, update] : plan.updates) {
    const bool is_head = is_head_name(update.module);
    if (is_head && base.config().value("model_type", json()) == "baichuan" && read_model_config(base).has_norm_head)
      fail(source, ": norm_head: expected false, as the adapter changes ", update.module,
           ", got true: rows that are divided by their norms take no update");
    if (parts.is_tied && (is_head || weight == parts.embedding))
      fail(source, ": tie_word_embeddings: expected false, as the adapter changes ", update.module, " alone, got true");
  }
}

}  // namespace

BaseParts parts_of(const ModelFolder& folder) {
  BaseParts parts;
  std::vector<LinearModule> embeddings;
  find_ends(folder, parts);
  parts.is_tied = is_tied(folder);
  for (const std::string& tensor : folder.names()) {
    const TensorInfo& info = folder.info(tensor);
    if (!at::isFloatingType(info.dtype)) continue;
    parts.tensors.emplace(tensor, info.shape);
    if (!tensor.ends_with(kWeightSuffix) || info.shape.size() != 2) continue;
    const std::string name = tensor.substr(0, tensor.rfind('.'));
    const std::string last = name.substr(name.rfind('.') + 1);
    if (last.find("embed") == std::string::npos)
      parts.modules.push_back({name, info.shape[0], info.shape[1], is_head_name(last), false});
    else
      embeddings.push_back({name, info.shape[1], info.shape[0], false, true});
  }
  parts.modules.insert(parts.modules.end(), embeddings.begin(), embeddings.end());
  if (!parts.is_tied) return parts;
  for (const auto& [name, twin] : {std::pair{parts.head, parts.embedding}, std::pair{parts.embedding, parts.head}})
    if (const auto found = parts.tensors.find(twin); found != parts.tensors.end())
      parts.tensors.emplace(name, found->second);
  return parts;
}

at::Tensor MergePlan::source(const ModelFolder& base, const std::string& name) const {
  const auto found = replaced.find(name);
  return found == replaced.end() ? base.tensor(name == added ? twin : name) : adapter.whole.at(found->second);
}

MergePlan plan_merge(const ModelFolder& base, const fs::path& adapter) {
  MergePlan plan;
  plan.adapter = read_checked_adapter(adapter);
  const BaseParts base_parts = parts_of(base);
  const AdapterParts parts = match_adapter(plan.adapter, base_parts);
  for (const ModuleMatch& match : parts.modules) {
    const LinearModule& m = match.module;
    const auto& [a, b] = plan.adapter.tensors.at(m.name);
    WeightUpdate& update = plan.updates[m.name + kWeightSuffix];
    update = {m.name, m.is_embedding ? a.t().contiguous() : b, m.is_embedding ? b.t().contiguous() : a, match.scale};
  }
  for (const WholeTensor& tensor : parts.tensors) plan.replaced[tensor.name] = tensor.key;
  refuse_heads(base, base_parts, plan);
  if (base_parts.is_tied) untie(base, base_parts, plan);
  plan.is_untied = plan.is_untied || (!base_parts.is_tied && ties_embeddings(base));
  return plan;
}

}  // namespace rankfold
