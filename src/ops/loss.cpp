#include "ops/dropout.h"
#include "ops/ops.h"
#include "ops/project.h"
#include "ops/rowwise.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

namespace rankfold::ops {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

namespace {

constexpr int64_t kChunk = 256;  // tokens whose logits are held at a time

double cross_entropy_in_place(at::Tensor& logits, const at::Tensor& labels, bool gradient) {
  const int64_t m = logits.size(0), v = logits.size(1);
  std::vector<double> losses(m);
  with_dtype(logits.scalar_type(), [&]<class T>(T) {
    for_rows(m, v, [&](int64_t begin, int64_t end) {
      cpu::loops().of<T>().cross_entropy(data<T>(logits) + begin * v, const_data<int64_t>(labels) + begin, end - begin,
                                         v, gradient, losses.data() + begin);
    });
  });
  double sum = 0;
  for (double x : losses) sum += x;
  return sum;
}

// The gradients are made in the forward pass, while a chunk's logits are there: the alternative is to make the logits,
// a large matrix product, twice. The loss is a scalar, so its own gradient only scales them.
struct NormHeadLoss : Function<NormHeadLoss> {
  static at::Tensor forward(AutogradContext* ctx, at::TensorList inputs, Norm& norm, Projection& head,
                            const at::Tensor& labels, const Pass& pass, bool recorded) {
    const at::Tensor& h = inputs[0];
    const bool has_gain = norm.master.defined(), needs_dh = recorded && h.requires_grad();
    const bool needs_dx = needs_dh || has_gain;
    const at::Tensor which = labels.ge(0).nonzero().squeeze(1);
    const at::Tensor g = norm.current_weight();
    at::Tensor dh = needs_dh ? at::zeros_like(h) : at::Tensor();
    std::vector<at::Tensor> sums(has_gain + trained_leaves(head).size());
    double loss = 0;
    for (int64_t begin = 0; begin < which.size(0); begin += kChunk) {
      const at::Tensor chunk = which.narrow(0, begin, std::min(kChunk, which.size(0) - begin));
      const at::Tensor h_c = h.index_select(0, chunk), labels_c = labels.index_select(0, chunk);
      const Pass pass_c = pass.select(chunk);
      at::Tensor rstd;
      const at::Tensor x = rms_norm(h_c, g, norm.eps, &rstd);
      std::vector<at::Tensor> s;
      at::Tensor logits = project(x, head, pass_c, &s);
      loss += cross_entropy_in_place(logits, labels_c, recorded);
      if (!recorded) continue;
      ProjectionGradient gradient = project_backward(logits, x, head, pass_c, s, needs_dx);
      std::vector<at::Tensor> parts;
      if (needs_dx) {
        auto [dh_c, dg] = rms_norm_backward(gradient.dx, h_c, g, rstd, {}, has_gain);
        if (needs_dh) dh.index_copy_(0, chunk, dh_c);
        if (has_gain) parts.push_back(dg);
      }
      parts.insert(parts.end(), gradient.leaves.begin(), gradient.leaves.end());
      for (size_t i = 0; i < sums.size(); ++i) sums[i] = sums[i].defined() ? sums[i].add_(parts[i]) : parts[i];
    }
    sums.insert(sums.begin(), dh);
    ctx->save_for_backward(std::move(sums));
    ctx->set_materialize_grads(false);
    return at::scalar_tensor(loss, h.options().dtype(sum_dtype(h.scalar_type())));
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    variable_list result = ctx->get_saved_variables();
    for (at::Tensor& x : result)
      if (x.defined() && grads[0].defined()) x = x * grads[0];  // a scalar tensor: multiplied in fp32, rounded once
    result.resize(result.size() + 5);
    return result;
  }
};

}  // namespace

at::Tensor norm_head_loss(const at::Tensor& h, Norm& norm, Projection& head, const at::Tensor& labels,
                          const Pass& pass) {
  RANKFOLD_CHECK(h.is_contiguous(), "norm_head_loss: h must be contiguous, got strides ", h.strides());
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
  return NormHeadLoss::apply(at::TensorList(inputs), norm, head, labels, pass, recorded);
}

}  // namespace rankfold::ops
