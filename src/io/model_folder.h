// A Hugging Face model folder: config.json, generation_config.json, and the tensors of all its safetensors files.
#pragma once

#include "rankfold/tensor_file.h"

#include <nlohmann/json_fwd.hpp>

#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace rankfold {

inline constexpr const char* kWeightsName = "model.safetensors";
inline constexpr const char* kIndexName = "model.safetensors.index.json";
// The prompt template and the chat template of training, stored beside an adapter or in a model folder.
inline constexpr const char *kTemplateFile = "prompt_template.json", *kChatTemplateFile = "chat_template.jinja";
// Subfolder with named chat templates, NAME.jinja.
inline constexpr const char* kChatTemplatesFolder = "additional_chat_templates";

class ModelFolder {
 public:
  // Maps every weight file and checks that the shards contain exactly the tensors of the index. Opens nothing outside
  // the folder except targets of its links (the hub's cache consists of links). Throws UserError that names what is
  // missing.
  static ModelFolder open(const std::filesystem::path& path);

  const std::filesystem::path& path() const;
  const nlohmann::json& config() const;             // an object
  const nlohmann::json& generation_config() const;  // an object; empty where the file does not exist

  const std::vector<TensorFile>& files() const;  // sorted by name
  bool is_sharded() const;                       // an index file exists, perhaps for one shard

  const std::vector<std::string>& names() const;  // file by file, in the order of each file
  bool contains(const std::string& name) const;
  const TensorFile& file_of(const std::string& name) const;  // UserError with the nearest name if there is none
  const TensorInfo& info(const std::string& name) const;
  at::Tensor tensor(const std::string& name) const;  // see TensorFile::tensor()

 private:
  struct State;
  std::shared_ptr<const State> state_;
};

// One line if the model folder contains an adapter other than `used`, which is then ignored; else empty. `used` is
// empty where no adapter is used.
std::string unused_adapter(const std::filesystem::path& model, const std::filesystem::path& used);

class File;

// The files of the folder beside the weights: configs, tokenizer, code and the index of the shards. Excluded are:
// - sub-folders, and names that begin with a dot or are not UTF-8;
// - weights in any format, an adapter, and the log and state of a training run.
// The files are kept open, so they can be copied even if the folder changes.
class Companions {
 public:
  explicit Companions(const ModelFolder& folder);  // throws UserError that names an unreadable file
  void copy_to(const std::filesystem::path& target) const;

 private:
  std::vector<std::pair<std::string, std::shared_ptr<const File>>> files_;
};

}  // namespace rankfold
