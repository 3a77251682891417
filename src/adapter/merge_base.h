// The weights that a merge starts from: those of a model folder, its linear layers decoded where they are in fewer
// bits.
#pragma once

#include "adapter/match.h"
#include "io/model_folder.h"
#include "ops/packed_weight.h"
#include "quant/base_storage.h"
#include "quant/quantized_folder.h"

#include <ATen/core/Tensor.h>

#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

namespace rankfold {

// The folder of a base, and how its weights are quantised.
struct BasePlace {
  std::filesystem::path folder;
  // For a 16- or 32-bit folder: its linear layers get the values that they have after quantising and decoding.
  std::optional<BaseStorage> storage = {};
};

// A tensor that is read in blocks of rows. A tensor with fewer than two dimensions counts as one column.
class BaseTensor {
 public:
  explicit BaseTensor(at::Tensor dense) : value_(std::move(dense)) {}
  explicit BaseTensor(PackedWeight packed) : value_(std::move(packed)) {}

  // The stored tensor; undefined if it is quantised.
  at::Tensor dense() const;
  std::vector<int64_t> sizes() const;
  int64_t rows() const;
  int64_t columns() const;
  at::ScalarType wide() const;  // fp32, or the stored dtype if that is wider: represents every value exactly
  // Rows [begin, begin + count) in fp32 or fp64, [count, columns].
  at::Tensor block(int64_t begin, int64_t count, at::ScalarType dtype) const;

 private:
  std::variant<at::Tensor, PackedWeight> value_;
};

class MergeBase {
 public:
  explicit MergeBase(const BasePlace& place);

  const ModelFolder& folder() const { return folder_; }
  bool is_quantized() const { return quantized_.has_value(); }  // the folder is quantised
  // The quantisation of the linear layers; empty: none.
  const std::string& quantization() const { return quantization_; }
  // The dtype of the decoded layers of a quantised folder.
  at::ScalarType source_dtype() const { return quantized_->source_dtype(); }

  // The model's tensors, by position in the files: a layer in fewer bits is one matrix of the dtype that it was made
  // from.
  const std::vector<std::string>& names() const { return names_; }
  bool contains(const std::string& name) const { return tensors_.contains(name); }
  const TensorInfo& info(const std::string& name) const { return tensor_of(name).info; }
  // Whether it is a quantised layer, which is decoded.
  bool is_layer(const std::string& name) const { return tensor_of(name).is_layer; }
  const TensorFile& file_of(const std::string& name) const;
  BaseTensor tensor(const std::string& name) const;
  void forget(const std::string& name) const;  // drops its mapped pages from memory

 private:
  struct Entry {
    TensorInfo info;
    std::string stored;  // name of the first of its tensors in the files
    bool is_layer = false;
  };
  const Entry& tensor_of(const std::string& name) const;

  ModelFolder folder_;
  std::optional<QuantizedFolder> quantized_;
  std::optional<BaseStorage> storage_;
  std::string quantization_;
  std::vector<std::string> names_;
  std::map<std::string, Entry> tensors_;
};

// The matrices that may be linear layers or embeddings, and all tensors, whatever the architecture.
BaseParts parts_of(const MergeBase& base);

// The linear layers of a folder's model that are quantised in this form: "model.layers.0.self_attn.q_proj".
std::vector<LinearModule> quantized_layers(const ModelFolder& folder, const BaseStorage& storage);

}  // namespace rankfold
