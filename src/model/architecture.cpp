#include "model/architecture.h"

#include "core/check.h"

namespace rankfold {
namespace {

const std::vector<Architecture>& architectures() {
  const std::vector<std::string> separate{"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"};
  const std::vector<std::string> packed{"self_attn.W_pack"};
  static const std::vector<Architecture> rows{
      {"LlamaForCausalLM", "llama", separate, "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
       true},
      {"BaiChuanForCausalLM", "baichuan", packed, "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
       false},
      {"BaichuanForCausalLM", "baichuan", packed, "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
       false},
  };
  return rows;
}

}  // namespace

const Architecture& find_architecture(const std::string& name, const std::string& source) {
  std::string names;
  for (const Architecture& row : architectures()) {
    if (name == row.name) return row;
    names += join(names.empty() ? "" : ", ", row.name);
  }
  fail(source, ": architectures: expected one of ", names, ", got ", name);
}

std::string architecture_of_type(const std::string& model_type) {
  std::string found;
  for (const Architecture& row : architectures())
    if (model_type == row.model_type) {
      if (!found.empty()) return {};
      found = row.name;
    }
  return found;
}

}  // namespace rankfold
