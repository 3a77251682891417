// The CPU path of a projection and its input: oneDNN's products and single-pass loops, one after the other.
#include "ops/dropout.h"
#include "ops/gemm.h"
#include "ops/project.h"
#include "ops/rowwise.h"

#include <ATen/ATen.h>

namespace rankfold::ops::on_cpu {
namespace {

at::Tensor rms_norm(const at::Tensor& h, const at::Tensor& g, double eps, at::Tensor* rstd) {
  at::Tensor y = at::empty_like(h);
  at::Tensor r = at::empty({h.size(0)}, h.options().dtype(sum_dtype(h.scalar_type())));
  const int64_t k = h.size(1);
  with_dtype(h.scalar_type(), [&]<class T>(T) {
    using Sum = typename cpu::LoopTable<T>::Sum;
    for_rows(h.size(0), k, [&](int64_t begin, int64_t end) {
      cpu::loops().of<T>().rms_norm(const_data<T>(h) + begin * k, const_data<T>(g), eps, end - begin, k,
                                    data<T>(y) + begin * k, data<Sum>(r) + begin);
    });
  });
  if (rstd) *rstd = r;
  return y;
}

std::pair<at::Tensor, at::Tensor> rms_norm_backward(const at::Tensor& dy, const at::Tensor& h, const at::Tensor& g,
                                                    const at::Tensor& rstd, const at::Tensor& residual, bool needs_dg) {
  // The gain's gradient: partial sums over fixed blocks of rows, added in order, so that the bytes do not depend on
  // which thread came first.
  constexpr int64_t kBlock = 64;
  const int64_t m = h.size(0), k = h.size(1), blocks = (m + kBlock - 1) / kBlock;
  at::Tensor dh = at::empty_like(h);
  at::Tensor partial = needs_dg ? at::zeros({blocks, k}, rstd.options()) : at::Tensor();
  with_dtype(h.scalar_type(), [&]<class T>(T) {
    using Sum = typename cpu::LoopTable<T>::Sum;
    for_rows(blocks, kBlock * k, [&](int64_t first, int64_t last) {
      for (int64_t block = first; block < last; ++block) {
        const int64_t begin = block * kBlock, rows = std::min(kBlock, m - begin);
        cpu::loops().of<T>().rms_norm_backward(
            const_data<T>(dy) + begin * k, const_data<T>(h) + begin * k, const_data<T>(g),
            const_data<Sum>(rstd) + begin, residual.defined() ? const_data<T>(residual) + begin * k : nullptr, rows, k,
            data<T>(dh) + begin * k, needs_dg ? data<Sum>(partial) + block * k : nullptr);
      }
    });
  });
  return {dh, needs_dg ? partial.sum(0) : at::Tensor()};
}

at::Tensor swiglu(const at::Tensor& gate_up) {
  const int64_t k = gate_up.size(1) / 2;
  at::Tensor y = at::empty({gate_up.size(0), k}, gate_up.options());
  with_dtype(gate_up.scalar_type(), [&]<class T>(T) {
    for_rows(gate_up.size(0), k, [&](int64_t begin, int64_t end) {
      cpu::loops().of<T>().swiglu(const_data<T>(gate_up) + begin * 2 * k, end - begin, k, data<T>(y) + begin * k);
    });
  });
  return y;
}

at::Tensor swiglu_backward(const at::Tensor& dy, const at::Tensor& gate_up) {
  const int64_t k = dy.size(1);
  at::Tensor d = at::empty_like(gate_up);
  with_dtype(gate_up.scalar_type(), [&]<class T>(T) {
    for_rows(gate_up.size(0), k, [&](int64_t begin, int64_t end) {
      cpu::loops().of<T>().swiglu_backward(const_data<T>(dy) + begin * k, const_data<T>(gate_up) + begin * 2 * k,
                                           end - begin, k, data<T>(d) + begin * 2 * k);
    });
  });
  return d;
}

at::Tensor make_x(const Input& input, at::Tensor* rstd) {
  switch (input.source) {
    case Source::norm:
      return rms_norm(input.in.contiguous(), input.norm->current_weight(), input.norm->eps, rstd);
    case Source::swiglu:
      return swiglu(input.in.contiguous());
    default:
      return input.in.contiguous();
  }
}

}  // namespace

Projected project(const Input& input, Projection& projection, const Pass& pass, const at::Tensor& residual) {
  Projected made;
  const at::Tensor x = make_x(input, &made.rstd);
  made.y = gemm_nt(x, projection.current_weight());
  for (Module& m : projection.modules) {
    if (!m.has_update()) continue;
    const at::Tensor dropped = pass.dropout > 0 ? dropout(x, pass, m.index) : x;
    const at::Tensor s = gemm_nt(dropped, m.a_image.of(m.a, x.scalar_type())).mul_(m.scale);
    made.y.narrow(1, m.begin, m.end - m.begin).addmm_(s, m.b_image.of(m.b, x.scalar_type()).t());
    made.s.push_back(s);
  }
  if (residual.defined()) made.y.add_(residual);
  return made;
}

ProjectedGradient project_backward(const at::Tensor& dy_in, const Input& input, Projection& projection,
                                   const Pass& pass, const std::vector<at::Tensor>& s, const at::Tensor& through,
                                   bool needs_d_in) {
  const at::Tensor dy = dy_in.contiguous();
  const bool has_gain = input.norm && input.norm->master.defined(), needs_dx = needs_d_in || has_gain;
  const at::Tensor x = projection.trains() ? make_x(input, nullptr) : at::Tensor();
  ProjectedGradient gradient;
  at::Tensor dx;
  if (needs_dx) dx = gemm_nn(dy, projection.current_weight());
  size_t update = 0;
  for (Module& m : projection.modules) {
    if (!m.trains()) continue;
    const at::Tensor dy_m = dy.narrow(1, m.begin, m.end - m.begin);
    if (m.master.defined()) gradient.leaves.push_back(gemm_tn(dy_m, x));
    if (!m.has_update()) continue;
    const at::Tensor ds = gemm_nn(dy_m, m.b_image.of(m.b, dy.scalar_type())).mul_(m.scale);
    const at::Tensor dropped = pass.dropout > 0 ? dropout(x, pass, m.index) : x;
    gradient.leaves.push_back(gemm_tn(ds, dropped));
    gradient.leaves.push_back(gemm_tn(dy_m, s[update++]));
    if (!needs_dx) continue;
    const at::Tensor low_rank = gemm_nn(ds, m.a_image.of(m.a, dy.scalar_type()));
    if (pass.dropout > 0) {
      dropout_add(dx, low_rank, pass, m.index);
    } else {
      dx.add_(low_rank);
    }
  }
  switch (input.source) {
    case Source::norm:
      if (needs_dx) {
        auto [dh, dg] = rms_norm_backward(dx, input.in.contiguous(), input.norm->current_weight(), input.rstd,
                                          through.defined() ? through.contiguous() : through, has_gain);
        if (needs_d_in) gradient.d_in = dh;
        gradient.d_gain = dg;
      }
      break;
    case Source::swiglu:
      if (needs_d_in) gradient.d_in = swiglu_backward(dx, input.in.contiguous());
      break;
    case Source::plain:
      gradient.d_in = dx;
  }
  return gradient;
}

}  // namespace rankfold::ops::on_cpu
