#include "ops/frozen_weight.h"

#include "core/check.h"
#include "core/memory.h"
#include "io/dtype.h"
#include "ops/augmented.h"
#include "ops/backend.h"
#include "ops/ops.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <utility>

namespace rankfold {

at::Tensor WeightScratch::block(int64_t rows, int64_t columns, at::ScalarType dtype) {
  const int64_t elements = rows * columns;
  if (!block_.defined() || block_.scalar_type() != dtype || block_.numel() < elements) {
    block_ = at::Tensor();  // before the larger one comes
    block_ = at::empty({elements}, at::TensorOptions().dtype(dtype));
  }
  return block_.narrow(0, 0, elements).view({rows, columns});
}

at::Tensor WeightScratch::buffer(int64_t n, int64_t k, int64_t rows, int64_t columns,
                                 const at::TensorOptions& options) {
  at::Tensor& buffer = buffers_[{n, k, rows, columns}];
  if (!buffer.defined()) buffer = at::zeros({rows, columns}, options);
  return buffer;
}

at::Tensor FrozenWeight::copy() {
  at::Tensor all = at::empty({rows_, columns_}, at::TensorOptions(device_).dtype(dtype_));
  copy_rows(0, all);
  return all;
}

int64_t FrozenWeight::bytes() const {
  size_t sum = 0;
  for (const at::Tensor& x : tensors()) sum += x.nbytes();
  return static_cast<int64_t>(sum);
}

void FrozenWeight::prefetch() {
  if (std::exchange(is_prefetched_, true) || !device_.is_cpu()) return;
  for (const at::Tensor& x : sources()) read_ahead(x.const_data_ptr(), x.nbytes());
}

DenseWeight::DenseWeight(at::Tensor value, std::function<void(const at::Tensor& value)> fill,
                         std::vector<at::Tensor> sources)
    : FrozenWeight(value.size(0), value.size(1), value.scalar_type(), value.device()),
      value_(std::move(value)),
      fill_(std::move(fill)),
      sources_(std::move(sources)) {}

std::string DenseWeight::stored() const { return model_dtype_name(dtype()); }

const at::Tensor& DenseWeight::value() {
  if (fill_) {
    const at::NoGradGuard no_grad;
    fill_(value_);
    fill_ = nullptr, sources_.clear();
  }
  return value_;
}

at::Tensor DenseWeight::block(int64_t begin, int64_t end, int64_t first, int64_t last) {
  at::Tensor block = value();
  if (end - begin < rows()) block = block.narrow(0, begin, end - begin);
  if (last - first < columns()) block = block.narrow(1, first, last - first);
  return block;
}

void DenseWeight::copy_rows(int64_t begin, const at::Tensor& to) { to.copy_(value().narrow(0, begin, to.size(0))); }

at::Tensor DenseWeight::select_rows(const at::Tensor& indices) { return ops::embed(value(), indices); }

void DenseWeight::move_to(const at::Tensor& place) {
  place.copy_(value());
  value_ = place;
}

namespace {

int64_t rows_of_parts(const std::vector<PackedWeight>& parts) {
  int64_t rows = 0;
  for (const PackedWeight& part : parts) rows += part.rows;
  return rows;
}

// f(part, its rows [begin, end), the row of the whole at which they lie) for what [begin, end) has of each part.
template <class F>
void for_parts(const std::vector<PackedWeight>& parts, int64_t begin, int64_t end, F&& f) {
  int64_t row = 0;
  for (const PackedWeight& part : parts) {
    const int64_t from = std::max(begin, row), to = std::min(end, row + part.rows);
    if (from < to) f(part, from - row, to - row, from);
    row += part.rows;
  }
}

// Rows [begin, end), columns [first, last) into `to`, of a dtype that the device decodes to.
void decode_parts(const std::vector<PackedWeight>& parts, int64_t begin, int64_t end, int64_t first, int64_t last,
                  const at::Tensor& to) {
  const ops::Backend* backend = ops::backend_for(to);
  for_parts(parts, begin, end, [&](const PackedWeight& part, int64_t from, int64_t until, int64_t row) {
    const at::Tensor rows = to.narrow(0, row - begin, until - from);
    if (!backend) return ops::decode(part, from, until, first, last, rows);
    RANKFOLD_ASSERT(first == 0 && last == part.columns);
    backend->kernels.dequantize({.weight = part.view(),
                                 .dtype = ops::dtype_of(to.scalar_type()),
                                 .begin = from,
                                 .end = until,
                                 .out = rows.data_ptr(),
                                 .ld_out = rows.stride(0)},
                                backend->stream(to));
  });
}

}  // namespace

DecodedWeight::DecodedWeight(std::vector<PackedWeight> parts, std::string stored, at::ScalarType dtype,
                             std::shared_ptr<WeightScratch> scratch)
    : FrozenWeight(rows_of_parts(parts), parts.at(0).columns, dtype, parts.at(0).codes.device()),
      parts_(std::move(parts)),
      stored_(std::move(stored)),
      scratch_(std::move(scratch)) {}

bool DecodedWeight::is_quantized() const {
  return std::any_of(parts_.begin(), parts_.end(),
                     [](const PackedWeight& part) { return part.packing != kernels::Packing::plain; });
}

std::vector<at::Tensor> DecodedWeight::tensors() const {
  std::vector<at::Tensor> all;
  for (const PackedWeight& part : parts_)
    for (const at::Tensor& x :
         {part.codes, part.scale, part.table, part.nested_codes, part.nested_table, part.zero, part.group_of})
      if (x.defined()) all.push_back(x);
  return all;
}

at::Tensor DecodedWeight::block(int64_t begin, int64_t end, int64_t first, int64_t last) {
  const at::Tensor to = device().is_cpu() ? scratch_->block(end - begin, last - first, dtype())
                                          : scratch_->buffer(rows(), columns(), end - begin, last - first,
                                                             at::TensorOptions(device()).dtype(dtype()));
  decode_parts(parts_, begin, end, first, last, to);
  return to;
}

void DecodedWeight::decode_into(const at::Tensor& to) const {
  decode_parts(parts_, 0, rows(), 0, columns(), to.narrow(0, 0, rows()).narrow(1, 0, columns()));
}

void DecodedWeight::copy_rows(int64_t begin, const at::Tensor& to) {
  const at::NoGradGuard no_grad;
  const bool is_direct =
      to.device() == device() && to.stride(1) == 1 && to.scalar_type() != (device().is_cpu() ? at::kHalf : at::kDouble);
  const at::Tensor decoded = is_direct ? to : at::empty(to.sizes(), at::TensorOptions(device()).dtype(at::kFloat));
  decode_parts(parts_, begin, begin + to.size(0), 0, columns(), decoded);
  if (!is_direct) to.copy_(decoded);
}

at::Tensor DecodedWeight::select_rows(const at::Tensor& indices) {
  const at::Tensor rows = at::empty({indices.size(0), columns()}, at::TensorOptions(device()).dtype(dtype()));
  const at::Tensor on_host = indices.cpu();
  for (int64_t i = 0; i < on_host.size(0); ++i) copy_rows(on_host.const_data_ptr<int64_t>()[i], rows.narrow(0, i, 1));
  return rows;
}

}  // namespace rankfold
