// Decoding with a key/value cache: the same layers, but attention looks back into the cache.
#include "core/check.h"
#include "model/decoder.h"
#include "model/kv_cache.h"
#include "ops/prepare_qk.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <algorithm>

namespace rankfold {

KvCache::KvCache(const ModelConfig& config, const at::TensorOptions& options, int64_t slots, int64_t capacity_in,
                 int64_t limit_in)
    : lengths(slots, 0), tokens(slots), capacity(capacity_in), limit(limit_in) {
  const Heads heads{config.num_attention_heads, config.num_key_value_heads, config.head_dim};
  for (int64_t i = 0; i < config.num_hidden_layers; ++i) layers.emplace_back(heads, options, slots, capacity);
}

void KvCache::clear(int64_t slot) {
  lengths[slot] = 0;
  tokens[slot].clear();
}

void KvCache::copy(int64_t from, int64_t to) {
  for (ops::HeadCache& layer : layers) layer.copy(from, to);
  lengths[to] = lengths[from], tokens[to] = tokens[from];
}

void KvCache::reserve(int64_t positions) {
  if (positions <= capacity) return;
  RANKFOLD_ASSERT(positions <= limit);
  capacity = std::clamp(2 * capacity, positions, limit);
  for (ops::HeadCache& layer : layers) layer.grow(capacity);
}

bool Decoder::turns_anew(int64_t before, int64_t after) const {
  return std::any_of(ropes_.begin(), ropes_.end(),
                     [&](const RopeTable& table) { return table.turns_anew(before, after); });
}

at::Tensor Decoder::next_logits(const Batch& batch, KvCache& cache, const std::vector<int64_t>& slots) {
  at::NoGradGuard no_grad;
  int64_t longest = 0;
  bool any_anew = false;
  for (int64_t b = 0; b < batch.rows(); ++b) {
    const int64_t before = cache.lengths[slots[b]], after = before + batch.offsets[b + 1] - batch.offsets[b];
    longest = std::max(longest, after);
    any_anew = any_anew || turns_anew(before, after);
  }
  cache.reserve(longest);
  if (!any_anew) return append(batch, cache, slots);
  // One row after the other; one whose keys are to be rotated anew, from its first token.
  std::vector<at::Tensor> logits;
  for (int64_t b = 0; b < batch.rows(); ++b) {
    const int64_t slot = slots[b], begin = batch.offsets[b], end = batch.offsets[b + 1];
    std::vector<int32_t> ids;
    if (turns_anew(cache.lengths[slot], cache.lengths[slot] + end - begin)) {
      ids = cache.tokens[slot];
      cache.clear(slot);
    }
    for (int64_t t = begin; t < end; ++t) ids.push_back(static_cast<int32_t>(batch.tokens[t].item<int64_t>()));
    Batch part = make_batch({{&ids, nullptr}});
    part.positions.add_(cache.lengths[slot]);
    logits.push_back(append(part, cache, {slot}));
  }
  return at::cat(logits);
}

at::Tensor Decoder::append(const Batch& batch, KvCache& cache, const std::vector<int64_t>& slots) {
  const Pass pass = pass_of(batch);
  const std::vector<Angles> angles = angles_of(batch);
  const Sequences sequences(batch.offsets, device_);
  std::vector<int64_t> before;
  for (const int64_t slot : slots) before.push_back(cache.lengths[slot]);
  const ops::CachedRows rows(slots, before, sequences);
  // Prompts see nothing but themselves: the op of training attends, without a matrix of all scores.
  const bool are_prompts = std::all_of(before.begin(), before.end(), [](int64_t n) { return n == 0; });
  const auto attend = [&](const at::Tensor& qkv, Layer& layer, size_t number) {
    const AttentionSpec& spec = layer.attention;
    const Angles& rotated = angles.at(layer.rope_table);
    const at::Tensor prepared = ops::prepare_qk(qkv, spec, layer.qk_norms(), rotated.rope, rotated.lines).qkv;
    if (!are_prompts) return ops::attend_cached(prepared, spec, sequences, rows, cache.layers[number]);
    ops::cache_append(prepared, spec, sequences, rows, cache.layers[number]);
    AttentionSpec rest = spec;  // of what is prepared already
    rest.rotary = 0, rest.is_grouped = false;
    return ops::attend(prepared, rest, rotated.rope, rotated.lines, sequences);
  };
  const at::Tensor h = hidden(batch, pass, attend, Checkpointing::none);
  std::vector<int64_t> last;
  for (int64_t b = 0; b < batch.rows(); ++b) {
    last.push_back(batch.offsets[b + 1] - 1);
    cache.lengths[slots[b]] += batch.offsets[b + 1] - batch.offsets[b];
    for (int64_t t = batch.offsets[b]; t < batch.offsets[b + 1]; ++t)
      cache.tokens[slots[b]].push_back(static_cast<int32_t>(batch.tokens.const_data_ptr<int64_t>()[t]));
  }
  const at::Tensor ends = h.index_select(0, on_device(at::tensor(last)));
  return head_logits(ends, pass);
}

}  // namespace rankfold
