// Rows of a JSON array or JSON Lines file as token ids and labels.
#pragma once

#include "rankfold/batch.h"
#include "rankfold/chat_template.h"
#include "rankfold/config.h"
#include "rankfold/error.h"
#include "rankfold/tokenizer.h"

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace rankfold {

struct Example {
  std::vector<int32_t> input_ids;  // [bos] prompt answer eos; of a conversation, what the chat template writes
  std::vector<int32_t> labels;     // Hugging Face's convention: -100 where nothing is learnt, as long as input_ids
};

struct NameCount {
  std::string name;
  int64_t rows = 0;
};

// What was read and what was left out; every count is said before training.
struct DatasetReport {
  int64_t rows = 0;            // rows in the files
  int64_t truncated = 0;       // cut to max_length
  int64_t dropped = 0;         // longer than max_length, left out (truncation_strategy drop)
  int64_t without_labels = 0;  // no label left (after truncation or in the file), left out
  int64_t bad = 0;             // broken, left out (skip_bad_rows)
  int64_t longest = 0;         // tokens of the longest row before cutting
  int64_t cut_tokens = 0;      // that truncation threw away
  // Columns that are not used, with the rows that have something there; after the first 32, the others under "".
  std::vector<NameCount> unused = {};
  // Control tokens that texts of rows spell, which are trained on as text.
  std::vector<NameCount> spelled = {};
  int64_t questions = 0;                 // rows whose question the prompt template holds
  int64_t conversations = 0;             // rows that the chat template writes
  int64_t without_end = 0;               // of these, with an answer that nothing ends
  std::vector<NameCount> left_out = {};  // what of them the chat template does not write, with the rows
};

struct BatchOptions {
  int64_t rows = 1;  // sequences in a batch
  uint64_t seed = 42;
  int64_t epoch = 0;
  bool shuffle = true;  // order = f(seed, epoch); false keeps the file's order
};

class Batches;

// A handle; copies share the rows. Thread safe. With a cache_dir the rows lie in a file there and are read when they are
// asked for: memory is 8 bytes a row. Without, 4 bytes a token besides. Opening needs 24 bytes a row more for a while.
class Dataset {
 public:
  // `tokenizer` may be null when every row holds input_ids. `vocab_size`: rows of the model's embedding; a token id
  // beyond it is an error that names the row. Throws UserError with file:line for a broken row, and if nothing is left.
  //
  // config.cache_dir: rows that were tokenised there from the same bytes, by the same tokenizer and with the same
  // settings are read; others, and a damaged file, are replaced. Throws StorageError where it cannot be written to.
  //
  // `stop` is asked now and then; true: throws Stopped.
  static Dataset open(const std::filesystem::path& path, const Tokenizer* tokenizer, const DataConfig& config,
                      int64_t vocab_size, const Stop& stop = {});
  static Dataset open(const char* path, const Tokenizer* tokenizer, const DataConfig& config, int64_t vocab_size,
                      const Stop& stop = {}) {
    return open(std::filesystem::path(path), tokenizer, config, vocab_size, stop);
  }
  // The rows of several files, one file after another.
  static Dataset open(const DataFiles& files, const Tokenizer* tokenizer, const DataConfig& config, int64_t vocab_size,
                      const Stop& stop = {});

  // Splits the rows: {those to train on, those held out}, each in the order of the files. `val_size` above 0: so many rows
  // are held out, below 1 a share of them, rounded up. Which ones depends on the seed and the number of rows alone.
  // report() stays that of the files. UserError where no row is left to train on.
  std::pair<Dataset, Dataset> hold_out(double val_size, uint64_t seed) const;

  // Where open() keeps the rows of this file; empty without a cache_dir.
  static std::filesystem::path cache_file(const std::filesystem::path& path, const DataConfig& config);

  int64_t size() const;
  Example operator[](int64_t index) const;       // StorageError where the cache cannot be read any more
  int64_t length(int64_t index) const;           // tokens of the row, which is not read for it
  int64_t row_number(int64_t index) const;       // of the row in its file, from 1; rows that were left out count
  const std::string& file(int64_t index) const;  // that the row is of; "" where there is only one
  const DatasetReport& report() const;
  const ChatTemplate* chat_template() const;  // that its conversations were written by; null where it has none
  uint64_t fingerprint() const;               // of all ids and labels: a resumed run checks that it sees the same data
  // The first few of the broken rows that were left out, a line each; none where the rows come from a cache.
  const std::vector<std::string>& bad_rows() const;
  // A line a file on the cache: whether it was read or written, and why it was of no use; empty without a cache_dir.
  const std::string& cache_note() const;

  // One epoch in batches, in the order of `options`. Each is an optimizer step of its own: Batch::step counts on from one
  // epoch to the next, so that each draws dropout of its own.
  Batches batches(const BatchOptions& options) const;

  // The rows with these indices as one batch.
  Batch batch(const std::vector<int64_t>& indices) const;

 private:
  struct Files;
  struct State;
  std::shared_ptr<const State> state_;
};

// The batches of an epoch, for a range-based for. Each is made when it is asked for: together they may be larger than
// memory.
class Batches {
 public:
  Batches(Dataset dataset, const BatchOptions& options);
  int64_t size() const;
  Batch operator[](int64_t index) const;

  struct Iterator {
    const Batches* batches = nullptr;
    int64_t index = 0;
    Batch operator*() const { return (*batches)[index]; }
    Iterator& operator++() { return ++index, *this; }
    bool operator==(const Iterator&) const = default;
  };
  Iterator begin() const { return {this, 0}; }
  Iterator end() const { return {this, size()}; }

 private:
  Dataset dataset_;
  int64_t rows_, epoch_;
  std::vector<int64_t> order_;
};

// A permutation of 0 ... size - 1 that depends on (seed, epoch) alone, the same on every machine.
std::vector<int64_t> epoch_order(int64_t size, uint64_t seed, int64_t epoch, bool shuffle);

}  // namespace rankfold
