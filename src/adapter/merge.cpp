#include "adapter/merge.h"

#include "adapter/merge_plan.h"
#include "core/check.h"
#include "core/checksum.h"
#include "core/config.h"
#include "core/file.h"
#include "core/guard.h"
#include "core/json.h"
#include "core/row_chunks.h"
#include "core/write.h"
#include "io/dtype.h"
#include "io/model_folder.h"
#include "io/tensor_writer.h"
#include "rankfold/adapter.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstdio>
#include <map>
#include <optional>

namespace rankfold {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

// In a merged folder: checksums of the adapters that are merged into it, as no loss would show that one was twice.
constexpr const char* kMergedName = "rankfold_merge.json";

struct Shard {
  std::string name;
  std::vector<TensorInfo> tensors;
  std::map<std::string, std::string> metadata;
};

uint64_t byte_size(const TensorInfo& info) {
  return static_cast<uint64_t>(c10::multiply_integers(info.shape)) * c10::elementSize(info.dtype);
}

// How much of an update is in the stored weights.
struct Survival {
  double kept = 0, all = 0;  // change * update and update * update, summed over elements

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

class Merger {
 public:
  Merger(const fs::path& model, const fs::path& adapter, const MergeOptions& options, const Stop& stop)
      : base_(ModelFolder::open(model)),
        plan_(planned_merge(base_, adapter)),
        dtype_(meaning_of(kDtypes, options.dtype)),
        stop_(stop) {
    merged_ = adapters_in_base();
    report_.notes = notes_on(plan_.adapter, parts_of(base_).modules);
    if (std::string note = unused_adapter(model, adapter); !note.empty()) report_.notes.push_back(std::move(note));
    shards_ = options.max_shard_size.empty() ? base_shards() : new_shards(*parse_size(options.max_shard_size));
    has_new_index_ = dtype_ || !options.max_shard_size.empty() || !plan_.added.empty();
  }

  MergeReport write(const fs::path& folder) {
    Companions(base_).copy_to(folder);
    copy_chat_templates(base_.path(), folder);
    const fs::path& adapter = plan_.adapter.path;
    for (const char* record : {kTemplateFile, kChatTemplateFile})
      if (what_stands_at(adapter / record) == "a file") copy_atomically(*File::open(adapter / record), folder / record);
    if (dtype_ || plan_.is_untied) write_text(folder / "config.json", config_text());
    for (const Shard& shard : shards_) write_shard(folder, shard);
    if (!changed_)
      fail(adapter.string(),
           ": expected an adapter that changes the model, got one whose updates are zero, or "
           "smaller than the steps of the stored dtype (--dtype float32 has the smallest)");
    if (has_new_index_) write_index(folder);
    write_text(folder / kMergedName, json{{"adapters", merged_}}.dump(2) + "\n");
    report_.share = survival_.share();
    return report_;
  }

 private:
  static MergePlan planned_merge(const ModelFolder& base, const fs::path& adapter) {
    const json& config = base.config();
    if (config.contains("quantization_config") && !config["quantization_config"].is_null())
      fail((base.path() / "config.json").string(),
           ": quantization_config: expected none (quantized weights cannot be merged into), got ",
           brief(config["quantization_config"]));
    return plan_merge(base, adapter);
  }

  // Those and this one.
  std::vector<std::string> adapters_in_base() const {
    std::vector<std::string> all;
    const fs::path record = base_.path() / kMergedName;
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

  // A tensor's place in the result.
  TensorInfo planned(const std::string& name) const {
    TensorInfo info = base_.info(name == plan_.added ? plan_.twin : name);
    info.name = name;
    if (info.dtype == at::ScalarType::Undefined) base_.tensor(info.name);  // refuses by name
    if (dtype_ && at::isFloatingType(info.dtype)) info.dtype = *dtype_;
    return info;
  }

  std::vector<Shard> base_shards() const {
    std::vector<Shard> shards;
    for (const TensorFile& file : base_.files()) {
      Shard shard{file.path().filename().string(), {}, file.metadata()};
      shard.metadata.emplace("format", "pt");
      for (const TensorInfo& info : file.tensors()) shard.tensors.push_back(planned(info.name));
      shards.push_back(std::move(shard));
    }
    if (!plan_.added.empty()) shards.back().tensors.push_back(planned(plan_.added));
    return shards;
  }

  // In the base's order, each shard filled up to `largest`; a tensor that is larger has one of its own.
  std::vector<Shard> new_shards(uint64_t largest) const {
    std::vector<Shard> shards;
    uint64_t filled = 0;
    std::vector<std::string> names = base_.names();
    if (!plan_.added.empty()) names.push_back(plan_.added);
    for (const std::string& name : names) {
      const TensorInfo info = planned(name);
      const uint64_t bytes = byte_size(info);
      if (shards.empty() || filled + bytes > largest) {
        shards.push_back({"", {}, {{"format", "pt"}}});
        filled = 0;
      }
      shards.back().tensors.push_back(info);
      filled += bytes;
    }
    for (size_t i = 0; i < shards.size(); ++i) {
      char name[64];
      std::snprintf(name, sizeof name, "model-%05zu-of-%05zu.safetensors", i + 1, shards.size());
      shards[i].name = shards.size() == 1 ? kWeightsName : name;
    }
    return shards;
  }

  void write_shard(const fs::path& folder, const Shard& shard) {
    TensorWriter writer(folder / shard.name, shard.tensors, shard.metadata);
    for (const TensorInfo& info : writer.tensors()) {
      leave_if(stop_);
      writer.add(info.name, result(info));
      const std::string& stored = info.name == plan_.added ? plan_.twin : info.name;
      base_.file_of(stored).forget(stored);
    }
    writer.commit();
  }

  // The merged or converted tensor, made in blocks of rows so that the fp32 work stays small.
  at::Tensor result(const TensorInfo& info) {
    const at::Tensor source = plan_.source(base_, info.name);
    const auto found = plan_.updates.find(info.name);
    const WeightUpdate* update = found == plan_.updates.end() ? nullptr : &found->second;
    const bool is_replaced = plan_.replaced.contains(info.name);
    if (!update && !is_replaced && source.scalar_type() == info.dtype) return source;
    const at::ScalarType wide = at::promote_types(source.scalar_type(), at::kFloat);
    const at::Tensor flat = source.dim() > 1 ? source : source.view({-1, 1});
    at::Tensor merged = at::empty(source.sizes(), source.options().dtype(info.dtype));
    const at::Tensor merged_rows = merged.view(flat.sizes());
    constexpr int64_t kBlockElements = 1 << 22;  // of fp32 work at a time: 16 MiB
    Survival survival;
    for_row_chunks(flat.size(0), flat.numel() / std::max<int64_t>(1, flat.size(0)), kBlockElements,
                   [&](int64_t row, int64_t count) {
                     at::Tensor block = flat.narrow(0, row, count).to(wide);
                     at::Tensor added;
                     if (update) {
                       added = update->left.narrow(0, row, count).mm(update->right).to(wide);
                       block = block.add(added, update->scale);
                       if (!block.isfinite().all().item<bool>())
                         fail(file_of(info.name), ": tensor '", info.name,
                              "': expected finite values, base and update added, got NaN or infinity");
                     }
                     const at::Tensor rounded = merged_rows.narrow(0, row, count).copy_(block);
                     if (!rounded.isfinite().equal(block.isfinite()))
                       fail(file_of(info.name), ": tensor '", info.name, "': a value of ",
                            block.abs().max().item<double>(), " does not fit ", model_dtype_name(info.dtype));
                     // Against the base in the same dtype: what rounding takes from the base is not the update's loss.
                     if (update)
                       survival.add(rounded.to(wide).sub(flat.narrow(0, row, count).to(info.dtype)), added,
                                    update->scale);
                   });
    if (update) note(update->module, survival);
    if (update || is_replaced) {
      const at::Tensor stored = base_.tensor(info.name == plan_.added ? plan_.twin : info.name);
      changed_ = changed_ || !merged.equal(stored.to(info.dtype));
    }
    return merged;
  }

  std::string file_of(const std::string& name) const {
    return base_.file_of(name == plan_.added ? plan_.twin : name).path().string();
  }

  void note(const std::string& module, const Survival& survival) {
    survival_.kept += survival.kept;
    survival_.all += survival.all;
    if (survival.all == 0 || (!report_.worst_module.empty() && survival.share() >= report_.worst_share)) return;
    report_.worst_module = module;
    report_.worst_share = survival.share();
  }

  std::string config_text() const {
    json config = base_.config();
    if (dtype_) config[config.contains("dtype") ? "dtype" : "torch_dtype"] = model_dtype_name(*dtype_);
    if (plan_.is_untied) config["tie_word_embeddings"] = false;  // as the weights are
    return config.dump(2) + "\n";
  }

  // As Hugging Face writes it. None where one file holds all, unless the base had one too.
  void write_index(const fs::path& folder) const {
    if (shards_.size() == 1 && shards_[0].name == kWeightsName) {
      remove_file(folder / kIndexName);
      return;
    }
    uint64_t total = 0;
    json map = json::object();
    for (const Shard& shard : shards_)
      for (const TensorInfo& info : shard.tensors) {
        total += byte_size(info);
        map[info.name] = shard.name;
      }
    write_text(folder / kIndexName, json{{"metadata", {{"total_size", total}}}, {"weight_map", map}}.dump(2) + "\n");
  }

  ModelFolder base_;
  MergePlan plan_;
  std::optional<at::ScalarType> dtype_;
  Stop stop_;
  std::vector<Shard> shards_;
  bool has_new_index_ = false;
  std::vector<std::string> merged_;  // checksums of the adapters in the result
  bool changed_ = false;             // a weight
  Survival survival_;                // of all modules
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
