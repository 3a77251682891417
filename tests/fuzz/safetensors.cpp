// TensorFile::open, and the first and last byte of every tensor. The result is the file as we write it again, in hex, where we
// have all of its dtypes.
#include "fuzz/fuzz.h"
#include "rankfold/tensor_file.h"

#include <ATen/core/Tensor.h>

#include <fstream>
#include <iterator>

namespace rankfold::fuzz {

const char* const kName = "safetensors";
const double kGrowthOfAByte = 40;  // which is what a value of JSON takes

const std::vector<std::string>& file_names() {
  static const std::vector<std::string> names{"model.safetensors"};
  return names;
}

std::vector<std::string> seeds() {
  const std::string a = R"("a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]})";
  return {
      input(0, tensor_file("{" + a + "}", 24)),
      input(0, tensor_file(R"({"__metadata__":{"format":"pt"},)" + a +
                               R"(,"b":{"dtype":"BF16","shape":[4],"data_offsets":[24,32]},)"
                               R"("c":{"dtype":"U8","shape":[3],"data_offsets":[32,35]}})",
                           35)),
      input(0, tensor_file(R"({"s":{"dtype":"I64","shape":[],"data_offsets":[0,8]},)"
                           R"("z":{"dtype":"F16","shape":[0,7],"data_offsets":[8,8]}}   )",
                           8)),
      input(0, tensor_file(R"({"q":{"dtype":"F8_E4M3","shape":[4],"data_offsets":[0,4]},)"
                           R"("p":{"dtype":"F6_E2M3","shape":[4],"data_offsets":[4,7]}})",
                           7)),
      input(0, tensor_file(R"({"a":{"dtype":"BOOL","shape":[1,1,1,1,1,1,1,1],"data_offsets":[0,1],)"
                           R"("more":[{"x":"\u00e9\ud83d\ude00\n"},-1.5e-3,null,true]}})",
                           1)),
      input(0, tensor_file("{}", 0)),
  };
}

std::vector<Large> large_inputs(int count) {
  const auto empty = [](int i) {
    return "\"t" + std::to_string(i) + R"(":{"dtype":"U8","shape":[0],"data_offsets":[0,0]})";
  };
  const auto byte = [](int i) {
    const std::string at = std::to_string(i);
    return "\"" + at + R"(":{"dtype":"I8","shape":[1],"data_offsets":[)" + at + "," + std::to_string(i + 1) + "]}";
  };
  const auto ones = [](int) { return std::string("1"); };
  const std::string a = R"("a":{"dtype":"F32","shape":[1],"data_offsets":[0,4])", nothing = "}}";
  return {
      {"tensors without a byte", input(0, tensor_file(repeated("{", count, empty, "}"), 0))},
      {"tensors of a byte", input(0, tensor_file(repeated("{", count, byte, "}"), static_cast<size_t>(count)))},
      {"metadata", input(0, tensor_file(repeated(
                                            "{\"__metadata__\":{", count,
                                            [](int i) { return "\"" + std::to_string(i) + "\":\"\""; }, "}}"),
                                        0))},
      {"dimensions",
       input(0, tensor_file(repeated(R"({"a":{"dtype":"F32","data_offsets":[0,4],"shape":[)", count, ones, "]}}"), 4))},
      {"more of a tensor", input(0, tensor_file(repeated("{" + a + ",\"more\":[", 10 * count, ones, "]}}"), 4))},
      {"open brackets", input(0, tensor_file(repeated(
                                                 "", 10 * count, [](int) { return "["; }, "", ""),
                                             0))},
      {"spaces", input(0, tensor_file("{" + a + nothing + std::string(50 * static_cast<size_t>(count), ' '), 4))},
      {"a long name", input(0, tensor_file("{\"" + std::string(20 * static_cast<size_t>(count), '\t') + "\":{}}", 0))},
  };
}

namespace {

std::string again(const TensorFile& file, const std::filesystem::path& path) {
  std::vector<std::pair<std::string, at::Tensor>> tensors;
  try {
    for (const TensorInfo& info : file.tensors()) tensors.emplace_back(info.name, file.tensor(info.name));
  } catch (const UserError&) {  // as below
    return "";
  }
  write_tensor_file(path, tensors, file.metadata());
  std::ifstream written(path, std::ios::binary);
  std::string hex;
  for (std::istreambuf_iterator<char> byte(written), end; byte != end; ++byte) {
    constexpr char kDigits[] = "0123456789abcdef";
    const auto value = static_cast<unsigned char>(*byte);
    hex.append({kDigits[value >> 4], kDigits[value & 15]});
  }
  return hex;
}

void parse(const std::filesystem::path& path) {
  const TensorFile file = TensorFile::open(path);
  for (const TensorInfo& info : file.tensors()) {
    at::Tensor tensor;
    try {
      tensor = file.tensor(info.name);
    } catch (const UserError&) {  // of a dtype or shape that the format knows and LibTorch does not
      continue;
    }
    if (tensor.nbytes() == 0) continue;
    const auto* bytes = static_cast<const volatile char*>(tensor.const_data_ptr());
    (void)bytes[0];
    (void)bytes[tensor.nbytes() - 1];
  }
  if (wants_result) verdict.result = again(file, path.parent_path() / "again.safetensors");
}

}  // namespace
}  // namespace rankfold::fuzz

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const rankfold::fuzz::Folder folder;
  return folder.with_input(data, size,
                           [](const std::string&) { rankfold::fuzz::parse(folder.path() / "model.safetensors"); });
}
