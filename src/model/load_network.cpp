#include "model/load_network.h"

#include "core/check.h"
#include "io/dtype.h"
#include "model/architecture.h"
#include "model/model_config.h"
#include "model/tensor_list.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <optional>
#include <set>

namespace rankfold {
namespace {

std::string shape_text(at::IntArrayRef shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

// In fewer bits, or beside such: of what such matrices are made of.
at::Tensor in_32_bits_or_less(const at::Tensor& weight) {
  return weight.scalar_type() == at::kDouble ? weight.to(at::kFloat) : weight;
}

at::Tensor stored_weight(const ModelFolder& folder, const TensorSpec& spec) {
  const at::Tensor stored = folder.tensor(spec.name);
  if (stored.sizes() != at::IntArrayRef(spec.shape))
    fail(folder.path().string(), ": ", spec.name, ": expected shape ", shape_text(spec.shape), ", got ",
         shape_text(stored.sizes()));
  if (const at::ScalarType type = stored.scalar_type();
      type != at::kFloat && type != at::kBFloat16 && type != at::kHalf && type != at::kDouble)
    fail(folder.path().string(), ": ", spec.name, ": expected a floating-point tensor of 16 bits or more, got ",
         find_dtype(type)->name);
  return stored;
}

bool is_narrower(at::ScalarType x, at::ScalarType y) { return c10::elementSize(x) < c10::elementSize(y); }

bool is_adjacent(const std::vector<at::Tensor>& parts) {
  for (size_t i = 1; i < parts.size(); ++i) {
    const auto* end = static_cast<const char*>(parts[i - 1].const_data_ptr()) + parts[i - 1].nbytes();
    if (end != parts[i].const_data_ptr() || parts[i].scalar_type() != parts[0].scalar_type()) return false;
  }
  return true;
}

// Weights of one folder, on the way into a network.
class Loader {
 public:
  Loader(const ModelFolder& folder, at::ScalarType dtype, at::Device device,
         const std::optional<QuantizedFolder>& quantized, const std::optional<BaseStorage>& storage)
      : folder_(folder), dtype_(dtype), device_(device), quantized_(quantized), storage_(storage) {
    if (quantized_ && storage_)
      fail("quantization_bit: expected a folder in 16 or 32 bits, got ", folder.path().string(), ", which is ",
           quantized_->text(), " already: leave the setting out");
  }

  // A weight as the folder stores it, or converted where the model computes in another dtype. On a device it goes there
  // straight from the mapping, and is converted there. The pages of what was copied are let go.
  at::Tensor weight(const TensorSpec& spec) const {
    const at::Tensor stored = stored_weight(folder_, spec), loaded = stored.to(device_).to(dtype_);
    if (!loaded.is_alias_of(stored)) folder_.file_of(spec.name).forget(spec.name);
    return loaded;
  }

  // Rows are converted where they are read, as long as that takes less memory than a copy.
  std::shared_ptr<FrozenWeight> embedding(const TensorSpec& spec) const {
    const at::Tensor stored = stored_weight(folder_, spec);
    if (!stays_narrow(stored)) return std::make_shared<DenseWeight>(weight(spec));
    return decoded({ops::plain_weight(stored)}, model_dtype_name(stored.scalar_type()));
  }

  // One matrix of several. A view where they lie one after the other in the mapping: Hugging Face's files are sorted by
  // name, so gate and up do. Otherwise a copy, which the CPU makes at the first use: reading the file is most of the
  // time that loading takes.
  Projection projection(const std::vector<TensorSpec>& all, bool has_unit_rows) const {
    Projection p;
    p.has_unit_rows = has_unit_rows;
    std::vector<TensorSpec> specs;
    std::vector<at::Tensor> biases;
    int64_t rows = 0;
    for (const TensorSpec& spec : all) {
      if (spec.is_bias()) {
        biases.push_back(weight(spec));
        continue;
      }
      Module& m = p.modules.emplace_back();
      m.name = module_name(spec), m.begin = rows, m.end = rows += spec.shape[0];
      specs.push_back(spec);
    }
    if (!biases.empty()) p.bias = at::cat(biases);
    const bool is_quantized = std::any_of(specs.begin(), specs.end(), [&](const auto& spec) { return holds(spec); });
    if (is_quantized && has_unit_rows)
      fail(folder_.path().string(), ": ", specs[0].name, ": expected 16 or 32 bits, as its rows are divided by their ",
           "norms, got codes");
    if (is_quantized)
      p.frozen = stored_codes(specs);
    else if (storage_ && (specs[0].role != Role::head || storage_->has_head))
      p.frozen = quantised(specs);
    else
      p.frozen = dense(specs, has_unit_rows);
    return p;
  }

  // Where the tensors of a linear layer are, for the check that all have a place.
  void add_names(const TensorSpec& spec, std::set<std::string>& names) const {
    if (!holds(spec)) {
      names.insert(spec.name);
      return;
    }
    for (const std::string& name : quantized_->tensors_of(module_name(spec))) names.insert(name);
  }

 private:
  bool holds(const TensorSpec& spec) const {
    return quantized_ && is_linear(spec.role) && !spec.is_bias() && quantized_->holds(module_name(spec));
  }
  bool stays_narrow(const at::Tensor& stored) const {
    return device_.is_cpu() && is_narrower(stored.scalar_type(), dtype_);
  }

  std::shared_ptr<FrozenWeight> decoded(std::vector<PackedWeight> parts, const std::string& stored) const {
    if (!device_.is_cpu())
      for (PackedWeight& part : parts) part = part.to(device_);
    return std::make_shared<DecodedWeight>(std::move(parts), stored, dtype_, scratch_);
  }

  std::shared_ptr<FrozenWeight> stored_codes(const std::vector<TensorSpec>& specs) const {
    std::vector<PackedWeight> parts;
    for (const TensorSpec& spec : specs)
      parts.push_back(holds(spec) ? quantized_->weight(module_name(spec), spec.shape[0], spec.shape[1])
                                  : ops::plain_weight(in_32_bits_or_less(stored_weight(folder_, spec))));
    const auto weight = decoded(std::move(parts), quantized_->text());
    if (!device_.is_cpu())  // copied there
      for (const TensorSpec& spec : specs) {
        std::set<std::string> names;
        add_names(spec, names);
        for (const std::string& name : names) folder_.file_of(name).forget(name);
      }
    return weight;
  }

  std::shared_ptr<FrozenWeight> quantised(const std::vector<TensorSpec>& specs) const {
    std::vector<PackedWeight> parts;
    for (const TensorSpec& spec : specs) {
      const TensorFile& file = folder_.file_of(spec.name);
      parts.push_back(quantized(stored_weight(folder_, spec), *storage_, file.path(), spec.name));
      file.forget(spec.name);
    }
    return decoded(std::move(parts), text_of(*storage_));
  }

  std::shared_ptr<FrozenWeight> dense(const std::vector<TensorSpec>& specs, bool has_unit_rows) const {
    std::vector<at::Tensor> stored;
    std::vector<PackedWeight> parts;
    int64_t rows = 0;
    bool is_narrow = !has_unit_rows;
    for (const TensorSpec& spec : specs) {
      stored.push_back(stored_weight(folder_, spec));
      rows += spec.shape[0];
      is_narrow = is_narrow && stays_narrow(stored.back());
    }
    if (is_narrow) {
      for (const at::Tensor& part : stored) parts.push_back(ops::plain_weight(part));
      return decoded(std::move(parts), model_dtype_name(stored[0].scalar_type()));
    }
    const int64_t inputs = specs[0].shape[1];
    if (device_.is_cpu() && stored[0].scalar_type() == dtype_ && is_adjacent(stored) && !has_unit_rows)
      return std::make_shared<DenseWeight>(at::from_blob(
          const_cast<void*>(stored[0].const_data_ptr()), {rows, inputs}, [stored](void*) {}, stored[0].options()));
    const auto weight = std::make_shared<DenseWeight>(
        at::empty({rows, inputs}, at::TensorOptions(device_).dtype(dtype_)),
        [folder = folder_, stored, specs, has_unit_rows](const at::Tensor& value) {
          int64_t begin = 0;
          for (size_t i = 0; i < specs.size(); ++i) {
            const at::Tensor part = value.narrow(0, begin, specs[i].shape[0]), from = stored[i].to(value.device());
            if (has_unit_rows)
              divide_rows_by_norm(from, part);
            else
              part.copy_(from);
            folder.file_of(specs[i].name).forget(specs[i].name);
            begin += specs[i].shape[0];
          }
        },
        stored);
    if (!device_.is_cpu()) weight->value();
    return weight;
  }

  const ModelFolder& folder_;
  at::ScalarType dtype_;
  at::Device device_;
  const std::optional<QuantizedFolder>& quantized_;
  const std::optional<BaseStorage>& storage_;
  std::shared_ptr<WeightScratch> scratch_ = std::make_shared<WeightScratch>();
};

Projection& projection_of(Network& network, const TensorSpec& spec) {
  if (spec.role == Role::head) return network.head;
  Layer& layer = network.layers[static_cast<size_t>(spec.layer)];
  switch (spec.role) {
    case Role::qkv:
      return layer.qkv;
    case Role::o:
      return layer.o;
    case Role::gate_up:
      return layer.gate_up;
    case Role::down:
      return layer.down;
    default:
      RANKFOLD_ASSERT(false);
  }
  return network.head;  // not reached
}

Norm& norm_of(Network& network, const TensorSpec& spec) {
  if (spec.role == Role::norm) return network.norm;
  Layer& layer = network.layers[static_cast<size_t>(spec.layer)];
  switch (spec.role) {
    case Role::input_norm:
      return layer.input_norm;
    case Role::q_norm:
      return layer.q_norm;
    case Role::k_norm:
      return layer.k_norm;
    case Role::attention_out_norm:
      return layer.attention_out_norm;
    case Role::mlp_out_norm:
      return layer.mlp_out_norm;
    default:
      return layer.mlp_norm;
  }
}

// ALiBi's slopes: 2^(-8 h / n) of heads h = 1 .. n where n is a power of two; otherwise those of the next lower power,
// and of the next higher one every other (Press et al. 2022).
std::vector<float> alibi_slopes(int64_t heads) {
  const auto powers = [](int64_t n, int64_t count, int64_t step) {
    std::vector<float> slopes;
    for (int64_t i = 0; i < count; ++i)
      slopes.push_back(
          static_cast<float>(std::exp2(-8.0 * static_cast<double>(1 + i * step) / static_cast<double>(n))));
    return slopes;
  };
  const auto lower = static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(heads)));
  std::vector<float> slopes = powers(lower, lower, 1);
  const std::vector<float> between = powers(2 * lower, heads - lower, 2);
  slopes.insert(slopes.end(), between.begin(), between.end());
  return slopes;
}

AttentionSpec attention_of(const ModelConfig& config, size_t layer, const at::Tensor& slopes) {
  AttentionSpec spec(Heads{config.num_attention_heads, config.num_key_value_heads, config.head_dim});
  spec.rotary = rotary_features(config);
  spec.is_grouped = find_architecture(config.architecture).groups_qkv;
  spec.slopes = slopes;
  if (config.query_pre_attn_scalar > 0) spec.scale = 1 / std::sqrt(config.query_pre_attn_scalar);
  spec.soft_cap = config.attn_logit_softcapping;
  if (!config.windows.empty()) spec.window = config.windows.at(layer);
  return spec;
}

// A tensor that nobody reads means another model than the one we would compute.
void check_all_used(const ModelFolder& folder, const std::set<std::string>& used, const ModelConfig& config) {
  const std::string head = find_architecture(config.architecture).head + kWeightSuffix;
  for (const std::string& name : folder.names()) {
    const bool is_computed = name.find("rotary_emb.") != std::string::npos;
    const bool is_spare = config.tie_word_embeddings && name == head;
    if (!is_computed && !is_spare && !used.contains(name))
      fail(folder.file_of(name).path().string(), ": tensor '", name, "' has no place in ", config.architecture,
           " as config.json describes it");
  }
}

}  // namespace

void check_quantized_head(const ModelFolder& folder, const ModelConfig& config) {
  const char* why = config.tie_word_embeddings ? "is its embedding (tie_word_embeddings)"
                    : config.has_norm_head     ? "has rows that are divided by their norms"
                                               : nullptr;
  if (why) fail("quantize_lm_head: expected false, as the head of ", folder.path().string(), " ", why, ", got true");
}

Network load_network(const ModelFolder& folder, const ModelConfig& config, at::ScalarType dtype, at::Device device,
                     const std::optional<QuantizedFolder>& quantized, const std::optional<BaseStorage>& storage) {
  if (storage && storage->has_head) check_quantized_head(folder, config);
  const Loader loader(folder, dtype, device, quantized, storage);
  Network network;
  network.layers.resize(static_cast<size_t>(config.num_hidden_layers));
  network.is_tied = config.tie_word_embeddings;
  const Architecture& family = find_architecture(config.architecture);
  // As transformers rounds it.
  if (family.scales_embedding)
    network.embedding_scale =
        at::scalar_tensor(std::sqrt(static_cast<double>(config.hidden_size)), at::kFloat).to(dtype).item<double>();
  network.logit_soft_cap = config.final_logit_softcapping;
  const at::Tensor slopes = config.uses_alibi ? at::tensor(alibi_slopes(config.num_attention_heads)) : at::Tensor();
  for (size_t i = 0; i < network.layers.size(); ++i) {
    Layer& layer = network.layers[i];
    layer.attention = attention_of(config, i, slopes);
    layer.rope_table = config.local_rope && layer.attention.window > 0 ? 1 : 0;
    layer.activation = family.has_gelu ? Activation::gelu_tanh : Activation::silu;
  }
  const std::string head = family.head;
  std::set<std::string> used;
  const std::vector<TensorSpec> list = tensor_list(config);
  for (size_t i = 0; i < list.size();) {
    std::vector<TensorSpec> specs{list[i]};
    if (is_linear(list[i].role))
      while (i + specs.size() < list.size() && list[i + specs.size()].role == list[i].role &&
             list[i + specs.size()].layer == list[i].layer)
        specs.push_back(list[i + specs.size()]);
    i += specs.size();
    TensorSpec& spec = specs[0];
    if (spec.role == Role::embedding) {
      // Some writers keep the one weight of a tied model under the head's name.
      if (network.is_tied && !folder.contains(spec.name) && folder.contains(head + kWeightSuffix))
        spec.name = head + kWeightSuffix;
      network.embedding_name = spec.name;
      network.embedding = loader.embedding(spec);
    } else if (is_linear(spec.role)) {
      projection_of(network, spec) = loader.projection(specs, config.has_norm_head && spec.role == Role::head);
    } else {
      Norm& norm = norm_of(network, spec);
      norm.name = spec.name;
      norm.weight = loader.weight(spec);
      norm.eps = config.rms_norm_eps;
      norm.gain_offset = family.has_offset_norms ? 1 : 0;
    }
    for (const TensorSpec& each : specs) loader.add_names(each, used);
  }
  if (network.is_tied) {
    network.head.frozen = network.embedding;
    Module& m = network.head.modules.emplace_back();
    m.name = head, m.end = config.vocab_size;
  }
  check_all_used(folder, used, config);
  return network;
}

std::vector<LinearModule> linear_modules(const ModelConfig& config) {
  std::vector<LinearModule> modules;
  for (const TensorSpec& spec : tensor_list(config))
    if (is_linear(spec.role) && !spec.is_bias())
      modules.push_back({module_name(spec), spec.shape[0], spec.shape[1], spec.role == Role::head});
  if (config.tie_word_embeddings)
    modules.push_back({find_architecture(config.architecture).head, config.vocab_size, config.hidden_size, true});
  return modules;
}

bool head_differs_from_embedding(const ModelFolder& folder) {
  std::string head, embedding;
  for (const std::string& name : architecture_names()) {  // by whose names are there
    const Architecture& family = find_architecture(name);
    if (!folder.contains(family.head + kWeightSuffix) || !folder.contains(family.embedding + kWeightSuffix)) continue;
    head = family.head + kWeightSuffix, embedding = family.embedding + kWeightSuffix;
  }
  if (head.empty()) return false;
  const at::Tensor head_rows = folder.tensor(head), rows = folder.tensor(embedding);
  const bool differs = head_rows.sizes() != rows.sizes() || head_rows.scalar_type() != rows.scalar_type() ||
                       std::memcmp(head_rows.const_data_ptr(), rows.const_data_ptr(), head_rows.nbytes()) != 0;
  if (!differs) folder.file_of(head).forget(head);  // nobody reads it again
  return differs;
}

}  // namespace rankfold
