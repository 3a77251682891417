// Decoding with a key/value cache: the same layers, but attention looks back into the cache.
#include "model/decoder.h"
#include "model/kv_cache.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cmath>

namespace rankfold {

KvCache::KvCache(const ModelConfig& config, const at::TensorOptions& options, int64_t rows, int64_t capacity_in)
    : lengths(rows, 0), capacity(capacity_in) {
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
  for (int64_t row : rows) kept.push_back(lengths[row]);
  lengths = std::move(kept);
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

// Appends rotated keys and values of each sequence to its row of the cache and attends over all that row holds.
at::Tensor attend_cached(at::Tensor qkv, const Heads& heads, const Rope& rope, const at::Tensor& positions,
                         const Sequences& sequences, KvCache& cache, size_t layer) {
  const int64_t group = heads.query / heads.key_value, q_size = heads.query * heads.size;
  const int64_t kv_size = heads.key_value * heads.size;
  // Prompts see nothing but themselves: the op of training attends, without a matrix of all scores.
  const bool is_prompt = std::all_of(cache.lengths.begin(), cache.lengths.end(), [](int64_t n) { return n == 0; });
  at::Tensor out =
      is_prompt ? ops::attend(qkv, heads, rope, positions, sequences) : at::empty({qkv.size(0), q_size}, qkv.options());
  ops::rotate(qkv, heads, rope, positions);
  const int64_t rows_here = static_cast<int64_t>(cache.lengths.size());
  at::parallel_for(0, rows_here, qkv.is_cpu() ? 1 : rows_here, [&](int64_t first, int64_t last) {
    at::NoGradGuard no_grad;  // the mode is per thread
    for (int64_t b = first; b < last; ++b) {
      const int64_t begin = sequences.begin[b], added = sequences.begin[b + 1] - begin, before = cache.lengths[b];
      const at::Tensor rows = qkv.narrow(0, begin, added);
      const auto part = [&](int64_t from, int64_t size, int64_t count) {
        return rows.narrow(1, from, size).view({added, count, heads.size}).transpose(0, 1);
      };
      const at::Tensor keys = cache.keys[layer].select(0, b), values = cache.values[layer].select(0, b);
      keys.narrow(1, before, added).copy_(part(q_size, kv_size, heads.key_value));
      values.narrow(1, before, added).copy_(part(q_size + kv_size, kv_size, heads.key_value));
      if (is_prompt) continue;
      // Query heads that share a key/value head are rows of one product. As in training, scores and sums are fp32, and
      // weights are rounded to the model's dtype before they are divided by their sum.
      const int64_t length = before + added;
      const at::Tensor q = part(0, q_size, heads.query).reshape({heads.key_value, group * added, heads.size});
      at::Tensor scores = at::matmul(q.to(at::kFloat), keys.narrow(1, 0, length).transpose(1, 2));
      if (added > 1) {
        const at::Tensor future = at::ones({added, length}, qkv.options().dtype(at::kBool)).triu(before + 1);
        scores = scores.view({heads.key_value, group, added, length}).masked_fill_(future, -INFINITY);
      }
      scores = scores.view({heads.key_value, group * added, length});
      const at::Tensor weights =
          (scores - scores.amax(-1, true)).mul_(1 / std::sqrt(static_cast<double>(heads.size))).exp_();
      const at::Tensor context = at::matmul(weights.to(qkv.scalar_type()).to(at::kFloat), values.narrow(1, 0, length))
                                     .div_(weights.sum(-1, true));
      out.narrow(0, begin, added)
          .view({added, heads.query, heads.size})
          .copy_(context.view({heads.query, added, heads.size}).transpose(0, 1));
    }
  });
  return out;
}

}  // namespace

at::Tensor Decoder::next_logits(const Batch& batch, KvCache& cache) {
  at::NoGradGuard no_grad;
  const Pass pass = pass_of(batch);
  int64_t longest = 0;
  for (int64_t b = 0; b < batch.rows(); ++b)
    longest = std::max(longest, cache.lengths[b] + batch.offsets[b + 1] - batch.offsets[b]);
  cache.reserve(longest);
  const Rope& rope = rope_for(longest);
  const Sequences sequences(batch.offsets, device_);
  const at::Tensor positions = on_device(batch.positions);
  const auto attend = [&](const at::Tensor& qkv, size_t layer) {
    return attend_cached(qkv, heads(), rope, positions, sequences, cache, layer);
  };
  const at::Tensor h = hidden(batch, pass, attend, Checkpointing::none);
  std::vector<int64_t> last;
  for (int64_t b = 0; b < batch.rows(); ++b) {
    last.push_back(batch.offsets[b + 1] - 1);
    cache.lengths[b] += batch.offsets[b + 1] - batch.offsets[b];
  }
  const at::Tensor ends = h.index_select(0, on_device(at::tensor(last)));
  return ops::norm_project(ends, network_->norm, network_->head, pass).first;
}

}  // namespace rankfold
