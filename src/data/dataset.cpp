#include "rankfold/dataset.h"

#include "core/check.h"
#include "data/prompt.h"
#include "data/rows.h"
#include "rankfold/generate.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <numeric>
#include <thread>

namespace rankfold {

struct Dataset::State {
  std::vector<Example> examples;
  DatasetReport report;
  uint64_t fingerprint = 0;
};

namespace {

enum class Fate { kKept, kDropped, kWithoutLabels };

// Neighbouring rows of the file. What is kept of them lies end to end: a million small vectors between
// sentencepiece's short-lived ones fragment the heap until malloc takes most of the time.
struct Block {
  struct Row {
    int64_t length = 0;  // before cutting
    bool truncated = false;
    Fate fate = Fate::kKept;
    size_t begin = 0, end = 0;  // in ids and labels
  };
  std::vector<Row> rows;
  std::vector<int32_t> ids, labels;
};

// Rows of the file as ids and labels. Thread safe.
class RowEncoder {
 public:
  RowEncoder(const RowFile& file, const Tokenizer* tokenizer, const DataConfig& config, int64_t vocab_size)
      : file_(file), tokenizer_(tokenizer), config_(config), vocab_size_(vocab_size) {}

  void operator()(int64_t index, Block& block) const {
    const std::string place = file_.place(index);
    auto content = read_row(file_[index], place, config_.columns, vocab_size_);
    Example* ready = std::get_if<Example>(&content);
    Example example = ready ? std::move(*ready) : encode(std::get<Prompted>(content), place);
    Block::Row row = cut(example, place);
    row.begin = row.end = block.ids.size();
    if (row.fate == Fate::kKept) {
      row.end += example.input_ids.size();
      block.ids.insert(block.ids.end(), example.input_ids.begin(), example.input_ids.end());
      block.labels.insert(block.labels.end(), example.labels.begin(), example.labels.end());
    }
    block.rows.push_back(row);
  }

 private:
  Example encode(const Prompted& said, const std::string& place) const {
    if (!tokenizer_) fail(place, ": a text needs a tokenizer, and there is none (only rows of input_ids do without)");
    Example example;
    auto& [ids, labels] = example;
    if (said.has_prompt) {
      ids = encode_prompt(*tokenizer_, config_.prompt_template, said.prompt_question);
    } else if (tokenizer_->bos()) {
      ids.push_back(*tokenizer_->bos());
    }
    const bool begins_with_bos = tokenizer_->bos().has_value();
    const size_t prompt_length = ids.size();
    const std::vector<int32_t> answer = tokenizer_->encode(said.answer);
    ids.insert(ids.end(), answer.begin(), answer.end());
    ids.push_back(tokenizer_->eos());

    labels = ids;
    const size_t masked = config_.train_on_prompt ? size_t{begins_with_bos} : prompt_length;
    std::fill_n(labels.begin(), masked, static_cast<int32_t>(kIgnoreIndex));

    for (const int32_t id : ids)
      if (id >= vocab_size_)
        fail(place, ": token id ", id, " is beyond the ", vocab_size_,
             " rows of the embedding: the tokenizer is larger than the model");
    return example;
  }

  Block::Row cut(Example& example, const std::string& place) const {
    auto& [ids, labels] = example;
    Block::Row row;
    row.length = static_cast<int64_t>(ids.size());
    if (row.length > config_.max_length) {
      if (config_.truncation_strategy == "error")
        fail(place, ": ", row.length, " tokens > max_length ", config_.max_length);
      if (config_.truncation_strategy == "drop") {
        row.fate = Fate::kDropped;
        return row;
      }
      row.truncated = true;
      ids.resize(static_cast<size_t>(config_.max_length));
      labels.resize(static_cast<size_t>(config_.max_length));
    }
    // Nothing comes before the first token, so its label predicts nothing.
    if (std::all_of(labels.begin() + 1, labels.end(), [](int32_t x) { return x == kIgnoreIndex; }))
      row.fate = Fate::kWithoutLabels;
    return row;
  }

  const RowFile& file_;
  const Tokenizer* tokenizer_;
  const DataConfig& config_;
  int64_t vocab_size_;
};

// Every row, in order, on all cores. Of several broken rows the first is reported: blocks are handed out in
// order, and those before a failed one are finished.
std::vector<Block> encode_all(const RowEncoder& encode, int64_t count) {
  constexpr int64_t kBlock = 64;
  const int64_t block_count = (count + kBlock - 1) / kBlock;
  std::vector<Block> blocks(static_cast<size_t>(block_count));
  std::atomic<int64_t> next_block = 0;
  std::mutex mutex;
  int64_t failed_row = count;
  std::exception_ptr failure;
  std::atomic<bool> stop = false;
  const auto work = [&] {
    while (!stop && next_block < block_count) {
      const int64_t number = next_block++, begin = number * kBlock;
      for (int64_t i = begin; i < std::min(begin + kBlock, count); ++i) {
        try {
          encode(i, blocks[static_cast<size_t>(number)]);
        } catch (...) {
          const std::lock_guard lock(mutex);
          if (i < failed_row) failed_row = i, failure = std::current_exception();
          stop = true;
          break;
        }
      }
    }
  };
  {
    const int64_t cores = std::max<int64_t>(2, std::thread::hardware_concurrency());
    std::vector<std::jthread> helpers;
    for (int64_t i = 1; i < std::min(cores, block_count); ++i) helpers.emplace_back(work);
    work();
  }
  if (failure) std::rethrow_exception(failure);
  return blocks;
}

// FNV-1a over 64-bit words, the high half folded back so that every bit reaches every other.
class Hash {
 public:
  void add(uint64_t word) {
    value_ = (value_ ^ word) * 0x100000001B3u;
    value_ ^= value_ >> 32;
  }
  void add(const Example& example) {
    add(example.input_ids.size());
    for (size_t i = 0; i < example.input_ids.size(); ++i)
      add(uint64_t{static_cast<uint32_t>(example.input_ids[i])} << 32 | static_cast<uint32_t>(example.labels[i]));
  }
  uint64_t value() const { return value_; }

 private:
  uint64_t value_ = 0xCBF29CE484222325u;
};

// splitmix64 (Steele, Lea, Flood 2014).
class SplitMix {
 public:
  explicit SplitMix(uint64_t state) : state_(state) {}
  uint64_t next() {
    uint64_t z = state_ += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
  }
  uint64_t below(uint64_t limit) {  // off by less than limit / 2^64
    return static_cast<uint64_t>((static_cast<unsigned __int128>(next()) * limit) >> 64);
  }

 private:
  uint64_t state_;
};

}  // namespace

Dataset Dataset::open(const std::filesystem::path& path, const Tokenizer* tokenizer, const DataConfig& config,
                      int64_t vocab_size) {
  RANKFOLD_CHECK(vocab_size > 0, "Dataset::open: vocab_size must be above 0, got ", vocab_size);
  DataConfig checked = config;
  checked.fields([](const char* key, const auto& value, const char*, const auto& check, const char* expected, Aliases) {
    if (!check(value)) fail(key, ": expected ", expected);
  });
  check_columns(config.columns);

  const RowFile file = RowFile::open(path);
  std::vector<Block> blocks = encode_all(RowEncoder(file, tokenizer, config, vocab_size), file.size());

  const auto state = std::make_shared<State>();
  DatasetReport& report = state->report;
  report.rows = file.size();
  Hash hash;
  for (Block& block : blocks) {
    for (const Block::Row& row : block.rows) {
      report.longest = std::max(report.longest, row.length);
      report.truncated += row.truncated;
      report.dropped += row.fate == Fate::kDropped;
      report.without_labels += row.fate == Fate::kWithoutLabels;
      if (row.fate != Fate::kKept) continue;
      const auto part = [&row](const std::vector<int32_t>& all) {
        return std::vector<int32_t>(all.data() + row.begin, all.data() + row.end);
      };
      state->examples.push_back({part(block.ids), part(block.labels)});
      hash.add(state->examples.back());
    }
    block = {};
  }
  state->fingerprint = hash.value();
  if (state->examples.empty())
    fail(path.string(), ": nothing is left of ", report.rows, " rows: ", report.dropped, " longer than max_length ",
         config.max_length, " and dropped, ", report.without_labels, " without labels (", report.truncated,
         " cut to max_length)");

  Dataset dataset;
  dataset.state_ = state;
  return dataset;
}

int64_t Dataset::size() const { return static_cast<int64_t>(state_->examples.size()); }
const DatasetReport& Dataset::report() const { return state_->report; }
uint64_t Dataset::fingerprint() const { return state_->fingerprint; }

const Example& Dataset::operator[](int64_t index) const {
  RANKFOLD_CHECK(index >= 0 && index < size(), "Dataset: expected an index in [0, ", size(), "), got ", index);
  return state_->examples[static_cast<size_t>(index)];
}

Batch Dataset::batch(const std::vector<int64_t>& indices) const {
  std::vector<Sequence> rows;
  for (const int64_t index : indices) {
    const Example& example = (*this)[index];
    rows.push_back({&example.input_ids, &example.labels});
  }
  Batch batch = make_batch(rows);
  batch.samples = indices;
  return batch;
}

std::vector<Batch> Dataset::batches(const BatchOptions& options) const {
  RANKFOLD_CHECK(options.rows > 0, "BatchOptions: rows must be above 0, got ", options.rows);
  const std::vector<int64_t> order = epoch_order(size(), options.seed, options.epoch, options.shuffle);
  std::vector<Batch> batches;
  for (auto begin = order.begin(); begin != order.end();) {
    const auto end = begin + std::min<int64_t>(options.rows, order.end() - begin);
    Batch& batch = batches.emplace_back(this->batch({begin, end}));
    batch.step = static_cast<int64_t>(batches.size()) - 1;
    begin = end;
  }
  return batches;
}

std::vector<int64_t> epoch_order(int64_t size, uint64_t seed, int64_t epoch, bool shuffle) {
  RANKFOLD_CHECK(size >= 0, "epoch_order: size must not be negative, got ", size);
  std::vector<int64_t> order(static_cast<size_t>(size));
  std::iota(order.begin(), order.end(), int64_t{0});
  if (!shuffle) return order;
  // The seed is mixed before the epoch is added: (seed, epoch + 1) and (seed + 1, epoch) are unrelated.
  SplitMix random(SplitMix(SplitMix(seed).next() + static_cast<uint64_t>(epoch)).next());
  for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random.below(i)]);
  return order;
}

}  // namespace rankfold
