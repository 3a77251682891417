#include "adapter/merge_base.h"

#include "core/check.h"
#include "core/json.h"
#include "model/architecture.h"
#include "model/load_network.h"
#include "model/model_config.h"
#include "model/tensor_list.h"

#include <ATen/ATen.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <set>

namespace rankfold {

namespace fs = std::filesystem;

namespace {

// As CausalLM::load takes it: two different weights are not tied.
ModelConfig config_of(const ModelFolder& folder) {
  ModelConfig config = read_model_config(folder);
  config.tie_word_embeddings = config.tie_word_embeddings && !head_differs_from_embedding(folder);
  return config;
}

}  // namespace

at::Tensor BaseTensor::dense() const {
  const auto* dense = std::get_if<at::Tensor>(&value_);
  return dense ? *dense : at::Tensor();
}

std::vector<int64_t> BaseTensor::sizes() const {
  if (const auto* packed = std::get_if<PackedWeight>(&value_)) return {packed->rows, packed->columns};
  return dense().sizes().vec();
}

int64_t BaseTensor::rows() const {
  const std::vector<int64_t> shape = sizes();
  return shape.size() > 1 ? shape[0] : c10::multiply_integers(shape);
}

int64_t BaseTensor::columns() const {
  const std::vector<int64_t> shape = sizes();
  return shape.size() > 1 ? c10::multiply_integers(shape.begin() + 1, shape.end()) : 1;
}

at::ScalarType BaseTensor::wide() const {
  return dense().defined() ? at::promote_types(dense().scalar_type(), at::kFloat) : at::kFloat;
}

at::Tensor BaseTensor::block(int64_t begin, int64_t count, at::ScalarType dtype) const {
  if (const auto* packed = std::get_if<PackedWeight>(&value_)) {
    at::Tensor decoded = at::empty({count, packed->columns}, at::kFloat);
    ops::decode(*packed, begin, begin + count, 0, packed->columns, decoded);
    return decoded.to(dtype);
  }
  return dense().view({rows(), columns()}).narrow(0, begin, count).to(dtype);
}

MergeBase::MergeBase(const BasePlace& place)
    : folder_(ModelFolder::open(place.folder)), quantized_(QuantizedFolder::open(folder_)), storage_(place.storage) {
  RANKFOLD_ASSERT(!quantized_ || !storage_);
  std::map<std::string, TensorInfo> layers;             // by the name of the weight
  std::map<std::string, std::string> weight_of_stored;  // tensor in the files -> that name
  std::set<std::string> spare;                          // biases that the model has no place for
  if (quantized_) {
    quantization_ = quantized_->text();
    std::set<std::string> places;
    for (const TensorSpec& spec : tensor_list(read_model_config(folder_))) places.insert(spec.name);
    for (const LinearModule& module : linear_modules(config_of(folder_))) {
      if (!quantized_->holds(module.name)) continue;
      const std::string weight = module.name + kWeightSuffix;
      layers[weight] = {weight, quantized_->source_dtype(), {module.out_features, module.in_features}};
      for (const std::string& stored : quantized_->tensors_of(module.name))
        if (stored != module.name + kBiasSuffix)
          weight_of_stored[stored] = weight;
        else if (!places.contains(stored))
          spare.insert(stored);
    }
  } else if (storage_) {
    quantization_ = text_of(*storage_);
    for (const LinearModule& module : quantized_layers(folder_, *storage_)) {
      const std::string weight = module.name + kWeightSuffix;
      layers[weight] = folder_.info(weight);
    }
  }
  for (const std::string& stored : folder_.names()) {
    if (spare.contains(stored)) continue;
    const auto found = weight_of_stored.find(stored);
    const std::string& name = found == weight_of_stored.end() ? stored : found->second;
    const auto layer = layers.find(name);
    Entry entry{layer == layers.end() ? folder_.info(stored) : layer->second, stored, layer != layers.end()};
    if (!entry.is_layer && entry.info.dtype == at::kFloat8_e4m3fn)
      fail(folder_.file_of(stored).path().string(), ": tensor '", stored,
           "': expected 16 bits or more, as config.json names no scales for it, got F8_E4M3");
    if (tensors_.emplace(name, std::move(entry)).second) names_.push_back(name);
  }
}

const MergeBase::Entry& MergeBase::tensor_of(const std::string& name) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end())
    fail(folder_.path().string(), ": no tensor '", name, "'", did_you_mean(nearest(name, names_)));
  return found->second;
}

const TensorFile& MergeBase::file_of(const std::string& name) const { return folder_.file_of(tensor_of(name).stored); }

BaseTensor MergeBase::tensor(const std::string& name) const {
  const Entry& entry = tensor_of(name);
  if (!entry.is_layer) return BaseTensor(folder_.tensor(name));
  if (storage_) return BaseTensor(quantized(folder_.tensor(name), *storage_, folder_.file_of(name).path(), name));
  const std::string module = name.substr(0, name.size() - std::string_view(kWeightSuffix).size());
  return BaseTensor(quantized_->weight(module, entry.info.shape[0], entry.info.shape[1]));
}

void MergeBase::forget(const std::string& name) const {
  const Entry& entry = tensor_of(name);
  if (!quantized_ || !entry.is_layer) return folder_.file_of(name).forget(name);
  const std::string module = name.substr(0, name.size() - std::string_view(kWeightSuffix).size());
  for (const std::string& stored : quantized_->tensors_of(module)) folder_.file_of(stored).forget(stored);
}

namespace {

bool is_tied(const MergeBase& base) {
  return ties_embeddings(base.folder()) && !head_differs_from_embedding(base.folder());
}

// The family's names for embedding and head, by one of them that is there.
void find_ends(const MergeBase& base, BaseParts& parts) {
  for (const bool by_head : {false, true})
    for (const std::string& name : architecture_names()) {
      const Architecture& family = find_architecture(name);
      if (!base.contains((by_head ? family.head : family.embedding) + kWeightSuffix)) continue;
      parts.embedding = family.embedding + kWeightSuffix, parts.head = family.head + kWeightSuffix;
      return;
    }
}

}  // namespace

BaseParts parts_of(const MergeBase& base) {
  BaseParts parts;
  std::vector<LinearModule> embeddings;
  find_ends(base, parts);
  parts.is_tied = is_tied(base);
  for (const std::string& tensor : base.names()) {
    const TensorInfo& info = base.info(tensor);
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

std::vector<LinearModule> quantized_layers(const ModelFolder& folder, const BaseStorage& storage) {
  const ModelConfig config = config_of(folder);
  std::vector<LinearModule> layers = linear_modules(config);
  if (storage.has_head)
    check_quantized_head(folder, config);
  else
    std::erase_if(layers, [](const LinearModule& module) { return module.is_head; });
  return layers;
}

}  // namespace rankfold
