#include "model/decoder.h"

#include "core/check.h"
#include "model/architecture.h"
#include "ops/project.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <cmath>
#include <set>

namespace rankfold {
namespace {

std::string shape_text(at::IntArrayRef shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

at::Tensor stored_weight(const ModelFolder& folder, const std::string& name, at::IntArrayRef shape) {
  const at::Tensor stored = folder.tensor(name);
  if (stored.sizes() != shape)
    fail(folder.path().string(), ": ", name, ": expected shape ", shape_text(shape), ", got ",
         shape_text(stored.sizes()));
  if (!stored.is_floating_point())
    fail(folder.path().string(), ": ", name, ": expected a floating-point tensor, got ",
         c10::toString(stored.scalar_type()));
  return stored;
}

// A weight as the folder stores it, or converted where the model computes in another dtype. On a device it goes there
// straight from the mapping, and is converted there. The pages of what was copied are let go.
at::Tensor load_weight(const ModelFolder& folder, const std::string& name, at::IntArrayRef shape, at::ScalarType dtype,
                       at::Device device) {
  const at::Tensor stored = stored_weight(folder, name, shape), loaded = stored.to(device).to(dtype);
  if (!loaded.is_alias_of(stored)) folder.file_of(name).forget(name);
  return loaded;
}

bool is_adjacent(const std::vector<at::Tensor>& parts) {
  for (size_t i = 1; i < parts.size(); ++i) {
    const auto* end = static_cast<const char*>(parts[i - 1].const_data_ptr()) + parts[i - 1].nbytes();
    if (end != parts[i].const_data_ptr() || parts[i].scalar_type() != parts[0].scalar_type()) return false;
  }
  return true;
}

// One matrix of several, the weights of these modules. A view where they lie one after the other in the mapping (Hugging
// Face's files are sorted by name, so gate and up do); otherwise a copy, on the CPU made at the first use, as reading
// the file is most of the time that loading takes.
void load_stacked(const ModelFolder& folder, at::ScalarType dtype, at::Device device, int64_t inputs, Projection& p) {
  std::vector<at::Tensor> stored;
  for (const Module& m : p.modules)
    stored.push_back(stored_weight(folder, m.name + ".weight", {m.end - m.begin, inputs}));
  const int64_t rows = p.modules.back().end;
  if (device.is_cpu() && stored[0].scalar_type() == dtype && is_adjacent(stored)) {
    p.weight = at::from_blob(
        const_cast<void*>(stored[0].const_data_ptr()), {rows, inputs}, [stored](void*) {}, stored[0].options());
    return;
  }
  p.weight = at::empty({rows, inputs}, at::TensorOptions(device).dtype(dtype));
  p.fill = [folder, stored, modules = p.modules](at::Tensor& weight) {
    for (size_t i = 0; i < modules.size(); ++i) {
      const Module& m = modules[i];
      weight.narrow(0, m.begin, m.end - m.begin).copy_(stored[i].to(weight.device()));
      folder.file_of(m.name + ".weight").forget(m.name + ".weight");
    }
  };
  if (!device.is_cpu()) p.current_weight();
}

}  // namespace

Decoder::Decoder(ModelFolder folder_in, ModelConfig config_in, at::ScalarType dtype_in, at::Device device_in)
    : folder(std::move(folder_in)), config(std::move(config_in)), dtype(dtype_in), device(device_in) {
  const Architecture& architecture = find_architecture(config.architecture);
  const int64_t hidden = config.hidden_size, inner = config.intermediate_size;
  const int64_t q = config.num_attention_heads * config.head_dim, kv = config.num_key_value_heads * config.head_dim;

  std::set<std::string> used;
  const auto load_weight = [&](const std::string& name, at::IntArrayRef shape) {
    used.insert(name);
    return rankfold::load_weight(folder, name, shape, dtype, device);
  };
  const auto load_norm = [&](const std::string& name) {
    Norm n;
    n.name = name;
    n.weight = load_weight(name, {hidden});
    n.eps = config.rms_norm_eps;
    return n;
  };
  const auto load_projection = [&](const std::vector<std::string>& names, const std::vector<int64_t>& outputs,
                                   int64_t inputs, bool is_head = false) {
    Projection p;
    int64_t begin = 0;
    for (size_t i = 0; i < names.size(); ++i) {
      used.insert(names[i] + ".weight");
      Module m;
      m.name = names[i], m.begin = begin, m.end = begin + outputs[i];
      begin = m.end;
      p.modules.push_back(std::move(m));
      linears.push_back({names[i], outputs[i], inputs, is_head});
    }
    load_stacked(folder, dtype, device, inputs, p);
    return p;
  };

  embedding_name = "model.embed_tokens.weight";
  embedding = load_weight(embedding_name, {config.vocab_size, hidden});
  for (int64_t i = 0; i < config.num_hidden_layers; ++i) {
    const std::string prefix = "model.layers." + std::to_string(i) + ".";
    const auto named = [&](const std::vector<std::string>& names) {
      std::vector<std::string> full;
      for (const auto& name : names) full.push_back(prefix + name);
      return full;
    };
    const std::vector<int64_t> qkv_outputs =
        architecture.qkv.size() == 1 ? std::vector<int64_t>{q + 2 * kv} : std::vector<int64_t>{q, kv, kv};
    Layer layer;
    layer.input_norm = load_norm(prefix + "input_layernorm.weight");
    layer.qkv = load_projection(named(architecture.qkv), qkv_outputs, hidden);
    layer.o = load_projection(named({architecture.o}), {hidden}, q);
    layer.post_norm = load_norm(prefix + "post_attention_layernorm.weight");
    layer.gate_up = load_projection(named({architecture.gate, architecture.up}), {inner, inner}, hidden);
    layer.down = load_projection(named({architecture.down}), {hidden}, inner);
    layers.push_back(std::move(layer));
  }
  norm = load_norm("model.norm.weight");
  if (config.tie_word_embeddings) {
    head.weight = embedding;
    head.modules.resize(1);
    head.modules[0].name = "lm_head";
    head.modules[0].end = config.vocab_size;
    linears.push_back({"lm_head", config.vocab_size, hidden, true});
  } else {
    head = load_projection({"lm_head"}, {config.vocab_size}, hidden, true);
  }
  // A tensor that nobody reads means another model than the one we would compute.
  for (const std::string& name : folder.names()) {
    const bool computed = name.find("rotary_emb.") != std::string::npos;
    const bool spare = config.tie_word_embeddings && name == "lm_head.weight";
    if (!computed && !spare && !used.contains(name))
      fail(folder.file_of(name).path().string(), ": tensor '", name, "' has no place in ", config.architecture,
           " as config.json describes it");
  }
}

std::vector<Projection*> Decoder::projections() {
  std::vector<Projection*> all;
  for (Layer& layer : layers) all.insert(all.end(), {&layer.qkv, &layer.o, &layer.gate_up, &layer.down});
  all.push_back(&head);
  return all;
}

std::vector<Norm*> Decoder::norms() {
  std::vector<Norm*> all;
  for (Layer& layer : layers) all.insert(all.end(), {&layer.input_norm, &layer.post_norm});
  all.push_back(&norm);
  return all;
}

// Angles in fp32 as transformers computes them, so that long positions agree with it.
const Rope& Decoder::rope_for(int64_t positions) {
  if (rope_.cos.defined() && rope_.cos.size(0) >= positions) return rope_;
  const int64_t half = config.head_dim / 2;
  const int64_t rows = std::max<int64_t>(64, positions + positions / 2);
  at::Tensor cos = at::empty({rows, half}), sin = at::empty({rows, half});
  for (int64_t p = 0; p < rows; ++p)
    for (int64_t i = 0; i < half; ++i) {
      const float exponent = static_cast<float>(2 * i) / static_cast<float>(config.head_dim);
      const float frequency =
          1.0f / std::pow(static_cast<float>(config.rope_theta), exponent) / static_cast<float>(config.rope_factor);
      const float angle = static_cast<float>(p) * frequency;
      cos.data_ptr<float>()[p * half + i] = std::cos(angle);
      sin.data_ptr<float>()[p * half + i] = std::sin(angle);
    }
  rope_ = {on_device(cos), on_device(sin)};
  return rope_;
}

Pass Decoder::pass_of(const Batch& batch) const {
  Pass pass;
  if (dropout == 0 || !at::GradMode::is_enabled()) return pass;
  pass.dropout = dropout;
  pass.seed = seed;
  pass.step = batch.step;
  pass.positions = on_device(batch.positions.to(at::kInt));
  at::Tensor rows = at::empty({batch.token_count()}, at::kInt);
  for (int64_t b = 0; b < batch.rows(); ++b)
    rows.narrow(0, batch.offsets[b], batch.offsets[b + 1] - batch.offsets[b]).fill_(batch.first_row + b);
  pass.rows = on_device(rows);
  return pass;
}

at::Tensor Decoder::embed(const Batch& batch) {
  RANKFOLD_CHECK(batch.rows() > 0 && batch.tokens.defined(), "expected a batch with at least one sequence");
  const int64_t smallest = batch.tokens.min().item<int64_t>(), largest = batch.tokens.max().item<int64_t>();
  RANKFOLD_CHECK(smallest >= 0 && largest < config.vocab_size, "token id ", smallest < 0 ? smallest : largest,
                 " is outside the ", config.vocab_size, " rows of the embedding");
  const at::Tensor tokens = on_device(batch.tokens);
  if (embedding_master.defined()) return at::embedding(embedding_master, tokens).to(dtype);
  return ops::embed(embedding, tokens);
}

at::Tensor Decoder::hidden(const Batch& batch, const Pass& pass) {
  const Heads heads{config.num_attention_heads, config.num_key_value_heads, config.head_dim};
  const int64_t longest = batch.positions.max().item<int64_t>() + 1;
  const Sequences sequences(batch.offsets, device);
  return hidden(batch, pass,
                [heads, rope = rope_for(longest), sequences, positions = on_device(batch.positions)](
                    const at::Tensor& qkv, size_t) { return ops::attend(qkv, heads, rope, positions, sequences); });
}

at::Tensor Decoder::loss(const Batch& batch) {
  const Pass pass = pass_of(batch);
  return ops::norm_head_loss(hidden(batch, pass), norm, head, batch.labels, pass);
}

at::Tensor Decoder::logits(const Batch& batch) {
  const Pass pass = pass_of(batch);
  return ops::norm_project(hidden(batch, pass), norm, head, pass).first;
}

}  // namespace rankfold
