#include "train/base_checksum.h"

#include "core/check.h"
#include "core/checksum.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <span>
#include <vector>

namespace rankfold {
namespace {

using Bytes = std::span<const std::byte>;

constexpr const char* kWhole = "crc64:";
constexpr size_t kBlock = size_t{4} << 20;

template <class SumOfBytes>
uint64_t sum_of(const ModelFolder& folder, const SumOfBytes& sum_of_bytes) {
  uint64_t sum = kChecksumSeed;
  for (const TensorFile& file : folder.files())
    for (const TensorInfo& info : file.tensors()) {
      const at::Tensor tensor = file.tensor(info.name);
      const std::string text = join(info.name, " ", c10::toString(info.dtype), " ", tensor.sizes());
      sum = checksum64(std::as_bytes(std::span(text)), sum);
      sum =
          sum_of_bytes(file, info, Bytes(static_cast<const std::byte*>(tensor.const_data_ptr()), tensor.nbytes()), sum);
    }
  return sum;
}

// The checksum of the blocks' checksums: several threads read them.
uint64_t add_blocks(Bytes bytes, uint64_t sum) {
  std::vector<uint64_t> blocks((bytes.size() + kBlock - 1) / kBlock);
  at::parallel_for(0, static_cast<int64_t>(blocks.size()), 1, [&](int64_t begin, int64_t end) {
    for (auto i = static_cast<size_t>(begin); i < static_cast<size_t>(end); ++i)
      blocks[i] = checksum64(bytes.subspan(i * kBlock, std::min(kBlock, bytes.size() - i * kBlock)));
  });
  return checksum64(std::as_bytes(std::span(blocks)), sum);
}

}  // namespace

std::string base_checksum(const ModelFolder& folder, const Stop& stop) {
  const auto all = [&](const TensorFile& file, const TensorInfo& info, Bytes bytes, uint64_t sum) {
    leave_if(stop);
    sum = add_blocks(bytes, sum);
    file.forget(info.name);
    return sum;
  };
  return kWhole + checksum_text(sum_of(folder, all));
}

bool is_sampled_checksum(const std::string& checksum) { return !checksum.starts_with(kWhole); }

std::string sampled_base_checksum(const ModelFolder& folder) {
  const auto sample = [](const TensorFile&, const TensorInfo&, Bytes bytes, uint64_t sum) {
    const size_t sampled = std::min<size_t>(bytes.size(), 64), middle = bytes.size() / 2;
    sum = checksum64(bytes.first(sampled), sum);
    return checksum64(bytes.subspan(middle).first(std::min(sampled, bytes.size() - middle)), sum);
  };
  return checksum_text(sum_of(folder, sample));
}

}  // namespace rankfold
