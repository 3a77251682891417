// A model folder: config.json, generation_config.json, the index and a shard.
#include "fuzz/fuzz.h"
#include "io/model_folder.h"
#include "model/model_config.h"

namespace rankfold::fuzz {

const char* const kName = "model";

const std::vector<std::string>& file_names() {
  static const std::vector<std::string> names{"config.json", "generation_config.json", kIndexName, "one.safetensors"};
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
  };
}

namespace {

struct Sound : Folder {
  Sound() {
    write("config.json", kConfig);
    write("generation_config.json", "{}");
    write(kIndexName, R"({"weight_map":{"x":"one.safetensors","y":"two.safetensors"}})");
    write("one.safetensors", shard("x"));
    write("two.safetensors", shard("y"));
  }
};

}  // namespace
}  // namespace rankfold::fuzz

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const rankfold::fuzz::Sound folder;
  return folder.with_input(data, size, [] { rankfold::read_model_config(rankfold::ModelFolder::open(folder.path())); });
}
