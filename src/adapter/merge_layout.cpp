#include "adapter/merge_layout.h"

#include "core/write.h"

#include <c10/util/accumulate.h>
#include <nlohmann/json.hpp>

#include <cstdio>

namespace rankfold {

namespace fs = std::filesystem;
using nlohmann::json;

uint64_t byte_size(const TensorInfo& info) {
  return static_cast<uint64_t>(c10::multiply_integers(info.shape)) * c10::elementSize(info.dtype);
}

std::vector<Shard> base_shards(const MergeBase& base, const std::vector<TensorInfo>& tensors) {
  std::vector<Shard> shards;
  std::map<fs::path, size_t> number;
  for (const TensorFile& file : base.folder().files()) {
    number[file.path()] = shards.size();
    shards.push_back({file.path().filename().string(), {}, file.metadata()});
    shards.back().metadata.emplace("format", "pt");
  }
  for (const TensorInfo& info : tensors) {
    const size_t place = base.contains(info.name) ? number.at(base.file_of(info.name).path()) : shards.size() - 1;
    shards[place].tensors.push_back(info);
  }
  return shards;
}

std::vector<Shard> new_shards(const std::vector<TensorInfo>& tensors, uint64_t largest,
                              const std::function<uint64_t(const TensorInfo&)>& bytes_of) {
  std::vector<Shard> shards;
  uint64_t filled = 0;
  for (const TensorInfo& info : tensors) {
    const uint64_t bytes = bytes_of(info);
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

void write_index(const fs::path& folder, const std::vector<Shard>& shards) {
  if (shards.size() == 1 && shards[0].name == kWeightsName) {
    remove_file(folder / kIndexName);
    return;
  }
  uint64_t total = 0;
  json map = json::object();
  for (const Shard& shard : shards)
    for (const TensorInfo& info : shard.tensors) {
      total += byte_size(info);
      map[info.name] = shard.name;
    }
  write_text(folder / kIndexName, json{{"metadata", {{"total_size", total}}}, {"weight_map", map}}.dump(2) + "\n");
}

}  // namespace rankfold
