#include "adapter/merge.h"

#include "adapter/merge_form.h"
#include "adapter/merge_layout.h"
#include "adapter/merge_plan.h"
#include "core/check.h"
#include "core/checksum.h"
#include "core/config.h"
#include "core/file.h"
#include "core/guard.h"
#include "core/json.h"
#include "core/peak_memory.h"
#include "core/row_chunks.h"
#include "core/write.h"
#include "io/dtype.h"
#include "io/model_folder.h"
#include "io/tensor_writer.h"
#include "model/load_network.h"
#include "model/model_config.h"
#include "model/tensor_list.h"
#include "quant/bitsandbytes_format.h"
#include "rankfold/adapter.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <map>
#include <optional>
#include <set>

namespace rankfold {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

// In a merged folder: checksums of the adapters that are merged into it, as no loss would show that one was twice.
constexpr const char* kMergedName = "rankfold_merge.json";
// What other quantisers write beside the weights: of no use, and wrong, beside dense ones.
constexpr const char* kQuantizerFiles[] = {"quantize_config.json", "quant_config.json", "hf_quant_config.json"};
// Of files that are made anew, where nothing else is said.
constexpr uint64_t kUsualShard = 5'000'000'000;
constexpr int64_t kBlockElements = 1 << 22;  // of fp32 work at a time: 16 MiB

// How much of an update is in the stored weights.
struct Survival {
  double kept = 0, all = 0;  // change * update and update * update, summed over elements
  bool is_changed = false;   // some stored value

  double share() const { return all > 0 ? kept / all : 1; }
  void add(const at::Tensor& change, const at::Tensor& update, double scale) {
    kept += change.mul(update).sum(at::kDouble).item<double>() * scale;
    all += update.square().sum(at::kDouble).item<double>() * scale * scale;
  }
};

// Those with names, which lie in a folder of their own.
void copy_chat_templates(const fs::path& from, const fs::path& to) {
  std::error_code error;
  if (!fs::is_directory(from / kChatTemplatesFolder, error)) return;
  const NewFolder made(to / kChatTemplatesFolder);
  for (const auto& entry : fs::directory_iterator(from / kChatTemplatesFolder, error))
    if (entry.path().extension() == ".jinja" && what_stands_at(entry.path()) == "a file")
      copy_atomically(*File::open(entry.path()), to / kChatTemplatesFolder / entry.path().filename());
}

double square_sum(const at::Tensor& block) { return block.square().sum(at::kDouble).item<double>(); }

class Merger {
 public:
  Merger(const fs::path& model, const fs::path& adapter, const MergeOptions& options, const Stop& stop)
      : form_(merge_form(model, adapter, options)),
        base_(form_.base),
        plan_(plan_merge(base_, adapter)),
        dtype_(meaning_of(kDtypes, options.dtype)),
        stop_(stop) {
    if (form_.other) other_.emplace(*form_.other);
    if (plan_.has_adapter()) {
      merged_ = adapters_in_base();
      report_.notes = notes_on(plan_.adapter, parts_of(base_).modules);
    }
    if (std::string note = unused_adapter(model, adapter); !note.empty()) report_.notes.push_back(std::move(note));
    report_.notes.insert(report_.notes.end(), form_.notes.begin(), form_.notes.end());
    if (form_.result) {
      for (const LinearModule& layer : quantized_layers(base_.folder(), *form_.result))
        packed_.insert(layer.name + kWeightSuffix);
      report_.quantization = text_of(*form_.result);
    } else if (other_) {
      report_.quantization = base_.quantization().empty() ? other_->quantization() : base_.quantization();
    }
    lay_out(options.max_shard_size);
  }

  MergeReport write(const fs::path& folder) {
    Companions(base_.folder()).copy_to(folder);
    copy_chat_templates(base_.folder().path(), folder);
    if (plan_.has_adapter())
      for (const char* record : {kTemplateFile, kChatTemplateFile}) {
        const fs::path own = plan_.adapter.path / record;
        if (what_stands_at(own) == "a file") copy_atomically(*File::open(own), folder / record);
      }
    if (base_.is_quantized())
      for (const char* name : kQuantizerFiles) remove_file(folder / name);
    if (dtype_ || plan_.is_untied || base_.is_quantized() || form_.result)
      write_text(folder / "config.json", config_text());
    for (Shard& shard : shards_) write_shard(folder, shard);
    if (plan_.has_adapter() && !survival_.is_changed)
      fail(plan_.adapter.path.string(),
           ": expected an adapter that changes the model, got one whose updates are zero, or "
           "smaller than the steps of the stored dtype (--dtype float32 has the smallest)");
    if (has_new_index_) write_index(folder, shards_);
    if (plan_.has_adapter()) write_text(folder / kMergedName, json{{"adapters", merged_}}.dump(2) + "\n");
    finish_report();
    return report_;
  }

 private:
  // Those and this one.
  std::vector<std::string> adapters_in_base() const {
    std::vector<std::string> all;
    const fs::path record = base_.folder().path() / kMergedName;
    if (what_stands_at(record) != "nothing") {
      const json stored = read_json(record);
      const json adapters = stored.is_object() ? stored.value("adapters", json()) : json();
      for (const json& one : adapters.is_array() ? adapters : json::array())
        if (one.is_string()) all.push_back(one);
    }
    const std::shared_ptr<const File> file = File::open(plan_.adapter.path / kAdapterName);
    const std::string own = checksum_text(checksum_of(*file, file->size()));
    if (std::find(all.begin(), all.end(), own) != all.end())
      fail(record.string(), ": expected a base without this adapter, got one that ", plan_.adapter.path.string(),
           " is merged into already");
    all.push_back(own);
    return all;
  }

  void lay_out(const std::string& max_shard_size) {
    std::vector<TensorInfo> tensors;
    for (const std::string& name : base_.names()) tensors.push_back(planned(name));
    if (!plan_.added.empty()) tensors.push_back(planned(plan_.added));
    const auto bytes_of = [this](const TensorInfo& info) {
      return packed_.contains(info.name) ? packed_size(info) : byte_size(info);
    };
    if (!max_shard_size.empty())
      shards_ = new_shards(tensors, *parse_size(max_shard_size), bytes_of);
    else if (base_.is_quantized())
      shards_ = new_shards(tensors, kUsualShard, bytes_of);  // what filled a file of the base is several now
    else
      shards_ = base_shards(base_, tensors);
    has_new_index_ = dtype_ || !max_shard_size.empty() || !plan_.added.empty() || base_.is_quantized() || form_.result;
  }

  // A tensor's place in the result, were it dense.
  TensorInfo planned(const std::string& name) const {
    TensorInfo info = base_.info(plan_.stored(name));
    info.name = name;
    if (info.dtype == at::ScalarType::Undefined) base_.folder().tensor(info.name);  // refuses by name
    if (dtype_ && at::isFloatingType(info.dtype)) info.dtype = *dtype_;
    if (packed_.contains(name) && info.dtype == at::kDouble) info.dtype = at::kFloat;  // what it is quantised from
    return info;
  }

  // Of a layer in fewer bits, not less than it takes: codes, scales, and some words about them.
  uint64_t packed_size(const TensorInfo& info) const {
    const uint64_t elements = static_cast<uint64_t>(c10::multiply_integers(info.shape));
    const uint64_t rows = static_cast<uint64_t>(info.shape[0]);
    constexpr uint64_t kWords = 2048;
    return form_.result->type == Quantization::int8 ? elements + 4 * rows + kWords
                                                    : elements / 2 + elements / 16 + kWords;
  }

  // Layers in fewer bits are made before the file is begun, as its header knows the sizes of all.
  void write_shard(const fs::path& folder, Shard& shard) {
    std::map<std::string, at::Tensor> packed;
    std::vector<TensorInfo> tensors;
    for (const TensorInfo& info : shard.tensors) {
      if (!packed_.contains(info.name)) {
        tensors.push_back(info);
        continue;
      }
      leave_if(stop_);
      for (auto& [name, tensor] : packed_result(info)) {
        tensors.push_back({name, tensor.scalar_type(), tensor.sizes().vec()});
        packed.emplace(name, std::move(tensor));
      }
      base_.forget(info.name);
      release_free_memory();  // holes between the layers that are kept
    }
    shard.tensors = tensors;
    TensorWriter writer(folder / shard.name, std::move(tensors), shard.metadata);
    for (const TensorInfo& info : writer.tensors()) {
      leave_if(stop_);
      if (const auto made = packed.find(info.name); made != packed.end()) {
        writer.add(info.name, made->second);
        packed.erase(made);
        continue;
      }
      Survival survival;
      writer.add(info.name, result(info, survival));
      note(info.name, survival);
      base_.forget(plan_.stored(info.name));
    }
    writer.commit();
  }

  const WeightUpdate* update_of(const std::string& name) const {
    const auto found = plan_.updates.find(name);
    return found == plan_.updates.end() ? nullptr : &found->second;
  }

  // The merged or converted tensor, made in blocks of rows so that the fp32 work stays small.
  at::Tensor result(const TensorInfo& info, Survival& survival) {
    const BaseTensor source = plan_.source(base_, info.name);
    const WeightUpdate* update = update_of(info.name);
    const bool is_replaced = plan_.replaced.contains(info.name);
    if (const at::Tensor dense = source.dense();
        !update && !is_replaced && dense.defined() && dense.scalar_type() == info.dtype)
      return dense;
    const at::ScalarType wide = source.wide();
    const BaseTensor stored = is_replaced ? base_.tensor(plan_.stored(info.name)) : source;
    const std::optional<BaseTensor> other = update ? tensor_of_other(info) : std::nullopt;
    at::Tensor merged = at::empty(source.sizes(), at::dtype(info.dtype));
    const at::Tensor merged_rows = merged.view({source.rows(), source.columns()});
    QuantizationError error{update ? update->module : ""};
    for_row_chunks(source.rows(), source.columns(), kBlockElements, [&](int64_t row, int64_t count) {
      at::Tensor block = source.block(row, count, wide), added;
      if (other) error.error += square_sum(other->block(row, count, at::kFloat).sub(block));
      // Against the base in the same dtype: what rounding takes from the base is not the update's loss.
      const at::Tensor before = block.to(info.dtype);
      if (update) {
        added = update->left.narrow(0, row, count).mm(update->right).to(wide);
        block = block.add(added, update->scale);
        if (!block.isfinite().all().item<bool>())
          fail(file_of(info.name), ": tensor '", info.name,
               "': expected finite values, base and update added, got NaN or infinity");
      }
      const at::Tensor rounded = merged_rows.narrow(0, row, count).copy_(block);
      if (!rounded.isfinite().equal(block.isfinite()))
        fail(file_of(info.name), ": tensor '", info.name, "': a value of ", block.abs().max().item<double>(),
             " does not fit ", model_dtype_name(info.dtype));
      if (update) survival.add(rounded.to(wide).sub(before), added, update->scale);
      if (survival.is_changed || !(update || is_replaced)) return;
      survival.is_changed = !rounded.equal(is_replaced ? stored.block(row, count, wide).to(info.dtype) : before);
    });
    if (other) {
      error.error = std::sqrt(error.error);
      error.update = std::sqrt(survival.all);
      report_.errors.push_back(error);
      other_->forget(info.name);
    }
    return merged;
  }

  // In fewer bits, from the sum in fp32: nothing is rounded before.
  std::vector<std::pair<std::string, at::Tensor>> packed_result(const TensorInfo& info) {
    const WeightUpdate* update = update_of(info.name);
    const bool is_changed = update || plan_.replaced.contains(info.name);
    Survival survival;
    const at::Tensor source = plan_.source(base_, info.name).dense();
    const at::Tensor merged = is_changed ? result({info.name, at::kFloat, info.shape}, survival) : source;
    const auto stored_as = [&](const at::Tensor& weight) {
      PackedWeight packed = quantized(weight, *form_.result, file_of(info.name), info.name);
      if (packed.packing == kernels::Packing::table) packed.rounded = info.dtype;  // as it will be read
      return packed;
    };
    const PackedWeight packed = stored_as(merged);
    std::optional<PackedWeight> before;  // as the update's share is that of the step from one to the other
    if (update) {
      before = stored_as(source);
      survival = {.is_changed = !packed.codes.equal(before->codes) || !packed.scale.equal(before->scale)};
    }
    QuantizationError error{update ? update->module : ""};
    for_row_chunks(info.shape[0], info.shape[1], kBlockElements, [&](int64_t row, int64_t count) {
      const at::Tensor wanted = merged.narrow(0, row, count).to(at::kFloat);
      const at::Tensor stored = BaseTensor(packed).block(row, count, at::kFloat);
      error.error += square_sum(stored.sub(wanted));
      packed_squares_ += square_sum(wanted);
      if (update)
        survival.add(stored.sub(BaseTensor(*before).block(row, count, at::kFloat)),
                     update->left.narrow(0, row, count).mm(update->right), update->scale);
    });
    error_squares_ += error.error;
    if (update) {
      error.error = std::sqrt(error.error);
      error.update = std::sqrt(survival.all);
      report_.errors.push_back(error);
    }
    note(info.name, survival);
    return bitsandbytes_tensors(info.name, packed, form_.result->type, info.dtype);
  }

  // Nullopt: the other base has no such matrix.
  std::optional<BaseTensor> tensor_of_other(const TensorInfo& info) const {
    if (!other_ || !other_->contains(info.name) || other_->info(info.name).shape != info.shape) return std::nullopt;
    // What is stored alike in both is no layer in fewer bits.
    if (base_.is_layer(info.name) == other_->is_layer(info.name)) return std::nullopt;
    return other_->tensor(info.name);
  }

  std::string file_of(const std::string& name) const { return base_.file_of(plan_.stored(name)).path().string(); }

  void note(const std::string& name, const Survival& survival) {
    survival_.kept += survival.kept;
    survival_.all += survival.all;
    survival_.is_changed = survival_.is_changed || survival.is_changed;
    if (survival.all == 0 || (!report_.worst_module.empty() && survival.share() >= report_.worst_share)) return;
    report_.worst_module = update_of(name)->module;
    report_.worst_share = survival.share();
  }

  void finish_report() {
    report_.share = survival_.share();
    std::stable_sort(report_.errors.begin(), report_.errors.end(),
                     [](const auto& a, const auto& b) { return a.error * b.update > b.error * a.update; });
    if (!form_.result) return;
    char share[16];
    std::snprintf(share, sizeof share, "%.3g %%", 100 * std::sqrt(error_squares_ / std::max(packed_squares_, 1e-300)));
    report_.notes.push_back(join(packed_.size(), " linear layers are stored in ", text_of(*form_.result),
                                 ": an error of ", share, " of their norm"));
  }

  std::string config_text() const {
    json config = base_.folder().config();
    const auto set_dtype = [&](at::ScalarType dtype) {
      config[config.contains("dtype") ? "dtype" : "torch_dtype"] = model_dtype_name(dtype);
    };
    if (base_.is_quantized()) {
      config.erase("quantization_config");
      set_dtype(base_.source_dtype());
    }
    if (dtype_) set_dtype(*dtype_);
    if (form_.result)
      config["quantization_config"] = bitsandbytes_config(*form_.result, source_dtype(), kept_modules());
    if (plan_.is_untied) config["tie_word_embeddings"] = false;  // as the weights are
    return config.dump(2) + "\n";
  }

  // Of the layers that are in fewer bits.
  at::ScalarType source_dtype() const { return planned(*packed_.begin()).dtype; }

  std::vector<std::string> kept_modules() const {
    std::vector<std::string> kept;
    for (const LinearModule& module : linear_modules(read_model_config(base_.folder())))
      if (module.is_head && !form_.result->has_head) kept.push_back(module.name);
    return kept;
  }

  MergeForm form_;
  MergeBase base_;
  std::optional<MergeBase> other_;  // the base in its other form
  MergePlan plan_;
  std::optional<at::ScalarType> dtype_;
  Stop stop_;
  std::set<std::string> packed_;  // weights that the result has in fewer bits
  std::vector<Shard> shards_;
  bool has_new_index_ = false;
  std::vector<std::string> merged_;                // checksums of the adapters in the result
  Survival survival_;                              // of all modules
  double packed_squares_ = 0, error_squares_ = 0;  // of all layers in fewer bits, and of what they lose
  MergeReport report_;
};

void check_output(const fs::path& model, const fs::path& output) {
  if (what_stands_at(output) == "nothing") return;
  std::error_code error;
  if (fs::equivalent(model, output, error)) fail(output.string(), ": expected another folder than the base model's");
  if (what_stands_at(output) != "a folder")
    fail(output.string(), ": expected nothing or an empty folder, got ", what_stands_at(output));
  if (!fs::is_empty(output, error) && !error)
    fail(output.string(), ": expected nothing or an empty folder, got files in it");
  if (is_mount_point(output))
    fail(output.string(),
         ": expected a folder that the merged one can take the place of, got a mount point: name a folder in it");
}

}  // namespace

void merge(const fs::path& model_folder, const fs::path& adapter_folder, const fs::path& output,
           const MergeOptions& options) try {
  const at::NoGradGuard no_grad;
  check_fields(options);
  check_output(model_folder, output);
  const Stop stop = from_caller(options.stop);
  Merger merger(model_folder, adapter_folder, options, stop);
  AtomicFolder folder(output);
  const MergeReport report = merger.write(folder.path());
  if (options.report) from_caller(options.report)(report);
  if (options.check) from_caller(options.check)(folder.path());
  leave_if(stop);
  folder.commit();
} catch (...) {
  rethrow_as_error();
}

}  // namespace rankfold
