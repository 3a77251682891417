// norm_add: RMSNorm of what a sub-layer gives, added to the residual stream.
#include "ops/augmented.h"
#include "ops/ops.h"
#include "ops/rows.h"
#include "ops/rowwise.h"

#include "core/check.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

namespace rankfold::ops {

using torch::autograd::AutogradContext;
using torch::autograd::Function;
using torch::autograd::variable_list;

namespace {

struct Normalised {
  at::Tensor sum, rstd;
};

Normalised add_on_cpu(const at::Tensor& y_in, Norm& norm, const at::Tensor& residual_in) {
  const at::Tensor y = y_in.contiguous(), residual = residual_in.contiguous(), gain = norm.current_weight();
  const int64_t m = y.size(0), k = y.size(1);
  const Normalised result{at::empty({m, k}, y.options()),
                          at::empty({m}, y.options().dtype(sum_dtype(y.scalar_type())))};
  with_dtype(y.scalar_type(), [&]<class T>(T) {
    using Sum = typename cpu::LoopTable<T>::Sum;
    const auto& loops = cpu::loops().of<T>();
    for_row_blocks(m, k, [&](int64_t begin, int64_t end) {
      T* to = data<T>(result.sum) + begin * k;
      loops.rms_norm(const_data<T>(y) + begin * k, const_data<T>(gain), norm.gain_offset, norm.eps, end - begin, k, to,
                     data<Sum>(result.rstd) + begin);
      loops.add(const_data<T>(residual) + begin * k, (end - begin) * k, to);
    });
  });
  return result;
}

Normalised add_by_kernels(const Backend& backend, const at::Tensor& y_in, Norm& norm, const at::Tensor& residual) {
  const at::Tensor y = dense_rows(y_in), gain = norm.current_weight();
  const int64_t m = y.size(0), k = y.size(1);
  const at::Tensor x = at::empty({m, kernels::round_up(k, 8)}, y.options());
  const Normalised result{x.narrow(1, 0, k).detach(), at::empty({m}, y.options().dtype(at::kFloat))};
  backend.kernels.down({.source = kernels::Source::norm,
                        .dtype = dtype_of(y.scalar_type()),
                        .m = m,
                        .k = k,
                        .in = y.const_data_ptr(),
                        .ld_in = pitch_of(y),
                        .gain_K = gain.const_data_ptr(),
                        .eps = static_cast<float>(norm.eps),
                        .gain_offset = static_cast<float>(norm.gain_offset),
                        .rstd_M = result.rstd.data_ptr<float>(),
                        .x = x.data_ptr(),
                        .ld_x = x.size(1),
                        .shared_limit = backend.shared_limit(y)},
                       backend.stream(y));
  result.sum.add_(residual);
  return result;
}

struct Gradient {
  at::Tensor dy, d_gain;  // d_gain fp32 (double for double), where the norm's weight trains
};

Gradient back_on_cpu(const at::Tensor& d_in, const at::Tensor& y_in, const at::Tensor& rstd, Norm& norm) {
  const at::Tensor d = d_in.contiguous(), y = y_in.contiguous(), gain = norm.current_weight();
  const int64_t m = y.size(0), k = y.size(1);
  const at::Tensor partial =
      norm.master.defined() ? at::zeros({(m + kRowBlock - 1) / kRowBlock, k}, rstd.options()) : at::Tensor();
  Gradient gradient{empty_rows(m, k, y.options()), {}};
  with_dtype(y.scalar_type(), [&]<class T>(T) {
    using Sum = typename cpu::LoopTable<T>::Sum;
    for_row_blocks(m, k, [&](int64_t begin, int64_t end) {
      cpu::loops().of<T>().rms_norm_backward(const_data<T>(d) + begin * k, const_data<T>(y) + begin * k,
                                             const_data<T>(gain), norm.gain_offset, const_data<Sum>(rstd) + begin,
                                             /*residual=*/nullptr, end - begin, k, data<T>(gradient.dy) + begin * k,
                                             partial.defined() ? data<Sum>(partial) + begin / kRowBlock * k : nullptr);
    });
  });
  if (partial.defined()) gradient.d_gain = partial.sum(0);
  return gradient;
}

Gradient back_by_kernels(const Backend& backend, const at::Tensor& d_in, const at::Tensor& y_in, const at::Tensor& rstd,
                         Norm& norm) {
  const at::Tensor d = dense_rows(d_in), y = dense_rows(y_in), gain = norm.current_weight();
  const int64_t m = y.size(0), k = y.size(1);
  // Its gradient goes on to a projection, whose kernels may use the columns after it.
  Gradient gradient{with_spare_columns(m, k, y.options()), {}};
  kernels::InputGrad grad{.source = kernels::Source::norm,
                          .dtype = dtype_of(y.scalar_type()),
                          .m = m,
                          .k = k,
                          .in = y.const_data_ptr(),
                          .ld_in = pitch_of(y),
                          .gain_K = gain.const_data_ptr(),
                          .rstd_M = rstd.const_data_ptr<float>(),
                          .gain_offset = static_cast<float>(norm.gain_offset),
                          .dx = const_cast<void*>(d.const_data_ptr()),  // read: there is no low-rank part to add
                          .ld_dx = pitch_of(d),
                          .out = gradient.dy.data_ptr(),
                          .ld_out = pitch_of(gradient.dy)};
  if (norm.master.defined()) {
    gradient.d_gain = at::empty({k}, y.options().dtype(at::kFloat));
    grad.dgain_K = gradient.d_gain.data_ptr<float>();
  }
  const at::Tensor memory = at::empty({backend.kernels.input_grad_workspace(grad)}, y.options().dtype(at::kByte));
  grad.workspace = static_cast<float*>(memory.data_ptr());
  backend.kernels.input_grad(grad, backend.stream(y));
  return gradient;
}

struct SavedNorm : torch::CustomClassHolder {
  SavedNorm(Norm& norm, std::shared_ptr<void> owner) : norm(norm), owner(std::move(owner)) {}
  Norm& norm;
  std::shared_ptr<void> owner;
};

// inputs: y, residual, the norm's weight where it trains.
struct NormAdd : Function<NormAdd> {
  static at::Tensor forward(AutogradContext* ctx, at::TensorList inputs, Norm& norm,
                            const std::shared_ptr<void>& owner) {
    const at::Tensor &y = inputs[0], &residual = inputs[1];
    const Backend* backend = backend_for(y);
    const Normalised result =
        backend ? with_op_name("norm_add", [&] { return add_by_kernels(*backend, y, norm, residual); })
                : add_on_cpu(y, norm, residual);
    ctx->saved_data["norm"] = c10::IValue::make_capsule(c10::make_intrusive<SavedNorm>(norm, owner));
    variable_list kept{y, result.rstd};
    if (norm.master.defined()) kept.push_back(inputs[2]);  // for its version check alone
    ctx->save_for_backward(std::move(kept));
    ctx->set_materialize_grads(false);
    return result.sum;
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    Norm& norm = static_cast<const SavedNorm&>(*ctx->saved_data["norm"].toCapsule()).norm;
    const variable_list saved = ctx->get_saved_variables();
    const bool has_gain = norm.master.defined();
    variable_list result(4 + has_gain);
    if (!grads[0].defined()) return result;
    const Backend* backend = backend_for(grads[0]);
    const Gradient gradient =
        backend
            ? with_op_name("norm_add", [&] { return back_by_kernels(*backend, grads[0], saved[0], saved[1], norm); })
            : back_on_cpu(grads[0], saved[0], saved[1], norm);
    result[0] = gradient.dy, result[1] = grads[0];
    if (has_gain) result[2] = gradient.d_gain;
    return result;
  }
};

}  // namespace

at::Tensor norm_add(const at::Tensor& y, Norm& norm, const at::Tensor& residual, const std::shared_ptr<void>& owner) {
  RANKFOLD_CHECK(y.dim() == 2 && y.sizes() == residual.sizes() && y.size(1) == norm.weight.size(0),
                 "norm_add: expected y and residual [T, ", norm.weight.size(0), "], got ", y.sizes(), " and ",
                 residual.sizes());
  variable_list inputs{y, residual};
  if (norm.master.defined()) inputs.push_back(norm.master);
  return NormAdd::apply(at::TensorList(inputs), norm, owner);
}

}  // namespace rankfold::ops
