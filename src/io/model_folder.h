// A Hugging Face model folder: config.json, generation_config.json and the weights of one or more safetensors files as
// one set of tensors.
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
// The template that questions were put into in training, and that of conversations; beside an adapter or in a model
// folder.
inline constexpr const char *kTemplateFile = "prompt_template.json", *kChatTemplateFile = "chat_template.jinja";
// The one folder in a model's own: chat templates with names, NAME.jinja.
inline constexpr const char* kChatTemplatesFolder = "additional_chat_templates";

class ModelFolder {
 public:
  // Maps every weight file and checks that the shards hold exactly what the index says. Nothing outside the folder is
  // opened, but for what a link in it points to (the hub's cache is made of links). UserError names what is missing.
  static ModelFolder open(const std::filesystem::path& path);

  const std::filesystem::path& path() const;
  const nlohmann::json& config() const;             // an object
  const nlohmann::json& generation_config() const;  // an object, empty where there is none

  const std::vector<TensorFile>& files() const;  // by name
  bool is_sharded() const;                       // there is an index, even of one shard

  const std::vector<std::string>& names() const;  // file after file, by position
  bool contains(const std::string& name) const;
  const TensorFile& file_of(const std::string& name) const;  // UserError names the nearest tensor if there is none
  const TensorInfo& info(const std::string& name) const;
  at::Tensor tensor(const std::string& name) const;  // see TensorFile::tensor()

 private:
  struct State;
  std::shared_ptr<const State> state_;
};

// A line on the adapter that lies in this model folder and is not used, as another one is (or none, empty path); empty:
// there is none, or it is the one that is used.
std::string unused_adapter(const std::filesystem::path& model, const std::filesystem::path& used);

class File;

// What lies in the folder beside the weights: configs, tokenizer, code; also the index of the shards. Not sub-folders,
// names that begin with a dot or are not UTF-8, weights in any format, an adapter, nor what a training run left there
// (its log and state). Held open: whatever becomes of the folder, it can be copied.
class Companions {
 public:
  explicit Companions(const ModelFolder& folder);  // UserError names one that cannot be read
  void copy_to(const std::filesystem::path& target) const;

 private:
  std::vector<std::pair<std::string, std::shared_ptr<const File>>> files_;
};

}  // namespace rankfold
