#include "adapter/merge.h"
#include "adapter/merge_form.h"
#include "adapter/merge_plan.h"
#include "core/check.h"
#include "core/row_chunks.h"
#include "model/tensor_list.h"
#include "quant/quantized_folder.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <optional>
#include <set>

namespace rankfold {

namespace fs = std::filesystem;

namespace {

template <class... Parts>
[[noreturn]] void wrong(const fs::path& file, const std::string& tensor, const Parts&... parts) {
  throw Error(ExitCode::kDefect, one_line(join(file.string(), ": tensor '", tensor, "': ", parts...)));
}

bool same_bytes(const at::Tensor& a, const at::Tensor& b) {
  return std::memcmp(a.const_data_ptr(), b.const_data_ptr(), a.nbytes()) == 0;
}

// A module's update in double.
struct ExactUpdate {
  at::Tensor left, right;  // [rows, r], [r, columns]
  double scale;

  at::Tensor rows(int64_t begin, int64_t count) const { return left.narrow(0, begin, count).mm(right).mul_(scale); }
  // How far the fp32 product of the same may lie from it: r products and sums, one scale, one sum with the weight.
  at::Tensor slack(int64_t begin, int64_t count, const at::Tensor& sum) const {
    constexpr double kRounding = 0x1p-24;
    const at::Tensor bound =
        left.narrow(0, begin, count).square().sum(1, true).sqrt() * right.square().sum(0, true).sqrt();
    return bound.mul_(scale * kRounding * static_cast<double>(right.size(0) + 3)).add_(sum.abs(), 2 * kRounding);
  }
};

constexpr int64_t kCheckedElements = 1 << 18;  // 2 MiB of doubles at a time

// Compares `merged` with `base`, or with base + update, in blocks of rows.
void compare(const fs::path& file, const TensorInfo& info, const BaseTensor& base, const at::Tensor& merged,
             const ExactUpdate* update) {
  const at::Tensor dense = base.dense();
  if (merged.sizes() != base.sizes() ||
      at::isFloatingType(merged.scalar_type()) != (!dense.defined() || at::isFloatingType(dense.scalar_type())))
    wrong(file, info.name, "expected the base's shape and kind of number, got ", merged.scalar_type(), " ",
          merged.sizes());
  const at::ScalarType dtype = merged.scalar_type();
  if (!update && dense.defined() && dtype == dense.scalar_type()) {
    if (!same_bytes(dense, merged)) wrong(file, info.name, "expected the base's own values, got others");
    return;
  }
  const at::Tensor flat = merged.view({base.rows(), base.columns()});
  for_row_chunks(base.rows(), base.columns(), kCheckedElements, [&](int64_t row, int64_t count) {
    const at::Tensor stored = base.block(row, count, base.wide()), found = flat.narrow(0, row, count);
    if (!update) {
      if (!same_bytes(stored.to(dtype), found)) wrong(file, info.name, "expected the base's values as ", dtype);
      return;
    }
    const at::Tensor sum = stored.to(at::kDouble).add_(update->rows(row, count));
    const at::Tensor slack = update->slack(row, count, sum);
    // Rounding keeps the order: what lies between these two in fp32 does so in the stored dtype.
    const at::Tensor is_right = found.ge(sum.sub(slack).to(dtype)).logical_and_(found.le(sum.add(slack).to(dtype)));
    if (is_right.all().item<bool>()) return;
    const int64_t at = is_right.logical_not().view({-1}).to(at::kByte).argmax().item<int64_t>();
    wrong(file, info.name, "row ", row + at / sum.size(1), ", column ", at % sum.size(1), ": expected ",
          sum.view({-1})[at].item<double>(), " as ", dtype, ", got ", found.reshape({-1})[at].item<double>());
  });
}

// How far a value in fewer bits may lie from the exact one.
struct Step {
  double share;      // of the largest value of its block or row
  double least = 0;  // whatever the values: half a subnormal number of fp16
};

// `rounded`: the dtype that decoded values are rounded to.
Step step_of(const BaseStorage& storage, at::ScalarType rounded) {
  constexpr double kHalf = 0x1p-11, kLeastHalf = 0x1p-25, kFloat = 0x1p-20;  // the last one for a few operations
  const double rounding = rounded == at::kBFloat16 ? 0x1p-8 : rounded == at::kHalf ? kHalf : kFloat;
  // Half of the widest gap between two codes: nf4's from -1 to -0.696, fp4's from 2/3 to 1, int8's 1/127. int8 rounds
  // values, and so the largest of them, to fp16 first.
  if (storage.type == Quantization::int8) return {.share = 0.5 / 127 + 2 * kHalf + rounding, .least = 2 * kLeastHalf};
  return {.share = (storage.type == Quantization::nf4 ? 0.1520 : 1. / 6) + rounding,
          .least = rounded == at::kHalf ? kLeastHalf : 0.};
}

// What the scales of `count` blocks from `first` on lose in 8 bits, [count, 1]: codes of scales lie 0.9 / 64 of the
// largest of their group apart at most.
at::Tensor lost_by_nesting(const PackedWeight& weight, int64_t first, int64_t count) {
  if (!weight.nested_codes.defined()) return at::zeros({count, 1}, at::kDouble);
  constexpr double kHalfGap = 0.9 / 128, kRounding = 0x1p-20;
  const at::Tensor group = at::arange(first, first + count).floor_divide(weight.nested_block);
  const at::Tensor scale = weight.scale.flatten().index_select(0, group).to(at::kDouble).abs();
  return (scale * (kHalfGap + kRounding) + std::abs(weight.offset) * kRounding).view({count, 1});
}

// The same for a layer in fewer bits: every value within a step, scaled by what is stored beside it.
void compare_packed(const fs::path& file, const std::string& name, const BaseTensor& base, const PackedWeight& merged,
                    const BaseStorage& storage, const ExactUpdate* update) {
  const Step step = step_of(storage, merged.rounded);
  const int64_t rows = base.rows(), columns = base.columns();
  const bool by_row = storage.type == Quantization::int8;
  const int64_t block = by_row ? columns : merged.block;
  const int64_t whole = by_row ? 1 : block;  // so many rows are whole blocks, whatever their length
  for_row_chunks((rows + whole - 1) / whole, whole * columns, kCheckedElements, [&](int64_t chunk, int64_t count) {
    const int64_t row = chunk * whole, end = std::min(rows, (chunk + count) * whole);
    at::Tensor sum = base.block(row, end - row, at::kDouble), slack = at::zeros_like(sum);
    if (update) {
      sum.add_(update->rows(row, end - row));
      slack = update->slack(row, end - row, sum);
    }
    const int64_t elements = sum.numel(), spare = (block - elements % block) % block;
    const at::Tensor blocks = at::constant_pad_nd(sum.view({-1}), {0, spare}).view({-1, block});
    const at::Tensor largest = blocks.abs().amax(1, true);
    const at::Tensor lost = lost_by_nesting(merged, row * columns / block, blocks.size(0));
    const at::Tensor limit =
        ((largest + lost) * step.share + lost).expand_as(blocks).reshape({-1}).narrow(0, 0, elements).view_as(sum);
    const at::Tensor found = BaseTensor(merged).block(row, end - row, at::kDouble);
    const at::Tensor is_right = found.sub(sum).abs().le(limit + slack + step.least);
    if (is_right.all().item<bool>()) return;
    const int64_t at = is_right.logical_not().view({-1}).to(at::kByte).argmax().item<int64_t>();
    wrong(file, name, "row ", row + at / columns, ", column ", at % columns, ": expected ",
          sum.view({-1})[at].item<double>(), " in ", text_of(storage), ", got ", found.view({-1})[at].item<double>());
  });
}

// The tensors of the result by the names of the model's: of a layer in fewer bits the weight alone.
class Result {
 public:
  Result(const fs::path& path, const std::optional<BaseStorage>& storage, const ModelFolder& base)
      : folder_(ModelFolder::open(path)), storage_(storage) {
    if (!storage) return;
    packed_ = QuantizedFolder::open(folder_);
    if (!packed_) wrong(path, "", "expected quantization_config in config.json, got none");
    for (const LinearModule& layer : quantized_layers(base, *storage)) {
      layers_.emplace(layer.name + kWeightSuffix, layer);
      for (const std::string& stored : packed_->tensors_of(layer.name)) of_layers_.insert(stored);
    }
  }

  const ModelFolder& folder() const { return folder_; }
  // The layer of this weight, where the result must have it in fewer bits.
  const LinearModule* layer(const std::string& name) const {
    const auto found = layers_.find(name);
    return found == layers_.end() ? nullptr : &found->second;
  }
  bool is_of_layer(const std::string& stored) const { return of_layers_.contains(stored); }
  PackedWeight packed(const LinearModule& layer) const {
    return packed_->weight(layer.name, layer.out_features, layer.in_features);
  }
  const BaseStorage& storage() const { return *storage_; }

 private:
  ModelFolder folder_;
  std::optional<BaseStorage> storage_;
  std::optional<QuantizedFolder> packed_;
  std::map<std::string, LinearModule> layers_;
  std::set<std::string> of_layers_;
};

}  // namespace

void check_merged(const fs::path& model, const fs::path& adapter, const fs::path& merged, const MergeOptions& options,
                  const Stop& stop) {
  const at::NoGradGuard no_grad;
  const MergeForm form = merge_form(model, adapter, options);
  const MergeBase base(form.base);
  const Result result(merged, form.result, base.folder());
  const MergePlan plan = plan_merge(base, adapter);
  for (const std::string& name : result.folder().names())
    if (!base.contains(name) && name != plan.added && !result.is_of_layer(name))
      wrong(result.folder().file_of(name).path(), name, "expected no such tensor, as the base has none");
  std::vector<std::string> names = base.names();
  if (!plan.added.empty()) names.push_back(plan.added);
  for (const std::string& name : names) {
    leave_if(stop);
    if (!result.folder().contains(name)) wrong(merged, name, "expected the base's tensor, got none");
    const TensorFile& to = result.folder().file_of(name);
    std::optional<ExactUpdate> update;
    if (const auto found = plan.updates.find(name); found != plan.updates.end())
      update =
          ExactUpdate{found->second.left.to(at::kDouble), found->second.right.to(at::kDouble), found->second.scale};
    const ExactUpdate* exact = update ? &*update : nullptr;
    if (const LinearModule* layer = result.layer(name))
      compare_packed(to.path(), name, plan.source(base, name), result.packed(*layer), result.storage(), exact);
    else
      compare(to.path(), to.info(name), plan.source(base, name), to.tensor(name), exact);
    base.forget(plan.stored(name));
    to.forget(name);
  }
}

}  // namespace rankfold
