#include "train/optimizer.h"

#include "model/model.h"

#include <ATen/ATen.h>

#include <cmath>
#include <set>

namespace rankfold {

AdamW::AdamW(const CausalLM& model, const Adapter& adapter)
    : values(adapter.flat_values()),
      gradient(adapter.flat_gradient()),
      first_moment(at::zeros_like(values)),
      second_moment(at::zeros_like(values)),
      decayed(adapter.decayed_count()),
      model_(model.shared_model()),
      adapter_(adapter) {
  if (ops::backend_for(values)) lay_out();
}

// Adapters that are attached or switched come with another network, and other places for the copies of its leaves.
void AdamW::lay_out() {
  const ops::Backend* backend = ops::backend_for(values);
  std::vector<kernels::Segment> segments;
  std::set<int64_t> with_copy;
  for (Projection* p : model_->network().projections()) {
    for (const kernels::Segment& segment : ops::optimizer_segments(*p, values)) {
      segments.push_back(segment);
      with_copy.insert(segment.begin);
    }
  }
  int64_t begin = 0;
  for (const Parameter& p : adapter_.named_parameters()) {
    if (!with_copy.contains(begin))
      segments.push_back({.begin = begin, .rows = 1, .cols = p.value.numel(), .decays = begin < decayed});
    begin += p.value.numel();
  }
  segments_ = ops::to_device(*backend, std::move(segments), values.device());
  laid_out_ = model_->adapters.shared_network();
}

double AdamW::gradient_norm() {
  const ops::Backend* backend = ops::backend_for(gradient);
  if (!backend) return at::linalg_vector_norm(gradient, 2, std::nullopt, false, at::kDouble).item<double>();
  at::Tensor sums = at::empty({kernels::kSquareSumBlocks + 1}, gradient.options().dtype(at::kDouble));
  double* workspace = sums.data_ptr<double>();
  backend->kernels.square_sum({.count = gradient.numel(),
                               .x = gradient.const_data_ptr<float>(),
                               .workspace = workspace,
                               .sum = workspace + kernels::kSquareSumBlocks},
                              backend->stream(gradient));
  return std::sqrt(sums[kernels::kSquareSumBlocks].item<double>());
}

double AdamW::clip(double max_norm, double loss_scale) {
  const double norm = gradient_norm() / loss_scale;
  // torch.nn.utils.clip_grad_norm_'s formula. A norm that is not finite is the caller's to see.
  const double factor = max_norm / (norm + 1e-6);
  gradient_scale_ = (max_norm > 0 && factor < 1 ? factor : 1) / loss_scale;
  if (gradient_scale_ != 1 && !ops::backend_for(gradient)) {  // the step's kernel scales what it reads
    gradient.mul_(gradient_scale_);
    gradient_scale_ = 1;
  }
  return norm;
}

void AdamW::step_by_kernel(const TrainConfig& config, double learning_rate) {
  if (laid_out_.lock() != model_->adapters.shared_network()) lay_out();
  const ops::Backend* backend = ops::backend_for(values);
  const auto correction = [&](double beta) {
    return static_cast<float>(1 - std::pow(beta, static_cast<double>(steps)));
  };
  backend->kernels.adamw({.dtype = ops::dtype_of(model_->dtype),
                          .segments = segments_.data(),
                          .segment_count = segments_.count,
                          .block_count = segments_.blocks,
                          .value = values.data_ptr<float>(),
                          .gradient = gradient.data_ptr<float>(),
                          .first_moment = first_moment.data_ptr<float>(),
                          .second_moment = second_moment.data_ptr<float>(),
                          .rate = static_cast<float>(learning_rate),
                          .beta1 = static_cast<float>(config.adam_beta1),
                          .beta2 = static_cast<float>(config.adam_beta2),
                          .eps = static_cast<float>(config.adam_epsilon),
                          .decay = static_cast<float>(config.weight_decay),
                          .rest1 = static_cast<float>(1 - config.adam_beta1),
                          .rest2 = static_cast<float>(1 - config.adam_beta2),
                          .correction1 = correction(config.adam_beta1),
                          .correction2 = correction(config.adam_beta2),
                          .gradient_scale = static_cast<float>(gradient_scale_)},
                         backend->stream(values));
  values.unsafeGetTensorImpl()->bump_version();
  for (Projection* p : model_->network().projections()) ops::copies_written(*p, values);
}

void AdamW::step(const TrainConfig& config, double learning_rate) {
  ++steps;
  if (ops::backend_for(values)) return step_by_kernel(config, learning_rate);
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
  values.unsafeGetTensorImpl()->bump_version();  // low-precision copies are out of date now
}

}  // namespace rankfold
