#include "model/tensor_list.h"

#include "model/architecture.h"

namespace rankfold {

bool is_linear(Role role) {
  return role == Role::qkv || role == Role::o || role == Role::gate_up || role == Role::down || role == Role::head;
}

std::string module_name(const TensorSpec& tensor) {
  return tensor.name.substr(0, tensor.name.size() - std::string_view(kWeightSuffix).size());
}

std::vector<TensorSpec> tensor_list(const ModelConfig& config) {
  const Architecture& family = find_architecture(config.architecture);
  const int64_t hidden = config.hidden_size, inner = config.intermediate_size;
  const int64_t q = config.num_attention_heads * config.head_dim, kv = config.num_key_value_heads * config.head_dim;
  std::vector<TensorSpec> list;
  list.push_back({"model.embed_tokens.weight", {config.vocab_size, hidden}, Role::embedding});
  for (int64_t i = 0; i < config.num_hidden_layers; ++i) {
    const std::string prefix = "model.layers." + std::to_string(i) + ".";
    const auto add = [&](const std::string& module, std::vector<int64_t> shape, Role role) {
      list.push_back({prefix + module + kWeightSuffix, std::move(shape), role, i});
    };
    add("input_layernorm", {hidden}, Role::input_norm);
    if (family.qkv.size() == 1) {
      add(family.qkv[0], {q + 2 * kv, hidden}, Role::qkv);
    } else {
      const int64_t rows[] = {q, kv, kv};
      for (size_t part = 0; part < family.qkv.size(); ++part) add(family.qkv[part], {rows[part], hidden}, Role::qkv);
    }
    add(family.o, {hidden, q}, Role::o);
    add("post_attention_layernorm", {hidden}, Role::post_norm);
    add(family.gate, {inner, hidden}, Role::gate_up);
    add(family.up, {inner, hidden}, Role::gate_up);
    add(family.down, {hidden, inner}, Role::down);
  }
  list.push_back({"model.norm.weight", {hidden}, Role::norm});
  if (!config.tie_word_embeddings) list.push_back({"lm_head.weight", {config.vocab_size, hidden}, Role::head});
  return list;
}

}  // namespace rankfold
