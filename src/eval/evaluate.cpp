#include "rankfold/evaluate.h"

#include "core/check.h"
#include "core/guard.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <chrono>
#include <cmath>
#include <numeric>

namespace rankfold {

EvalResult evaluate(const CausalLM& model, const Dataset& dataset, int64_t rows_per_batch, const Stop& stop) try {
  if (rows_per_batch < 1) fail("rows_per_batch: expected an integer above 0, got ", rows_per_batch);
  const Stop asked = from_caller(stop);
  at::NoGradGuard no_grad;
  EvalResult result;
  double sum = 0;
  int64_t seen = 0;
  const auto start = std::chrono::steady_clock::now();
  for (const Batch& batch : dataset.batches({.rows = rows_per_batch, .shuffle = false})) {
    leave_if(asked);
    sum += model.loss(batch).item<double>();
    result.tokens += batch.label_count();
    seen += batch.token_count();
  }
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  result.loss = sum / static_cast<double>(result.tokens);
  if (!std::isfinite(result.loss))
    throw Error(ExitCode::kDiverged, join(model.folder().string(), ": the loss is not a finite number"));
  result.perplexity = std::exp(result.loss);
  result.tokens_per_second = static_cast<double>(seen) / std::max(seconds, 1e-9);
  result.peak_memory_bytes = peak_memory_bytes(model.device());
  return result;
} catch (...) {
  rethrow_as_error();
}

}  // namespace rankfold
