#include "rankfold/generate.h"

#include "core/check.h"
#include "core/config.h"
#include "core/guard.h"
#include "model/model.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <numeric>
#include <random>

namespace rankfold {
namespace {

// Every row draws from its own generator, so that its text does not depend on its neighbours.
struct Sampler {
  const GenerateConfig& config;
  std::mt19937_64 generator;

  int32_t choose(const float* logits, int64_t vocabulary) {
    if (config.temperature == 0) return static_cast<int32_t>(std::max_element(logits, logits + vocabulary) - logits);
    std::vector<int32_t> ids(vocabulary);
    std::iota(ids.begin(), ids.end(), 0);
    int64_t kept = vocabulary;
    const auto likelier = [&](int32_t a, int32_t b) { return logits[a] != logits[b] ? logits[a] > logits[b] : a < b; };
    std::sort(ids.begin(), ids.end(), likelier);
    if (config.top_k > 0) kept = std::min(kept, config.top_k);
    std::vector<double> weights(kept);
    double total = 0;
    for (int64_t i = 0; i < kept; ++i)
      total += weights[i] = std::exp((logits[ids[i]] - logits[ids[0]]) / config.temperature);
    // transformers' rule: the smallest set of likeliest tokens whose share reaches top_p.
    double reached = 0;
    for (int64_t i = 0; i < kept; ++i)
      if ((reached += weights[i]) >= config.top_p * total) kept = i + 1;
    double draw = static_cast<double>(generator() >> 11) * 0x1p-53 *
                  std::accumulate(weights.begin(), weights.begin() + kept, 0.0);
    for (int64_t i = 0; i < kept; ++i)
      if ((draw -= weights[i]) < 0) return ids[i];
    return ids[kept - 1];
  }
};

}  // namespace

std::vector<std::vector<int32_t>> generate(const CausalLM& model, const std::vector<std::vector<int32_t>>& prompts,
                                           const GenerateConfig& config,
                                           const std::function<void(int64_t, int32_t)>& on_token,
                                           const Stop& stop) try {
  check_fields(config);
  const auto take = from_caller(on_token);
  const Stop asked = from_caller(stop);
  at::NoGradGuard no_grad;
  Model& parts = *model.shared_model();
  std::vector<std::vector<int32_t>> completions(prompts.size());
  if (prompts.empty()) return completions;
  std::vector<int64_t> eos = parts.config.eos_token_ids;
  eos.insert(eos.end(), config.stop_token_ids.begin(), config.stop_token_ids.end());
  if (model.has_tokenizer()) eos.push_back(model.tokenizer().eos());  // in which training ends a row

  size_t longest = 0;
  std::vector<Sequence> rows;
  std::vector<Sampler> samplers;
  for (size_t i = 0; i < prompts.size(); ++i) {
    RANKFOLD_CHECK(!prompts[i].empty(), "generate: prompt ", i, " has no token");
    longest = std::max(longest, prompts[i].size());
    rows.push_back({&prompts[i], nullptr});
    samplers.push_back({config, std::mt19937_64(static_cast<uint64_t>(config.seed))});
  }
  Batch batch = make_batch(rows);
  KvCache cache(parts.config, at::TensorOptions(parts.device), static_cast<int64_t>(prompts.size()),
                static_cast<int64_t>(longest) + std::min<int64_t>(config.max_new_tokens, 256));
  std::vector<int64_t> open(prompts.size());  // prompt number of each row that still decodes
  std::iota(open.begin(), open.end(), 0);

  for (int64_t generated = 0;; ++generated) {
    leave_if(asked);
    const at::Tensor logits = parts.decoder.next_logits(batch, cache).to(at::kCPU, at::kFloat).contiguous();
    if (!logits.isfinite().all().item<bool>())
      throw Error(ExitCode::kDiverged, join(model.folder().string(), ": the model's logits are not finite numbers"));
    std::vector<int64_t> still_open;
    std::vector<std::vector<int32_t>> next;
    for (size_t b = 0; b < open.size(); ++b) {
      const int64_t row = open[b];
      const int32_t id = samplers[row].choose(logits.const_data_ptr<float>() + static_cast<int64_t>(b) * logits.size(1),
                                              logits.size(1));
      if (std::find(eos.begin(), eos.end(), id) != eos.end()) continue;
      completions[row].push_back(id);
      if (take) take(row, id);
      if (generated + 1 == config.max_new_tokens) continue;
      still_open.push_back(static_cast<int64_t>(b));
      next.push_back({id});
    }
    if (still_open.empty()) return completions;
    if (still_open.size() < open.size()) {
      cache.keep_rows(still_open);
      std::vector<int64_t> kept;
      for (int64_t b : still_open) kept.push_back(open[b]);
      open = std::move(kept);
    }
    rows.clear();
    for (const auto& ids : next) rows.push_back({&ids, nullptr});
    batch = make_batch(rows);
    for (int64_t b = 0; b < batch.rows(); ++b) batch.positions.data_ptr<int64_t>()[b] = cache.lengths[b];
  }
} catch (...) {
  rethrow_as_error();
}

}  // namespace rankfold
