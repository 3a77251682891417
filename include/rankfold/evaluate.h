// Loss and perplexity of a model on a data set.
#pragma once

#include "rankfold/causal_lm.h"
#include "rankfold/dataset.h"
#include "rankfold/error.h"
#include "rankfold/memory.h"

#include <cstdint>

namespace rankfold {

struct EvalResult {
  double loss = 0;                // mean negative log-likelihood over the labels
  double perplexity = 0;          // exp(loss)
  int64_t tokens = 0;             // number of labels other than kIgnoreIndex
  double tokens_per_second = 0;   // of all tokens, with and without a label
  int64_t peak_memory_bytes = 0;  // peak_memory_bytes() of the model's device
};
// Computes the loss without dropout and without gradients. `stop` is polled before every batch; true: throws Stopped.
// Throws UserError for rows_per_batch below 1, Error with kDiverged for a loss that is not finite. Only one thread at a
// time may use a model.
EvalResult evaluate(const CausalLM& model, const Dataset& dataset, int64_t rows_per_batch = 8, const Stop& stop = {});

}  // namespace rankfold
