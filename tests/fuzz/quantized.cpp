// A folder of one quantised layer: its config.json beside the tensors of each format. Every element is read as
// kernels/packed.h says, so that an index that leads out of its tensor is seen.
#include "fuzz/fuzz.h"
#include "quant/quantized_folder.h"
#include "support/quantized_layers.h"

#include <unistd.h>

#include <fstream>
#include <iterator>

namespace rankfold::fuzz {

const char* const kName = "quantized";
const double kGrowthOfAByte = 40;  // which is what a value of JSON takes

namespace {

constexpr int64_t kRows = 8, kColumns = 24;

testing::QuantizedLayer of_kind(int i) {
  using namespace testing;
  switch (i) {
    case 0:
      return table_layer({.rows = kRows, .columns = kColumns});
    case 1:
      return table_layer({.rows = kRows, .columns = kColumns, .block = 32, .nested = true});
    case 2:
      return rows_layer(kRows, kColumns);
    case 3:
      return gptq_layer({.rows = kRows, .columns = kColumns, .group = 16, .desc_act = true});
    case 4:
      return awq_layer(kRows, kColumns, 8);
    case 5:
      return packed_layer({.rows = kRows, .columns = kColumns, .group = 8, .symmetric = false, .has_groups = true});
    case 6:
      return block_layer(kRows, kColumns, 16);
    default:
      return int8_layer("tensor");
  }
}
constexpr int kKinds = 8;

const std::vector<testing::QuantizedLayer>& kinds() {
  static const std::vector<testing::QuantizedLayer> all = [] {
    std::vector<testing::QuantizedLayer> layers;
    for (int i = 0; i < kKinds; ++i) layers.push_back(of_kind(i));
    return layers;
  }();
  return all;
}

std::string weights_of(const testing::QuantizedLayer& layer) {
  const auto path = std::filesystem::temp_directory_path() / ("rankfold-fuzz-layer-" + std::to_string(::getpid()));
  write_tensor_file(path, layer.tensors);
  std::ifstream file(path, std::ios::binary);
  const std::string bytes(std::istreambuf_iterator<char>(file), {});
  std::filesystem::remove(path);
  return bytes;
}

constexpr const char* kFiles[] = {"config.json", "model.safetensors"};

}  // namespace

// "3-config.json" and "3-model.safetensors" are those of the folder "3".
const std::vector<std::string>& file_names() {
  static const std::vector<std::string> names = [] {
    std::vector<std::string> all;
    for (int i = 0; i < kKinds; ++i)
      for (const char* file : kFiles) all.push_back(std::to_string(i) + "-" + file);
    return all;
  }();
  return names;
}

std::vector<std::string> seeds() {
  std::vector<std::string> all;
  for (size_t i = 0; i < kKinds; ++i) {
    all.push_back(input(static_cast<uint8_t>(2 * i), kinds()[i].config()));
    all.push_back(input(static_cast<uint8_t>(2 * i + 1), weights_of(kinds()[i])));
  }
  return all;
}

std::vector<Large> large_inputs(int count) {
  const auto key = [](int i) { return "\"k" + std::to_string(i) + "\":0"; };
  const auto group = [](int i) {
    return "\"g" + std::to_string(i) + R"(":{"weights":{"num_bits":4,"type":"int","group_size":8}})";
  };
  const auto tensor = [](int i) {
    return "\"m" + std::to_string(i) + R"(.qweight":{"dtype":"I32","shape":[0,8],"data_offsets":[0,0]})";
  };
  const auto scaled = [](int i) {
    return "\"m" + std::to_string(i / 2) + (i % 2 ? ".weight" : ".weight_scale_inv") +
           R"(":{"dtype":"F8_E4M3","shape":[0,8],"data_offsets":[0,0]})";
  };
  return {
      {"keys", input(6, repeated(R"({"quantization_config":{"quant_method":"gptq","bits":4,)", count, key, "}}"))},
      {"groups", input(10, repeated(R"({"quantization_config":{"quant_method":"compressed-tensors","format":)"
                                    R"("pack-quantized","config_groups":{)",
                                    count / 4, group, "}}}"))},
      {"exceptions", input(6, repeated(R"({"quantization_config":{"quant_method":"gptq","bits":4,"dynamic":{)", count,
                                       [](int i) { return "\"-:" + std::to_string(i) + "\":{}"; }, "}}}"))},
      {"layers", input(7, tensor_file(repeated("{", count / 4, tensor, "}"), 0))},
      {"layers with scales", input(13, tensor_file(repeated("{", count / 4, scaled, "}"), 0))},
  };
}

namespace {

struct Sound : Folder {
  Sound() {
    for (size_t i = 0; i < kKinds; ++i) {
      const std::string kind = std::to_string(i);
      std::filesystem::create_directories(path() / kind);
      for (const char* file : kFiles) {
        std::filesystem::remove(path() / kind / file);  // of an earlier run
        std::filesystem::create_symlink("../" + kind + "-" + file, path() / kind / file);
      }
      write(kind + "-" + kFiles[0], kinds()[i].config());
      write(kind + "-" + kFiles[1], weights_of(kinds()[i]));
    }
  }
};

template <class T>
const T* data_of(const at::Tensor& x) {
  return static_cast<const T*>(x.const_data_ptr());
}

// The sum of all elements, by the formulas of kernels/packed.h and no shape of a tensor.
double sum_of(const PackedWeight& w) {
  using kernels::Packing;
  double sum = 0;
  const auto* codes = data_of<uint8_t>(w.codes);
  const auto* scale = data_of<float>(w.scale);
  const int64_t ld_codes = (w.columns * w.bits + 7) / 8;
  const int64_t ld_scale =
      w.packing == Packing::table ? 0 : w.scale.numel() / ((w.rows + w.scale_rows - 1) / w.scale_rows);
  for (int64_t n = 0; n < w.rows; ++n)
    for (int64_t k = 0; k < w.columns; ++k) {
      const int64_t i = n * w.columns + k;
      if (w.packing == Packing::table) {
        const int64_t block = i / w.block;
        const int nibble = codes[i / 2] >> (i % 2 == 0 ? 4 : 0) & 15;
        float factor = 0;
        if (w.nested_codes.defined())
          factor =
              data_of<float>(w.nested_table)[data_of<uint8_t>(w.nested_codes)[block]] * scale[block / w.nested_block];
        else
          factor = scale[block];
        sum += data_of<float>(w.table)[nibble] * factor;
        continue;
      }
      const int64_t group = w.group_of.defined() ? data_of<int32_t>(w.group_of)[k] : k / w.scale_columns;
      const float factor = scale[n / w.scale_rows * ld_scale + group];
      if (w.packing != Packing::grouped) {
        sum += codes[i] * factor;
        continue;
      }
      const int code = w.bits == 8 ? codes[n * ld_codes + k] : codes[n * ld_codes + k / 2] >> 4 * (k % 2) & 15;
      sum += (code - data_of<uint8_t>(w.zero)[n / w.scale_rows * ld_scale + group]) * factor;
    }
  return sum;
}

void parse(const std::filesystem::path& path) {
  const auto folder = QuantizedFolder::open(ModelFolder::open(path));
  if (!folder) return;
  (void)(folder->text().size() + folder->notes().size() + static_cast<size_t>(folder->source_dtype()));
  if (!folder->holds("m")) return;
  folder->tensors_of("m");
  const at::Tensor& values = kinds()[std::stoul(path.filename().string())].values;
  volatile double sum = sum_of(folder->weight("m", values.size(0), values.size(1)));
  (void)sum;
}

}  // namespace
}  // namespace rankfold::fuzz

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const rankfold::fuzz::Sound folder;
  return folder.with_input(data, size, [](const std::string& name) {
    rankfold::fuzz::parse(folder.path() / name.substr(0, name.find('-')));
  });
}
