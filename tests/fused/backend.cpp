#include "fused/backend.h"

#include "fused/fake_cuda.h"
#include "simt/engine.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>
#include <limits>
#include <optional>

namespace rankfold::testing {
namespace {

at::ScalarType scalar_type(kernels::Dtype dtype) {
  return dtype == kernels::Dtype::f32 ? at::kFloat : dtype == kernels::Dtype::bf16 ? at::kBFloat16 : at::kHalf;
}

// A column-major matrix of BLAS as a tensor.
at::Tensor matrix(const void* data, int64_t rows, int64_t columns, int64_t ld, kernels::Dtype dtype) {
  if (columns > 1 && ld < rows) throw std::invalid_argument("gemm: a leading dimension is shorter than a column");
  return at::from_blob(const_cast<void*>(data), {rows, columns}, {1, ld}, at::TensorOptions(scalar_type(dtype)));
}

void gemm(const kernels::Gemm& p, kernels::Stream) {
  const OpenMemory open;
  at::NoGradGuard no_grad;
  const auto operand = [&](const void* data, bool transposed, int64_t rows, int64_t columns, int64_t ld) {
    const at::Tensor stored =
        transposed ? matrix(data, columns, rows, ld, p.dtype).t() : matrix(data, rows, columns, ld, p.dtype);
    return stored.to(at::kDouble);
  };
  at::Tensor sum =
      at::matmul(operand(p.a, p.transpose_a, p.m, p.k, p.lda), operand(p.b, p.transpose_b, p.k, p.n, p.ldb));
  if (p.beta != 0) sum.add_(matrix(p.c, p.m, p.n, p.ldc, p.dtype_out).to(at::kDouble), p.beta);
  matrix(p.d, p.m, p.n, p.ldd, p.dtype_out).copy_(sum);
}

// One sequence, q [L, H, D], k and v [L, G, D], differentiable.
at::Tensor attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  const int64_t length = q.size(0), group = q.size(1) / k.size(1);
  const auto heads = [&](const at::Tensor& x, int64_t repeats) {
    return x.to(at::kFloat).transpose(0, 1).repeat_interleave(repeats, 0);
  };
  const at::Tensor future = at::ones({length, length}, q.options().dtype(at::kBool)).triu(1);
  const at::Tensor scores = at::matmul(heads(q, 1), heads(k, group).transpose(1, 2))
                                .div(std::sqrt(static_cast<double>(q.size(2))))
                                .masked_fill(future, -std::numeric_limits<double>::infinity());
  return at::matmul(scores.softmax(-1), heads(v, group)).transpose(0, 1).to(q.scalar_type());
}

std::vector<at::Tensor> attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                  const Sequences& sequences) {
  at::Tensor out = at::empty({q.size(0), q.size(1), q.size(2)}, q.options());
  for (size_t b = 0; b + 1 < sequences.begin.size(); ++b) {
    const int64_t begin = sequences.begin[b], length = sequences.begin[b + 1] - begin;
    out.narrow(0, begin, length)
        .copy_(attend(q.narrow(0, begin, length), k.narrow(0, begin, length), v.narrow(0, begin, length)));
  }
  return {out};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> attention_backward(const at::Tensor& dy, const at::Tensor& q,
                                                                  const at::Tensor& k, const at::Tensor& v,
                                                                  const std::vector<at::Tensor>&,
                                                                  const Sequences& sequences) {
  std::vector<at::Tensor> grads[3];
  for (size_t b = 0; b + 1 < sequences.begin.size(); ++b) {
    const int64_t begin = sequences.begin[b], length = sequences.begin[b + 1] - begin;
    const auto leaf = [&](const at::Tensor& x) { return x.narrow(0, begin, length).detach().requires_grad_(true); };
    const std::vector<at::Tensor> leaves{leaf(q), leaf(k), leaf(v)};
    at::AutoGradMode recorded(true);
    const auto parts =
        torch::autograd::grad({attend(leaves[0], leaves[1], leaves[2])}, leaves, {dy.narrow(0, begin, length)});
    for (size_t i = 0; i < 3; ++i) grads[i].push_back(parts[i]);
  }
  return {at::cat(grads[0]), at::cat(grads[1]), at::cat(grads[2])};
}

}  // namespace

const ops::Backend& host_backend() {
  static const ops::Backend backend = [] {
    ops::Backend b{};
    b.kernels = kernels::table_of_kernels();
    b.kernels.gemm = gemm;
    simt::around_launches([](bool begins) {
      static std::optional<OpenMemory> open;  // kernels are launched by one thread at a time
      begins ? void(open.emplace()) : open.reset();
    });
    b.stream = [](const at::Tensor&) -> kernels::Stream { return nullptr; };
    b.shared_limit = [](const at::Tensor&) -> int64_t { return 99 * 1024; };
    b.attention = attention;
    b.attention_backward = attention_backward;
    b.attention_name = [] { return std::string("plain"); };
    b.peak_memory = [](c10::DeviceIndex) { return fake_cuda_peak(); };
    return b;
  }();
  return backend;
}

}  // namespace rankfold::testing
