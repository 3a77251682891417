#include "ops/augmented.h"
#include "ops/ops.h"
#include "ops/project.h"
#include "ops/rows.h"
#include "ops/rowwise.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

namespace rankfold::ops {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

namespace {

// Tokens whose logits are held at a time: few on the CPU, where they stay in the cache; as many as make the product of
// a chunk worth reading the head for on a device.
constexpr int64_t kChunk = 256, kChunkByKernels = 2048;

// The sum of the losses, double; the logits become its gradient where wanted.
at::Tensor cross_entropy_in_place(at::Tensor& logits, const at::Tensor& labels, double soft_cap, bool gradient) {
  const int64_t m = logits.size(0), v = logits.size(1);
  if (const Backend* backend = backend_for(logits)) {
    const at::Tensor losses = at::empty({m}, logits.options().dtype(at::kFloat));
    backend->kernels.cross_entropy({.dtype = dtype_of(logits.scalar_type()),
                                    .m = m,
                                    .v = v,
                                    .logits = logits.data_ptr(),
                                    .ld = pitch_of(logits),
                                    .label_M = labels.const_data_ptr<int64_t>(),
                                    .loss_M = losses.data_ptr<float>(),
                                    .soft_cap = static_cast<float>(soft_cap),
                                    .gradient = gradient},
                                   backend->stream(logits));
    return losses.sum(at::kDouble);
  }
  std::vector<double> losses(m);
  with_dtype(logits.scalar_type(), [&]<class T>(T) {
    for_rows(m, v, [&](int64_t begin, int64_t end) {
      cpu::loops().of<T>().cross_entropy(data<T>(logits) + begin * v, const_data<int64_t>(labels) + begin, end - begin,
                                         v, soft_cap, gradient, losses.data() + begin);
    });
  });
  double sum = 0;
  for (double x : losses) sum += x;
  return at::scalar_tensor(sum, at::kDouble);
}

// The gradients are made in the forward pass, while a chunk's logits are there: the alternative is to make the logits,
// a large matrix product, twice. The loss is a scalar, so its own gradient only scales them.
struct NormHeadLoss : Function<NormHeadLoss> {
  static at::Tensor forward(AutogradContext* ctx, at::TensorList inputs, Norm& norm, Projection& head,
                            const at::Tensor& labels, const Pass& pass, double soft_cap, bool recorded) {
    const at::Tensor& h = inputs[0];
    const bool has_gain = norm.master.defined(), needs_dh = recorded && h.requires_grad();
    const int64_t most = loss_chunk(h.device().type());
    const at::Tensor which = labels.ge(0).nonzero().squeeze(1);
    const at::Tensor which_here = which.to(h.device(), /*non_blocking=*/true);
    const at::Tensor marked = labels.index_select(0, which).to(h.device(), /*non_blocking=*/true);
    at::Tensor dh = needs_dh ? empty_rows(h.size(0), h.size(1), h.options()).zero_() : at::Tensor();
    std::vector<at::Tensor> sums(has_gain + trained_leaves(head).size());
    at::Tensor loss = at::zeros({}, h.options().dtype(at::kDouble));
    for (int64_t begin = 0; begin < which.size(0); begin += most) {
      const int64_t count = std::min(most, which.size(0) - begin);
      const at::Tensor chunk = which_here.narrow(0, begin, count);
      const Pass pass_c = pass.select(chunk);
      Input input{Source::norm, h.index_select(0, chunk), &norm};
      Projected projected = project(input, head, pass_c, {});
      loss.add_(cross_entropy_in_place(projected.y, marked.narrow(0, begin, count), soft_cap, recorded));
      if (!recorded) continue;
      input.rstd = projected.rstd;
      ProjectedGradient gradient = project_backward(projected.y, input, head, pass_c, projected.s, {}, needs_dh);
      if (needs_dh) dh.index_copy_(0, chunk, gradient.d_in);
      std::vector<at::Tensor> parts;
      if (has_gain) parts.push_back(gradient.d_gain);
      parts.insert(parts.end(), gradient.leaves.begin(), gradient.leaves.end());
      for (size_t i = 0; i < sums.size(); ++i) sums[i] = sums[i].defined() ? sums[i].add_(parts[i]) : parts[i];
    }
    sums.insert(sums.begin(), dh);
    ctx->save_for_backward(std::move(sums));
    ctx->set_materialize_grads(false);
    return loss.to(sum_dtype(h.scalar_type()));
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    variable_list result = ctx->get_saved_variables();
    // By a scalar tensor: multiplied in fp32, rounded once. On the CPU dh goes on to a product, with its spare rows.
    for (size_t i = 0; i < result.size(); ++i) {
      if (!result[i].defined() || !grads[0].defined()) continue;
      const at::Tensor scaled = result[i] * grads[0];
      result[i] = i == 0 && scaled.is_cpu() ? empty_rows(scaled.size(0), scaled.size(1), scaled.options()).copy_(scaled)
                                            : scaled;
    }
    result.resize(result.size() + 6);
    return result;
  }
};

}  // namespace

int64_t loss_chunk(c10::DeviceType device) { return backend_of(device) ? kChunkByKernels : kChunk; }

at::Tensor norm_head_loss(const at::Tensor& h, Norm& norm, Projection& head, const at::Tensor& labels, const Pass& pass,
                          double soft_cap) {
  RANKFOLD_CHECK(h.dim() == 2 && has_dense_rows(h), "norm_head_loss: h must be a matrix with dense rows, got strides ",
                 h.strides());
  RANKFOLD_CHECK(labels.dim() == 1 && labels.size(0) == h.size(0) && labels.scalar_type() == at::kLong,
                 "norm_head_loss: expected int64 labels [", h.size(0), "], got ", labels.sizes());
  if (labels.numel() > 0) {
    const int64_t largest = labels.max().item<int64_t>();
    RANKFOLD_CHECK(largest < head.out_features(), "norm_head_loss: label ", largest, " is beyond the ",
                   head.out_features(), " rows of the head");
  }
  variable_list inputs{h};
  if (norm.master.defined()) inputs.push_back(norm.master);
  for (const at::Tensor& leaf : trained_leaves(head)) inputs.push_back(leaf);
  bool recorded = false;
  for (const at::Tensor& x : inputs) recorded = recorded || x.requires_grad();
  recorded = recorded && at::GradMode::is_enabled();
  return NormHeadLoss::apply(at::TensorList(inputs), norm, head, labels, pass, soft_cap, recorded);
}

}  // namespace rankfold::ops
