// Folders of quantised layers: config.json of each format beside tensors of all of them, and the same of fp8, whose
// codes no other format may have beside its own. Every element is read as kernels/packed.h says, so that an index that
// leads out of its tensor is seen.
#include "fuzz/fuzz.h"
#include "quant/quantized_folder.h"
#include "support/quantized_layers.h"

#include <unistd.h>

#include <exception>
#include <fstream>
#include <iterator>

namespace rankfold::fuzz {

const char* const kName = "quantized";
const double kGrowthOfAByte = 40;  // which is what a value of JSON takes

namespace {

constexpr int64_t kRows = 8, kColumns = 24;

// "m0" and so on; the last is fp8's.
const std::vector<testing::QuantizedLayer>& layers() {
  using namespace testing;
  static const std::vector<QuantizedLayer> all = {
      table_layer({.rows = kRows, .columns = kColumns}),
      table_layer({.rows = kRows, .columns = kColumns, .block = 32, .nested = true}),
      rows_layer(kRows, kColumns),
      gptq_layer({.rows = kRows, .columns = kColumns, .group = 16, .desc_act = true}),
      awq_layer(kRows, kColumns, 8),
      packed_layer({.rows = kRows, .columns = kColumns, .group = 8, .symmetric = false, .has_groups = true}),
      int8_layer("tensor", kRows, kColumns),
      block_layer(kRows, kColumns, 16)};
  return all;
}
const size_t kFp8 = 7;

std::string name_of(size_t layer) { return "m" + std::to_string(layer); }

std::string weights_of(size_t begin, size_t end) {
  std::vector<std::pair<std::string, at::Tensor>> tensors;
  for (size_t i = begin; i < end; ++i)
    for (const auto& [name, tensor] : layers()[i].tensors) tensors.emplace_back(name_of(i) + name.substr(1), tensor);
  const auto path = std::filesystem::temp_directory_path() / ("rankfold-fuzz-layers-" + std::to_string(::getpid()));
  write_tensor_file(path, tensors);
  std::ifstream file(path, std::ios::binary);
  const std::string bytes(std::istreambuf_iterator<char>(file), {});
  std::filesystem::remove(path);
  return bytes;
}
std::string weights() { return weights_of(0, kFp8); }
std::string fp8_weights() { return weights_of(kFp8, kFp8 + 1); }

}  // namespace

const std::vector<std::string>& file_names() {
  static const std::vector<std::string> names{"config.json", "model.safetensors", "fp8.json", "fp8.safetensors"};
  return names;
}

std::vector<std::string> seeds() {
  std::vector<std::string> all{input(1, weights()), input(2, layers()[kFp8].config()), input(3, fp8_weights())};
  for (size_t i = 0; i < kFp8; ++i) all.push_back(input(0, layers()[i].config()));
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
      {"keys", input(0, repeated(R"({"quantization_config":{"quant_method":"gptq","bits":4,)", count, key, "}}"))},
      {"groups", input(0, repeated(R"({"quantization_config":{"quant_method":"compressed-tensors","format":)"
                                   R"("pack-quantized","config_groups":{)",
                                   count / 4, group, "}}}"))},
      {"exceptions", input(0, repeated(R"({"quantization_config":{"quant_method":"gptq","bits":4,"dynamic":{)", count,
                                       [](int i) { return "\"-:" + std::to_string(i) + "\":{}"; }, "}}}"))},
      {"layers", input(1, tensor_file(repeated("{", count / 4, tensor, "}"), 0))},
      {"layers with scales", input(3, tensor_file(repeated("{", count / 4, scaled, "}"), 0))},
  };
}

namespace {

struct Sound : Folder {
  Sound() {
    write("config.json", layers()[0].config());
    write("model.safetensors", weights());
    write("fp8.json", layers()[kFp8].config());
    write("fp8.safetensors", fp8_weights());
    add_folder("any", "config.json", "model.safetensors");
    add_folder("fp8", "fp8.json", "fp8.safetensors");
    for (size_t i = 0; i < kFp8; ++i) {
      const std::string config = std::to_string(i) + ".json";
      write(config, layers()[i].config());
      add_folder(name_of(i), config, "model.safetensors");
    }
  }
  void add_folder(const std::string& name, const std::string& config, const std::string& file) const {
    namespace fs = std::filesystem;
    fs::remove_all(path() / name);  // of an earlier run
    fs::create_directories(path() / name);
    fs::create_symlink("../" + config, path() / name / "config.json");
    fs::create_symlink("../" + file, path() / name / "model.safetensors");
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

// A layer that is refused does not keep the others from being read; the last error comes out where all are.
void read_layers(const std::filesystem::path& path) {
  const auto folder = QuantizedFolder::open(ModelFolder::open(path));
  if (!folder) return;
  (void)(folder->text().size() + folder->notes().size() + static_cast<size_t>(folder->source_dtype()));
  bool was_accepted = false;
  std::exception_ptr last;
  for (size_t i = 0; i < layers().size(); ++i) try {
      if (!folder->holds(name_of(i))) continue;
      folder->tensors_of(name_of(i));
      volatile double sum = sum_of(folder->weight(name_of(i), kRows, kColumns));
      (void)sum;
      was_accepted = true;
    } catch (const UserError&) {
      last = std::current_exception();
    }
  if (last && !was_accepted) std::rethrow_exception(last);
}

void parse(const std::filesystem::path& path, const std::string& name) {
  // Weights meet one of the formats, as their size decides.
  const size_t format = std::filesystem::file_size(path / "model.safetensors") % kFp8;
  read_layers(path / (name == "model.safetensors" ? name_of(format) : name == "config.json" ? "any" : "fp8"));
}

}  // namespace
}  // namespace rankfold::fuzz

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const rankfold::fuzz::Sound folder;
  return folder.with_input(data, size, [](const std::string& name) { rankfold::fuzz::parse(folder.path(), name); });
}
