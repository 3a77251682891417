// TensorFile::open, and the first and last byte of every tensor.
#include "fuzz/fuzz.h"
#include "rankfold/tensor_file.h"

#include <ATen/core/Tensor.h>

namespace rankfold::fuzz {

const char* const kName = "safetensors";

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

namespace {

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
}

}  // namespace
}  // namespace rankfold::fuzz

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const rankfold::fuzz::Folder folder;
  return folder.with_input(data, size, [] { rankfold::fuzz::parse(folder.path() / "model.safetensors"); });
}
