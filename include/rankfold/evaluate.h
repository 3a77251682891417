// How well a model does on a data set.
#pragma once

#include "rankfold/causal_lm.h"
#include "rankfold/dataset.h"
#include "rankfold/error.h"
#include "rankfold/memory.h"

#include <cstdint>

namespace rankfold {

struct EvalResult {
  double loss = 0;                // mean over the labels that count
  double perplexity = 0;          // exp(loss)
  int64_t tokens = 0;             // labels that count
  double tokens_per_second = 0;   // all tokens
  int64_t peak_memory_bytes = 0;  // so far
};
// `stop` is asked before every batch; true: throws Stopped.
EvalResult evaluate(const CausalLM& model, const Dataset& dataset, int64_t rows_per_batch = 8, const Stop& stop = {});

}  // namespace rankfold
