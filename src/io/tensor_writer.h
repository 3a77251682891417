// Writes a safetensors file tensor by tensor, so that only one of them need be in memory.
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
  // The header (names, dtypes and shapes; begin and end are computed here) is written at once. The file appears at
  // `path` with commit(). The bytes are those of the reference library.
  TensorWriter(const std::filesystem::path& path, std::vector<TensorInfo> tensors,
               const std::map<std::string, std::string>& metadata = {{"format", "pt"}});

  // The order in which add() must be called: dtype size descending, then name.
  const std::vector<TensorInfo>& tensors() const { return tensors_; }

  // The next tensor, with the dtype and shape announced for it; on any device, contiguous or not.
  void add(const std::string& name, const at::Tensor& tensor);

  // After the last tensor.
  void commit();

 private:
  std::vector<TensorInfo> tensors_;
  size_t added_ = 0;
  AtomicFile file_;
};

}  // namespace rankfold
