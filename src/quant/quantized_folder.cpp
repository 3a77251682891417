#include "quant/quantized_folder.h"

#include "core/check.h"
#include "core/json.h"
#include "io/dtype.h"
#include "quant/quantization_config.h"
#include "quant/relayout.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>
#include <c10/util/ArrayRef.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <initializer_list>
#include <map>
#include <set>
#include <string_view>

namespace rankfold {
namespace {

using nlohmann::json;

constexpr const char* kTableNames[] = {"nf4", "fp4"};
constexpr const char* kStateMark = ".weight.quant_state.bitsandbytes__";
constexpr int64_t kLargestSide = int64_t{1} << 31;
constexpr uint64_t kLargestState = 4096;  // bytes of JSON
// Beside what a layer's values are made of: what quantises activations, and what kind of file it was.
constexpr const char* kWithoutEffect[] = {".input_scale", ".activation_scale", ".input_scale_ub", ".input_zero_point",
                                          ".weight_format"};

const char* dtype_name(at::ScalarType type) {
  const StoredDtype* dtype = find_dtype(type);
  return dtype ? dtype->name : c10::toString(type);
}

bool is_float(at::ScalarType type) { return type == at::kFloat || type == at::kHalf || type == at::kBFloat16; }

int64_t parts_of(int64_t whole, int64_t part) { return whole / part + (whole % part != 0); }

// Into how many groups a scheme cuts rows and columns.
struct Grid {
  int64_t rows, columns;              // scales
  int64_t scale_rows, scale_columns;  // that share one
};

Grid grid_of(const Scheme& scheme, int64_t rows, int64_t columns) {
  switch (scheme.grain) {
    case Grain::tensor:
      return {1, 1, rows, columns};
    case Grain::row:
      return {rows, 1, 1, columns};
    case Grain::group:
      return {rows, parts_of(columns, scheme.group_size), 1, scheme.group_size};
    case Grain::block:
      return {parts_of(rows, scheme.block_rows), parts_of(columns, scheme.block_columns), scheme.block_rows,
              scheme.block_columns};
  }
  RANKFOLD_ASSERT(false);
  return {};
}

// Whether scales have the shape that a grid has; a column of them may be a row, and one scale may have any dimensions.
bool has_shape(at::IntArrayRef shape, const Grid& grid) {
  if (grid.rows == 1 && grid.columns == 1)
    return std::all_of(shape.begin(), shape.end(), [](int64_t size) { return size == 1; });
  return shape == at::IntArrayRef({grid.rows, grid.columns}) ||
         (grid.columns == 1 && shape == at::IntArrayRef({grid.rows}));
}

// The tensors of one layer, each with the line that says what is wrong with it.
class LayerReader {
 public:
  LayerReader(const ModelFolder& folder, std::string module) : folder_(folder), module_(std::move(module)) {}

  bool has(const std::string& suffix) const { return folder_.contains(module_ + suffix); }
  const TensorInfo& info(const std::string& suffix) const { return folder_.info(module_ + suffix); }
  void forget(const std::string& suffix) const { folder_.file_of(module_ + suffix).forget(module_ + suffix); }

  template <class... Parts>
  [[noreturn]] void refuse(const std::string& suffix, const Parts&... parts) const {
    fail(place(suffix), ": ", parts...);
  }
  std::string place(const std::string& suffix) const {
    return folder_.file_of(module_ + suffix).path().string() + ": " + module_ + suffix;
  }

  at::Tensor read(const std::string& suffix, at::ScalarType dtype, at::IntArrayRef shape) const {
    const TensorInfo& found = info(suffix);
    if (found.dtype != dtype || at::IntArrayRef(found.shape) != shape)
      refuse(suffix, "expected ", dtype_name(dtype), " ", shape, ", got ", text_of(found));
    return folder_.tensor(module_ + suffix);
  }
  // In fp32 and finite: a view where the file has it so, else a copy.
  at::Tensor read_floats(const std::string& suffix, at::IntArrayRef shape) const {
    const TensorInfo& found = info(suffix);
    if (!is_float(found.dtype) || at::IntArrayRef(found.shape) != shape)
      refuse(suffix, "expected F32, F16 or BF16 ", shape, ", got ", text_of(found));
    return floats(suffix);
  }
  at::Tensor read_scales(const std::string& suffix, const Grid& grid) const {
    const TensorInfo& found = info(suffix);
    if (!is_float(found.dtype) || !has_shape(found.shape, grid))
      refuse(suffix, "expected F32, F16 or BF16 ", at::IntArrayRef({grid.rows, grid.columns}), ", got ",
             text_of(found));
    return floats(suffix).view({grid.rows, grid.columns});
  }
  at::Tensor read_fp32(const std::string& suffix, at::IntArrayRef shape) const {
    const at::Tensor values = read(suffix, at::kFloat, shape);
    check_finite(suffix, values);
    return values;
  }
  bool holds_zeros(const std::string& suffix) const {
    const at::Tensor values = folder_.tensor(module_ + suffix);
    const auto* bytes = static_cast<const uint8_t*>(values.const_data_ptr());
    return std::all_of(bytes, bytes + values.nbytes(), [](uint8_t byte) { return byte == 0; });
  }
  std::string_view read_text(const std::string& suffix, at::Tensor& keep) const {
    const TensorInfo& found = info(suffix);
    if (found.dtype != at::kByte || found.end - found.begin > kLargestState)
      refuse(suffix, "expected U8, at most ", kLargestState, " bytes of JSON, got ", text_of(found));
    keep = folder_.tensor(module_ + suffix);
    return {static_cast<const char*>(keep.const_data_ptr()), keep.nbytes()};
  }
  static std::string text_of(const TensorInfo& found) {
    return join(dtype_name(found.dtype), " ", at::IntArrayRef(found.shape));
  }

  const ModelFolder& folder() const { return folder_; }
  const std::string& module() const { return module_; }

 private:
  at::Tensor floats(const std::string& suffix) const {
    const at::Tensor stored = folder_.tensor(module_ + suffix);
    const at::Tensor values = stored.to(at::kFloat);
    check_finite(suffix, values);
    if (!values.is_alias_of(stored)) forget(suffix);
    return values;
  }
  void check_finite(const std::string& suffix, const at::Tensor& values) const {
    if (!is_finite(values)) refuse(suffix, "expected finite numbers, got others among them");
  }

  const ModelFolder& folder_;
  std::string module_;
};

// What bitsandbytes keeps as JSON in a tensor.
struct TableState {
  at::ScalarType dtype = at::kFloat;
  int64_t block = 0, nested_block = 0;
  float offset = 0;
};

std::string state_suffix(const LayerReader& layer) {
  for (const char* table : kTableNames)
    if (layer.has(std::string(kStateMark) + table)) return std::string(kStateMark) + table;
  RANKFOLD_ASSERT(false);
  return "";
}

// `rows` 0: any shape.
TableState read_state(const LayerReader& layer, int64_t rows, int64_t columns) {
  const std::string suffix = state_suffix(layer);
  at::Tensor keep;
  const std::string_view text = layer.read_text(suffix, keep);
  const std::string place = layer.place(suffix);
  const json state = parse_json(text, place);
  if (!state.is_object()) fail(place, ": expected an object, got ", brief(state));
  const auto value = [&](const char* key, const std::string& expected, auto is_good) -> const json& {
    static const json none;
    const auto found = state.find(key);
    const json& there = found == state.end() ? none : *found;
    if (!is_good(there))
      fail(place, ": ", key, ": expected ", expected, ", got ", found == state.end() ? "nothing" : brief(there));
    return there;
  };
  const auto block = [&](const char* key) {
    return value(key, "a power of 2 in [32, 4096]",
                 [](const json& x) {
                   return x.is_number_unsigned() && x.get<uint64_t>() >= 32 && x.get<uint64_t>() <= 4096 &&
                          std::has_single_bit(x.get<uint64_t>());
                 })
        .get<int64_t>();
  };
  TableState result;
  const std::string type = suffix.substr(std::strlen(kStateMark));
  value("quant_type", "\"" + type + "\", as the tensor's name says", [&](const json& x) { return x == type; });
  result.block = block("blocksize");
  const auto dtype_of = [](const json& x) {
    return x.is_string() ? parse_model_dtype(x.get_ref<const std::string&>()) : std::nullopt;
  };
  result.dtype =
      *dtype_of(value("dtype", "float32, bfloat16 or float16", [&](const json& x) { return dtype_of(x).has_value(); }));
  if (rows > 0)
    value("shape", join(at::IntArrayRef({rows, columns})), [&](const json& x) { return x == json{rows, columns}; });
  if (layer.has(".weight.nested_absmax")) {
    result.nested_block = block("nested_blocksize");
    value("nested_dtype", "float32", [](const json& x) { return x == "float32"; });
    const auto is_offset = [](const json& x) { return x.is_number() && std::isfinite(x.get<float>()); };
    result.offset = value("nested_offset", "a finite number", is_offset).get<float>();
  }
  return result;
}

PackedWeight made(kernels::Packing packing, int64_t rows, int64_t columns) {
  PackedWeight weight;
  weight.packing = packing;
  weight.rows = rows, weight.columns = columns;
  return weight;
}

PackedWeight read_table(const LayerReader& layer, int64_t rows, int64_t columns) {
  const TableState state = read_state(layer, rows, columns);
  const int64_t bytes = parts_of(rows * columns, 2), blocks = parts_of(rows * columns, state.block);
  const TensorInfo& found = layer.info(".weight");
  // bnb_4bit_quant_storage: the same bytes may be called numbers of 16 or 32 bits.
  if ((found.dtype != at::kByte && !is_float(found.dtype)) || static_cast<int64_t>(found.end - found.begin) != bytes)
    layer.refuse(".weight", "expected U8 ", at::IntArrayRef({bytes, 1}), ", got ", LayerReader::text_of(found));
  PackedWeight weight = made(kernels::Packing::table, rows, columns);
  weight.rounded = state.dtype;
  weight.block = state.block;
  const at::Tensor stored = layer.folder().tensor(layer.module() + ".weight").flatten();
  weight.codes = stored.scalar_type() == at::kByte ? stored : stored.view(at::kByte);
  weight.table = layer.read_fp32(".weight.quant_map", {16});
  if (!layer.has(".weight.nested_absmax")) {
    weight.scale = layer.read_fp32(".weight.absmax", {blocks});
    return weight;
  }
  weight.nested_codes = layer.read(".weight.absmax", at::kByte, {blocks});
  weight.nested_table = layer.read_fp32(".weight.nested_quant_map", {256});
  weight.scale = layer.read_fp32(".weight.nested_absmax", {parts_of(blocks, state.nested_block)});
  weight.nested_block = state.nested_block;
  weight.offset = state.offset;
  return weight;
}

PackedWeight read_rows(const LayerReader& layer, int64_t rows, int64_t columns) {
  if (layer.has(".weight_format") && !layer.holds_zeros(".weight_format"))
    layer.refuse(".weight_format", "expected 0 (rows), got another layout, which is not read");
  PackedWeight weight = made(kernels::Packing::int8, rows, columns);
  weight.codes = layer.read(".weight", at::kChar, {rows, columns});
  weight.scale = layer.read_fp32(".SCB", {rows}).view({rows, 1});
  weight.scale_columns = columns;
  return weight;
}

// The group of each column. Undefined where they are those that the sizes say.
at::Tensor read_groups(const LayerReader& layer, const char* suffix, int64_t columns, const Grid& grid) {
  // A copy: what has been checked must not change with the file.
  at::Tensor groups = layer.read(suffix, at::kInt, {columns}).clone();
  const auto* group = groups.const_data_ptr<int32_t>();
  bool is_regular = true;
  for (int64_t k = 0; k < columns; ++k) {
    if (group[k] < 0 || group[k] >= grid.columns)
      layer.refuse(suffix, "expected groups in [0, ", grid.columns, "), got ", group[k], " at ", k);
    is_regular &= group[k] == k / grid.scale_columns;
  }
  return is_regular ? at::Tensor() : groups;
}

PackedWeight grouped(const Scheme& scheme, int64_t rows, int64_t columns, const Grid& grid) {
  PackedWeight weight = made(kernels::Packing::grouped, rows, columns);
  weight.bits = scheme.bits;
  weight.scale_rows = 1;
  weight.scale_columns = grid.scale_columns;
  return weight;
}

// Words [groups, N] and [groups, N bits / 32] beside codes in words, gptq's and awq's.
void read_word_groups(const LayerReader& layer, const Scheme& scheme, const Grid& grid, int more,
                      PackedWeight& weight) {
  const int64_t per_word = 32 / scheme.bits, groups = grid.columns;
  weight.rounded = layer.info(".scales").dtype;
  weight.scale = layer.read_floats(".scales", {groups, weight.rows}).t().contiguous();
  const ZeroOrder order = scheme.layout == Layout::awq ? ZeroOrder::awq : ZeroOrder::gptq;
  weight.zero = zeros_of(layer.read(".qzeros", at::kInt, {groups, weight.rows / per_word}), order, scheme.bits,
                         weight.rows, groups, more);
  for (const char* suffix : {".qweight", ".scales", ".qzeros"}) layer.forget(suffix);
}

PackedWeight read_gptq(const LayerReader& layer, const Scheme& scheme, const QuantizationConfig& config, int64_t rows,
                       int64_t columns) {
  const Grid grid = grid_of(scheme, rows, columns);
  const int64_t per_word = 32 / scheme.bits;
  if (rows % per_word != 0 || columns % per_word != 0)
    layer.refuse(".qweight", "expected a weight whose sides are multiples of ", per_word, ", got ",
                 at::IntArrayRef({rows, columns}));
  PackedWeight weight = grouped(scheme, rows, columns, grid);
  if (layer.has(".g_idx"))
    weight.group_of = read_groups(layer, ".g_idx", columns, grid);
  else if (config.needs_groups)
    layer.refuse(".qweight", "expected .g_idx beside it, as desc_act in config.json says, got nothing");
  weight.codes = codes_of_columns(layer.read(".qweight", at::kInt, {columns / per_word, rows}));
  read_word_groups(layer, scheme, grid, config.has_lesser_zeros ? 1 : 0, weight);
  return weight;
}

PackedWeight read_awq(const LayerReader& layer, const Scheme& scheme, int64_t rows, int64_t columns) {
  const Grid grid = grid_of(scheme, rows, columns);
  if (rows % 8 != 0)
    layer.refuse(".qweight", "expected a weight whose rows are a multiple of 8, got ",
                 at::IntArrayRef({rows, columns}));
  PackedWeight weight = grouped(scheme, rows, columns, grid);
  weight.codes = codes_of_awq(layer.read(".qweight", at::kInt, {columns, rows / 8}));
  read_word_groups(layer, scheme, grid, 0, weight);
  return weight;
}

void check_symmetric(const LayerReader& layer) {
  if (layer.has(".weight_zero_point") && !layer.holds_zeros(".weight_zero_point"))
    layer.refuse(".weight_zero_point", "expected zeros, as config.json says \"symmetric\", got others");
}

PackedWeight read_fp8(const LayerReader& layer, const Scheme& scheme, int64_t rows, int64_t columns) {
  const Grid grid = grid_of(scheme, rows, columns);
  PackedWeight weight = made(kernels::Packing::fp8, rows, columns);
  weight.codes = layer.read(".weight", scheme.stored, {rows, columns});
  weight.scale = layer.read_scales(scheme.scale, grid);
  weight.scale_rows = grid.scale_rows;
  weight.scale_columns = grid.scale_columns;
  return weight;
}

// Grouped weights have scales of every row.
Grid grid_of_groups(const Scheme& scheme, int64_t rows, int64_t columns) {
  Scheme by_row = scheme;
  if (scheme.grain == Grain::tensor) by_row.grain = Grain::row;
  return grid_of(by_row, rows, columns);
}
at::Tensor read_scales_of_groups(const LayerReader& layer, const Scheme& scheme, const PackedWeight& weight,
                                 const Grid& grid) {
  return layer.read_scales(".weight_scale", grid_of(scheme, weight.rows, weight.columns))
      .expand({weight.rows, grid.columns})
      .contiguous();
}

// compressed-tensors' int8: grouped, with a zero in the middle. (kernels::Packing::int8 has bitsandbytes' scales.)
PackedWeight read_int8(const LayerReader& layer, const Scheme& scheme, int64_t rows, int64_t columns) {
  const Grid grid = grid_of_groups(scheme, rows, columns);
  PackedWeight weight = grouped(scheme, rows, columns, grid);
  weight.codes = codes_of_int8(layer.read(".weight", at::kChar, {rows, columns}));
  layer.forget(".weight");
  weight.rounded = layer.info(".weight_scale").dtype;
  weight.scale = read_scales_of_groups(layer, scheme, weight, grid);
  weight.zero = at::full({rows, grid.columns}, 128, at::kByte);
  return weight;
}

// Zero points of compressed-tensors: in words along N or, from its first versions, one number each, less the middle.
at::Tensor read_packed_zeros(const LayerReader& layer, const Scheme& scheme, const Grid& grid, int64_t rows) {
  constexpr const char* kZeros = ".weight_zero_point";
  const int middle = 1 << (scheme.bits - 1);
  if (scheme.is_symmetric) {
    check_symmetric(layer);
    return at::full({rows, grid.columns}, middle, at::kByte);
  }
  const TensorInfo& found = layer.info(kZeros);
  if (found.dtype == at::kChar) {
    const at::Tensor stored = layer.read(kZeros, at::kChar, {rows, grid.columns}),
                     zeros = at::empty(stored.sizes(), at::kByte);
    const auto* from = stored.const_data_ptr<int8_t>();
    auto* to = zeros.mutable_data_ptr<uint8_t>();
    for (int64_t i = 0; i < zeros.numel(); ++i) {
      if (from[i] < -middle || from[i] >= middle)
        layer.refuse(kZeros, "expected numbers in [", -middle, ", ", middle, "), got ", int{from[i]});
      to[i] = static_cast<uint8_t>(from[i] + middle);
    }
    return zeros;
  }
  const at::Tensor words = layer.read(kZeros, at::kInt, {parts_of(rows, 32 / scheme.bits), grid.columns});
  return zeros_of(words, ZeroOrder::packed, scheme.bits, rows, grid.columns, 0);
}

PackedWeight read_packed(const LayerReader& layer, const Scheme& scheme, int64_t rows, int64_t columns) {
  const Grid grid = grid_of_groups(scheme, rows, columns);
  PackedWeight weight = grouped(scheme, rows, columns, grid);
  const TensorInfo& shape = layer.info(".weight_shape");
  const bool is_long = shape.dtype == at::kLong;
  const at::Tensor sizes = layer.read(".weight_shape", is_long ? at::kLong : at::kInt, {2}).to(at::kLong);
  const auto* size = sizes.const_data_ptr<int64_t>();
  if (size[0] != rows || size[1] != columns)
    layer.refuse(".weight_shape", "expected ", at::IntArrayRef({rows, columns}), ", got ",
                 at::IntArrayRef({size[0], size[1]}));
  // As we have them, but for what fills a row's last word.
  const at::Tensor words = layer.read(".weight_packed", at::kInt, {rows, parts_of(columns, 32 / scheme.bits)});
  weight.codes = words.view(at::kByte).narrow(1, 0, parts_of(columns * scheme.bits, 8)).contiguous();
  if (!weight.codes.is_alias_of(words)) layer.forget(".weight_packed");
  weight.rounded = layer.info(".weight_scale").dtype;
  weight.scale = read_scales_of_groups(layer, scheme, weight, grid);
  weight.zero = read_packed_zeros(layer, scheme, grid, rows);
  if (layer.has(".weight_g_idx")) {
    const at::Tensor groups = layer.read(".weight_g_idx", at::kInt, {columns});
    const auto* group = groups.const_data_ptr<int32_t>();
    // -1 anywhere: the groups are not used.
    if (std::find(group, group + columns, -1) == group + columns)
      weight.group_of = read_groups(layer, ".weight_g_idx", columns, grid);
  }
  return weight;
}

// Whether two schemes of one layout that fit a layer give it the same values.
bool reads_alike(const Scheme& a, const Scheme& b, int64_t rows, int64_t columns) {
  const auto shares = [&](const Scheme& scheme) {
    const Grid grid = grid_of(scheme, rows, columns);
    return std::pair(std::min(grid.scale_rows, rows), std::min(grid.scale_columns, columns));
  };
  return a.bits == b.bits && a.stored == b.stored && a.is_symmetric == b.is_symmetric && shares(a) == shares(b);
}

// Whether the tensors of a layer look as a scheme has them.
bool fits(const LayerReader& layer, const Scheme& scheme, int64_t rows, int64_t columns) {
  if (scheme.layout != Layout::scaled && scheme.layout != Layout::packed) return true;
  const bool is_scaled = scheme.layout == Layout::scaled;
  const char* scale = is_scaled ? scheme.scale : ".weight_scale";
  if (!layer.has(scale) || !has_shape(layer.info(scale).shape, grid_of(scheme, rows, columns))) return false;
  if (is_scaled) return layer.has(".weight") && layer.info(".weight").dtype == scheme.stored;
  const bool has_zeros = layer.has(".weight_zero_point");
  return at::IntArrayRef(layer.info(".weight_packed").shape) ==
             at::IntArrayRef({rows, parts_of(columns, 32 / scheme.bits)}) &&
         (scheme.is_symmetric ? !has_zeros || layer.holds_zeros(".weight_zero_point") : has_zeros);
}

}  // namespace

struct QuantizedFolder::State {
  ModelFolder folder;
  QuantizationConfig config;
  std::map<std::string, Layout> modules;
  std::string text;
  at::ScalarType source = at::kFloat;

  explicit State(const ModelFolder& opened) : folder(opened), config(read_quantization_config(opened)) {}
  void find_modules();
  const Scheme& scheme_of(const LayerReader& layer, Layout layout, int64_t rows, int64_t columns) const;
  std::string describe() const;
  at::ScalarType find_source() const;
};

void QuantizedFolder::State::find_modules() {
  const auto add = [&](std::string_view name, const std::string& mark, Layout layout) {
    if (name.ends_with(mark)) modules[std::string(name.substr(0, name.size() - mark.size()))] = layout;
  };
  // A packed layer has a .weight_scale too, so what is packed comes last.
  std::vector<Scheme> schemes = config.schemes;
  std::stable_sort(schemes.begin(), schemes.end(),
                   [](const Scheme& a, const Scheme& b) { return a.layout < b.layout; });
  for (const Scheme& scheme : schemes)
    for (const std::string& name : folder.names()) switch (scheme.layout) {
        case Layout::table:
          for (const char* table : kTableNames) add(name, std::string(kStateMark) + table, scheme.layout);
          break;
        case Layout::rows:
          add(name, ".SCB", scheme.layout);
          break;
        case Layout::gptq:
        case Layout::awq:
          add(name, ".qweight", scheme.layout);
          break;
        case Layout::scaled:
          add(name, scheme.scale, scheme.layout);
          break;
        case Layout::packed:
          add(name, ".weight_packed", scheme.layout);
          break;
      }
  if (modules.empty())
    fail((folder.path() / "config.json").string(), ": quantization_config: expected layers that are stored as ",
         config.method, " has them, got none (leave the key out where the weights are plain)");
}

// The one that the layer's tensors look like; where none does, the first of the layout, which names what is wrong.
const Scheme& QuantizedFolder::State::scheme_of(const LayerReader& layer, Layout layout, int64_t rows,
                                                int64_t columns) const {
  const Scheme *first = nullptr, *chosen = nullptr;
  for (const Scheme& scheme : config.schemes) {
    if (scheme.layout != layout) continue;
    if (!first) first = &scheme;
    if (!fits(layer, scheme, rows, columns)) continue;
    if (!chosen)
      chosen = &scheme;
    else if (!reads_alike(*chosen, scheme, rows, columns))
      fail((folder.path() / "config.json").string(), ": quantization_config: expected one kind of weights that fits ",
           layer.module(), ", got ", rankfold::text_of(*chosen), chosen->is_symmetric ? "" : " with zero points",
           " and ", rankfold::text_of(scheme), scheme.is_symmetric ? "" : " with zero points");
  }
  RANKFOLD_ASSERT(first);
  return chosen ? *chosen : *first;
}

std::string QuantizedFolder::State::describe() const {
  const LayerReader first(folder, modules.begin()->first);
  switch (modules.begin()->second) {
    case Layout::table:
      return join(config.method, " ", state_suffix(first).substr(std::strlen(kStateMark)),
                  first.has(".weight.nested_absmax") ? ", nested scales" : "");
    case Layout::rows:
      return config.method + " int8";
    default:
      break;
  }
  std::string kinds;
  std::set<std::string> told;
  for (const Scheme& scheme : config.schemes) {
    const auto is_so = [&](const auto& module) {
      const LayerReader layer(folder, module.first);
      if (module.second != scheme.layout) return false;
      if (scheme.layout != Layout::scaled) return true;
      if (!layer.has(".weight") || layer.info(".weight").shape.size() != 2) return false;
      const std::vector<int64_t>& shape = layer.info(".weight").shape;
      return shape[0] > 0 && shape[1] > 0 && fits(layer, scheme, shape[0], shape[1]);
    };
    const std::string kind = rankfold::text_of(scheme);
    if (told.contains(kind) || std::none_of(modules.begin(), modules.end(), is_so)) continue;
    told.insert(kind);
    kinds += (kinds.empty() ? "" : " and ") + kind;
  }
  if (kinds.empty()) kinds = rankfold::text_of(config.schemes.front());
  // The method's name may say it already.
  constexpr std::string_view kFp8 = "fp8";
  const bool is_told = config.method.ends_with(kFp8) && kinds.starts_with(kFp8);
  return is_told ? config.method + kinds.substr(kFp8.size()) : config.method + " " + kinds;
}

at::ScalarType QuantizedFolder::State::find_source() const {
  const LayerReader first(folder, modules.begin()->first);
  const Layout layout = modules.begin()->second;
  if (layout == Layout::table) return read_state(first, 0, 0).dtype;
  for (const char* key : {"dtype", "torch_dtype"}) {
    const auto found = folder.config().find(key);
    if (found == folder.config().end() || !found->is_string()) continue;
    if (const auto dtype = parse_model_dtype(found->get_ref<const std::string&>())) return *dtype;
  }
  const char* scale = layout == Layout::scaled   ? config.schemes.front().scale
                      : layout == Layout::packed ? ".weight_scale"
                                                 : ".scales";
  return first.has(scale) && is_float(first.info(scale).dtype) ? first.info(scale).dtype : at::kFloat;
}

std::optional<QuantizedFolder> QuantizedFolder::open(const ModelFolder& folder) {
  const auto found = folder.config().find("quantization_config");
  if (found == folder.config().end() || found->is_null()) return std::nullopt;
  auto state = std::make_shared<State>(folder);
  state->find_modules();
  state->text = state->describe();
  state->source = state->find_source();
  QuantizedFolder result;
  result.state_ = state;
  return result;
}

bool QuantizedFolder::holds(const std::string& module) const { return state_->modules.contains(module); }

PackedWeight QuantizedFolder::weight(const std::string& module, int64_t rows, int64_t columns) const {
  RANKFOLD_CHECK(holds(module), module, " is not quantised");
  RANKFOLD_CHECK(rows > 0 && columns > 0 && rows <= kLargestSide && columns <= kLargestSide, module, ": a weight of ",
                 rows, " x ", columns);
  const Layout layout = state_->modules.at(module);
  const LayerReader layer(state_->folder, module);
  const Scheme& scheme = state_->scheme_of(layer, layout, rows, columns);
  const bool is_packed = layout == Layout::gptq || layout == Layout::awq || layout == Layout::packed;
  if (is_packed && layer.has(".weight")) layer.refuse(".weight", "expected the weight once, got it packed, too");
  switch (layout) {
    case Layout::table:
      return read_table(layer, rows, columns);
    case Layout::rows:
      return read_rows(layer, rows, columns);
    case Layout::gptq:
      return read_gptq(layer, scheme, state_->config, rows, columns);
    case Layout::awq:
      return read_awq(layer, scheme, rows, columns);
    case Layout::scaled:
      check_symmetric(layer);
      return scheme.stored == at::kChar ? read_int8(layer, scheme, rows, columns)
                                        : read_fp8(layer, scheme, rows, columns);
    case Layout::packed:
      return read_packed(layer, scheme, rows, columns);
  }
  RANKFOLD_ASSERT(false);
  return {};
}

std::vector<std::string> QuantizedFolder::tensors_of(const std::string& module) const {
  RANKFOLD_CHECK(holds(module), module, " is not quantised");
  const LayerReader layer(state_->folder, module);
  std::vector<std::string> names;
  const auto add = [&](std::initializer_list<const char*> suffixes) {
    for (const char* suffix : suffixes)
      if (layer.has(suffix)) names.push_back(module + suffix);
  };
  switch (state_->modules.at(module)) {
    case Layout::table:
      add({".weight", ".weight.absmax", ".weight.quant_map", state_suffix(layer).c_str()});
      if (layer.has(".weight.nested_absmax")) add({".weight.nested_absmax", ".weight.nested_quant_map"});
      break;
    case Layout::rows:
      add({".weight", ".SCB"});
      break;
    case Layout::gptq:
    case Layout::awq:
      add({".qweight", ".qzeros", ".scales"});
      if (state_->modules.at(module) == Layout::gptq) add({".g_idx"});
      // Its writers give every layer a bias, of zeros where the model has none.
      if (layer.has(".bias") && layer.holds_zeros(".bias")) add({".bias"});
      break;
    case Layout::scaled:
      add({".weight", state_->config.schemes.front().scale, ".weight_zero_point"});
      break;
    case Layout::packed:
      add({".weight_packed", ".weight_scale", ".weight_shape", ".weight_zero_point", ".weight_g_idx"});
      break;
  }
  for (const char* suffix : kWithoutEffect) add({suffix});
  return names;
}

const std::string& QuantizedFolder::text() const { return state_->text; }
const std::string& QuantizedFolder::notes() const { return state_->config.notes; }
at::ScalarType QuantizedFolder::source_dtype() const { return state_->source; }

}  // namespace rankfold
