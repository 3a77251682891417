#include "ops/projection.h"

#include "core/check.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

namespace rankfold {

const at::Tensor& LowPrecisionCopy::of(const at::Tensor& leaf, at::ScalarType dtype) {
  const uint32_t version = static_cast<uint32_t>(leaf._version());
  if (leaf.scalar_type() == dtype) {
    if (!value_.defined() || !value_.is_alias_of(leaf)) value_ = leaf.detach();
  } else if (!value_.defined() || value_.scalar_type() != dtype || version_ != version) {
    value_ = leaf.detach().to(dtype);
    version_ = version;
  }
  return value_;
}

bool Projection::trains() const {
  for (const Module& m : modules)
    if (m.master.defined()) return true;
  return has_update();
}

const at::Tensor& Projection::current_weight() {
  at::Tensor& weight = frozen->value;
  if (frozen->fill) {
    at::NoGradGuard no_grad;
    frozen->fill(weight);
    frozen->fill = nullptr;
  }
  for (Module& m : modules) {
    if (!m.master.defined() || m.master.is_alias_of(weight)) continue;
    const uint32_t version = static_cast<uint32_t>(m.master._version());
    if (version == m.master_version) continue;
    at::NoGradGuard no_grad;
    weight.narrow(0, m.begin, m.end - m.begin).copy_(m.master);
    m.master_version = version;
  }
  return weight;
}

Sequences::Sequences(std::vector<int64_t> begin_in, const at::Device& device) : begin(std::move(begin_in)) {
  RANKFOLD_CHECK(!begin.empty() && begin.front() == 0, "expected the sequences' offsets to begin with 0");
  for (size_t b = 0; b + 1 < begin.size(); ++b) longest = std::max(longest, begin[b + 1] - begin[b]);
  offsets = at::tensor(begin, at::kInt).to(device, /*non_blocking=*/true);
}

Pass Pass::select(const at::Tensor& indices) const {
  Pass selected = *this;
  if (dropout > 0) {
    selected.rows = rows.index_select(0, indices);
    selected.positions = positions.index_select(0, indices);
  }
  return selected;
}

}  // namespace rankfold
