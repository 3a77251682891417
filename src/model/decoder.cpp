#include "model/decoder.h"

#include "core/check.h"
#include "ops/recompute.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

namespace rankfold {

Pass Decoder::pass_of(const Batch& batch) const {
  Pass pass;
  pass.owner = network_;
  if (!at::GradMode::is_enabled()) return pass;
  RANKFOLD_CHECK(!dropout_.is_mixed, "several adapters with dropout are active: train one at a time");
  if (dropout_.probability == 0) return pass;
  pass.dropout = dropout_.probability;
  pass.seed = dropout_.seed;
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
  RANKFOLD_CHECK(smallest >= 0 && largest < config_.vocab_size, "token id ", smallest < 0 ? smallest : largest,
                 " is outside the ", config_.vocab_size, " rows of the embedding");
  const at::Tensor tokens = on_device(batch.tokens);
  at::Tensor h = network_->embedding_master.defined() ? at::embedding(network_->embedding_master, tokens).to(dtype_)
                                                      : network_->embedding->select_rows(tokens).to(dtype_);
  if (!network_->embedding_updates.empty()) {
    for (const LowRank& u : network_->embedding_updates)  // fp32 sums, rounded once
      h = h + at::embedding(u.a.t(), tokens).mm(u.b.t()) * u.scale;
    h = h.to(dtype_);
  }
  return network_->embedding_scale == 1 ? h : h * network_->embedding_scale;
}

std::vector<Angles> Decoder::angles_of(const Batch& batch) {
  std::vector<Angles> angles;
  for (RopeTable& table : ropes_) angles.push_back(table.of(batch.positions, batch.offsets));
  return angles;
}

namespace {

// residual + what a sub-layer gives, which some families normalise before; project(r) adds r where it is defined.
template <class Project>
at::Tensor add_to(const at::Tensor& residual, Norm& out_norm, const Pass& pass, Project&& project) {
  if (!out_norm.weight.defined()) return project(residual);
  return ops::norm_add(project(at::Tensor()), out_norm, residual, pass.owner);
}

}  // namespace

// Of a cold file, the disk reads the next layer while this one is computed.
void Decoder::prefetch(size_t layer) {
  if (layer == network_->layers.size()) return network_->head.frozen->prefetch();
  for (const Projection* p : network_->layers[layer].projections()) p->frozen->prefetch();
}

at::Tensor Decoder::hidden(const Batch& batch, const Pass& pass, const Attend& attend, Checkpointing checkpointing) {
  at::Tensor h = embed(batch);
  for (size_t i = 0; i < network_->layers.size(); ++i) {
    prefetch(i + 1);
    // What backward runs again holds its own copies; `pass` owns the layer.
    const auto attention = [layer = &network_->layers[i], pass, attend, i](const at::Tensor& x) {
      const auto [qkv, residual] = ops::norm_project(x, layer->input_norm, layer->qkv, pass);
      const at::Tensor context = attend(qkv, *layer, i);
      return add_to(residual, layer->attention_out_norm, pass,
                    [&](const at::Tensor& r) { return ops::project_add(context, layer->o, r, pass); });
    };
    const auto mlp = [layer = &network_->layers[i], pass](const at::Tensor& x) {
      const auto [gate_up, residual] = ops::norm_project(x, layer->mlp_norm, layer->gate_up, pass);
      return add_to(residual, layer->mlp_out_norm, pass, [&, gate_up = gate_up](const at::Tensor& r) {
        return ops::glu_project_add(gate_up, layer->activation, layer->down, r, pass);
      });
    };
    if (checkpointing == Checkpointing::full) {
      h = ops::recompute(h, [=](const at::Tensor& x) { return mlp(attention(x)); });
    } else {
      h = attention(h);
      h = checkpointing == Checkpointing::mlp ? ops::recompute(h, mlp) : mlp(h);
    }
  }
  return h;
}

at::Tensor Decoder::hidden(const Batch& batch, const Pass& pass, Checkpointing checkpointing) {
  const Sequences sequences(batch.offsets, device_);
  const auto attend = [sequences, all_angles = angles_of(batch), owner = pass.owner](const at::Tensor& qkv,
                                                                                     Layer& layer, size_t) {
    const Angles& angles = all_angles.at(layer.rope_table);
    return ops::attend(qkv, layer.attention, angles.rope, angles.lines, sequences, layer.qk_norms(), owner);
  };
  return hidden(batch, pass, attend, checkpointing);
}

at::Tensor Decoder::loss(const Batch& batch, Checkpointing checkpointing) {
  const Pass pass = pass_of(batch);
  return ops::norm_head_loss(hidden(batch, pass, checkpointing), network_->norm, network_->head, batch.labels, pass,
                             network_->logit_soft_cap);
}

at::Tensor Decoder::logits(const Batch& batch) {
  const Pass pass = pass_of(batch);
  return head_logits(hidden(batch, pass, Checkpointing::none), pass);
}

at::Tensor Decoder::head_logits(const at::Tensor& h, const Pass& pass) {
  const at::Tensor logits = ops::norm_project(h, network_->norm, network_->head, pass).first;
  const double cap = network_->logit_soft_cap;
  return cap > 0 ? (logits / cap).tanh() * cap : logits;
}

}  // namespace rankfold
