#include "io/tensor_writer.h"

#include "core/check.h"
#include "core/guard.h"
#include "io/dtype.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstddef>
#include <span>

namespace rankfold {
namespace {

const StoredDtype& dtype_of(const TensorInfo& tensor) {
  const StoredDtype* dtype = find_dtype(tensor.dtype);
  RANKFOLD_CHECK(dtype, "tensor '", tensor.name, "': safetensors files of ours hold no ", c10::toString(tensor.dtype));
  return *dtype;
}

// As the reference library sorts and spells it, to the byte. Fills in where each tensor begins and ends.
std::string make_header(std::vector<TensorInfo>& tensors, const std::map<std::string, std::string>& metadata) {
  std::sort(tensors.begin(), tensors.end(), [](const TensorInfo& a, const TensorInfo& b) {
    const StoredDtype *x = &dtype_of(a), *y = &dtype_of(b);
    return x != y ? x > y : a.name < b.name;
  });
  const auto quoted = [](const std::string& text) { return nlohmann::json(text).dump(); };
  std::string header = metadata.empty() ? "{" : "{\"__metadata__\":" + nlohmann::json(metadata).dump();
  uint64_t offset = 0;
  for (TensorInfo& tensor : tensors) {
    uint64_t bytes = static_cast<uint64_t>(dtype_of(tensor).bits) / 8;
    for (int64_t size : tensor.shape) bytes *= static_cast<uint64_t>(size);
    tensor.begin = offset;
    tensor.end = offset += bytes;
    header += join(header.size() > 1 ? "," : "", quoted(tensor.name), ":{\"dtype\":\"", dtype_of(tensor).name,
                   "\",\"shape\":", nlohmann::json(tensor.shape).dump(), ",\"data_offsets\":[", tensor.begin, ",",
                   tensor.end, "]}");
  }
  header += "}";
  header.resize((header.size() + 7) / 8 * 8, ' ');
  return header;
}

std::vector<TensorInfo> checked(std::vector<TensorInfo> tensors) {
  std::vector<std::string> names;
  for (const TensorInfo& tensor : tensors) {
    dtype_of(tensor);
    names.push_back(tensor.name);
  }
  std::sort(names.begin(), names.end());
  const auto twice = std::adjacent_find(names.begin(), names.end());
  RANKFOLD_CHECK(twice == names.end(), "tensor '", *twice, "' is given twice");
  return tensors;
}

}  // namespace

TensorWriter::TensorWriter(const std::filesystem::path& path, std::vector<TensorInfo> tensors,
                           const std::map<std::string, std::string>& metadata)
    : tensors_(checked(std::move(tensors))), file_(path) {
  const std::string header = make_header(tensors_, metadata);
  RANKFOLD_CHECK(header.size() <= kLargestHeader, path.string(), ": a header of ", header.size(),
                 " bytes is too large");
  std::string length(8, '\0');
  for (int i = 0; i < 8; ++i) length[i] = static_cast<char>(header.size() >> (8 * i));
  for (TensorInfo& tensor : tensors_) {
    tensor.begin += 8 + header.size();
    tensor.end += 8 + header.size();
  }
  file_.write(length + header);
}

void TensorWriter::add(const std::string& name, const at::Tensor& tensor) {
  RANKFOLD_CHECK(added_ < tensors_.size() && tensors_[added_].name == name, "tensor '", name,
                 "' was not expected, but ", added_ < tensors_.size() ? "'" + tensors_[added_].name + "'" : "none");
  const TensorInfo& info = tensors_[added_++];
  RANKFOLD_CHECK(tensor.scalar_type() == info.dtype && tensor.sizes() == at::IntArrayRef(info.shape), "tensor '", name,
                 "': expected ", info.dtype, " ", at::IntArrayRef(info.shape), ", got ", tensor.scalar_type(), " ",
                 tensor.sizes());
  const at::Tensor flat = tensor.detach().cpu().contiguous();
  file_.write(std::span(static_cast<const std::byte*>(flat.const_data_ptr()), info.end - info.begin));
}

void TensorWriter::commit() {
  RANKFOLD_CHECK(added_ == tensors_.size(), added_, " of ", tensors_.size(), " tensors were added");
  file_.commit();
}

void write_tensor_file(const std::filesystem::path& path,
                       const std::vector<std::pair<std::string, at::Tensor>>& tensors,
                       const std::map<std::string, std::string>& metadata) try {
  std::map<std::string, at::Tensor> by_name(tensors.begin(), tensors.end());
  std::vector<TensorInfo> infos;
  for (const auto& [name, tensor] : tensors)
    infos.push_back({.name = name, .dtype = tensor.scalar_type(), .shape = tensor.sizes().vec()});
  TensorWriter writer(path, std::move(infos), metadata);
  for (const TensorInfo& info : writer.tensors()) writer.add(info.name, by_name.at(info.name));
  writer.commit();
} catch (...) {
  rethrow_as_error();
}

}  // namespace rankfold
