// An adapter folder, read and matched with the layers of a model.
#include "adapter/peft_format.h"
#include "fuzz/fuzz.h"

namespace rankfold::fuzz {

const char* const kName = "adapter";
const double kGrowthOfAByte = 40;  // which is what a value of JSON takes

const std::vector<std::string>& file_names() {
  static const std::vector<std::string> names{"adapter_config.json", "adapter_model.safetensors"};
  return names;
}

namespace {

const char* const kConfig =
    R"({"alpha_pattern":{},"base_model_name_or_path":"/b","bias":"none","exclude_modules":null,"fan_in_fan_out":false,)"
    R"("init_lora_weights":true,"layers_pattern":null,"layers_to_transform":[0],"loftq_config":{},"lora_alpha":16,)"
    R"("lora_bias":false,"lora_dropout":0.05,"modules_to_save":null,"peft_type":"LORA","r":2,"rank_pattern":{},)"
    R"("target_modules":["q_proj","down_proj"],"task_type":"CAUSAL_LM","use_dora":false,"use_rslora":false})";

const BaseParts& base() {
  static const BaseParts parts{.modules = {{"model.layers.0.self_attn.q_proj", 4, 3, false},
                                           {"model.layers.0.mlp.down_proj", 3, 5, false},
                                           {"model.layers.1.self_attn.q_proj", 4, 3, false},
                                           {"lm_head", 6, 3, true},
                                           {"model.embed_tokens", 3, 6, false, true}},
                               .tensors = {{"model.layers.0.self_attn.q_proj.bias", {4}},
                                           {"lm_head.weight", {6, 3}},
                                           {"model.embed_tokens.weight", {6, 3}},
                                           {"model.norm.weight", {3}}},
                               .embedding = "model.embed_tokens.weight",
                               .head = "lm_head.weight"};
  return parts;
}

std::string tensors(const std::string& dtype, size_t size) {
  const std::string layer = "\"base_model.model.model.layers.0.";
  std::string header = "{\"__metadata__\":{\"format\":\"pt\"}";
  size_t begin = 0;
  const auto add = [&](const std::string& module, const std::string& part, size_t rows, size_t columns) {
    const size_t end = begin + rows * columns * size;
    header += "," + layer + module + ".lora_" + part + ".weight\":{\"dtype\":\"" + dtype + "\",\"shape\":[" +
              std::to_string(rows) + "," + std::to_string(columns) + "],\"data_offsets\":[" + std::to_string(begin) +
              "," + std::to_string(end) + "]}";
    begin = end;
  };
  add("mlp.down_proj", "A", 2, 5);
  add("mlp.down_proj", "B", 3, 2);
  add("self_attn.q_proj", "A", 2, 3);
  add("self_attn.q_proj", "B", 4, 2);
  return tensor_file(header + "}", begin);
}

}  // namespace

std::vector<std::string> seeds() {
  return {
      input(0, kConfig),
      input(0, R"({"peft_type":"LORA","r":2,"lora_alpha":4.5,"target_modules":".*\\.0\\..*_proj"})"),
      input(
          0,
          R"({"peft_type":"LORA","r":4,"target_modules":"ALL-linear","exclude_modules":["layers.1.self_attn.q_proj"],)"
          R"("rank_pattern":{"q_proj":2,"^.*down_pro[a-j]$":2},"alpha_pattern":{"q_proj":3},"use_rslora":true})"),
      input(
          0,
          R"({"peft_type":"LORA","r":2,"alpha_pattern":{"(q|k){1}_p[^a]oj":3,"(?=.*x?\\.)[^\\w-]+?":2},"target_modules":)"
          R"("(?!lm_head)(?i:MODEL)\\.(?P<x>layers)\\.(?=\\d)0{1,2}\\b.(?!q_).*[nq]_proj"})"),
      input(1, tensors("F32", 4)),
      input(1, tensors("BF16", 2)),
  };
}

std::vector<Large> large_inputs(int count) {
  const auto with = [&](const char* key, const char* open, const std::function<std::string(int)>& element,
                        const char* close) {
    return input(0, repeated(R"({"peft_type":"LORA","r":2,"target_modules":["q_proj","down_proj"],")" +
                                 std::string(key) + "\":" + open,
                             count, element, std::string(close) + "}"));
  };
  const auto name = [](int i) { return "\"m" + std::to_string(i) + "_proj\""; };
  const auto pattern = [](int i) { return "\"m" + std::to_string(i) + "_proj\":2"; };
  const auto regex = [](int i) { return "\".*m" + std::to_string(i) + "(a|b)*\":2"; };
  const auto layer = [](int i) { return std::to_string(i % 2); };
  const auto tensor = [](int i) {
    return "\"base_model.model.model.layers." + std::to_string(i / 2) + ".q_proj.lora_" + (i % 2 ? "A" : "B") +
           R"(.weight":{"dtype":"F32","shape":[0,2],"data_offsets":[0,0]})";
  };
  return {
      {"ranks", with("rank_pattern", "{", pattern, "}")},
      {"alphas", with("alpha_pattern", "{", pattern, "}")},
      {"ranks by expression", with("rank_pattern", "{", regex, "}")},
      {"layers", with("layers_to_transform", "[", layer, "]")},
      {"excluded modules", with("exclude_modules", "[", name, "]")},
      {"modules",
       input(0, repeated(R"({"peft_type":"LORA","r":2,"target_modules":["q_proj","down_proj",)", count, name, "]}"))},
      {"a long expression", input(0, repeated(R"({"peft_type":"LORA","r":2,"target_modules":")", count,
                                              [](int) { return "(a|b)"; }, "\"}", "|"))},
      {"foreign keys", input(0, repeated(R"({"peft_type":"LORA","r":2,"target_modules":["q_proj"],)", count,
                                         [](int i) { return "\"" + std::to_string(i) + "\":0"; }, "}"))},
      {"tensors", input(1, tensor_file(repeated("{", count / 4, tensor, "}"), 0))},
  };
}

namespace {

struct Sound : Folder {
  Sound() {
    write("adapter_config.json", kConfig);
    write("adapter_model.safetensors", tensors("F32", 4));
  }
};

}  // namespace
}  // namespace rankfold::fuzz

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const rankfold::fuzz::Sound folder;
  return folder.with_input(data, size, [](const std::string&) {
    rankfold::match_adapter(rankfold::read_adapter_folder(folder.path()), rankfold::fuzz::base());
  });
}
