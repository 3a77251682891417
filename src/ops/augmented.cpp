#include "ops/augmented.h"

#include "core/check.h"
#include "ops/dropout.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <cstring>

namespace rankfold {

const void* Augmented::at(int64_t row, int64_t column) const {
  return static_cast<const char*>(buffer.const_data_ptr()) + (row * pitch() + column) * buffer.element_size();
}

namespace ops {
namespace {

using kernels::round_up;

// The columns that an update takes.
int64_t columns_of(const LowRank& u) { return round_up(u.rank(), 8); }

void* address(const at::Tensor& x, int64_t row, int64_t column) {
  return static_cast<char*>(x.data_ptr()) + (row * x.stride(0) + column * x.stride(1)) * x.element_size();
}

// f(update, its first column)
template <class F>
void for_updates(const Projection& projection, F&& f) {
  int64_t column = 0;
  for (const LowRank& u : projection.updates) {
    f(u, column);
    column += columns_of(u);
  }
}

std::array<uint32_t, 2> versions_of(const LowRank& u) {
  return {static_cast<uint32_t>(u.a._version()), static_cast<uint32_t>(u.b._version())};
}
std::vector<std::array<uint32_t, 2>> leaf_versions(const Projection& projection) {
  std::vector<std::array<uint32_t, 2>> versions;
  for (const LowRank& u : projection.updates) versions.push_back(versions_of(u));
  return versions;
}

at::Tensor place_of_a(const Augmented& w, int64_t k) { return w.buffer.narrow(0, w.n8, w.columns).narrow(1, 0, k); }
at::Tensor place_of_b(const Augmented& w, int64_t n, int64_t columns) {
  return w.buffer.narrow(0, 0, n).narrow(1, w.k8, columns);
}

constexpr int64_t kBiasColumns = 8;

// Columns that follow W: of the updates, and of all.
int64_t columns_of(const Projection& projection) {
  int64_t columns = 0;
  for (const LowRank& u : projection.updates) columns += columns_of(u);
  return columns;
}
int64_t columns_after(const Projection& projection) {
  return columns_of(projection) + (projection.bias.defined() ? kBiasColumns : 0);
}
int64_t augmented_pitch(const Projection& projection) {
  return round_up(projection.in_features(), 8) + round_up(columns_after(projection), 64);
}

// Made once for a projection: other adapters come with another one, which shares the frozen weight alone.
void lay_out(Projection& projection) {
  if (projection.augmented) return;
  const int64_t columns = columns_of(projection), after = columns_after(projection);
  FrozenWeight& weight = projection.current();
  const auto options = at::TensorOptions(weight.device()).dtype(weight.dtype());
  const int64_t n = weight.rows(), k = weight.columns();
  auto w = std::make_shared<Augmented>();
  w->n8 = round_up(n, 8), w->k8 = round_up(k, 8), w->columns = columns;
  if (projection.bias.defined()) {
    w->one = at::zeros({kBiasColumns}, options);
    w->one.narrow(0, 0, 1).fill_(1);
    w->bias_version = static_cast<uint32_t>(projection.bias._version()) - 1;  // the first use writes it
  }
  w->a_transposed = at::zeros({k, columns}, options);
  w->b_transposed = at::zeros({columns, w->n8}, options);
  const int64_t rows = w->n8 + columns, pitch = augmented_pitch(projection);
  if (DenseWeight* dense = weight.dense()) {
    w->buffer = at::zeros({rows, pitch}, options);
    dense->move_to(w->buffer.narrow(0, 0, n).narrow(1, 0, k));
    w->a = place_of_a(*w, k), w->b = place_of_b(*w, n, after);
  } else {
    w->is_shared = true;
    w->buffer = static_cast<DecodedWeight&>(weight).scratch().buffer(n, k, rows, pitch, options);
    w->a = at::zeros({columns, k}, options), w->b = at::zeros({n, after}, options);
  }
  projection.augmented = std::move(w);
}

}  // namespace

std::array<int64_t, 4> decoded_buffer(const Projection& projection) {
  const int64_t n = projection.out_features(), k = projection.in_features();
  if (!is_augmented(projection)) return {n, k, n, k};
  return {n, k, round_up(n, 8) + columns_of(projection), augmented_pitch(projection)};
}

kernels::Dtype dtype_of(at::ScalarType dtype) {
  switch (dtype) {
    case at::kFloat:
      return kernels::Dtype::f32;
    case at::kBFloat16:
      return kernels::Dtype::bf16;
    case at::kHalf:
      return kernels::Dtype::f16;
    default:
      RANKFOLD_CHECK(false, "expected float32, bfloat16 or float16, got ", c10::toString(dtype));
  }
  return {};
}

DeviceSegments to_device(const Backend& backend, std::vector<kernels::Segment> segments, const at::Device& device) {
  DeviceSegments result;
  result.count = static_cast<int64_t>(segments.size());
  result.blocks = backend.kernels.lay_out(segments.data(), result.count);
  const int64_t bytes = result.count * static_cast<int64_t>(sizeof(kernels::Segment));
  at::Tensor host = at::empty({bytes}, at::kByte);
  if (bytes > 0) std::memcpy(host.data_ptr(), segments.data(), static_cast<size_t>(bytes));
  result.memory = host.to(device);
  return result;
}

namespace {

// A and B as the kernels read them, brought up to date with the leaves, and the bias.
void copy_leaves(Projection& projection, Augmented& w) {
  if (projection.bias.defined()) {
    const at::Tensor& bias = projection.current_bias();
    if (const auto version = static_cast<uint32_t>(bias._version()); version != w.bias_version) {
      w.b.select(1, w.columns).copy_(bias);
      w.bias_version = version;
    }
  }
  const auto versions = leaf_versions(projection);
  if (versions == w.versions) return;
  // Somebody other than AdamW's kernel has written the leaves: a load, a user's optimizer, the first use.
  for_updates(projection, [&](const LowRank& u, int64_t column) {
    w.a.narrow(0, column, u.rank()).copy_(u.a);
    w.a_transposed.narrow(1, column, u.rank()).copy_(u.a.t());
    w.b.narrow(0, u.begin, u.b.size(0)).narrow(1, column, u.rank()).copy_(u.b);
    w.b_transposed.narrow(0, column, u.rank()).narrow(1, u.begin, u.b.size(0)).copy_(u.b.t());
  });
  w.versions = versions;
}

}  // namespace

Augmented& current(Projection& projection) {
  at::NoGradGuard no_grad;
  lay_out(projection);
  FrozenWeight& weight = projection.current();  // masters of weights that train as a whole
  Augmented& w = *projection.augmented;
  copy_leaves(projection, w);
  if (w.is_shared) {
    static_cast<DecodedWeight&>(weight).decode_into(w.buffer);
    place_of_a(w, weight.columns()).copy_(w.a);
    place_of_b(w, weight.rows(), w.b.size(1)).copy_(w.b);
  }
  return w;
}

std::vector<kernels::Segment> optimizer_segments(Projection& projection, const at::Tensor& flat) {
  const auto begin = [&](const at::Tensor& leaf) {
    return (static_cast<const char*>(leaf.const_data_ptr()) - static_cast<const char*>(flat.const_data_ptr())) /
           static_cast<int64_t>(sizeof(float));
  };
  std::vector<kernels::Segment> segments;
  if (is_augmented(projection)) {
    lay_out(projection);
    Augmented& w = *projection.augmented;
    copy_leaves(projection, w);
    for_updates(projection, [&](const LowRank& u, int64_t column) {
      if (!u.a.is_alias_of(flat)) return;  // another adapter's
      segments.push_back({.begin = begin(u.a),
                          .rows = u.rank(),
                          .cols = u.a.size(1),
                          .copy = address(w.a, column, 0),
                          .ld = w.a.stride(0),
                          .transposed = address(w.a_transposed, 0, column),
                          .ld_transposed = w.columns,
                          .decays = 1});
      segments.push_back({.begin = begin(u.b),
                          .rows = u.b.size(0),
                          .cols = u.rank(),
                          .copy = address(w.b, u.begin, column),
                          .ld = w.b.stride(0),
                          .transposed = address(w.b_transposed, column, u.begin),
                          .ld_transposed = w.n8,
                          .decays = 1});
    });
  }
  for (const Module& m : projection.modules) {
    if (!m.master.defined() || projection.has_unit_rows) continue;
    const at::Tensor& weight = projection.frozen->dense()->value();
    if (m.master.is_alias_of(weight)) continue;
    segments.push_back({.begin = begin(m.master),
                        .rows = m.master.size(0),
                        .cols = m.master.size(1),
                        .copy = address(weight, m.begin, 0),
                        .ld = weight.stride(0),
                        .decays = 1});
  }
  return segments;
}

void copies_written(Projection& projection, const at::Tensor& flat) {
  for (size_t i = 0; i < projection.updates.size(); ++i)  // another adapter's were not written
    if (projection.updates[i].a.is_alias_of(flat))
      projection.augmented->versions.at(i) = versions_of(projection.updates[i]);
  for (Module& m : projection.modules)
    if (m.master.defined() && !projection.has_unit_rows) m.master_version = static_cast<uint32_t>(m.master._version());
}

kernels::Updates updates_of(const Projection& projection, const Pass& pass) {
  kernels::Updates updates;
  for_updates(projection, [&](const LowRank& u, int64_t column) {
    RANKFOLD_CHECK(updates.count < kernels::kMostUpdates, "a projection with more than ", kernels::kMostUpdates,
                   " low-rank updates");
    const Mask mask = mask_of(pass, u.index, projection.in_features());
    updates.update[updates.count++] = {.begin = static_cast<int32_t>(column),
                                       .end = static_cast<int32_t>(column + columns_of(u)),
                                       .stream = mask.stream,
                                       .block = mask.block,
                                       .scale = static_cast<float>(u.scale * mask.scale)};
    updates.dropout.threshold = mask.threshold;
  });
  if (updates.dropout.threshold > 0) {
    updates.dropout.row_M = static_cast<const int32_t*>(pass.rows.const_data_ptr());
    updates.dropout.position_M = static_cast<const int32_t*>(pass.positions.const_data_ptr());
    updates.dropout.key = pass.seed;
  }
  return updates;
}

}  // namespace ops
}  // namespace rankfold
