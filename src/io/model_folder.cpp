#include "io/model_folder.h"

#include "core/check.h"
#include "core/file.h"
#include "core/json.h"
#include "core/manifest.h"
#include "core/utf8.h"
#include "core/write.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <map>
#include <set>

namespace rankfold {

namespace fs = std::filesystem;
using nlohmann::json;

struct ModelFolder::State {
  fs::path path;
  json config;
  json generation_config = json::object();
  bool is_sharded = false;
  std::vector<TensorFile> files;
  std::vector<std::string> names;
  std::map<std::string, size_t> file_index;  // tensor -> files[...]

  void open_single();
  void open_shards();
  [[noreturn]] void refuse_without_weights() const;
};

namespace {

constexpr const char* kAdapterConfig = "adapter_config.json";
// Of the run that made the folder, not of the model. Beside an adapter's config transformers looks for its weights too.
constexpr const char* kRunFiles[] = {"train_log.jsonl", "trainer_state.json",  "rankfold_config.json",  "run.json",
                                     "run.lock",        "training_state.json", "optimizer.safetensors", "manifest.json",
                                     "report.html",     "training_loss.svg",   "eval_samples.jsonl",    kAdapterConfig};
constexpr const char* kWeightSuffixes[] = {".safetensors", ".bin", ".index.json", ".pt",  ".pth",
                                           ".ckpt",        ".h5",  ".msgpack",    ".gguf"};

constexpr uint64_t kLargestIndex = 64 << 20;  // bytes; real ones stay below 1 MiB

json read_object(const fs::path& path, uint64_t largest_bytes = kLargestConfig) {
  json object = read_json(path, largest_bytes);
  if (!object.is_object()) fail(path.string(), ": expected an object, got ", brief(object));
  return object;
}

// A name that stays within the folder.
bool is_plain_weight_name(const json& value) {
  if (!value.is_string()) return false;
  const auto& name = value.get_ref<const std::string&>();
  return name.find('/') == std::string::npos && name.find('\0') == std::string::npos && name.size() > 12 &&
         name.ends_with(".safetensors");
}

}  // namespace

void ModelFolder::State::open_single() { files.push_back(TensorFile::open(path / kWeightsName)); }

void ModelFolder::State::open_shards() {
  is_sharded = true;
  const std::string source = (path / kIndexName).string();
  const json index = read_object(source, kLargestIndex);
  if (!index.contains("weight_map") || !index["weight_map"].is_object())
    fail(source, ": weight_map: expected an object, got ",
         index.contains("weight_map") ? brief(index["weight_map"]) : "nothing");
  const json& map = index["weight_map"];
  std::set<std::string> shards;
  for (const auto& [tensor, shard] : map.items()) {
    if (!is_plain_weight_name(shard))
      fail(source, ": weight_map: '", tensor, "': expected the name of a .safetensors file in this folder, got ",
           brief(shard));
    shards.insert(shard.get<std::string>());
  }
  std::map<std::string, std::string> found;  // tensor -> shard
  for (const std::string& shard : shards) {
    if (what_stands_at(path / shard) == "nothing")
      fail((path / shard).string(), ": expected a file, as ", kIndexName,
           " says, got nothing: the save or the download was cut short; get that file again");
    files.push_back(TensorFile::open(path / shard));
    for (const TensorInfo& tensor : files.back().tensors()) {
      const auto [other, is_new] = found.emplace(tensor.name, shard);
      if (!is_new)
        fail(path.string(), ": tensor '", tensor.name, "' is in two shards: ", other->second, " and ", shard);
      if (!map.contains(tensor.name))
        fail((path / shard).string(), ": tensor '", tensor.name, "' is not in the weight_map of ", kIndexName);
    }
  }
  for (const auto& [tensor, shard] : map.items()) {
    const auto place = found.find(tensor);
    if (place == found.end() || place->second != shard)
      fail((path / shard.get<std::string>()).string(), ": tensor '", tensor, "' is missing (", kIndexName,
           " says it is here", place == found.end() ? "" : ", but it is in " + place->second, ")");
  }
}

void ModelFolder::State::refuse_without_weights() const {
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(path, error))
    if (entry.path().extension() == ".bin")
      fail(path.string(), ": expected ", kWeightsName, ", got ", entry.path().filename().string(),
           ", a pickle, which may run code and is refused; convert it: python3 examples/convert_bin.py ", path.string(),
           " OUTPUT");
  std::set<std::string> shards;  // the index is what transformers writes last
  for (const fs::directory_entry& entry : fs::directory_iterator(path, error))
    if (const std::string name = entry.path().filename().string();
        name.starts_with("model-") && name.ends_with(".safetensors"))
      shards.insert(name);
  if (!shards.empty())
    fail((path / kIndexName).string(), ": expected a file beside ", *shards.begin(),
         ", got nothing: the save or the download was cut short; get the files again");
  fail(path.string(), ": expected ", kWeightsName, " or ", kIndexName, ", got neither");
}

ModelFolder ModelFolder::open(const fs::path& path) {
  if (const std::string kind = what_stands_at(path); kind != "a folder")
    fail(path.string(), ": expected a model folder, got ", kind);
  auto state = std::make_shared<State>();
  if (what_stands_at(path / "config.json") == "nothing" && what_stands_at(path / kAdapterConfig) == "a file")
    fail(path.string(), ": expected a model folder (config.json), got an adapter folder (", kAdapterConfig, ")");
  // Of a model that lora-train has written; a whole look at it would read every byte.
  const auto chosen = [](const std::string& name) {
    return name.ends_with(".safetensors") && name != "optimizer.safetensors";
  };
  *state = read_result(path, Look::kAtSizes, chosen, [&path] {
    State read;
    read.path = path;
    read.config = read_object(path / "config.json");
    if (what_stands_at(path / "generation_config.json") != "nothing")
      read.generation_config = read_object(path / "generation_config.json");
    // The order in which transformers looks.
    if (what_stands_at(path / kWeightsName) != "nothing")
      read.open_single();
    else if (what_stands_at(path / kIndexName) != "nothing")
      read.open_shards();
    else
      read.refuse_without_weights();
    return read;
  });
  for (size_t i = 0; i < state->files.size(); ++i)
    for (const TensorInfo& tensor : state->files[i].tensors()) {
      state->names.push_back(tensor.name);
      state->file_index[tensor.name] = i;
    }
  ModelFolder folder;
  folder.state_ = state;
  return folder;
}

const fs::path& ModelFolder::path() const { return state_->path; }
const json& ModelFolder::config() const { return state_->config; }
const json& ModelFolder::generation_config() const { return state_->generation_config; }
const std::vector<TensorFile>& ModelFolder::files() const { return state_->files; }
bool ModelFolder::is_sharded() const { return state_->is_sharded; }
const std::vector<std::string>& ModelFolder::names() const { return state_->names; }
bool ModelFolder::contains(const std::string& name) const { return state_->file_index.contains(name); }

const TensorFile& ModelFolder::file_of(const std::string& name) const {
  const auto found = state_->file_index.find(name);
  if (found == state_->file_index.end())
    fail(path().string(), ": no tensor '", name, "'", did_you_mean(nearest(name, names())));
  return state_->files[found->second];
}

const TensorInfo& ModelFolder::info(const std::string& name) const { return file_of(name).info(name); }
at::Tensor ModelFolder::tensor(const std::string& name) const { return file_of(name).tensor(name); }

std::string unused_adapter(const fs::path& model, const fs::path& used) {
  std::error_code error;
  if (what_stands_at(model / kAdapterConfig) != "a file") return "";
  if (!used.empty() && fs::equivalent(model, used, error)) return "";
  return model.string() + ": holds an adapter too (" + kAdapterConfig + "), which is not used";
}

Companions::Companions(const ModelFolder& folder) {
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder.path(), error)) {
    const std::string name = entry.path().filename().string();
    const auto ends = [&](const char* suffix) { return name.ends_with(suffix); };
    const bool is_weights = std::any_of(std::begin(kWeightSuffixes), std::end(kWeightSuffixes), ends);
    const bool is_index = folder.is_sharded() && name == kIndexName;
    const bool is_of_a_run = std::find(std::begin(kRunFiles), std::end(kRunFiles), name) != std::end(kRunFiles);
    if (!name.starts_with('.') && !name.ends_with(".tmp") && is_utf8(name) && !is_of_a_run &&
        (!is_weights || is_index) && what_stands_at(entry.path()) == "a file")
      files_.emplace_back(name, File::open(entry.path()));
  }
  if (error) storage_failed(error.value(), folder.path().string(), ": cannot be listed: ", error.message());
}

void Companions::copy_to(const fs::path& target) const {
  for (const auto& [name, file] : files_) copy_atomically(*file, target / name);
}

}  // namespace rankfold
