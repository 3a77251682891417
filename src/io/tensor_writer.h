// Writes a safetensors file one tensor at a time, so that only one needs to be in memory.
#pragma once

#include "core/write.h"
#include "rankfold/tensor_file.h"

#include <filesystem>
#include <map>
#include <string>
#include <vector>

namespace rankfold {

class TensorWriter {
 public:
  // Writes the header at once; `tensors` gives names, dtypes and shapes, and the offsets are computed here. The file
  // appears at `path` with commit(), with the same bytes as from the reference library.
  TensorWriter(const std::filesystem::path& path, std::vector<TensorInfo> tensors,
               const std::map<std::string, std::string>& metadata = {{"format", "pt"}});

  // The order in which add() must be called: dtype size descending, then name.
  const std::vector<TensorInfo>& tensors() const { return tensors_; }

  // Writes the next tensor, with the dtype and shape of the header. It may be on any device, contiguous or not.
  void add(const std::string& name, const at::Tensor& tensor);

  // Call after the last tensor.
  void commit();

 private:
  std::vector<TensorInfo> tensors_;
  size_t added_ = 0;
  AtomicFile file_;
};

}  // namespace rankfold
