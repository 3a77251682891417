#include "model/model_config.h"

#include "core/check.h"
#include "io/dtype.h"
#include "model/architecture.h"
#include "model/config_reader.h"
#include "model/rope_config.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

namespace rankfold {
namespace {

using nlohmann::json;

void read_sizes(const ConfigReader& reader, const Architecture& family, ModelConfig& config) {
  constexpr int64_t kMostFeatures = 1 << 20;
  config.vocab_size = reader.integer("vocab_size", 1, INT32_MAX);  // token ids are 32 bits wide
  config.hidden_size = reader.integer("hidden_size", 1, kMostFeatures);
  config.intermediate_size = reader.integer("intermediate_size", 1, kMostFeatures);
  config.num_hidden_layers = reader.integer("num_hidden_layers", 1, 1000);
  const int64_t heads = config.num_attention_heads = reader.integer("num_attention_heads", 1, config.hidden_size);
  const bool has_head_dim = !family.is_baichuan && (reader.has("head_dim") || family.default_head_dim > 0);
  if (config.hidden_size % heads != 0 && !has_head_dim)
    reader.refuse("num_attention_heads", join("a divisor of hidden_size ", config.hidden_size));
  config.num_key_value_heads = reader.integer("num_key_value_heads", 1, heads, heads);
  if (heads % config.num_key_value_heads != 0)
    reader.refuse("num_key_value_heads", join("a divisor of num_attention_heads ", heads));
  config.head_dim = family.default_head_dim > 0 ? family.default_head_dim : config.hidden_size / heads;
  if (has_head_dim) config.head_dim = reader.integer("head_dim", 1, kMostFeatures, config.head_dim);
  config.max_position_embeddings = reader.integer("max_position_embeddings", 1, int64_t{1} << 40,
                                                  reader.integer("model_max_length", 1, int64_t{1} << 40, 0));
}

// Keys that transformers wrote in some version, or other trainers, and that change nothing that is computed here.
constexpr const char* kWithoutEffect = R"(
    _attn_implementation _attn_implementation_autoset _from_model_config _name_or_path _sliding_window_pattern add_cross_attention
    attn_implementation auto_map bad_words_ids begin_suppress_tokens bos_token_id cache_implementation
    chunk_size_feed_forward
    cross_attention_hidden_size decoder_start_token_id diversity_penalty do_sample early_stopping
    encoder_no_repeat_ngram_size exponential_decay_length_penalty finetuning_task forced_bos_token_id forced_eos_token_id
    gradient_checkpointing id2label initializer_range is_decoder is_encoder_decoder label2id length_penalty max_length
    max_sequence_length min_length no_repeat_ngram_size num_beam_groups num_beams num_labels num_return_sequences
    output_attentions output_hidden_states output_scores pad_token_id prefix pretraining_tp problem_type pruned_heads
    quantization_config
    remove_invalid_values repetition_penalty return_dict return_dict_in_generate sep_token_id suppress_tokens
    task_specific_params temperature tf_legacy_loss tie_encoder_decoder tokenizer_class top_k top_p torchscript
    transformers.js_config transformers_version typical_p unsloth_fixed unsloth_version use_bfloat16 use_cache
    z_loss_weight)";

std::vector<int64_t> read_eos(const ConfigReader& reader) {
  const char* expected = "a token id or a list of token ids";
  return reader.read<std::vector<int64_t>>("eos_token_id", expected, std::vector<int64_t>{}, [](const auto& ids) {
    for (int64_t id : ids)
      if (id < 0 || id > INT32_MAX) return false;
    return true;
  });
}

at::ScalarType read_dtype(const ConfigReader& reader, const ModelFolder& folder) {
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
void refuse_unsupported(const ConfigReader& reader, const Architecture& family, ModelConfig& config) {
  const auto must_be = [&](const char* key, const std::vector<json>& wanted, const std::string& expected) {
    if (reader.has(key) && std::find(wanted.begin(), wanted.end(), reader.at(key)) == wanted.end())
      reader.refuse(key, expected + " (no other is supported)");
  };
  if (!family.has_gelu) {
    must_be("hidden_act", {"silu", "swish"}, "\"silu\"");  // one function by two names
  } else {
    must_be("hidden_activation", {"gelu_pytorch_tanh"}, "\"gelu_pytorch_tanh\"");
    // The first folders of Gemma say gelu, though their models were made with the tanh form.
    must_be("hidden_act", {"gelu_pytorch_tanh", "gelu"}, "\"gelu_pytorch_tanh\"");
    if (reader.at("hidden_act") == "gelu" && !reader.has("hidden_activation"))
      config.notes.push_back(one_line(join(reader.source(), ": hidden_act: gelu is computed in its tanh form, ",
                                           "gelu_pytorch_tanh, which Gemma was made with")));
  }
  must_be("use_bidirectional_attention", {false}, "false");
  for (const char* dropout : {"attention_dropout", "resid_pdrop", "embd_pdrop"}) must_be(dropout, {0}, "0");
  must_be("is_causal", {true}, "true");
}

// Baichuan's models differ by class, sizes, or two keys that say it outright.
void read_baichuan(const ConfigReader& reader, ModelConfig& config) {
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

// What bends or scales the scores of attention, and the logits.
void read_caps(const ConfigReader& reader, const Architecture& family, ModelConfig& config) {
  const auto read = [&](const char* key, const std::optional<double>& otherwise, double& value) {
    if (!otherwise) return;
    const bool is_none = reader.object().contains(key) && !reader.has(key);  // null
    value = reader.number(key, "a number above 0", is_none ? 0 : *otherwise, allow::positive_float);
  };
  read("query_pre_attn_scalar", family.default_score_scalar, config.query_pre_attn_scalar);
  read("attn_logit_softcapping", family.default_attention_cap, config.attn_logit_softcapping);
  read("final_logit_softcapping", family.default_head_cap, config.final_logit_softcapping);
}

bool read_bias(const ConfigReader& reader, HasBias has_bias, const char* key) {
  return has_bias == HasBias::by_key ? reader.flag(key, false) : has_bias == HasBias::always;
}

// How many tokens a token sees in each layer.
void read_windows(const ConfigReader& reader, const Architecture& architecture, ModelConfig& config) {
  if (architecture.windows == WindowedLayers::none) return;
  const bool is_said = reader.object().contains("sliding_window");
  int64_t window = reader.has("sliding_window") ? reader.integer("sliding_window", 1, int64_t{1} << 40)
                   : is_said                    ? 0
                                                : architecture.default_window;
  const auto layers = static_cast<size_t>(config.num_hidden_layers);
  if (architecture.windows == WindowedLayers::all_layers) {
    if (window > 0) config.windows.assign(layers, window);
    return;
  }
  constexpr const char *kSliding = "sliding_attention", *kFull = "full_attention";
  std::vector<std::string> types;
  if (architecture.windows == WindowedLayers::by_pattern) {
    const int64_t pattern = architecture.has_local_rope
                                ? reader.integer("sliding_window_pattern", 1, 1000, architecture.window_pattern)
                                : architecture.window_pattern;
    for (int64_t i = 0; i < config.num_hidden_layers; ++i)
      types.push_back(window > 0 && (i + 1) % pattern != 0 ? kSliding : kFull);
  } else {
    if (!reader.flag("use_sliding_window", false)) window = 0;
    const int64_t first = reader.integer("max_window_layers", 0, int64_t{1} << 40, 28);
    for (int64_t i = 0; i < config.num_hidden_layers; ++i) types.push_back(window > 0 && i >= first ? kSliding : kFull);
  }
  types = reader.read<std::vector<std::string>>(
      "layer_types", join("a list of ", layers, " of full_attention, sliding_attention"), types,
      [&](const auto& names) {
        return names.size() == layers && std::all_of(names.begin(), names.end(),
                                                     [](const std::string& x) { return x == kFull || x == kSliding; });
      });
  const auto slides = [](const std::string& type) { return type == kSliding; };
  if (std::none_of(types.begin(), types.end(), slides)) return;
  if (window == 0)
    reader.refuse("layer_types",
                  "full_attention alone, as sliding_window or use_sliding_window say that there is no window");
  for (const std::string& type : types) config.windows.push_back(slides(type) ? window : 0);
}

// The class that config.json names; empty where it names none.
std::string class_of(const json& names) {
  if (names.is_string()) return names.get<std::string>();
  return names.is_array() && !names.empty() && names[0].is_string() ? names[0].get<std::string>() : "";
}

// The class by the name that the table knows: older spellings of it, or by model_type where none is named.
std::string read_architecture(const ConfigReader& reader) {
  const json& names = reader.at("architectures");
  std::string name = class_of(names);
  if (name.empty() && !names.is_null() && !(names.is_array() && names.empty()))
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

bool ties_embeddings(const ModelFolder& folder) {
  const json& config = folder.config();
  if (const auto said = config.find("tie_word_embeddings"); said != config.end() && said->is_boolean())
    return said->get<bool>();
  std::string name = class_of(config.value("architectures", json()));
  if (const json type = config.value("model_type", json()); name.empty() && type.is_string())
    name = architecture_of_type(type.get<std::string>());
  const std::vector<std::string> names = architecture_names();
  return std::find(names.begin(), names.end(), name) != names.end() && find_architecture(name).is_tied_by_default;
}

int64_t rotary_features(const ModelConfig& config) {
  if (config.uses_alibi) return 0;
  return static_cast<int64_t>(static_cast<double>(config.head_dim) * config.rope.partial_rotary_factor);
}

ModelConfig read_model_config(const ModelFolder& folder) {
  const ConfigReader reader(folder.config(), (folder.path() / "config.json").string());
  ModelConfig config;
  config.architecture = read_architecture(reader);
  config.model_type = reader.read<std::string>("model_type", "a text", "", [](const auto&) { return true; });
  const Architecture& architecture = find_architecture(config.architecture, reader.source());
  refuse_unsupported(reader, architecture, config);
  read_sizes(reader, architecture, config);
  if (architecture.is_baichuan && config.num_key_value_heads != config.num_attention_heads)
    reader.refuse("num_key_value_heads", join(config.num_attention_heads, ", as ", architecture.qkv[0], " needs"));
  config.rms_norm_eps = reader.number("rms_norm_eps", "a number in (0, 1)", config.rms_norm_eps,
                                      [](double x) { return allow::positive_float(x) && x < 1; });
  if (architecture.is_baichuan)
    read_baichuan(reader, config);
  else
    read_rope(reader, architecture, config);
  read_caps(reader, architecture, config);
  config.has_qk_norm = architecture.has_qk_norm;
  config.qkv_bias = read_bias(reader, architecture.qkv_bias, architecture.attention_bias_key.c_str());
  config.o_bias = read_bias(reader, architecture.o_bias, architecture.attention_bias_key.c_str());
  config.mlp_bias = read_bias(reader, architecture.mlp_bias, "mlp_bias");
  read_windows(reader, architecture, config);
  reader.flag("tie_word_embeddings", false);  // a bool
  config.tie_word_embeddings = ties_embeddings(folder);
  const ConfigReader generation(folder.generation_config(), (folder.path() / "generation_config.json").string());
  const std::vector<int64_t> eos = read_eos(reader);
  config.eos_token_ids = generation.has("eos_token_id") ? read_eos(generation) : eos;
  config.stored_dtype = read_dtype(reader, folder);
  note_unknown_keys(reader, kWithoutEffect, config);
  return config;
}

}  // namespace rankfold
