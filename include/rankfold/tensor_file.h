// Reads and writes safetensors files (https://github.com/huggingface/safetensors). A file is mapped read-only. open()
// checks the whole header:
// - it has at most 100,000,000 bytes, no duplicate name, and at most 64 dimensions for each tensor;
// - the tensors are contiguous up to the end of the file, and their sizes match dtype and shape.
//
// Tensors are views of the mapping. If another process truncates the file, access to the missing part raises SIGBUS,
// which is not an exception. So replace files by renaming, never in place. (The programs print one line and exit.)
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

// One tensor in a file.
struct TensorInfo {
  std::string name;
  at::ScalarType dtype;
  std::vector<int64_t> shape;
  uint64_t begin = 0;  // byte offsets from the start of the file, [begin, end)
  uint64_t end = 0;
};

// A shared handle to a mapped file. Immutable, so thread safe.
class TensorFile {
 public:
  // Maps and checks a file. Throws UserError, which names the file, for anything that is not a complete, valid
  // safetensors file. The message tells a git-lfs pointer, a pickle, an HTML page, a folder or a device.
  static TensorFile open(const std::filesystem::path& path);

  const std::filesystem::path& path() const;
  const std::vector<TensorInfo>& tensors() const&;             // in the order of the file
  const std::vector<TensorInfo>& tensors() const&& = delete;   // would dangle
  const std::map<std::string, std::string>& metadata() const;  // "__metadata__"
  bool contains(const std::string& name) const;
  const TensorInfo& info(const std::string& name) const;  // throws UserError with the nearest name if there is none

  // Returns a view of the mapping, which the tensor keeps alive. The pages are read-only: writing to the tensor faults.
  // Data that is not aligned to its element size is copied.
  at::Tensor tensor(const std::string& name) const;

  // Releases the physical pages of a tensor until they are read again. For programs that go through large files once.
  void forget(const std::string& name) const;

 private:
  struct State;
  std::shared_ptr<const State> state_;
};

// Writes a safetensors file in the order of the reference library: dtype size descending, then name. Tensors may be on
// any device, contiguous or not. It writes and fsyncs a temporary file and renames it, so `path` is always the complete
// old or new file. Throws StorageError where writing fails.
// PEFT and transformers expect the metadata {"format": "pt"}.
void write_tensor_file(const std::filesystem::path& path,
                       const std::vector<std::pair<std::string, at::Tensor>>& tensors,
                       const std::map<std::string, std::string>& metadata = {{"format", "pt"}});

}  // namespace rankfold
