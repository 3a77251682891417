#include "adapter/merge.h"
#include "adapter/merge_plan.h"
#include "core/check.h"
#include "core/row_chunks.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cstring>
#include <map>

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

// Compares `merged` with `base`, or with base + update, in blocks of rows.
void compare(const fs::path& file, const TensorInfo& info, const at::Tensor& base, const at::Tensor& merged,
             const ExactUpdate* update) {
  if (merged.sizes() != base.sizes() ||
      at::isFloatingType(merged.scalar_type()) != at::isFloatingType(base.scalar_type()))
    wrong(file, info.name, "expected the base's shape and kind of number, got ", merged.scalar_type(), " ",
          merged.sizes());
  const at::ScalarType dtype = merged.scalar_type();
  if (!update && dtype == base.scalar_type()) {
    if (!same_bytes(base, merged)) wrong(file, info.name, "expected the base's own values, got others");
    return;
  }
  const at::Tensor flat_base = base.dim() > 1 ? base : base.view({-1, 1});
  const at::Tensor flat_merged = merged.view(flat_base.sizes());
  constexpr int64_t kBlockElements = 1 << 18;  // 2 MiB of doubles at a time
  for_row_chunks(
      flat_base.size(0), flat_base.numel() / std::max<int64_t>(1, flat_base.size(0)), kBlockElements,
      [&](int64_t row, int64_t count) {
        const at::Tensor stored = flat_base.narrow(0, row, count), found = flat_merged.narrow(0, row, count);
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

}  // namespace

void check_merged(const fs::path& model, const fs::path& adapter, const fs::path& merged, const Stop& stop) {
  const at::NoGradGuard no_grad;
  const ModelFolder base = ModelFolder::open(model), result = ModelFolder::open(merged);
  const MergePlan plan = plan_merge(base, adapter);
  for (const std::string& name : result.names())
    if (!base.contains(name) && name != plan.added)
      wrong(result.file_of(name).path(), name, "expected no such tensor, as the base has none");
  std::vector<std::string> names = base.names();
  if (!plan.added.empty()) names.push_back(plan.added);
  for (const std::string& name : names) {
    leave_if(stop);
    if (!result.contains(name)) wrong(merged, name, "expected the base's tensor, got none");
    const TensorFile& to = result.file_of(name);
    std::optional<ExactUpdate> update;
    if (const auto found = plan.updates.find(name); found != plan.updates.end())
      update =
          ExactUpdate{found->second.left.to(at::kDouble), found->second.right.to(at::kDouble), found->second.scale};
    compare(to.path(), to.info(name), plan.source(base, name), to.tensor(name), update ? &*update : nullptr);
    const std::string& stored = name == plan.added ? plan.twin : name;
    base.file_of(stored).forget(stored);
    to.forget(name);
  }
}

}  // namespace rankfold
