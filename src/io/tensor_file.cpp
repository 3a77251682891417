#include "rankfold/tensor_file.h"

#include "core/check.h"
#include "core/file.h"
#include "core/guard.h"
#include "core/json.h"
#include "io/dtype.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstring>
#include <optional>
#include <tuple>

namespace rankfold {
namespace {

using nlohmann::json;

constexpr size_t kMostDimensions = 64;
constexpr size_t kDeepest = 127;  // of the reference's JSON reader

// Product of `sizes` in order; nullopt where it leaves 64 bits on the way, as the reference counts.
std::optional<uint64_t> product(uint64_t start, const std::vector<uint64_t>& sizes) {
  uint64_t result = start;
  for (uint64_t size : sizes)
    if (__builtin_mul_overflow(result, size, &result)) return std::nullopt;
  return result;
}

}  // namespace

struct TensorFile::State {
  std::filesystem::path path;
  std::shared_ptr<const Mapping> map;
  std::vector<TensorInfo> tensors;
  // Ordered: a stranger can choose names that all have one hash.
  std::map<std::string, size_t> index;
  std::map<std::string, std::string> foreign;  // tensors of a dtype that we do not read -> its name
  std::map<std::string, std::string> metadata;

  template <class... Parts>
  [[noreturn]] void refuse(const Parts&... parts) const {
    fail(path.string(), ": ", parts...);
  }

  void read();
  void read_metadata(const json& value);
  void read_tensor(const std::string& name, const json& entry);
  void check_layout(uint64_t data_begin);
};

void TensorFile::State::read() {
  const std::span<const std::byte> bytes = map->bytes();
  uint64_t length = 0;
  if (bytes.size() < sizeof length)
    refuse("expected a safetensors file, got ", bytes.size(), " bytes, which is too short");
  std::memcpy(&length, bytes.data(), sizeof length);
  if (length > kLargestHeader)
    refuse("expected a safetensors header of at most ", kLargestHeader, " bytes, got ", length);
  if (length > bytes.size() - sizeof length)
    refuse("expected a safetensors header of ", length, " bytes, got a file of ", bytes.size(), " (cut short?)");
  const std::string_view header(reinterpret_cast<const char*>(bytes.data()) + sizeof length, length);
  if (header.starts_with("\xEF\xBB\xBF")) refuse("header: expected JSON, got a byte order mark");
  const json object = parse_json(header, path.string() + ": header", 1, kDeepest);
  if (!object.is_object()) refuse("header: expected an object, got ", brief(object));
  for (const auto& [name, entry] : object.items()) {
    if (name == "__metadata__")
      read_metadata(entry);
    else
      read_tensor(name, entry);
  }
  check_layout(sizeof length + length);
}

void TensorFile::State::read_metadata(const json& value) {
  if (value.is_null()) return;
  if (!value.is_object()) refuse("__metadata__: expected an object, got ", brief(value));
  for (const auto& [key, text] : value.items()) {
    if (!text.is_string()) refuse("__metadata__.", key, ": expected a string, got ", brief(text));
    metadata[key] = text.get<std::string>();
  }
}

// Offsets are kept relative to the data here; check_layout() moves them.
void TensorFile::State::read_tensor(const std::string& name, const json& entry) {
  const auto field = [&](const char* key, const char* expected, auto is_good) -> const json& {
    static const json none;
    const bool there = entry.is_object() && entry.contains(key);
    const json& value = there ? entry.at(key) : none;
    if (!is_good(value))
      refuse("tensor '", name, "': ", key, ": expected ", expected, ", got ", there ? brief(value) : "nothing");
    return value;
  };
  const auto sizes = [](const json& value) {
    return value.is_array() &&
           std::all_of(value.begin(), value.end(), [](const json& x) { return x.is_number_unsigned(); });
  };
  const json& dtype_name = field("dtype", "a text", [](const json& x) { return x.is_string(); });
  const json& shape_list = field("shape", "a list of sizes", sizes);
  const json& offsets = field("data_offsets", "two offsets", [&](const json& x) { return sizes(x) && x.size() == 2; });

  const StoredDtype* dtype = find_dtype(dtype_name.get_ref<const std::string&>());
  if (!dtype) refuse("tensor '", name, "': dtype ", brief(dtype_name), " is not known");
  if (shape_list.size() > kMostDimensions)
    refuse("tensor '", name, "': expected at most ", kMostDimensions, " dimensions, got ", shape_list.size());
  const auto shape = shape_list.get<std::vector<uint64_t>>();
  const std::optional<uint64_t> elements = product(1, shape);
  const std::optional<uint64_t> bits = elements ? product(*elements, {static_cast<uint64_t>(dtype->bits)}) : elements;
  if (!bits || *bits % 8 != 0)
    refuse("tensor '", name, "': shape ", brief(shape_list), " of ", dtype->name,
           " is not a whole number of bytes below 2^61");
  const uint64_t begin = offsets[0].get<uint64_t>(), end = offsets[1].get<uint64_t>();
  if (end < begin || end - begin != *bits / 8)
    refuse("tensor '", name, "': data_offsets: expected ", *bits / 8, " bytes for ", dtype->name, " ",
           brief(shape_list), ", got ", brief(offsets));
  // A size that no tensor can have may stand beside a zero; tensor() refuses it.
  tensors.push_back({name, dtype->type, std::vector<int64_t>(shape.begin(), shape.end()), begin, end});
  if (dtype->type == at::ScalarType::Undefined) foreign[name] = dtype->name;
}

void TensorFile::State::check_layout(uint64_t data_begin) {
  std::sort(tensors.begin(), tensors.end(), [](const TensorInfo& a, const TensorInfo& b) {
    return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
  });
  const uint64_t data_size = map->size() - data_begin;
  uint64_t expected = 0;
  for (TensorInfo& tensor : tensors) {
    if (tensor.begin != expected)
      refuse("tensor '", tensor.name, "': data_offsets: expected to begin at ", expected, ", got ", tensor.begin,
             tensor.begin < expected ? " (overlap)" : " (hole)");
    if (tensor.end > data_size)
      refuse("tensor '", tensor.name, "': ends at byte ", tensor.end, " of the data, but the file holds ", data_size,
             " (cut short?)");
    expected = tensor.end;
    tensor.begin += data_begin;
    tensor.end += data_begin;
  }
  if (expected != data_size) refuse("expected ", expected, " bytes of data, got ", data_size);
  for (size_t i = 0; i < tensors.size(); ++i) index[tensors[i].name] = i;
}

TensorFile TensorFile::open(const std::filesystem::path& path) try {
  auto state = std::make_shared<State>();
  state->path = path;
  state->map = Mapping::open(path);
  try {
    state->read();
  } catch (const UserError&) {
    // Only now: a sound file may begin with the bytes of a pickle, for they are the length of its header.
    const std::string_view start(reinterpret_cast<const char*>(state->map->data()),
                                 std::min<uint64_t>(state->map->size(), 512));
    if (const std::string kind = foreign_kind(start); !kind.empty())
      state->refuse("expected a safetensors file, got ", kind);
    throw;
  }
  TensorFile file;
  file.state_ = state;
  return file;
} catch (...) {
  rethrow_as_error();
}

const std::filesystem::path& TensorFile::path() const { return state_->path; }
const std::vector<TensorInfo>& TensorFile::tensors() const& { return state_->tensors; }
const std::map<std::string, std::string>& TensorFile::metadata() const { return state_->metadata; }
bool TensorFile::contains(const std::string& name) const { return state_->index.contains(name); }

const TensorInfo& TensorFile::info(const std::string& name) const {
  const auto found = state_->index.find(name);
  if (found != state_->index.end()) return state_->tensors[found->second];
  std::vector<std::string> names;
  for (const TensorInfo& tensor : state_->tensors) names.push_back(tensor.name);
  state_->refuse("no tensor '", name, "'", did_you_mean(nearest(name, names)));
}

at::Tensor TensorFile::tensor(const std::string& name) const try {
  const TensorInfo& info = this->info(name);
  if (info.dtype == at::ScalarType::Undefined)
    state_->refuse("tensor '", name, "': dtype ", state_->foreign.at(name), " is not supported");
  int64_t elements = 1;  // of the shape without its zeros: what strides are made of
  for (int64_t size : info.shape)
    if (size < 0 || (size > 0 && __builtin_mul_overflow(elements, size, &elements)))
      state_->refuse("tensor '", name, "': a shape this large is not supported");
  const uint64_t bytes = info.end - info.begin;
  const auto options = at::TensorOptions().dtype(info.dtype);
  if (bytes == 0) return at::empty(info.shape, options);
  const std::byte* data = state_->map->data() + info.begin;
  if (reinterpret_cast<uintptr_t>(data) % c10::elementSize(info.dtype) == 0)
    return at::from_blob(
        const_cast<std::byte*>(data), info.shape, [keep = state_->map](void*) {}, options);
  at::Tensor copy = at::empty(info.shape, options);
  std::memcpy(copy.mutable_data_ptr(), data, bytes);
  return copy;
} catch (...) {
  rethrow_as_error();
}

void TensorFile::forget(const std::string& name) const {
  const TensorInfo& info = this->info(name);
  state_->map->forget(info.begin, info.end);
}

}  // namespace rankfold
