// Assigns the tensors of a merged folder to its files (shards).
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

// The same files as the base has. Tensors that the base does not have go into the last one.
std::vector<Shard> base_shards(const MergeBase& base, const std::vector<TensorInfo>& tensors);

// New shards, each filled up to `largest` bytes. A larger tensor gets a shard of its own.
std::vector<Shard> new_shards(const std::vector<TensorInfo>& tensors, uint64_t largest,
                              const std::function<uint64_t(const TensorInfo&)>& bytes_of);

// Writes the index file in Hugging Face's format. It writes none for a single file, unless the base has an index too.
void write_index(const std::filesystem::path& folder, const std::vector<Shard>& shards);

}  // namespace rankfold
