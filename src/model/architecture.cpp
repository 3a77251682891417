#include "model/architecture.h"

#include "core/check.h"

namespace rankfold {
namespace {

const std::vector<Architecture>& architectures() {
  const std::vector<std::string> separate{"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"};
  const std::vector<std::string> packed{"self_attn.W_pack"};
  static const std::vector<Architecture> rows{
      {"LlamaForCausalLM", separate, "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj", true},
      {"BaiChuanForCausalLM", packed, "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj", false},
      {"BaichuanForCausalLM", packed, "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj", false},
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

// Baichuan's later models share one class name and differ by sizes alone.
void check_variant(const ModelConfig& config, const std::string& source) {
  if (config.architecture != "BaichuanForCausalLM") return;
  const auto refuse = [&](const char* key, int64_t value, const char* model, const char* needs) {
    fail(source, ": architectures: BaichuanForCausalLM with ", key, " ", value, " (", model, ") needs ", needs,
         ", which is not supported");
  };
  constexpr int64_t kRopeHiddenSize = 4096, kNormHeadVocabulary = 125696;
  if (config.hidden_size != kRopeHiddenSize)
    refuse("hidden_size", config.hidden_size, "Baichuan-13B", "ALiBi attention");
  if (config.vocab_size == kNormHeadVocabulary)
    refuse("vocab_size", config.vocab_size, "Baichuan 2", "NormHead, an output head with normalised rows");
}

}  // namespace rankfold
