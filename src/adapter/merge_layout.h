// Which tensors stand in which file of a merged folder.
#pragma once

#include "adapter/merge_base.h"
#include "rankfold/tensor_file.h"

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

namespace rankfold {

struct Shard {
  std::string name;
  std::vector<TensorInfo> tensors;
  std::map<std::string, std::string> metadata;
};

uint64_t byte_size(const TensorInfo& info);

// The base's files; a tensor that the base does not have goes into the last.
std::vector<Shard> base_shards(const MergeBase& base, const std::vector<TensorInfo>& tensors);

// Each shard filled up to `largest`; a tensor that is larger has one of its own.
std::vector<Shard> new_shards(const std::vector<TensorInfo>& tensors, uint64_t largest,
                              const std::function<uint64_t(const TensorInfo&)>& bytes_of);

// As Hugging Face writes it. None where one file holds all, unless the base had one too.
void write_index(const std::filesystem::path& folder, const std::vector<Shard>& shards);

}  // namespace rankfold
