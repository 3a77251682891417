// A model folder: config.json, generation_config.json, the index, a shard, and the manifest where it is a result of ours.
#include "core/manifest.h"
#include "fuzz/fuzz.h"
#include "io/model_folder.h"
#include "model/model_config.h"

#include <cstring>

namespace rankfold::fuzz {

const char* const kName = "model";
const double kGrowthOfAByte = 40;  // which is what a value of JSON takes

const std::vector<std::string>& file_names() {
  static const std::vector<std::string> names{"config.json", "generation_config.json", kIndexName, "one.safetensors",
                                              kManifest};
  return names;
}

namespace {

const char* const kConfig =
    R"({"architectures":["LlamaForCausalLM"],"model_type":"llama","vocab_size":32000,"hidden_size":64,)"
    R"("intermediate_size":172,"num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":2,"head_dim":16,)"
    R"("hidden_act":"silu","rms_norm_eps":1e-06,"rope_theta":10000.0,"rope_scaling":{"type":"linear","factor":2.0},)"
    R"("max_position_embeddings":2048,"tie_word_embeddings":false,"torch_dtype":"bfloat16","eos_token_id":[2,7]})";

std::string shard(const std::string& tensor) {
  return tensor_file("{\"" + tensor + R"(":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 8);
}

const char* const kIndex = R"({"weight_map":{"x":"one.safetensors","y":"two.safetensors"}})";

const std::string& sound_manifest() {
  static const std::string text = manifest({{"config.json", kConfig},
                                            {"generation_config.json", "{}"},
                                            {kIndexName, kIndex},
                                            {"one.safetensors", shard("x")},
                                            {"two.safetensors", shard("y")}});
  return text;
}

}  // namespace

std::vector<std::string> seeds() {
  return {
      input(0, kConfig),
      input(0, R"({"architectures":["BaiChuanForCausalLM"],"vocab_size":64000,"hidden_size":4096,)"
               R"("intermediate_size":11008,"num_hidden_layers":32,"num_attention_heads":32,"model_max_length":4096,)"
               R"("rms_norm_eps":1e-06,"torch_dtype":null,"attention_bias":false,"_from_model_config":true})"),
      input(0, R"({"architectures":["LlamaForCausalLM"],"vocab_size":1,"hidden_size":2,"intermediate_size":1,)"
               R"("num_hidden_layers":1,"num_attention_heads":1,"dtype":"float16","partial_rotary_factor":1,)"
               R"("rope_parameters":{"rope_theta":500000,"rope_type":"default"}})"),
      input(1, R"({"eos_token_id":2,"bos_token_id":1,"do_sample":true,"temperature":0.6})"),
      input(1, "{}"),
      input(2, R"({"metadata":{"total_size":16},"weight_map":{"x":"one.safetensors","y":"two.safetensors"}})"),
      input(3, shard("x")),
      input(4, sound_manifest()),
      input(4, R"({"of":"another program"})"),
  };
}

std::vector<Large> large_inputs(int count) {
  const auto key = [](int i) { return "\"" + std::to_string(i) + "\":0"; };
  const auto id = [](int i) { return std::to_string(i % 32000); };
  const auto place = [](int i) { return "\"" + std::to_string(i) + "\":\"one.safetensors\""; };
  const auto shard_name = [](int i) {
    return "\"" + std::to_string(i) + "\":\"" + std::to_string(i) + ".safetensors\"";
  };
  const auto tensor = [](int i) {
    return "\"t" + std::to_string(i) + R"(":{"dtype":"U8","shape":[0],"data_offsets":[0,0]})";
  };
  const std::string config = std::string(kConfig, std::strlen(kConfig) - 1) + ",";
  return {
      {"keys", input(0, repeated(config, count, key, "}"))},
      {"names of a class", input(0, repeated(
                                        "{\"architectures\":[", count, [](int) { return "\"a\""; }, "]}"))},
      {"ends", input(1, repeated("{\"eos_token_id\":[", count, id, "]}"))},
      {"tensors of a shard", input(2, repeated("{\"weight_map\":{", count, place, "}}"))},
      {"shards", input(2, repeated("{\"weight_map\":{", count, shard_name, "}}"))},
      {"files of a manifest", input(4, repeated(R"({"format_version":2,"checksum":"0","files":{)", count, key, "}}"))},
      {"tensors", input(3, tensor_file(repeated("{", count, tensor, "}"), 0))},
  };
}

namespace {

struct Sound : Folder {
  Sound() {
    write("config.json", kConfig);
    write("generation_config.json", "{}");
    write(kIndexName, kIndex);
    write("one.safetensors", shard("x"));
    write("two.safetensors", shard("y"));
    write(kManifest, "{}");
  }
};

}  // namespace
}  // namespace rankfold::fuzz

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const rankfold::fuzz::Sound folder;
  return folder.with_input(
      data, size, [](const std::string&) { rankfold::read_model_config(rankfold::ModelFolder::open(folder.path())); });
}
