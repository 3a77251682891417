#include "ops/gemm.h"

#include "ops/rowwise.h"

#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include <cstring>
#include <optional>

namespace rankfold::ops {
namespace {

using LinearPointwise = at::Tensor(const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&,
                                   c10::string_view, c10::List<std::optional<at::Scalar>>,
                                   std::optional<c10::string_view>);

bool processor_is_amd() {
#if defined(__x86_64__)
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid(0, &a, &b, &c, &d)) return false;
  char vendor[12];
  std::memcpy(vendor, &b, 4);
  std::memcpy(vendor + 4, &d, 4);
  std::memcpy(vendor + 8, &c, 4);
  return std::memcmp(vendor, "AuthenticAMD", 12) == 0;
#else
  return false;
#endif
}

using Handle = c10::TypedOperatorHandle<LinearPointwise>;
using Bias = std::optional<at::Tensor>;
at::Tensor call_linear(const Handle& op, const at::Tensor& x, const at::Tensor& w, const Bias& bias) {
  return op.call(x, w, bias, "none", c10::List<std::optional<at::Scalar>>(), std::nullopt);
}

// On AMD processors at::linear goes to MKL in fp32, at half the speed of the oneDNN that lies in the same library
// (docs/design.md). Its linear is reachable as an internal op; at::linear remains where that is missing.
const std::optional<Handle>& onednn_linear() {
  static const auto handle = []() -> std::optional<Handle> {
    if (!processor_is_amd()) return std::nullopt;
    const auto found = c10::Dispatcher::singleton().findSchema({"mkldnn::_linear_pointwise", ""});
    if (!found) return std::nullopt;
    try {
      auto typed = found->typed<LinearPointwise>();
      const at::Tensor x = at::ones({2, 3}), w = at::ones({4, 3});
      if (call_linear(typed, x, w, std::nullopt).sum().item<float>() != 24) return std::nullopt;
      return typed;
    } catch (const c10::Error&) {  // not registered for the CPU, or of another signature in another torch
      return std::nullopt;
    }
  }();
  return handle;
}

at::Tensor product(const at::Tensor& x, const at::Tensor& w, const Bias& bias = std::nullopt) {
  if (x.scalar_type() == at::kFloat && x.is_cpu() && x.numel() > 0) {
    if (const auto& op = onednn_linear()) return call_linear(*op, x, w, bias);
  }
  return at::linear(x, w, bias);
}

// x with the rows after its last up to product_rows, where its storage has them; what stands there only reaches rows of
// the result that nobody reads.
at::Tensor with_spare_rows(const at::Tensor& x) {
  const int64_t rows = x.size(0) == 0 ? 0 : product_rows(x.size(0));
  if (rows == x.size(0) || !x.is_contiguous()) return x;
  const int64_t end = (x.storage_offset() + rows * x.size(1)) * x.element_size();
  return end <= static_cast<int64_t>(x.storage().nbytes()) ? x.as_strided({rows, x.size(1)}, {x.size(1), 1}) : x;
}

}  // namespace

at::Tensor gemm_nt(const at::Tensor& x, const at::Tensor& w, const at::Tensor& bias) {
  return product(with_spare_rows(x), w, bias.defined() ? Bias(bias) : std::nullopt).narrow(0, 0, x.size(0)).detach();
}

at::Tensor gemm_nn(const at::Tensor& dy, const at::Tensor& w) { return gemm_nt(dy, w.t()); }

at::Tensor gemm_tn(const at::Tensor& dy, const at::Tensor& x) {
  const at::Tensor gradient = product(dy.t(), x.t());
  return gradient.scalar_type() == at::kBFloat16 ? gradient.to(at::kFloat) : gradient;
}

}  // namespace rankfold::ops
