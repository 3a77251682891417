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

void read_sizes(const Reader& reader, bool is_baichuan, ModelConfig& config) {
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
  if (!is_baichuan) config.head_dim = reader.integer("head_dim", 1, kMostFeatures, config.head_dim);
  config.max_position_embeddings = reader.integer("max_position_embeddings", 1, int64_t{1} << 40,
                                                  reader.integer("model_max_length", 1, int64_t{1} << 40, 0));
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
void note_unknown_keys(const Reader& reader, const char* without_effect, ModelConfig& config) {
  constexpr size_t kNamed = 12;
  std::set<std::string> known = reader.asked();
  std::istringstream words(without_effect);
  for (std::string word; words >> word;) known.insert(word);
  std::vector<std::string> unknown;
  for (const auto& [key, value] : reader.object().items())
    if (!known.contains(key) && !value.is_null() && value != false) unknown.push_back(key);
  if (unknown.empty()) return;
  std::string names;
  for (size_t i = 0; i < std::min(kNamed, unknown.size()); ++i) names += (i ? ", " : "") + unknown[i];
  if (unknown.size() > kNamed) names += join(" and ", unknown.size() - kNamed, " more");
  config.notes.push_back(one_line(join(reader.source(), ": not used: ", names)));
}

constexpr Word<RopeType> kRopeTypes[] = {{"default", RopeType::standard}, {"linear", RopeType::linear},
                                         {"dynamic", RopeType::dynamic},  {"yarn", RopeType::yarn},
                                         {"llama3", RopeType::llama3},    {"longrope", RopeType::longrope, "su"}};

// The settings of a type other than default, from `rope`.
void read_rope_type(const Reader& rope, const Reader& reader, const ModelConfig& config, RopeParameters& p) {
  constexpr const char* kPositive = "a number above 0";
  const auto positive = allow::positive_float;
  const auto at_least_1 = [](double x) { return x >= 1 && allow::positive_float(x); };
  const auto required = [&](const char* key, const std::string& expected, auto is_good) {
    if (!rope.has(key)) rope.refuse(key, expected);
    return rope.number(key, expected, 0, is_good);
  };
  const auto read_factor = [&] {  // or how far the longest position is beyond the original ones
    const double stretch =
        static_cast<double>(config.max_position_embeddings) / static_cast<double>(p.original_max_position_embeddings);
    if (!rope.has("factor") && stretch == 0) rope.refuse("factor", kPositive);
    p.factor = rope.number("factor", kPositive, stretch, positive);
  };
  switch (p.type) {
    case RopeType::standard:
      break;
    case RopeType::linear:
      p.factor = required("factor", "a number of 1 or more", at_least_1);
      break;
    case RopeType::dynamic:  // transformers goes by max_position_embeddings alone
      p.factor = required("factor", "a number of 1 or more", at_least_1);
      p.original_max_position_embeddings = config.max_position_embeddings;
      if (config.max_position_embeddings == 0) reader.refuse("max_position_embeddings", "an integer above 0");
      if (rotary_features(config) <= 2) rope.refuse("rope_type", "one for heads of 2 features");
      break;
    case RopeType::llama3:
      p.factor = required("factor", "a number of 1 or more", at_least_1);
      p.low_freq_factor = required("low_freq_factor", kPositive, positive);
      p.high_freq_factor = required("high_freq_factor", join("a number above low_freq_factor ", p.low_freq_factor),
                                    [&](double x) { return x > p.low_freq_factor && positive(x); });
      break;
    case RopeType::yarn:
      read_factor();
      p.beta_fast = rope.number("beta_fast", kPositive, p.beta_fast, positive);
      p.beta_slow = rope.number("beta_slow", kPositive, p.beta_slow, positive);
      p.mscale = rope.number("mscale", "a number", 0, [](double) { return true; });
      p.mscale_all_dim = rope.number("mscale_all_dim", "a number", 0, [](double) { return true; });
      p.truncate = rope.flag("truncate", true);
      break;
    case RopeType::longrope: {
      read_factor();
      const auto count = static_cast<size_t>(rotary_features(config) / 2);
      const auto read_factors = [&](const char* key) {
        return rope.read<std::vector<double>>(
            key, join("a list of ", count, " numbers above 0"), std::nullopt, [&](const std::vector<double>& factors) {
              return factors.size() == count && std::all_of(factors.begin(), factors.end(), positive);
            });
      };
      p.short_factor = read_factors("short_factor");
      p.long_factor = read_factors("long_factor");
      break;
    }
  }
  if (p.type == RopeType::yarn || p.type == RopeType::longrope)
    p.attention_factor = rope.number("attention_factor", kPositive, 0, positive);
}

// transformers 4: rope_theta and rope_scaling {type or rope_type, factor, ...}; 5: rope_parameters {rope_theta, rope_type,
// factor, ...}. The older spelling wins where both are there, as in transformers 5.
void read_rope(const Reader& reader, bool has_partial_rotary, ModelConfig& config) {
  const auto positive = allow::positive_float;
  RopeParameters& p = config.rope;
  p.theta = reader.number("rope_theta", "a number above 0", p.theta, positive);
  const json none = json::object();
  const bool has_new = reader.has("rope_parameters"), has_old = reader.has("rope_scaling");
  const bool is_old = has_old && !(has_new && reader.at("rope_scaling").empty());
  const std::string key = is_old ? "rope_scaling" : "rope_parameters";
  const json& object = reader.has(key) ? reader.at(key) : none;
  if (!object.is_object()) reader.refuse(key, "an object");
  const Reader rope(object, join(reader.source(), ": ", key));
  for (const auto& [name, value] : object.items())
    if (value.is_object()) rope.refuse(name, "one setting for all layers");
  p.theta = rope.number("rope_theta", "a number above 0", p.theta, positive);
  const bool has_newer_key = rope.has("rope_type"), has_type = rope.has("type");
  if (has_newer_key && has_type && rope.at("type") != rope.at("rope_type"))
    rope.refuse("type", brief(rope.at("rope_type")) + " as rope_type");
  const char* type_key = has_newer_key ? "rope_type" : "type";
  const auto type = rope.read<std::string>(type_key, list_words(kRopeTypes) + " (no other is supported)", "default",
                                           [](const std::string& x) { return find_word(kRopeTypes, x) != nullptr; });
  p.type = find_word(kRopeTypes, type)->meaning;
  if (has_partial_rotary && p.type == RopeType::yarn) p.type = RopeType::longrope;  // as Phi-3 has called it
  const Reader* share_place = &rope;
  for (const Reader* place : {&reader, &rope}) {
    if (!place->has("partial_rotary_factor")) continue;
    share_place = place;
    p.partial_rotary_factor =
        place->number("partial_rotary_factor", has_partial_rotary ? "a number in (0, 1]" : "1 (no other is supported)",
                      p.partial_rotary_factor, [&](double x) { return has_partial_rotary ? x > 0 && x <= 1 : x == 1; });
  }
  if (config.head_dim % 2 != 0)  // positions turn pairs
    reader.refuse(reader.has("head_dim") ? "head_dim" : "num_attention_heads",
                  join("heads of an even size (here ", config.head_dim, ")"));
  if (const int64_t rotary = rotary_features(config); rotary == 0 || rotary % 2 != 0)
    share_place->refuse("partial_rotary_factor", join("one that turns an even number of the ", config.head_dim,
                                                      " features of a head (here ", rotary, ")"));
  // Beside the object it wins, as in transformers; Phi-3 has it nowhere else.
  constexpr const char* kOriginal = "original_max_position_embeddings";
  constexpr int64_t kOriginalOfPhi3 = 4096, kLongest = int64_t{1} << 40;
  const bool is_outside = reader.has(kOriginal), is_inside = rope.has(kOriginal);
  const int64_t otherwise = has_partial_rotary ? kOriginalOfPhi3 : config.max_position_embeddings;
  if (is_outside || (is_inside && !has_partial_rotary))
    p.original_max_position_embeddings = (is_outside ? reader : rope).integer(kOriginal, 2, kLongest);
  else if (otherwise > 0)
    p.original_max_position_embeddings = otherwise;
  else if (p.type == RopeType::llama3 || p.type == RopeType::yarn || p.type == RopeType::longrope)
    rope.refuse(kOriginal, "an integer above 1");
  read_rope_type(rope, reader, config, p);
  note_unknown_keys(rope, "", config);
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
  for (const char* dropout : {"attention_dropout", "resid_pdrop", "embd_pdrop"}) must_be(dropout, {0}, "0");
  must_be("is_causal", {true}, "true");
  if (reader.has("quantization_config"))
    reader.refuse("quantization_config", "none (quantized weights are not supported)");
}

// Baichuan's models differ by class, sizes, or two keys that say it outright.
void read_baichuan(const Reader& reader, ModelConfig& config) {
  constexpr int64_t kHiddenSizeOf7B = 4096, kFirstVocabulary = 64000, kSecondVocabulary = 125696;
  const bool is_first = config.architecture == "BaiChuanForCausalLM", is_7b = config.hidden_size == kHiddenSizeOf7B;
  const auto position =
      reader.read<std::string>("position_embedding_type", "rope or alibi", is_first || is_7b ? "rope" : "alibi",
                               [](const std::string& x) { return x == "rope" || x == "alibi"; });
  config.uses_alibi = position == "alibi";
  // A 7B model of this class is the second generation's; users change the vocabulary of any.
  const bool is_second = !is_first && (is_7b || config.vocab_size == kSecondVocabulary);
  if (!reader.has("norm_head") && !is_first && !is_second && config.vocab_size != kFirstVocabulary)
    fail(reader.source(), ": architectures: ", config.architecture, " with hidden_size ", config.hidden_size,
         " and vocab_size ", config.vocab_size, " may be Baichuan-13B or Baichuan2-13B: say \"norm_head\": false for ",
         "the first, true for the second, whose output head has normalised rows");
  config.has_norm_head = reader.flag("norm_head", is_second);
  if (!config.uses_alibi && config.head_dim % 2 != 0)
    reader.refuse("num_attention_heads", join("heads of an even size (here ", config.head_dim, ")"));
}

bool read_bias(const Reader& reader, HasBias has_bias, const char* key) {
  return has_bias == HasBias::by_key ? reader.flag(key, false) : has_bias == HasBias::always;
}

// How many tokens a token sees in each layer.
void read_windows(const Reader& reader, const Architecture& architecture, ModelConfig& config) {
  if (architecture.windows == Windows::none) return;
  const bool is_said = reader.object().contains("sliding_window");
  int64_t window = reader.has("sliding_window") ? reader.integer("sliding_window", 1, int64_t{1} << 40)
                   : is_said                    ? 0
                                                : architecture.default_window;
  const auto layers = static_cast<size_t>(config.num_hidden_layers);
  if (architecture.windows == Windows::all_layers) {
    if (window > 0) config.windows.assign(layers, window);
    return;
  }
  if (!reader.flag("use_sliding_window", false)) window = 0;
  const int64_t first = reader.integer("max_window_layers", 0, int64_t{1} << 40, 28);
  std::vector<std::string> types;
  for (int64_t i = 0; i < config.num_hidden_layers; ++i)
    types.push_back(window > 0 && i >= first ? "sliding_attention" : "full_attention");
  types = reader.read<std::vector<std::string>>(
      "layer_types", join("a list of ", layers, " of full_attention, sliding_attention"), types,
      [&](const auto& names) {
        return names.size() == layers && std::all_of(names.begin(), names.end(), [](const std::string& x) {
                 return x == "full_attention" || x == "sliding_attention";
               });
      });
  const auto slides = [](const std::string& type) { return type == "sliding_attention"; };
  if (std::none_of(types.begin(), types.end(), slides)) return;
  if (window == 0)
    reader.refuse("layer_types",
                  "full_attention alone, as sliding_window or use_sliding_window say that there is no window");
  for (const std::string& type : types) config.windows.push_back(slides(type) ? window : 0);
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

int64_t rotary_features(const ModelConfig& config) {
  if (config.uses_alibi) return 0;
  return static_cast<int64_t>(static_cast<double>(config.head_dim) * config.rope.partial_rotary_factor);
}

ModelConfig read_model_config(const ModelFolder& folder) {
  const Reader reader(folder.config(), (folder.path() / "config.json").string());
  ModelConfig config;
  config.architecture = read_architecture(reader);
  config.model_type = reader.read<std::string>("model_type", "a text", "", [](const auto&) { return true; });
  const Architecture& architecture = find_architecture(config.architecture, reader.source());
  refuse_unsupported(reader);
  read_sizes(reader, architecture.is_baichuan, config);
  if (architecture.is_baichuan && config.num_key_value_heads != config.num_attention_heads)
    reader.refuse("num_key_value_heads", join(config.num_attention_heads, ", as ", architecture.qkv[0], " needs"));
  config.rms_norm_eps = reader.number("rms_norm_eps", "a number in (0, 1)", config.rms_norm_eps,
                                      [](double x) { return allow::positive_float(x) && x < 1; });
  if (architecture.is_baichuan)
    read_baichuan(reader, config);
  else
    read_rope(reader, architecture.has_partial_rotary, config);
  config.has_qk_norm = architecture.has_qk_norm;
  config.qkv_bias = read_bias(reader, architecture.qkv_bias, architecture.attention_bias_key.c_str());
  config.o_bias = read_bias(reader, architecture.o_bias, architecture.attention_bias_key.c_str());
  config.mlp_bias = read_bias(reader, architecture.mlp_bias, "mlp_bias");
  read_windows(reader, architecture, config);
  config.tie_word_embeddings = reader.flag("tie_word_embeddings", false);
  const Reader generation(folder.generation_config(), (folder.path() / "generation_config.json").string());
  const std::vector<int64_t> eos = read_eos(reader);
  config.eos_token_ids = generation.has("eos_token_id") ? read_eos(generation) : eos;
  config.stored_dtype = read_dtype(reader, folder);
  note_unknown_keys(reader, kWithoutEffect, config);
  return config;
}

}  // namespace rankfold
