// A data set: the rows of JSON or JSON Lines files as token ids and labels.
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

// One row.
struct Example {
  std::vector<int32_t> input_ids;  // [bos] prompt answer eos; for a conversation, what the chat template produces
  std::vector<int32_t> labels;     // same length; Hugging Face's convention: not shifted, -100 where there is no loss
};

// Number of rows that have something of this name.
struct NameCount {
  std::string name;
  int64_t rows = 0;
};

// Statistics of Dataset::open.
struct DatasetReport {
  int64_t rows = 0;            // rows in the files
  int64_t truncated = 0;       // rows truncated to max_length
  int64_t dropped = 0;         // left out: longer than max_length (truncation_strategy drop)
  int64_t without_labels = 0;  // left out: no label, in the file or after truncation
  int64_t bad = 0;             // left out: broken (skip_bad_rows)
  int64_t longest = 0;         // tokens of the longest row before truncation
  int64_t cut_tokens = 0;      // tokens removed by truncation
  // Unused columns, with the number of rows that have a value there. At most 32 names; all others are counted under "".
  std::vector<NameCount> unused = {};
  // Control tokens whose text appears in rows. It is tokenised as ordinary text.
  std::vector<NameCount> spelled = {};
  int64_t questions = 0;      // rows formatted with the prompt template
  int64_t conversations = 0;  // rows formatted with the chat template
  int64_t without_end = 0;    // conversations with an answer that no end-of-turn token follows
  // Parts of conversations that the chat template does not render.
  std::vector<NameCount> left_out = {};
};

// How Dataset::batches() forms the batches of one epoch.
struct BatchOptions {
  int64_t rows = 1;  // sequences in a batch; the last batch may have fewer
  uint64_t seed = 42;
  int64_t epoch = 0;
  bool shuffle = true;  // the order depends on seed and epoch; false: the file's order
};

class Batches;

// A shared handle: copies refer to the same rows. Thread safe.
// Memory: with a cache_dir, 8 bytes for each row; the rows are in a file there and are read on access. Without, another
// 4 bytes for each token. Opening temporarily needs another 24 bytes for each row.
class Dataset {
 public:
  // Reads and tokenises a file. `tokenizer` may be null if every row has input_ids. `vocab_size` is the number of rows
  // of the model's embedding. Throws UserError with file:line for a broken row or an id of vocab_size or more, and
  // where no row is left.
  //
  // config.cache_dir: reuses rows that were tokenised there from the same bytes with the same tokenizer and settings.
  // Otherwise, and where the cache is damaged, it writes the cache again. Throws StorageError where the cache cannot be
  // written.
  //
  // `stop` is polled from time to time; true: throws Stopped.
  static Dataset open(const std::filesystem::path& path, const Tokenizer* tokenizer, const DataConfig& config,
                      int64_t vocab_size, const Stop& stop = {});
  static Dataset open(const char* path, const Tokenizer* tokenizer, const DataConfig& config, int64_t vocab_size,
                      const Stop& stop = {}) {
    return open(std::filesystem::path(path), tokenizer, config, vocab_size, stop);
  }
  // The same for several files; their rows follow in the order of the files.
  static Dataset open(const DataFiles& files, const Tokenizer* tokenizer, const DataConfig& config, int64_t vocab_size,
                      const Stop& stop = {});

  // Splits the rows into {training rows, held-out rows}, each in the order of the files. `val_size` is the number of
  // held-out rows, or below 1 a share of the rows, rounded up. Which rows are held out depends only on the seed and the
  // number of rows. report() of both parts remains that of the files. Throws UserError where no row is left for
  // training.
  std::pair<Dataset, Dataset> hold_out(double val_size, uint64_t seed) const;

  // The cache file that open() uses for this data file; empty without a cache_dir.
  static std::filesystem::path cache_file(const std::filesystem::path& path, const DataConfig& config);

  int64_t size() const;
  Example operator[](int64_t index) const;       // throws StorageError where the cache cannot be read
  int64_t length(int64_t index) const;           // number of tokens; does not read the row
  int64_t row_number(int64_t index) const;       // number of the row in its file, from 1; skipped rows count
  const std::string& file(int64_t index) const;  // file of the row; "" if the data set has only one
  const DatasetReport& report() const;
  const ChatTemplate* chat_template() const;  // used for conversations; null without conversations
  uint64_t fingerprint() const;               // hash of all ids and labels; a resumed run compares it
  // Messages about the first broken rows that were skipped, one line each; empty where the rows come from a cache.
  const std::vector<std::string>& bad_rows() const;
  // One line for each file: whether its cache was read or written, and why it was rejected. Empty without a cache_dir.
  const std::string& cache_note() const;

  // Returns the batches of one epoch. Each batch is its own optimizer step: Batch::step continues from epoch to epoch,
  // so that each batch has another dropout mask. Throws std::invalid_argument for bad options.
  Batches batches(const BatchOptions& options) const;

  // Returns the rows with these indices as one batch.
  Batch batch(const std::vector<int64_t>& indices) const;

 private:
  struct Files;
  struct State;
  std::shared_ptr<const State> state_;
};

// The batches of one epoch, for a range-based for loop. A batch is created on access and not stored.
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
