// A safetensors file (format: https://github.com/huggingface/safetensors), mapped read-only and checked before anything
// is read: header at most 100,000,000 bytes, tensors contiguous from 0 to the end of the file, sizes that match dtype
// and shape, no name twice, at most 64 dimensions.
//
// Tensors are views of the mapping. If somebody makes the file shorter meanwhile, touching what it has lost raises
// SIGBUS, which no exception can stand for: replace files by renaming, never in place. (The programs end with one line.)
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace rankfold {

struct TensorInfo {
  std::string name;
  at::ScalarType dtype;
  std::vector<int64_t> shape;
  uint64_t begin = 0;  // bytes from the start of the file
  uint64_t end = 0;
};

class TensorFile {
 public:
  // Throws UserError (exit 2) that names the file for anything that is not a whole, valid safetensors file; says so
  // when it is a git-lfs pointer, a pickle, an HTML page, a folder or a device.
  static TensorFile open(const std::filesystem::path& path);

  const std::filesystem::path& path() const;
  const std::vector<TensorInfo>& tensors() const&;             // by position in the file
  const std::vector<TensorInfo>& tensors() const&& = delete;   // would be of a file that is gone
  const std::map<std::string, std::string>& metadata() const;  // "__metadata__"
  bool contains(const std::string& name) const;
  const TensorInfo& info(const std::string& name) const;  // UserError names the nearest tensor if there is none

  // A view of the mapping, which it keeps alive; the pages are read-only, so writing to it faults. Data that is not
  // aligned to its element size is copied.
  at::Tensor tensor(const std::string& name) const;

  // Lets the pages of a tensor leave memory until they are read again: for programs that walk through large files.
  void forget(const std::string& name) const;

 private:
  struct State;
  std::shared_ptr<const State> state_;
};

// Writes a file that the reference library reads, in its own order (dtype size descending, then name): to a temporary
// name beside `path`, fsynced, then renamed, so that `path` is the old file or the new one. Tensors on any device,
// contiguous or not. Metadata {"format": "pt"} is what PEFT and transformers expect.
void write_tensor_file(const std::filesystem::path& path,
                       const std::vector<std::pair<std::string, at::Tensor>>& tensors,
                       const std::map<std::string, std::string>& metadata = {{"format", "pt"}});

}  // namespace rankfold
