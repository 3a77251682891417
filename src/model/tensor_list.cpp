#include "model/tensor_list.h"

#include "model/architecture.h"

#include <numeric>

namespace rankfold {

bool is_linear(Role role) {
  return role == Role::qkv || role == Role::o || role == Role::gate_up || role == Role::down || role == Role::head;
}

std::string module_name(const TensorSpec& tensor) { return tensor.name.substr(0, tensor.name.rfind('.')); }

std::vector<TensorSpec> tensor_list(const ModelConfig& config) {
  const Architecture& family = find_architecture(config.architecture);
  const int64_t hidden = config.hidden_size, inner = config.intermediate_size, head_dim = config.head_dim;
  const int64_t q = config.num_attention_heads * head_dim, kv = config.num_key_value_heads * head_dim;
  std::vector<TensorSpec> list;
  list.push_back({family.embedding + kWeightSuffix, {config.vocab_size, hidden}, Role::embedding});
  for (int64_t i = 0; i < config.num_hidden_layers; ++i) {
    const std::string prefix = family.layers + std::to_string(i) + ".";
    const auto add_norm = [&](const std::string& name, int64_t size, Role role) {
      list.push_back({prefix + name + kWeightSuffix, {size}, role, i});
    };
    const auto add = [&](const std::string& module, int64_t rows, int64_t columns, Role role, bool has_bias) {
      list.push_back({prefix + module + kWeightSuffix, {rows, columns}, role, i});
      if (has_bias) list.push_back({prefix + module + kBiasSuffix, {rows}, role, i});
    };
    // One module that holds all the rows, or several with theirs.
    const auto add_all = [&](const std::vector<std::string>& modules, std::vector<int64_t> rows, Role role, bool bias) {
      if (modules.size() == 1) rows = {std::accumulate(rows.begin(), rows.end(), int64_t{0})};
      for (size_t part = 0; part < modules.size(); ++part) add(modules[part], rows.at(part), hidden, role, bias);
    };
    add_norm(family.input_norm, hidden, Role::input_norm);
    add_all(family.qkv, {q, kv, kv}, Role::qkv, config.qkv_bias);
    if (config.has_qk_norm) {
      add_norm(family.q_norm, head_dim, Role::q_norm);
      add_norm(family.k_norm, head_dim, Role::k_norm);
    }
    add(family.o, hidden, q, Role::o, config.o_bias);
    if (!family.attention_out_norm.empty()) add_norm(family.attention_out_norm, hidden, Role::attention_out_norm);
    add_norm(family.mlp_norm, hidden, Role::mlp_norm);
    add_all(family.gate_up, {inner, inner}, Role::gate_up, config.mlp_bias);
    add(family.down, hidden, inner, Role::down, config.mlp_bias);
    if (!family.mlp_out_norm.empty()) add_norm(family.mlp_out_norm, hidden, Role::mlp_out_norm);
  }
  list.push_back({family.norm + kWeightSuffix, {hidden}, Role::norm});
  if (!config.tie_word_embeddings)
    list.push_back({family.head + kWeightSuffix, {config.vocab_size, hidden}, Role::head});
  return list;
}

}  // namespace rankfold
