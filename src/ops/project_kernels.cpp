// A projection and its input by kernels: the low-rank work rides on passes that are there anyway (docs/kernels.md).
//   forward   down: x and S side by side;  one product [x | S] [W | B]^T, the residual added by it; a bias is one more
//             column of W beside a column of ones
//   backward  output_grad: dS and dB in one pass over dY;  one product dX = dY W;  input_grad: the masked dS A added on
//             the way to the gradient of what x was made of, dA with it. Without dropout dS A is part of the product,
//             [dY | dS] [W; A], where the columns after dY are free.
#include "ops/augmented.h"
#include "ops/project.h"
#include "ops/rows.h"

#include "core/check.h"

#include <ATen/ATen.h>

namespace rankfold::ops::by_kernels {
namespace {

// y [M, N] = x [M, K] w [N, K]^T + residual, row-major.
void multiply(const Backend& backend, const MatrixRows& x, const MatrixRows& w, int64_t k, const at::Tensor& residual,
              const at::Tensor& y) {
  kernels::Gemm gemm{.dtype = dtype_of(y.scalar_type()),
                     .dtype_out = dtype_of(y.scalar_type()),
                     .transpose_a = true,
                     .m = y.size(1),
                     .n = y.size(0),
                     .k = k,
                     .a = w.data,
                     .lda = w.pitch,
                     .b = x.data,
                     .ldb = x.pitch,
                     .d = y.data_ptr(),
                     .ldd = pitch_of(y)};
  if (residual.defined()) {
    gemm.c = residual.const_data_ptr();
    gemm.ldc = pitch_of(residual);
    gemm.beta = 1;
  }
  backend.kernels.gemm(gemm, backend.stream(y));
}

// dx [M, K] = dy [M, N] w [N, K], row-major.
void multiply_back(const Backend& backend, const MatrixRows& dy, const MatrixRows& w, int64_t n, const at::Tensor& dx) {
  backend.kernels.gemm({.dtype = dtype_of(dx.scalar_type()),
                        .dtype_out = dtype_of(dx.scalar_type()),
                        .m = dx.size(1),
                        .n = dx.size(0),
                        .k = n,
                        .a = w.data,
                        .lda = w.pitch,
                        .b = dy.data,
                        .ldb = dy.pitch,
                        .d = dx.data_ptr(),
                        .ldd = pitch_of(dx)},
                       backend.stream(dx));
}

// dw [N, K] fp32 = dy [M, N]^T x [M, K].
at::Tensor weight_gradient(const Backend& backend, const at::Tensor& dy, const MatrixRows& x, int64_t k) {
  at::Tensor dw = at::empty({dy.size(1), k}, dy.options().dtype(at::kFloat));
  backend.kernels.gemm({.dtype = dtype_of(dy.scalar_type()),
                        .dtype_out = kernels::Dtype::f32,
                        .transpose_b = true,
                        .m = k,
                        .n = dy.size(1),
                        .k = dy.size(0),
                        .a = x.data,
                        .lda = x.pitch,
                        .b = dy.const_data_ptr(),
                        .ldb = pitch_of(dy),
                        .d = dw.data_ptr(),
                        .ldd = k},
                       backend.stream(dy));
  return dw;
}

kernels::Gate gate_of(const Input& input) {
  const GateFactors factors = factors_of(input.activation);
  return {static_cast<float>(factors.linear), static_cast<float>(factors.cubic)};
}

kernels::Down down_of(const Backend& backend, const Input& input, const at::Tensor& in, const at::Tensor& gain) {
  kernels::Down down{.source = input.source,
                     .dtype = dtype_of(in.scalar_type()),
                     .m = in.size(0),
                     .k = input.source == Source::glu ? in.size(1) / 2 : in.size(1),
                     .in = in.const_data_ptr(),
                     .ld_in = pitch_of(in),
                     .gate = gate_of(input),
                     .shared_limit = backend.shared_limit(in)};
  if (input.norm) {
    down.gain_K = gain.const_data_ptr();
    down.eps = static_cast<float>(input.norm->eps);
    down.gain_offset = static_cast<float>(input.norm->gain_offset);
  }
  return down;
}

at::Tensor workspace(int64_t bytes, const at::Tensor& like) {
  return at::empty({bytes}, like.options().dtype(at::kByte));
}

}  // namespace

Projected project(const Backend& backend, const Input& input, Projection& projection, const Pass& pass,
                  const at::Tensor& residual_in) {
  const at::Tensor in = dense_rows(input.in);
  const at::Tensor residual = residual_in.defined() ? dense_rows(residual_in) : residual_in;
  const int64_t t = in.size(0), k = projection.in_features(), k8 = kernels::round_up(k, 8);
  const auto options = in.options();
  const at::Tensor gain = input.norm ? input.norm->current_weight() : at::Tensor();
  kernels::Down down = down_of(backend, input, in, gain);
  Projected result;
  result.y = at::empty({t, projection.out_features()}, options);
  if (input.norm) {
    result.rstd = at::empty({t}, options.dtype(at::kFloat));
    down.rstd_M = result.rstd.data_ptr<float>();
  }

  at::Tensor x;
  MatrixRows w;
  int64_t width = k;
  if (is_augmented(projection)) {
    const Augmented& augmented = current(projection);
    x = at::empty({t, augmented.pitch()}, options);
    w = rows_of(augmented.buffer);
    width = k8 + augmented.columns;
    if (augmented.one.defined()) {
      x.narrow(1, width, augmented.one.size(0)).copy_(augmented.one);
      width += augmented.one.size(0);
    }
  } else {
    w = rows_of(projection.current().whole());
    if (input.source == Source::plain) {  // nothing to make
      multiply(backend, rows_of(in), w, k, residual, result.y);
      return result;
    }
    x = at::empty({t, k8}, options);
  }
  if (projection.has_update()) {
    const Augmented& augmented = *projection.augmented;
    const at::Tensor s = at::empty({t, augmented.columns}, options);
    down.a_RK = augmented.at(augmented.n8, 0);
    down.ld_a = augmented.pitch();
    down.s_MR = element(x, 0, k8);
    down.ld_s = augmented.pitch();
    down.kept_MR = s.data_ptr();
    down.ld_kept = augmented.columns;
    down.updates = updates_of(projection, pass);
    result.s = {s};
  }
  down.x = x.data_ptr();
  down.ld_x = x.size(1);
  backend.kernels.down(down, backend.stream(in));
  multiply(backend, rows_of(x), w, width, residual, result.y);
  return result;
}

ProjectedGradient project_backward(const Backend& backend, const at::Tensor& dy_in, const Input& input,
                                   Projection& projection, const Pass& pass, const std::vector<at::Tensor>& s,
                                   const at::Tensor& d_residual_in, bool needs_d_in) {
  const at::Tensor dy = dense_rows(dy_in);
  const at::Tensor in = input.in.defined() ? dense_rows(input.in) : input.in;
  const at::Tensor d_residual = d_residual_in.defined() ? dense_rows(d_residual_in) : d_residual_in;
  const int64_t t = dy.size(0), n = projection.out_features(), k = projection.in_features();
  const bool has_gain = input.norm && input.norm->master.defined(), needs_dx = needs_d_in || has_gain;
  const auto options = dy.options(), fp32 = options.dtype(at::kFloat);
  const at::Tensor gain = input.norm ? input.norm->current_weight() : at::Tensor();
  const kernels::Stream stream = backend.stream(dy);
  ProjectedGradient gradient;

  const bool update = projection.has_update();
  const Augmented* augmented = update ? &current(projection) : nullptr;
  const int64_t columns = update ? augmented->columns : 0;
  const kernels::Updates updates = update ? updates_of(projection, pass) : kernels::Updates{};
  // dS may lie after dY where those columns are nobody else's; then dS A is part of dX's product. With dropout its mask
  // stands between.
  const bool joined = update && needs_dx && pass.dropout == 0 && has_spare_columns(dy, columns);
  at::Tensor ds, da, db;
  MatrixRows ds_rows;
  if (update) {
    if (!joined) ds = at::empty({t, columns}, options);
    ds_rows = joined ? MatrixRows{element(dy, 0, n), pitch_of(dy)} : rows_of(ds);
    db = at::empty({n, columns}, fp32);
    kernels::OutputGrad grad{.dtype = dtype_of(dy.scalar_type()),
                             .m = t,
                             .n = n,
                             .dy = dy.const_data_ptr(),
                             .ld_dy = pitch_of(dy),
                             .bt_RN = augmented->b_transposed.const_data_ptr(),
                             .ld_bt = augmented->n8,
                             .kept_MR = s.at(0).const_data_ptr(),
                             .ld_kept = columns,
                             .ds_MR = const_cast<void*>(ds_rows.data),
                             .ld_ds = ds_rows.pitch,
                             .db_NR = db.data_ptr<float>(),
                             .ld_db = columns,
                             .updates = updates};
    const at::Tensor memory = workspace(backend.kernels.output_grad_workspace(grad), dy);
    grad.workspace = static_cast<float*>(memory.data_ptr());
    backend.kernels.output_grad(grad, stream);
  }

  at::Tensor dx;
  if (needs_dx) {
    dx = input.source == Source::plain ? at::empty({t, k}, options)
                                       : at::empty({t, kernels::round_up(k, 8)}, options).narrow(1, 0, k);
    const MatrixRows w = rows_of(update                     ? augmented->buffer
                                 : is_augmented(projection) ? current(projection).buffer
                                                            : projection.current().whole());
    multiply_back(backend, rows_of(dy), w, joined ? n + columns : n, dx);
  }

  if (update || (needs_dx && input.source != Source::plain)) {
    kernels::InputGrad grad{.source = input.source,
                            .dtype = dtype_of(dy.scalar_type()),
                            .m = t,
                            .k = k,
                            .in = in.const_data_ptr(),
                            .ld_in = pitch_of(in),
                            .gate = gate_of(input),
                            .updates = updates};
    if (input.norm) {
      grad.gain_K = gain.const_data_ptr();
      grad.gain_offset = static_cast<float>(input.norm->gain_offset);
      grad.rstd_M = input.rstd.const_data_ptr<float>();
    }
    if (needs_dx) {
      grad.dx = dx.data_ptr();
      grad.ld_dx = pitch_of(dx);
      if (input.source != Source::plain) {
        gradient.d_in = with_spare_columns(t, in.size(1), options);
        grad.out = gradient.d_in.data_ptr();
        grad.ld_out = pitch_of(gradient.d_in);
      }
      if (d_residual.defined()) {
        grad.residual = d_residual.const_data_ptr();
        grad.ld_residual = pitch_of(d_residual);
      }
      if (has_gain) {
        gradient.d_gain = at::empty({k}, fp32);
        grad.dgain_K = gradient.d_gain.data_ptr<float>();
      }
    }
    if (update) {
      da = at::empty({columns, k}, fp32);
      grad.da_RK = da.data_ptr<float>();
      grad.ds_MR = ds_rows.data;
      grad.ld_ds = ds_rows.pitch;
      if (!joined) {
        grad.at_KR = augmented->a_transposed.const_data_ptr();
        grad.ld_at = columns;
      }
    }
    const at::Tensor memory = workspace(backend.kernels.input_grad_workspace(grad), dy);
    grad.workspace = static_cast<float*>(memory.data_ptr());
    backend.kernels.input_grad(grad, stream);
  }
  if (input.source == Source::plain) gradient.d_in = dx;
  if (!needs_d_in) gradient.d_in = at::Tensor();

  at::Tensor x;  // made again for the gradients of whole weights
  for (const Module& m : projection.modules) {
    if (!m.master.defined()) continue;
    if (!x.defined() && input.source == Source::plain) x = in;
    if (!x.defined()) {
      x = at::empty({t, kernels::round_up(k, 8)}, options);
      kernels::Down down = down_of(backend, input, in, gain);
      const at::Tensor rstd = at::empty({t}, fp32);
      down.rstd_M = rstd.data_ptr<float>();
      down.x = x.data_ptr();
      down.ld_x = x.size(1);
      backend.kernels.down(down, stream);
    }
    gradient.leaves.push_back(weight_gradient(backend, dy.narrow(1, m.begin, m.end - m.begin), rows_of(x), k));
  }
  for (const Module& m : projection.modules)
    if (m.bias_master.defined())
      gradient.leaves.push_back(dy.narrow(1, m.begin, m.end - m.begin).sum(0, /*keepdim=*/false, at::kFloat));
  int64_t column = 0;
  for (const LowRank& u : projection.updates) {
    gradient.leaves.push_back(da.narrow(0, column, u.rank()));
    gradient.leaves.push_back(db.narrow(0, u.begin, u.end - u.begin).narrow(1, column, u.rank()));
    column += kernels::round_up(u.rank(), 8);
  }
  return gradient;
}

}  // namespace rankfold::ops::by_kernels
