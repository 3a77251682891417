// cross_entropy: loss_M = logsumexp(z) - z[label] with z = logits * column_scale; then, where `gradient`, the logits
// become d loss / d logits = (softmax(z) - onehot(label)) * column_scale in place. A label below 0 gives loss 0 and
// gradient 0.
//   logits [M, V], pitch ld;   label_M int64;   loss_M fp32
//   column_scale_V fp32 or null: 1 / |w_v| where the head is normalised (Baichuan2)
#pragma once

#include "kernels/types.h"

namespace rankfold::kernels {

struct CrossEntropy {
  Dtype dtype = Dtype::f32;
  int64_t m = 0, v = 0;
  void* logits = nullptr;
  int64_t ld = 0;
  const int64_t* label_M = nullptr;
  const float* column_scale_V = nullptr;
  float* loss_M = nullptr;
  bool gradient = false;
};
void cross_entropy(const CrossEntropy& p, Stream stream);

}  // namespace rankfold::kernels
