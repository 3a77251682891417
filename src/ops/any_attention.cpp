#include "ops/any_attention.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cmath>

namespace rankfold::ops {
namespace {

constexpr int64_t kRows = 256;  // query rows at a time

// Some query rows of one sequence and the keys that they see. Heads that share keys are rows of one product.
struct ScoreBlock {
  int64_t begin, rows, left, keys;  // first query row and how many, first key and how many, within the batch
  int64_t key_value, group;

  // [key_value, group * rows, D] fp32
  at::Tensor queries(const at::Tensor& x) const {
    return x.narrow(0, begin, rows)
        .to(at::kFloat)
        .unflatten(1, {key_value, group})
        .permute({1, 2, 0, 3})
        .reshape({key_value, group * rows, x.size(2)});
  }
  // [key_value, keys, D] fp32
  at::Tensor seen(const at::Tensor& x) const { return x.narrow(0, left, keys).to(at::kFloat).transpose(0, 1); }
  // y [key_value, group * rows, D] to the query rows of x.
  void store(const at::Tensor& y, const at::Tensor& x) const {
    x.narrow(0, begin, rows)
        .unflatten(1, {key_value, group})
        .permute({1, 2, 0, 3})
        .copy_(y.unflatten(1, {group, rows}));
  }
};

// f(block) over all sequences, in order.
template <class F>
void for_blocks(const AttentionSpec& spec, const Sequences& sequences, F&& f) {
  const int64_t group = spec.heads.query / spec.heads.key_value;
  for (size_t b = 0; b + 1 < sequences.begin.size(); ++b) {
    const int64_t first = sequences.begin[b], last = sequences.begin[b + 1];
    for (int64_t begin = first; begin < last; begin += kRows) {
      const int64_t end = std::min(begin + kRows, last);
      const int64_t left = spec.window > 0 ? std::max(first, begin - spec.window + 1) : first;
      f(ScoreBlock{begin, end - begin, left, end - left, spec.heads.key_value, group});
    }
  }
}

struct Weights {
  at::Tensor weights;  // [key_value, group * rows, keys], sum 1 in each row
  at::Tensor bent;     // tanh(score / soft_cap), where there is a soft cap
};

Weights weights_of(const ScoreBlock& block, const at::Tensor& q, const at::Tensor& k, const AttentionSpec& spec) {
  Weights result;
  at::Tensor scores = at::matmul(block.queries(q), block.seen(k).transpose(1, 2)).mul_(spec.scale);
  if (spec.soft_cap > 0) {
    result.bent = scores.div_(spec.soft_cap).tanh_();
    scores = result.bent * spec.soft_cap;
  }
  scores = scores.view({block.key_value, block.group, block.rows, block.keys});
  const auto count = at::TensorOptions(q.device()).dtype(at::kLong);
  const at::Tensor distance = at::arange(block.begin, block.begin + block.rows, count).unsqueeze(1) -
                              at::arange(block.left, block.left + block.keys, count);
  if (spec.slopes.defined())
    scores.sub_(spec.slopes.to(q.device()).view({block.key_value, block.group, 1, 1}) * distance);
  at::Tensor hidden = distance.lt(0);
  if (spec.window > 0) hidden.logical_or_(distance.ge(spec.window));
  result.weights = scores.masked_fill_(hidden, -INFINITY).softmax(-1).flatten(1, 2);
  return result;
}

}  // namespace

int64_t any_attention_scratch(int64_t longest, const AttentionSpec& spec) {
  constexpr int64_t kMatrices = 5;  // scores, weights, bent ones, their gradient, a temporary
  if (spec.has_plain_scores()) return 0;
  const int64_t scores = kMatrices * spec.heads.query * std::min(kRows, longest) * longest;
  const int64_t keys = 4 * spec.heads.key_value * spec.heads.size * longest;  // k, v and their gradients
  return static_cast<int64_t>(sizeof(float)) * (scores + keys);
}

std::vector<at::Tensor> any_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                      const AttentionSpec& spec, const Sequences& sequences) {
  const at::NoGradGuard no_grad;
  const at::Tensor out = at::empty({q.size(0), q.size(1), q.size(2)}, q.options());
  for_blocks(spec, sequences, [&](const ScoreBlock& block) {
    block.store(at::matmul(weights_of(block, q, k, spec).weights, block.seen(v)), out);
  });
  return {out};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> any_attention_backward(const at::Tensor& dy, const at::Tensor& q,
                                                                      const at::Tensor& k, const at::Tensor& v,
                                                                      const AttentionSpec& spec,
                                                                      const Sequences& sequences) {
  const at::NoGradGuard no_grad;
  const at::Tensor dq = at::empty({q.size(0), q.size(1), q.size(2)}, q.options());
  const at::Tensor dk = at::zeros({k.size(0), k.size(1), k.size(2)}, k.options().dtype(at::kFloat));
  const at::Tensor dv = at::zeros_like(dk);
  for_blocks(spec, sequences, [&](const ScoreBlock& block) {
    const Weights w = weights_of(block, q, k, spec);
    const at::Tensor d_out = block.queries(dy);
    const auto add = [&](const at::Tensor& sum, const at::Tensor& part) {  // part [key_value, keys, D]
      sum.narrow(0, block.left, block.keys).add_(part.transpose(0, 1));
    };
    add(dv, at::matmul(w.weights.transpose(1, 2), d_out));
    at::Tensor d_scores = at::matmul(d_out, block.seen(v).transpose(1, 2));
    d_scores.sub_((d_scores * w.weights).sum(-1, true)).mul_(w.weights).mul_(spec.scale);
    if (w.bent.defined()) d_scores.mul_(1 - w.bent.square());
    block.store(at::matmul(d_scores, block.seen(k)), dq);
    add(dk, at::matmul(d_scores.transpose(1, 2), block.queries(q)));
  });
  return {dq, dk.to(k.scalar_type()), dv.to(v.scalar_type())};
}

}  // namespace rankfold::ops
