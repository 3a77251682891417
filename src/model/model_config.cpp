#include "model/model_config.h"

#include "core/check.h"
#include "core/config.h"
#include "core/json.h"
#include "io/dtype.h"
#include "model/architecture.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <optional>
#include <set>
#include <sstream>

namespace rankfold {
namespace {

using nlohmann::json;

// Reads keys of one object; a key that is absent or null takes the fallback and is an error where there is none.
class Reader {
 public:
  Reader(const json& object, std::string source) : object_(object), source_(std::move(source)) {}

  const std::string& source() const { return source_; }
  const json& object() const { return object_; }
  const std::set<std::string>& asked() const { return asked_; }  // keys that somebody has looked for
  const json& at(const std::string& key) const {
    static const json none;
    asked_.insert(key);
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
  mutable std::set<std::string> asked_;
};

void read_sizes(const Reader& reader, bool is_packed, ModelConfig& config) {
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
  config.head_dim = config.hidden_size / heads;
  if (!is_packed) config.head_dim = reader.integer("head_dim", 1, kMostFeatures, config.head_dim);
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
  const bool has_new = reader.has("rope_parameters"), has_old = reader.has("rope_scaling");
  const bool is_old = has_old && !(has_new && reader.at("rope_scaling").empty());
  const std::string key = is_old ? "rope_scaling" : "rope_parameters";
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
  const bool has_old = reader.has("torch_dtype");
  const std::string key = reader.has("dtype") || !has_old ? "dtype" : "torch_dtype";
  if (reader.has(key)) {
    const json& name = reader.at(key);
    if (name.is_string())
      if (const auto dtype = parse_model_dtype(name.get<std::string>())) return *dtype;
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
  const auto must_be = [&](const char* key, const std::vector<json>& wanted, const std::string& expected) {
    if (reader.has(key) && std::find(wanted.begin(), wanted.end(), reader.at(key)) == wanted.end())
      reader.refuse(key, expected + " (no other is supported)");
  };
  must_be("hidden_act", {"silu", "swish"}, "\"silu\"");  // one function by two names
  must_be("attention_bias", {false}, "false");
  must_be("mlp_bias", {false}, "false");
  must_be("attention_dropout", {0}, "0");
  must_be("is_causal", {true}, "true");
  if (reader.has("quantization_config"))
    reader.refuse("quantization_config", "none (quantized weights are not supported)");
}

// Baichuan's models differ by class, sizes, or two keys that say it outright.
void check_baichuan(const Reader& reader, const ModelConfig& config) {
  const bool is_first = config.architecture == "BaiChuanForCausalLM";
  if (!is_first && config.architecture != "BaichuanForCausalLM") return;
  constexpr int64_t kRopeHiddenSize = 4096;  // the 7B models'
  const std::string what = join(config.architecture, " with hidden_size ", config.hidden_size);
  const auto position = reader.read<std::string>("position_embedding_type", "rope or alibi",
                                                 is_first || config.hidden_size == kRopeHiddenSize ? "rope" : "alibi",
                                                 [](const std::string& x) { return x == "rope" || x == "alibi"; });
  if (position == "alibi")
    fail(reader.source(), ": architectures: ", what, " (Baichuan-13B) needs ALiBi attention, which is not supported",
         reader.has("position_embedding_type") ? "" : "; if it is rotary, say \"position_embedding_type\": \"rope\"");
  if (reader.flag("norm_head", !is_first))
    fail(reader.source(), ": architectures: ", what,
         " (Baichuan 2) needs an output head with normalised rows, which is not supported",
         reader.has("norm_head") ? "" : "; if its head is plain, say \"norm_head\": false");
}

// Keys that transformers wrote in some version, or other trainers, and that change nothing that is computed here.
constexpr const char* kWithoutEffect = R"(
    _attn_implementation _attn_implementation_autoset _from_model_config _name_or_path add_cross_attention
    attn_implementation auto_map bad_words_ids begin_suppress_tokens bos_token_id chunk_size_feed_forward
    cross_attention_hidden_size decoder_start_token_id diversity_penalty do_sample early_stopping
    encoder_no_repeat_ngram_size exponential_decay_length_penalty finetuning_task forced_bos_token_id forced_eos_token_id
    gradient_checkpointing id2label initializer_range is_decoder is_encoder_decoder label2id length_penalty max_length
    max_sequence_length min_length no_repeat_ngram_size num_beam_groups num_beams num_labels num_return_sequences
    output_attentions output_hidden_states output_scores pad_token_id prefix pretraining_tp problem_type pruned_heads
    remove_invalid_values repetition_penalty return_dict return_dict_in_generate sep_token_id suppress_tokens
    task_specific_params temperature tf_legacy_loss tie_encoder_decoder tokenizer_class top_k top_p torchscript
    transformers.js_config transformers_version typical_p unsloth_fixed unsloth_version use_bfloat16 use_cache
    z_loss_weight)";

// One line that names the keys which nothing here reads.
void note_unknown_keys(const Reader& reader, ModelConfig& config) {
  constexpr size_t kNamed = 12;
  std::set<std::string> known = reader.asked();
  std::istringstream words(kWithoutEffect);
  for (std::string word; words >> word;) known.insert(word);
  std::vector<std::string> unknown;
  for (const auto& [key, value] : reader.object().items())
    if (!known.contains(key) && !value.is_null()) unknown.push_back(key);
  if (unknown.empty()) return;
  std::string names;
  for (size_t i = 0; i < std::min(kNamed, unknown.size()); ++i) names += (i ? ", " : "") + unknown[i];
  if (unknown.size() > kNamed) names += join(" and ", unknown.size() - kNamed, " more");
  config.notes.push_back(one_line(join(reader.source(), ": not used: ", names)));
}

// The class by the name that the table knows: older spellings of it, or by model_type where none is named.
std::string read_architecture(const Reader& reader) {
  const json& names = reader.at("architectures");
  std::string name;
  if (names.is_string())
    name = names.get<std::string>();
  else if (names.is_array() && !names.empty() && names[0].is_string())
    name = names[0].get<std::string>();
  else if (!names.is_null() && !(names.is_array() && names.empty()))
    reader.refuse("architectures", "a list with the name of the model's class");
  if (name == "LLaMAForCausalLM") return "LlamaForCausalLM";  // as the first conversions wrote it
  if (!name.empty()) return name;
  const auto type = reader.read<std::string>("model_type", "a text", "", [](const auto&) { return true; });
  name = architecture_of_type(type);
  if (name.empty())
    reader.refuse("architectures", join("the name of the model's class, as model_type ",
                                        type.empty() ? "is not given either" : brief(type) + " does not decide it"));
  return name;
}

}  // namespace

ModelConfig read_model_config(const ModelFolder& folder) {
  const Reader reader(folder.config(), (folder.path() / "config.json").string());
  ModelConfig config;
  config.architecture = read_architecture(reader);
  config.model_type = reader.read<std::string>("model_type", "a text", "", [](const auto&) { return true; });
  const Architecture& architecture = find_architecture(config.architecture, reader.source());
  refuse_unsupported(reader);
  const bool is_packed = architecture.qkv.size() == 1;
  read_sizes(reader, is_packed, config);
  check_baichuan(reader, config);
  if (is_packed && config.num_key_value_heads != config.num_attention_heads)
    reader.refuse("num_key_value_heads", join(config.num_attention_heads, ", as ", architecture.qkv[0], " needs"));
  config.rms_norm_eps = reader.number("rms_norm_eps", "a number in (0, 1)", config.rms_norm_eps,
                                      [](double x) { return allow::positive_float(x) && x < 1; });
  if (!is_packed) read_rope(reader, config);  // Baichuan's class reads none of it
  config.tie_word_embeddings = reader.flag("tie_word_embeddings", false);
  const Reader generation(folder.generation_config(), (folder.path() / "generation_config.json").string());
  const std::vector<int64_t> eos = read_eos(reader);
  config.eos_token_ids = generation.has("eos_token_id") ? read_eos(generation) : eos;
  config.stored_dtype = read_dtype(reader, folder);
  note_unknown_keys(reader, config);
  return config;
}

}  // namespace rankfold
