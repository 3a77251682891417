#include "adapter/merge_plan.h"

#include "adapter/adapter_files.h"
#include "core/check.h"
#include "core/json.h"
#include "model/architecture.h"
#include "model/model_config.h"
#include "model/tensor_list.h"

#include <ATen/ATen.h>
#include <nlohmann/json.hpp>

namespace rankfold {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

// Where two tied weights are to become two: the one that the base's files lack is added.
void untie(const MergeBase& base, const BaseParts& parts, MergePlan& plan) {
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

void refuse_heads(const MergeBase& base, const BaseParts& parts, const MergePlan& plan) {
  const std::string source = (base.folder().path() / "config.json").string();
  for (const auto& [weight, update] : plan.updates) {
    const bool is_head = is_head_name(update.module);
    if (is_head && base.folder().config().value("model_type", json()) == "baichuan" &&
        read_model_config(base.folder()).has_norm_head)
      fail(source, ": norm_head: expected false, as the adapter changes ", update.module,
           ", got true: rows that are divided by their norms take no update");
    if (parts.is_tied && (is_head || weight == parts.embedding))
      fail(source, ": tie_word_embeddings: expected false, as the adapter changes ", update.module, " alone, got true");
  }
}

}  // namespace

BaseTensor MergePlan::source(const MergeBase& base, const std::string& name) const {
  const auto found = replaced.find(name);
  return found == replaced.end() ? base.tensor(stored(name)) : BaseTensor(adapter.whole.at(found->second));
}

MergePlan plan_merge(const MergeBase& base, const fs::path& adapter) {
  MergePlan plan;
  const BaseParts base_parts = parts_of(base);
  const bool has_two_weights = ties_embeddings(base.folder()) && !base_parts.is_tied;
  if (adapter.empty()) {
    plan.is_untied = has_two_weights;
    return plan;
  }
  plan.adapter = read_checked_adapter(adapter);
  const AdapterParts parts = match_adapter(plan.adapter, base_parts);
  for (const ModuleMatch& match : parts.modules) {
    const LinearModule& m = match.module;
    const auto& [a, b] = plan.adapter.tensors.at(m.name);
    WeightUpdate& update = plan.updates[m.name + kWeightSuffix];
    update = {m.name, m.is_embedding ? a.t().contiguous() : b, m.is_embedding ? b.t().contiguous() : a, match.scale};
  }
  for (const WholeTensor& tensor : parts.tensors) {
    // Of an adapted head the base's own weight lies beside the update: no other value than the decoded one's source.
    const bool is_own = !tensor.trains && base.contains(tensor.name) && base.is_layer(tensor.name) &&
                        base.folder().contains(tensor.name) &&
                        same_values(plan.adapter.whole.at(tensor.key), base.folder().tensor(tensor.name));
    if (!is_own) plan.replaced[tensor.name] = tensor.key;
  }
  refuse_heads(base, base_parts, plan);
  if (base_parts.is_tied) untie(base, base_parts, plan);
  plan.is_untied = plan.is_untied || has_two_weights;
  return plan;
}

}  // namespace rankfold
