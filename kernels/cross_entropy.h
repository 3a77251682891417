// cross_entropy: loss_M = logsumexp(z) - z[label] with z = soft_cap * tanh(logits / soft_cap), or the logits themselves
// where soft_cap is 0. With `gradient`, d loss / d logits then overwrites the logits:
//   d loss / d logits = (softmax(z) - onehot(label)) * dz / d logits
// A label below 0 gives loss 0 and gradient 0.
//   logits [M, V], pitch ld;   label_M int64;   loss_M fp32
#pragma once

#include "kernels/types.h"

namespace rankfold::kernels {

struct CrossEntropy {
  Dtype dtype = Dtype::f32;
  int64_t m = 0, v = 0;
  void* logits = nullptr;
  int64_t ld = 0;
  const int64_t* label_M = nullptr;
  float* loss_M = nullptr;
  float soft_cap = 0;
  bool gradient = false;
};
void cross_entropy(const CrossEntropy& p, Stream stream);

}  // namespace rankfold::kernels
