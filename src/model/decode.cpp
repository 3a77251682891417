// Decoding with a key/value cache: the same layers, but attention looks back into the cache.
#include "model/decoder.h"
#include "model/kv_cache.h"
#include "ops/prepare_qk.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cmath>

namespace rankfold {

KvCache::KvCache(const ModelConfig& config, const at::TensorOptions& options, int64_t rows, int64_t capacity_in)
    : lengths(rows, 0), tokens(rows), capacity(capacity_in) {
  const auto empty = [&] {
    return at::empty({rows, config.num_key_value_heads, capacity, config.head_dim}, options.dtype(at::kFloat));
  };
  for (int64_t i = 0; i < config.num_hidden_layers; ++i) keys.push_back(empty()), values.push_back(empty());
}

void KvCache::keep_rows(const std::vector<int64_t>& rows) {
  const at::Tensor which = at::tensor(rows).to(keys.front().device());
  for (at::Tensor& x : keys) x = x.index_select(0, which);
  for (at::Tensor& x : values) x = x.index_select(0, which);
  std::vector<int64_t> kept;
  std::vector<std::vector<int32_t>> kept_tokens;
  for (int64_t row : rows) kept.push_back(lengths[row]), kept_tokens.push_back(std::move(tokens[row]));
  lengths = std::move(kept), tokens = std::move(kept_tokens);
}

KvCache KvCache::row(int64_t b) const {
  KvCache one;
  for (const at::Tensor& x : keys) one.keys.push_back(x.narrow(0, b, 1));
  for (const at::Tensor& x : values) one.values.push_back(x.narrow(0, b, 1));
  one.lengths = {lengths[b]}, one.tokens = {tokens[b]}, one.capacity = capacity;
  return one;
}

void KvCache::reserve(int64_t positions) {
  if (positions <= capacity) return;
  const int64_t grown = std::max(positions, 2 * capacity), filled = capacity;
  const auto grow = [&](at::Tensor& x) {
    at::Tensor larger = at::empty({x.size(0), x.size(1), grown, x.size(3)}, x.options());
    larger.narrow(2, 0, filled).copy_(x);
    x = larger;
  };
  for (at::Tensor& x : keys) grow(x);
  for (at::Tensor& x : values) grow(x);
  capacity = grown;
}

namespace {

// The scores that the softmax sees, of queries at positions from `before` on and keys from `from` on: [key_value, group,
// queries, keys] -> the same.
at::Tensor decoding_scores(at::Tensor scores, const AttentionSpec& spec, int64_t before, int64_t from) {
  if (spec.soft_cap > 0) scores = scores.mul_(spec.scale / spec.soft_cap).tanh_().mul_(spec.soft_cap);
  const int64_t queries = scores.size(2), keys = scores.size(3);
  if (queries == 1 && !spec.slopes.defined()) return scores;  // it sees all keys from `from` on
  const auto count = at::TensorOptions(scores.device()).dtype(at::kLong);
  const at::Tensor distance =
      at::arange(before, before + queries, count).unsqueeze(1) - at::arange(from, from + keys, count);
  if (spec.slopes.defined()) {
    if (spec.soft_cap == 0) scores.mul_(spec.scale);
    scores.sub_(spec.slopes.to(scores.device()).view({scores.size(0), scores.size(1), 1, 1}) * distance);
  }
  at::Tensor hidden = distance.lt(0);
  if (spec.window > 0) hidden = hidden.logical_or_(distance.ge(spec.window));
  return scores.masked_fill_(hidden, -INFINITY);
}

// Appends prepared keys and values of each sequence to its row of the cache and attends over all of that row it sees.
at::Tensor attend_cached(const at::Tensor& qkv, Layer& layer, const Angles& angles, const Sequences& sequences,
                         KvCache& cache, size_t number) {
  const AttentionSpec& spec = layer.attention;
  const Heads& heads = spec.heads;
  const int64_t group = heads.query / heads.key_value, q_size = heads.query * heads.size;
  const int64_t kv_size = heads.key_value * heads.size;
  // Prompts see nothing but themselves: the op of training attends, without a matrix of all scores.
  const bool is_prompt = std::all_of(cache.lengths.begin(), cache.lengths.end(), [](int64_t n) { return n == 0; });
  at::Tensor out = is_prompt ? ops::attend(qkv, spec, angles.rope, angles.lines, sequences, layer.qk_norms())
                             : at::empty({qkv.size(0), q_size}, qkv.options());
  const at::Tensor prepared = ops::prepare_qk(qkv, spec, layer.qk_norms(), angles.rope, angles.lines).qkv;
  const int64_t rows_here = static_cast<int64_t>(cache.lengths.size());
  at::parallel_for(0, rows_here, qkv.is_cpu() ? 1 : rows_here, [&](int64_t first, int64_t last) {
    at::NoGradGuard no_grad;  // the mode is per thread
    for (int64_t b = first; b < last; ++b) {
      const int64_t begin = sequences.begin[b], added = sequences.begin[b + 1] - begin, before = cache.lengths[b];
      const at::Tensor rows = prepared.narrow(0, begin, added);
      const auto part = [&](int64_t from, int64_t size, int64_t count) {
        return rows.narrow(1, from, size).view({added, count, heads.size}).transpose(0, 1);
      };
      const at::Tensor keys = cache.keys[number].select(0, b), values = cache.values[number].select(0, b);
      keys.narrow(1, before, added).copy_(part(q_size, kv_size, heads.key_value));
      values.narrow(1, before, added).copy_(part(q_size + kv_size, kv_size, heads.key_value));
      if (is_prompt) continue;
      // Query heads that share a key/value head are rows of one product. As in training, scores and sums are fp32, and
      // weights are rounded to the model's dtype before they are divided by their sum.
      const int64_t left = spec.window > 0 ? std::max<int64_t>(0, before - spec.window + 1) : 0;
      const int64_t seen = before + added - left;
      const at::Tensor q = part(0, q_size, heads.query).reshape({heads.key_value, group * added, heads.size});
      at::Tensor scores = at::matmul(q.to(at::kFloat), keys.narrow(1, left, seen).transpose(1, 2));
      scores = decoding_scores(scores.view({heads.key_value, group, added, seen}), spec, before, left)
                   .view({heads.key_value, group * added, seen});
      const double scale = spec.has_plain_scores() ? spec.scale : 1;
      const at::Tensor weights = (scores - scores.amax(-1, true)).mul_(scale).exp_();
      const at::Tensor context = at::matmul(weights.to(qkv.scalar_type()).to(at::kFloat), values.narrow(1, left, seen))
                                     .div_(weights.sum(-1, true));
      out.narrow(0, begin, added)
          .view({added, heads.query, heads.size})
          .copy_(context.view({heads.query, added, heads.size}).transpose(0, 1));
    }
  });
  return out;
}

}  // namespace

bool Decoder::turns_anew(int64_t before, int64_t after) const {
  return std::any_of(ropes_.begin(), ropes_.end(),
                     [&](const RopeTable& table) { return table.turns_anew(before, after); });
}

at::Tensor Decoder::next_logits(const Batch& batch, KvCache& cache) {
  at::NoGradGuard no_grad;
  int64_t longest = 0;
  bool any_anew = false;
  for (int64_t b = 0; b < batch.rows(); ++b) {
    const int64_t after = cache.lengths[b] + batch.offsets[b + 1] - batch.offsets[b];
    longest = std::max(longest, after);
    any_anew = any_anew || turns_anew(cache.lengths[b], after);
  }
  cache.reserve(longest);
  if (!any_anew) return append(batch, cache);
  // One row after the other; one whose keys are to be turned anew, from its first token.
  std::vector<at::Tensor> logits;
  for (int64_t b = 0; b < batch.rows(); ++b) {
    const int64_t begin = batch.offsets[b], end = batch.offsets[b + 1];
    KvCache row = cache.row(b);
    std::vector<int32_t> ids;
    const bool is_anew = turns_anew(row.lengths[0], row.lengths[0] + end - begin);
    if (is_anew) ids.swap(row.tokens[0]), row.lengths[0] = 0;
    for (int64_t t = begin; t < end; ++t) ids.push_back(static_cast<int32_t>(batch.tokens[t].item<int64_t>()));
    Batch part = make_batch({{&ids, nullptr}});
    part.positions.add_(row.lengths[0]);
    logits.push_back(append(part, row));
    cache.lengths[b] = row.lengths[0], cache.tokens[b] = row.tokens[0];
  }
  return at::cat(logits);
}

at::Tensor Decoder::append(const Batch& batch, KvCache& cache) {
  const Pass pass = pass_of(batch);
  const std::vector<Angles> angles = angles_of(batch);
  const Sequences sequences(batch.offsets, device_);
  const auto attend = [&](const at::Tensor& qkv, Layer& layer, size_t number) {
    return attend_cached(qkv, layer, angles.at(layer.rope_table), sequences, cache, number);
  };
  const at::Tensor h = hidden(batch, pass, attend, Checkpointing::none);
  std::vector<int64_t> last;
  for (int64_t b = 0; b < batch.rows(); ++b) {
    last.push_back(batch.offsets[b + 1] - 1);
    cache.lengths[b] += batch.offsets[b + 1] - batch.offsets[b];
    for (int64_t t = batch.offsets[b]; t < batch.offsets[b + 1]; ++t)
      cache.tokens[b].push_back(static_cast<int32_t>(batch.tokens.const_data_ptr<int64_t>()[t]));
  }
  const at::Tensor ends = h.index_select(0, on_device(at::tensor(last)));
  return head_logits(ends, pass);
}

}  // namespace rankfold
