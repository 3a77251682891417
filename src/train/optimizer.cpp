#include "train/optimizer.h"

#include <ATen/ATen.h>

namespace rankfold {

AdamW::AdamW(const Adapter& adapter)
    : values(adapter.flat_values()),
      gradient(adapter.flat_gradient()),
      first_moment(at::zeros_like(values)),
      second_moment(at::zeros_like(values)),
      decayed(adapter.decayed_count()) {}

double AdamW::clip(double max_norm) {
  const double norm = at::linalg_vector_norm(gradient, 2, std::nullopt, false, at::kDouble).item<double>();
  // torch.nn.utils.clip_grad_norm_'s formula. A norm that is not finite is the caller's to see.
  const double factor = max_norm / (norm + 1e-6);
  if (max_norm > 0 && factor < 1) gradient.mul_(factor);
  return norm;
}

void AdamW::step(const TrainConfig& config, double learning_rate) {
  ++steps;
  const at::Tensor count = at::scalar_tensor(static_cast<double>(steps), at::kFloat);
  const auto update = [&](int64_t begin, int64_t size, double decay) {
    if (size == 0) return;
    const auto part = [&](const at::Tensor& x) { return x.narrow(0, begin, size); };
    at::_fused_adamw_({part(values)}, {part(gradient)}, {part(first_moment)}, {part(second_moment)}, {}, {count},
                      learning_rate, config.adam_beta1, config.adam_beta2, decay, config.adam_epsilon,
                      /*amsgrad=*/false, /*maximize=*/false);
  };
  update(0, decayed, config.weight_decay);
  update(decayed, values.numel() - decayed, 0);
  values.unsafeGetTensorImpl()->bump_version();  // images of the leaves are out of date now
}

}  // namespace rankfold
