#include "model/rope_config.h"

#include "model/model_config.h"

#include <algorithm>
#include <string>
#include <vector>

namespace rankfold {
namespace {

using nlohmann::json;

constexpr Word<RopeType> kRopeTypes[] = {{"default", RopeType::standard}, {"linear", RopeType::linear},
                                         {"dynamic", RopeType::dynamic},  {"yarn", RopeType::yarn},
                                         {"llama3", RopeType::llama3},    {"longrope", RopeType::longrope, "su"}};

// The settings of a type other than default, from `rope`.
void read_rope_type(const ConfigReader& rope, const ConfigReader& reader, const ModelConfig& config,
                    RopeParameters& p) {
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

// One set of them from `rope`, into p, a part of config that holds its defaults.
void read_parameters(const ConfigReader& rope, const ConfigReader& reader, const Architecture& family,
                     ModelConfig& config, RopeParameters& p) {
  const auto positive = allow::positive_float;
  p.theta = rope.number("rope_theta", "a number above 0", p.theta, positive);
  const bool has_newer_key = rope.has("rope_type"), has_type = rope.has("type");
  if (has_newer_key && has_type && rope.at("type") != rope.at("rope_type"))
    rope.refuse("type", brief(rope.at("rope_type")) + " as rope_type");
  const char* type_key = has_newer_key ? "rope_type" : "type";
  const auto type = rope.read<std::string>(type_key, list_words(kRopeTypes) + " (no other is supported)", "default",
                                           [](const std::string& x) { return find_word(kRopeTypes, x) != nullptr; });
  p.type = find_word(kRopeTypes, type)->meaning;
  if (family.has_partial_rotary && p.type == RopeType::yarn) p.type = RopeType::longrope;  // as Phi-3 has called it
  const ConfigReader* share_place = &rope;
  for (const ConfigReader* place : {&reader, &rope}) {
    if (!place->has("partial_rotary_factor")) continue;
    share_place = place;
    p.partial_rotary_factor = place->number(
        "partial_rotary_factor", family.has_partial_rotary ? "a number in (0, 1]" : "1 (no other is supported)",
        p.partial_rotary_factor, [&](double x) { return family.has_partial_rotary ? x > 0 && x <= 1 : x == 1; });
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
  const int64_t otherwise = family.has_partial_rotary ? kOriginalOfPhi3 : config.max_position_embeddings;
  if (is_outside || (is_inside && !family.has_partial_rotary))
    p.original_max_position_embeddings = (is_outside ? reader : rope).integer(kOriginal, 2, kLongest);
  else if (otherwise > 0)
    p.original_max_position_embeddings = otherwise;
  else if (p.type == RopeType::llama3 || p.type == RopeType::yarn || p.type == RopeType::longrope)
    rope.refuse(kOriginal, "an integer above 1");
  read_rope_type(rope, reader, config, p);
  note_unknown_keys(rope, "", config);
}

// rope_parameters by kind of layer; before transformers 5 rope_theta and rope_scaling are of layers without a window,
// rope_local_base_freq is of those with one.
void read_ropes_of_layers(const ConfigReader& reader, const Architecture& family, ModelConfig& config) {
  constexpr const char *kFull = "full_attention", *kLocal = "sliding_attention";
  constexpr double kFullTheta = 1e6, kLocalTheta = 1e4;
  const json none = json::object();
  const json& all = reader.has("rope_parameters") ? reader.at("rope_parameters") : none;
  const std::string source = join(reader.source(), ": rope_parameters");
  if (!all.is_object()) reader.refuse("rope_parameters", "an object");
  for (const auto& [key, value] : all.items())
    if ((key != kFull && key != kLocal) || !(value.is_object() || value.is_null()))
      reader.refuse("rope_parameters", join("an object in each of ", kFull, " and ", kLocal, " alone"));
  const auto part = [&](const char* key) { return all.contains(key) && all[key].is_object() ? all[key] : none; };
  json full = part(kFull);
  const json local = part(kLocal);
  std::string full_source = join(source, ": ", kFull);
  if (reader.has("rope_scaling")) {
    full_source = join(reader.source(), ": rope_scaling");
    if (!reader.at("rope_scaling").is_object()) reader.refuse("rope_scaling", "an object");
    full.update(reader.at("rope_scaling"));
  }
  const auto theta = [&](const char* key, double otherwise) {
    return reader.number(key, "a number above 0", otherwise, allow::positive_float);
  };
  config.rope.theta = theta("rope_theta", kFullTheta);
  config.local_rope.emplace().theta = theta("rope_local_base_freq", kLocalTheta);
  read_parameters(ConfigReader(full, full_source), reader, family, config, config.rope);
  read_parameters(ConfigReader(local, join(source, ": ", kLocal)), reader, family, config, *config.local_rope);
}

}  // namespace

// transformers 4: rope_theta and rope_scaling {type or rope_type, factor, ...}; 5: rope_parameters {rope_theta, rope_type,
// factor, ...}. The older spelling wins where both are there, as in transformers 5.
void read_rope(const ConfigReader& reader, const Architecture& family, ModelConfig& config) {
  if (family.has_local_rope) return read_ropes_of_layers(reader, family, config);
  config.rope.theta = reader.number("rope_theta", "a number above 0", config.rope.theta, allow::positive_float);
  const json none = json::object();
  const bool has_new = reader.has("rope_parameters"), has_old = reader.has("rope_scaling");
  const bool is_old = has_old && !(has_new && reader.at("rope_scaling").empty());
  const std::string key = is_old ? "rope_scaling" : "rope_parameters";
  const json& object = reader.has(key) ? reader.at(key) : none;
  if (!object.is_object()) reader.refuse(key, "an object");
  const ConfigReader rope(object, join(reader.source(), ": ", key));
  for (const auto& [name, value] : object.items())
    if (value.is_object()) rope.refuse(name, "one setting for all layers");
  read_parameters(rope, reader, family, config, config.rope);
}

}  // namespace rankfold
