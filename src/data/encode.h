// Rows of a file as ids and labels, on all cores, in the file's order.
#pragma once

#include "data/chat.h"
#include "data/prompt.h"
#include "data/rows.h"
#include "rankfold/dataset.h"

#include <cstddef>
#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

namespace rankfold {

enum class Fate { kKept, kDropped, kWithoutLabels, kBad };

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
  std::vector<std::string> complaints;   // of the bad rows, in order
  NameCounts unused, spelled, left_out;  // DatasetReport
  int64_t questions = 0, conversations = 0, without_end = 0;
};

// Thread safe. Refers to its arguments.
class RowEncoder {
 public:
  RowEncoder(const RowFile& file, const Tokenizer* tokenizer, const DataConfig& config, int64_t vocab_size)
      : file_(file),
        tokenizer_(tokenizer),
        config_(config),
        vocab_size_(vocab_size),
        reader_(config.columns, vocab_size, config.questions_are_turns) {}

  void operator()(int64_t index, Block& block) const;

 private:
  Example encode(const Prompted& said, const std::string& place, Block& block) const;  // by the tokenizer
  Example encode(const Conversation& chat, const std::string& place, Block& block) const;
  Block::Row cut(Example& example, const std::string& place) const;
  const ChatTemplate& chat_template(const std::string& place) const;

  const RowFile& file_;
  const Tokenizer* tokenizer_;
  const DataConfig& config_;
  int64_t vocab_size_;
  RowReader reader_;
  // Opened for the first conversation: a template that cannot be read is no matter of rows without.
  mutable std::mutex opening_;
  mutable std::optional<ChatTemplate> chat_template_;
};

// Hands the file's blocks to `take` in order, one at a time, from any thread (data/row_blocks.h). Throws what the first
// broken row throws, or `take`; later blocks are not handed over.
void encode_rows(const RowFile& file, const RowEncoder& encode, const std::function<void(const Block&)>& take);

}  // namespace rankfold
