#include "ops/projection.h"

#include "core/check.h"
#include "core/row_chunks.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <cmath>

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
    if (m.master.defined() || m.bias_master.defined()) return true;
  return has_update();
}

FrozenWeight& Projection::current() {
  for (Module& m : modules) {
    if (!m.master.defined()) continue;
    const uint32_t version = static_cast<uint32_t>(m.master._version());
    if (version == m.master_version) continue;
    RANKFOLD_ASSERT(frozen->dense());  // what trains as a whole
    const at::Tensor& weight = frozen->dense()->value();
    if (m.master.is_alias_of(weight)) continue;
    at::NoGradGuard no_grad;
    const at::Tensor rows = weight.narrow(0, m.begin, m.end - m.begin);
    if (has_unit_rows)
      divide_rows_by_norm(m.master, rows);
    else
      rows.copy_(m.master);
    m.master_version = version;
  }
  return *frozen;
}

const at::Tensor& Projection::current_bias() {
  for (Module& m : modules) {
    if (!m.bias_master.defined()) continue;
    const uint32_t version = static_cast<uint32_t>(m.bias_master._version());
    if (version == m.bias_version) continue;
    at::NoGradGuard no_grad;
    bias.narrow(0, m.begin, m.end - m.begin).copy_(m.bias_master);
    m.bias_version = version;
  }
  return bias;
}

void divide_rows_by_norm(const at::Tensor& x, const at::Tensor& to) {
  const at::NoGradGuard no_grad;
  constexpr int64_t kElements = 1 << 22;  // fp32 at a time
  for_row_chunks(x.size(0), x.size(1), kElements, [&](int64_t begin, int64_t count) {
    const at::Tensor rows = x.narrow(0, begin, count).to(at::kFloat);
    to.narrow(0, begin, count).copy_(rows / row_norms(rows));
  });
}

at::Tensor row_norms(const at::Tensor& x) {
  constexpr double kSmallest = 1e-12;  // as torch.nn.functional.normalize has it
  return at::linalg_vector_norm(x, 2, at::IntArrayRef{1}, /*keepdim=*/true).clamp_min_(kSmallest);
}

AttentionSpec::AttentionSpec(const Heads& heads_in)
    : heads(heads_in), scale(1 / std::sqrt(static_cast<double>(heads.size))), rotary(heads.size) {}

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
