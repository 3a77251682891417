#include "fused/backend.h"

#include "fused/fake_cuda.h"
#include "ops/any_attention.h"
#include "simt/engine.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

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

std::vector<at::Tensor> attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                  const AttentionSpec& spec, const Sequences& sequences) {
  return ops::any_attention(q, k, v, spec, sequences);
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> attention_backward(const at::Tensor& dy, const at::Tensor& q,
                                                                  const at::Tensor& k, const at::Tensor& v,
                                                                  const std::vector<at::Tensor>&,
                                                                  const AttentionSpec& spec,
                                                                  const Sequences& sequences) {
  return ops::any_attention_backward(dy, q, k, v, spec, sequences);
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
