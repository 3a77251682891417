#include "train/step_check.h"

#include "core/check.h"
#include "ops/finite.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <map>
#include <string_view>

namespace rankfold {
namespace {

// "base_model.model.model.layers.0.mlp.down_proj.lora_A.weight" is the module "model.layers.0.mlp.down_proj"'s.
std::string module_of(const std::string& key) {
  constexpr std::string_view kBefore = "base_model.model.";
  const size_t begin = key.starts_with(kBefore) ? kBefore.size() : 0;
  return key.substr(begin, key.rfind(".lora_") - begin);
}

}  // namespace

std::string rows_text(const Dataset& dataset, const std::vector<int64_t>& indices) {
  constexpr size_t kShown = 16;
  std::vector<std::pair<std::string, int64_t>> numbers;  // of several files, each with its file
  for (const int64_t index : indices) numbers.emplace_back(dataset.file(index), dataset.row_number(index));
  std::sort(numbers.begin(), numbers.end());
  std::string text = numbers.size() == 1 ? "row " : "rows ";
  const size_t shown = std::min(numbers.size(), kShown);
  for (size_t i = 0; i < shown; ++i) {
    if (i > 0) text += i + 1 == numbers.size() ? " and " : ", ";
    const auto& [file, number] = numbers[i];
    text += file.empty() ? std::to_string(number) : join(number, " of ", file);
  }
  return shown == numbers.size() ? text : join(text, " and ", numbers.size() - shown, " more");
}

void check_base_is_finite(const Model& model) {
  for (const TensorFile& file : model.folder.files())
    for (const TensorInfo& info : file.tensors()) {
      const bool has_values = at::isFloatingType(info.dtype) && c10::elementSize(info.dtype) > 1;  // no codes
      if (has_values && !ops::all_finite(file.tensor(info.name)))
        fail(file.path().string(), ": tensor '", info.name, "': expected finite values, got NaN or infinity");
    }
}

bool reaches_every_part(const std::vector<Batch>& batches) {
  return std::any_of(batches.begin(), batches.end(), [](const Batch& batch) {
    return batch.labels.ge(0).logical_and_(batch.positions.ge(1)).any().item<bool>();
  });
}

void check_every_gradient(const Adapter& adapter) {
  const at::NoGradGuard no_grad;
  // What trains together has a gradient together: of a new adapter's A and B only B has one.
  std::vector<std::string> names;
  std::map<std::string, bool> has_gradient, is_update;
  for (const Parameter& p : adapter.named_parameters()) {
    const std::string name = adapter.is_full() ? p.name : module_of(p.name);
    const auto [at, is_new] = has_gradient.try_emplace(name, false);
    if (is_new) names.push_back(name);
    is_update[name] = p.name.find(".lora_") != std::string::npos;
    at->second = at->second || p.value.grad().count_nonzero().item<int64_t>() > 0;
  }
  for (const std::string& name : names)
    if (!has_gradient[name])
      fail(name, ": expected a gradient in the first step, got zeros: nothing that it does reaches the loss; ",
           !adapter.is_full() && is_update[name] ? "leave it out with exclude_modules, or look at the base's weights"
                                                 : "look at the base's weights");
}

}  // namespace rankfold
