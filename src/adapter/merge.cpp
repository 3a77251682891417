#include "adapter/merge.h"

#include "adapter/adapter_files.h"
#include "adapter/peft_format.h"
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
#include "model/architecture.h"
#include "model/load_network.h"
#include "model/model_config.h"
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

std::vector<LinearModule> linear_modules(const ModelFolder& folder) {
  constexpr std::string_view kWeight = ".weight";
  std::vector<LinearModule> linears;
  for (const std::string& tensor : folder.names()) {
    const TensorInfo& info = folder.info(tensor);
    if (!tensor.ends_with(kWeight) || info.shape.size() != 2 || !at::isFloatingType(info.dtype)) continue;
    const std::string name = tensor.substr(0, tensor.size() - kWeight.size());
    const std::string last = name.substr(name.rfind('.') + 1);
    if (last.find("embed") == std::string::npos)
      linears.push_back({name, info.shape[0], info.shape[1], is_head_name(last)});
  }
  return linears;
}

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

class Merger {
 public:
  Merger(const fs::path& model, const fs::path& adapter, const MergeOptions& options, const Stop& stop)
      : base_(ModelFolder::open(model)),
        adapter_(read_checked_adapter(adapter)),
        dtype_(meaning_of(kDtypes, options.dtype)),
        stop_(stop) {
    check_base();
    merged_ = adapters_in_base();
    const std::vector<LinearModule> linears = linear_modules(base_);
    report_.notes = notes_on(adapter_, linears);
    if (std::string note = unused_adapter(model, adapter); !note.empty()) report_.notes.push_back(std::move(note));
    for (ModuleMatch& match : match_adapter(adapter_, linears)) {
      const std::string weight = match.module.name + ".weight";
      matches_.emplace(weight, std::move(match));
    }
    shards_ = options.max_shard_size.empty() ? base_shards() : new_shards(*parse_size(options.max_shard_size));
    has_new_index_ = dtype_ || !options.max_shard_size.empty();
  }

  MergeReport write(const fs::path& folder) {
    Companions(base_).copy_to(folder);
    if (what_stands_at(adapter_.path / kTemplateFile) == "a file")
      copy_atomically(*File::open(adapter_.path / kTemplateFile), folder / kTemplateFile);
    if (dtype_ || untied_) write_text(folder / "config.json", config_text());
    for (const Shard& shard : shards_) write_shard(folder, shard);
    if (!changed_)
      fail(adapter_.path.string(),
           ": expected an adapter that changes the model, got one whose updates are zero, or "
           "smaller than the steps of the stored dtype (--dtype float32 has the smallest)");
    if (has_new_index_) write_index(folder);
    write_text(folder / kMergedName, json{{"adapters", merged_}}.dump(2) + "\n");
    report_.share = survival_.share();
    return report_;
  }

 private:
  void check_base() {
    const std::string source = (base_.path() / "config.json").string();
    const json& config = base_.config();
    if (config.contains("quantization_config") && !config["quantization_config"].is_null())
      fail(source, ": quantization_config: expected none (quantized weights cannot be merged into), got ",
           brief(config["quantization_config"]));
    const auto head = std::find_if(adapter_.tensors.begin(), adapter_.tensors.end(),
                                   [](const auto& entry) { return is_head_name(entry.first); });
    if (head != adapter_.tensors.end() && config.value("model_type", json()) == "baichuan" &&
        read_model_config(base_).has_norm_head)
      fail(source, ": norm_head: expected false, as the adapter changes ", head->first,
           ", got true: rows that are divided by their norms take no update");
    if (config.value("tie_word_embeddings", json()) != true) return;
    untied_ = head_differs_from_embedding(base_);
    if (!untied_ && head != adapter_.tensors.end())
      fail(source, ": tie_word_embeddings: expected false, as the adapter changes ", head->first, " alone, got true");
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
    const std::shared_ptr<const File> file = File::open(adapter_.path / kAdapterName);
    const std::string own = checksum_text(checksum_of(*file, file->size()));
    if (std::find(all.begin(), all.end(), own) != all.end())
      fail(record.string(), ": expected a base without this adapter, got one that ", adapter_.path.string(),
           " is merged into already");
    all.push_back(own);
    return all;
  }

  // A tensor's place in the result.
  TensorInfo planned(TensorInfo info) const {
    if (info.dtype == at::ScalarType::Undefined) base_.tensor(info.name);  // refuses by name
    if (dtype_ && at::isFloatingType(info.dtype)) info.dtype = *dtype_;
    return info;
  }

  std::vector<Shard> base_shards() const {
    std::vector<Shard> shards;
    for (const TensorFile& file : base_.files()) {
      Shard shard{file.path().filename().string(), {}, file.metadata()};
      shard.metadata.emplace("format", "pt");
      for (const TensorInfo& info : file.tensors()) shard.tensors.push_back(planned(info));
      shards.push_back(std::move(shard));
    }
    return shards;
  }

  // In the base's order, each shard filled up to `largest`; a tensor that is larger has one of its own.
  std::vector<Shard> new_shards(uint64_t largest) const {
    std::vector<Shard> shards;
    uint64_t filled = 0;
    for (const std::string& name : base_.names()) {
      const TensorInfo info = planned(base_.info(name));
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
      const TensorFile& file = base_.file_of(info.name);
      writer.add(info.name, result(file.tensor(info.name), info));
      file.forget(info.name);
    }
    writer.commit();
  }

  // The merged or converted tensor, made in blocks of rows so that the fp32 work stays small.
  at::Tensor result(const at::Tensor& stored, const TensorInfo& info) {
    const auto match = matches_.find(info.name);
    if (match == matches_.end() && stored.scalar_type() == info.dtype) return stored;
    const at::ScalarType wide = at::promote_types(stored.scalar_type(), at::kFloat);
    const at::Tensor flat = stored.dim() > 1 ? stored : stored.view({-1, 1});
    at::Tensor merged = at::empty(stored.sizes(), stored.options().dtype(info.dtype));
    const at::Tensor merged_rows = merged.view(flat.sizes());
    constexpr int64_t kBlockElements = 1 << 22;  // of fp32 work at a time: 16 MiB
    Survival survival;
    for_row_chunks(flat.size(0), flat.numel() / std::max<int64_t>(1, flat.size(0)), kBlockElements,
                   [&](int64_t row, int64_t count) {
                     at::Tensor block = flat.narrow(0, row, count).to(wide);
                     at::Tensor added;
                     if (match != matches_.end()) {
                       added = update(match->second.module.name, row, count).to(wide);
                       block = block.add(added, match->second.scale);
                       if (!block.isfinite().all().item<bool>())
                         fail(base_.file_of(info.name).path().string(), ": tensor '", info.name,
                              "': expected finite values, base and update added, got NaN or infinity");
                     }
                     const at::Tensor rounded = merged_rows.narrow(0, row, count).copy_(block);
                     if (!rounded.isfinite().equal(block.isfinite()))
                       fail(base_.file_of(info.name).path().string(), ": tensor '", info.name, "': a value of ",
                            block.abs().max().item<double>(), " does not fit ", model_dtype_name(info.dtype));
                     // Against the base in the same dtype: what rounding takes from the base is not the update's loss.
                     if (match != matches_.end())
                       survival.add(rounded.to(wide).sub(flat.narrow(0, row, count).to(info.dtype)), added,
                                    match->second.scale);
                   });
    if (match != matches_.end()) {
      check_base_weight(match->second.module.name, stored);
      changed_ = changed_ || !merged.equal(stored.to(info.dtype));
      note(match->second.module.name, survival);
    }
    return merged;
  }

  void note(const std::string& module, const Survival& survival) {
    survival_.kept += survival.kept;
    survival_.all += survival.all;
    if (survival.all == 0 || (!report_.worst_module.empty() && survival.share() >= report_.worst_share)) return;
    report_.worst_module = module;
    report_.worst_share = survival.share();
  }

  at::Tensor update(const std::string& module, int64_t row, int64_t count) const {
    const auto& [a, b] = adapter_.tensors.at(module);
    return b.narrow(0, row, count).mm(a);
  }

  void check_base_weight(const std::string& module, const at::Tensor& stored) const {
    const auto found = adapter_.base_weights.find(module);
    if (found != adapter_.base_weights.end() && !found->second.equal(stored.to(at::kFloat)))
      fail(adapter_.path.string(), ": module '", module,
           "': expected the base's own weight in base_layer, got another");
  }

  std::string config_text() const {
    json config = base_.config();
    if (dtype_) config[config.contains("dtype") ? "dtype" : "torch_dtype"] = model_dtype_name(*dtype_);
    if (untied_) config["tie_word_embeddings"] = false;  // as the weights are
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
  AdapterFolder adapter_;
  std::optional<at::ScalarType> dtype_;
  Stop stop_;
  std::map<std::string, ModuleMatch> matches_;  // by the name of the weight
  std::vector<Shard> shards_;
  bool has_new_index_ = false;
  bool untied_ = false;              // config.json ties two weights that are not one
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
