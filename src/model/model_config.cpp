#include "model/model_config.h"

#include "core/check.h"
#include "core/config.h"
#include "core/json.h"
#include "io/dtype.h"
#include "model/architecture.h"

#include <nlohmann/json.hpp>

#include <cmath>
#include <optional>

namespace rankfold {
namespace {

using nlohmann::json;

// Reads keys of one object; a key that is absent or null takes the fallback and is an error where there is none.
class Reader {
 public:
  Reader(const json& object, std::string source) : object_(object), source_(std::move(source)) {}

  const std::string& source() const { return source_; }
  const json& at(const std::string& key) const {
    static const json none;
    const auto found = object_.find(key);
    return found == object_.end() ? none : *found;
  }
  bool has(const std::string& key) const { return !at(key).is_null(); }

  [[noreturn]] void refuse(const std::string& key, const std::string& expected) const {
    fail(source_, ": ", key, ": expected ", expected, ", got ", object_.contains(key) ? brief(at(key)) : "nothing");
  }

  template <class T>
  T read(const std::string& key, const std::string& expected, std::optional<T> fallback, auto is_good) const {
    if (!has(key) && fallback) return *fallback;
    T value{};
    if (!assign(at(key), value) || !is_good(value)) refuse(key, expected);
    return value;
  }
  int64_t integer(const std::string& key, int64_t low, int64_t high, std::optional<int64_t> fallback = {}) const {
    return read<int64_t>(key, join("an integer in [", low, ", ", high, "]"), fallback,
                         [&](int64_t x) { return x >= low && x <= high; });
  }
  double number(const std::string& key, const std::string& expected, double fallback, auto is_good) const {
    return read<double>(key, expected, fallback, [&](double x) { return std::isfinite(x) && is_good(x); });
  }
  bool flag(const std::string& key, bool fallback) const {
    return read<bool>(key, "true or false", fallback, [](bool) { return true; });
  }

 private:
  const json& object_;
  std::string source_;
};

void read_sizes(const Reader& reader, ModelConfig& config) {
  constexpr int64_t kMostFeatures = 1 << 20;
  config.vocab_size = reader.integer("vocab_size", 1, INT32_MAX);  // token ids are 32 bits wide
  config.hidden_size = reader.integer("hidden_size", 1, kMostFeatures);
  config.intermediate_size = reader.integer("intermediate_size", 1, kMostFeatures);
  config.num_hidden_layers = reader.integer("num_hidden_layers", 1, 1000);
  const int64_t heads = config.num_attention_heads = reader.integer("num_attention_heads", 1, config.hidden_size);
  if (config.hidden_size % heads != 0)
    reader.refuse("num_attention_heads", join("a divisor of hidden_size ", config.hidden_size));
  config.num_key_value_heads = reader.integer("num_key_value_heads", 1, heads, heads);
  if (heads % config.num_key_value_heads != 0)
    reader.refuse("num_key_value_heads", join("a divisor of num_attention_heads ", heads));
  config.head_dim = reader.integer("head_dim", 1, kMostFeatures, config.hidden_size / heads);
  if (config.head_dim % 2 != 0)  // rotary positions turn pairs
    reader.refuse(reader.has("head_dim") ? "head_dim" : "num_attention_heads",
                  join("heads of an even size (here ", config.head_dim, ")"));
  config.max_position_embeddings = reader.integer("max_position_embeddings", 1, int64_t{1} << 40,
                                                  reader.integer("model_max_length", 1, int64_t{1} << 40, 0));
}

// transformers 4: rope_theta and rope_scaling {type or rope_type, factor}; 5: rope_parameters {rope_theta, rope_type,
// factor}. The older spelling wins where both are there, as in transformers 5.
void read_rope(const Reader& reader, ModelConfig& config) {
  const auto positive = allow::positive_float;
  config.rope_theta = reader.number("rope_theta", "a number above 0", config.rope_theta, positive);
  const json none = json::object();
  const std::string key = reader.has("rope_scaling") ? "rope_scaling" : "rope_parameters";
  const json& object = reader.has(key) ? reader.at(key) : none;
  if (!object.is_object()) reader.refuse(key, "an object");
  const Reader rope(object, join(reader.source(), ": ", key));
  for (const auto& [name, value] : object.items())
    if (value.is_object()) rope.refuse(name, "one setting for all layers");
  config.rope_theta = rope.number("rope_theta", "a number above 0", config.rope_theta, positive);
  const std::string type_key = rope.has("rope_type") ? "rope_type" : "type";
  const auto type = rope.read<std::string>(type_key, "default or linear (no other is supported)", "default",
                                           [](const std::string& x) { return x == "default" || x == "linear"; });
  if (type == "linear") {
    if (!rope.has("factor")) rope.refuse("factor", "a number of 1 or more");
    config.rope_factor =
        rope.number("factor", "a number of 1 or more", 1, [](double x) { return x >= 1 && allow::positive_float(x); });
  }
  for (const Reader* place : {&reader, &rope})
    place->number("partial_rotary_factor", "1 (no other is supported)", 1, [](double x) { return x == 1; });
}

std::vector<int64_t> read_eos(const Reader& reader) {
  const char* expected = "a token id or a list of token ids";
  return reader.read<std::vector<int64_t>>("eos_token_id", expected, std::vector<int64_t>{}, [](const auto& ids) {
    for (int64_t id : ids)
      if (id < 0 || id > INT32_MAX) return false;
    return true;
  });
}

at::ScalarType read_dtype(const Reader& reader, const ModelFolder& folder) {
  const std::string key = reader.has("dtype") ? "dtype" : "torch_dtype";
  if (reader.has(key)) {
    const json& name = reader.at(key);
    if (name.is_string())
      if (const auto dtype = parse_model_dtype(name.get<std::string>(), /*short_names=*/false)) return *dtype;
    reader.refuse(key, "float32, bfloat16 or float16");
  }
  for (const std::string& name : folder.names())
    if (const at::ScalarType dtype = folder.info(name).dtype;
        dtype == at::kFloat || dtype == at::kBFloat16 || dtype == at::kHalf)
      return dtype;
  return at::kFloat;
}

// Settings that change the maths in ways we do not follow.
void refuse_unsupported(const Reader& reader) {
  const auto must_be = [&](const char* key, const json& wanted) {
    if (reader.has(key) && reader.at(key) != wanted) reader.refuse(key, brief(wanted) + " (no other is supported)");
  };
  must_be("hidden_act", "silu");
  must_be("attention_bias", false);
  must_be("mlp_bias", false);
  if (reader.has("quantization_config"))
    reader.refuse("quantization_config", "none (quantized weights are not supported)");
}

std::string read_architecture(const Reader& reader) {
  const json& names = reader.at("architectures");
  if (!names.is_array() || names.empty() || !names[0].is_string())
    reader.refuse("architectures", "a list with the name of the model's class");
  return names[0].get<std::string>();
}

}  // namespace

ModelConfig read_model_config(const ModelFolder& folder) {
  const Reader reader(folder.config(), (folder.path() / "config.json").string());
  ModelConfig config;
  config.architecture = read_architecture(reader);
  config.model_type = reader.read<std::string>("model_type", "a text", "", [](const auto&) { return true; });
  const Architecture& architecture = find_architecture(config.architecture, reader.source());
  refuse_unsupported(reader);
  read_sizes(reader, config);
  check_variant(config, reader.source());
  const bool is_packed = architecture.qkv.size() == 1;
  if (is_packed && config.num_key_value_heads != config.num_attention_heads)
    reader.refuse("num_key_value_heads", join(config.num_attention_heads, ", as ", architecture.qkv[0], " needs"));
  config.rms_norm_eps = reader.number("rms_norm_eps", "a number in (0, 1)", config.rms_norm_eps,
                                      [](double x) { return allow::positive_float(x) && x < 1; });
  read_rope(reader, config);
  config.tie_word_embeddings = reader.flag("tie_word_embeddings", false);
  const Reader generation(folder.generation_config(), (folder.path() / "generation_config.json").string());
  config.eos_token_ids = read_eos(generation.has("eos_token_id") ? generation : reader);
  config.stored_dtype = read_dtype(reader, folder);
  return config;
}

}  // namespace rankfold
