// Rows of a JSON array or JSON Lines file as token ids and labels.
#pragma once

#include "rankfold/batch.h"
#include "rankfold/config.h"
#include "rankfold/tokenizer.h"

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

namespace rankfold {

struct Example {
  std::vector<int32_t> input_ids;  // [bos] prompt answer eos
  std::vector<int32_t> labels;     // Hugging Face's convention: -100 where nothing is learnt, as long as input_ids
};

// What was read and what was left out; every count is said before training.
struct DatasetReport {
  int64_t rows = 0;            // rows in the file
  int64_t truncated = 0;       // cut to max_length
  int64_t dropped = 0;         // longer than max_length, left out (truncation_strategy drop)
  int64_t without_labels = 0;  // no label left (after truncation or in the file), left out
  int64_t longest = 0;         // tokens of the longest row before cutting
};

struct BatchOptions {
  int64_t rows = 1;  // sequences in a batch
  uint64_t seed = 42;
  int64_t epoch = 0;
  bool shuffle = true;  // order = f(seed, epoch); false keeps the file's order
};

class Dataset {
 public:
  // `tokenizer` may be null when every row holds input_ids. `vocab_size`: rows of the model's embedding; a token id
  // beyond it is an error that names the row. Throws UserError with file:line for a broken row, and if nothing is left.
  static Dataset open(const std::filesystem::path& path, const Tokenizer* tokenizer, const DataConfig& config,
                      int64_t vocab_size);

  int64_t size() const;
  const Example& operator[](int64_t index) const;
  const DatasetReport& report() const;
  uint64_t fingerprint() const;  // of all ids and labels: a resumed run checks that it sees the same data

  // One epoch in batches, in the order of `options`; each its own optimizer step (Batch::step counts them).
  std::vector<Batch> batches(const BatchOptions& options) const;

  // The rows with these indices as one batch.
  Batch batch(const std::vector<int64_t>& indices) const;

 private:
  struct State;
  std::shared_ptr<const State> state_;
};

// A permutation of 0 ... size - 1 that depends on (seed, epoch) alone, the same on every machine.
std::vector<int64_t> epoch_order(int64_t size, uint64_t seed, int64_t epoch, bool shuffle);

}  // namespace rankfold
