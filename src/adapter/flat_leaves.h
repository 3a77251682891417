// All trained values in one flat fp32 buffer, their gradients in another. So clipping, AdamW and checkpoints handle one
// tensor each.
#pragma once

#include "rankfold/adapter.h"

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

namespace rankfold {

struct Leaf {
  std::string key;  // of its tensor in the saved file
  std::vector<int64_t> shape;
  bool is_decayed = true;                                   // AdamW's weight decay applies
  std::function<void(const at::Tensor& value)> initialise;  // empty: the values are zeros
};

class FlatLeaves {
 public:
  FlatLeaves() = default;
  // Every leaf is a slice of `values`, in the given order, and its gradient a slice of `gradient`. Leaves with weight
  // decay must come first.
  FlatLeaves(const std::vector<Leaf>& leaves, at::Device device);

  const std::vector<Parameter>& parameters() const { return parameters_; }
  const at::Tensor& leaf(const std::string& key) const;

  at::Tensor values, gradient;  // [P] fp32
  int64_t decayed = 0;          // weight decay applies to the first so many values

 private:
  std::vector<Parameter> parameters_;
  std::map<std::string, size_t> index_;
};

}  // namespace rankfold
