#include "adapter/flat_leaves.h"

#include "core/check.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

namespace rankfold {

FlatLeaves::FlatLeaves(const std::vector<Leaf>& leaves, at::Device device) {
  int64_t total = 0;
  for (const Leaf& leaf : leaves) total += c10::multiply_integers(leaf.shape);
  values = at::zeros({total}, at::TensorOptions(device).dtype(at::kFloat));
  gradient = at::zeros_like(values);
  int64_t begin = 0;
  for (const Leaf& leaf : leaves) {
    const int64_t count = c10::multiply_integers(leaf.shape);
    RANKFOLD_ASSERT(!leaf.is_decayed || decayed == begin);  // decayed ones come first
    if (leaf.is_decayed) decayed += count;
    // detach(): a leaf of its own, not a view with a gradient function; it shares storage and version counter.
    at::Tensor value = values.narrow(0, begin, count).view(leaf.shape).detach();
    value.requires_grad_(true);
    value.mutable_grad() = gradient.narrow(0, begin, count).view(leaf.shape).detach();
    index_[leaf.key] = parameters_.size();
    parameters_.push_back({leaf.key, value});
    begin += count;
  }
  const at::NoGradGuard no_grad;
  for (size_t i = 0; i < leaves.size(); ++i)
    if (leaves[i].initialise) leaves[i].initialise(parameters_[i].value);
}

const at::Tensor& FlatLeaves::leaf(const std::string& key) const { return parameters_[index_.at(key)].value; }

}  // namespace rankfold
