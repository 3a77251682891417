// Tokenises the rows of a file on all cores; results come in the file's order.
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

// What happens to a row: kept, or left out for one of three reasons (DatasetReport).
enum class Fate { kKept, kDropped, kWithoutLabels, kBad };

// Results of consecutive rows. The kept ids are in one vector: a million small vectors between sentencepiece's
// short-lived allocations fragment the heap, until malloc takes most of the time.
struct Block {
  struct Row {
    int64_t length = 0;  // before truncation
    bool truncated = false;
    Fate fate = Fate::kKept;
    size_t begin = 0, end = 0;  // in ids and labels
  };
  std::vector<Row> rows;
  std::vector<int32_t> ids, labels;
  std::vector<std::string> complaints;   // errors of the bad rows, in order
  NameCounts unused, spelled, left_out;  // as in DatasetReport
  int64_t questions = 0, conversations = 0, without_end = 0;
};

// Thread safe. Keeps references to its arguments.
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
  Example encode(const Prompted& said, const std::string& place, Block& block) const;  // with the tokenizer
  Example encode(const Conversation& chat, const std::string& place, Block& block) const;
  Block::Row cut(Example& example, const std::string& place) const;
  const ChatTemplate& chat_template(const std::string& place) const;

  const RowFile& file_;
  const Tokenizer* tokenizer_;
  const DataConfig& config_;
  int64_t vocab_size_;
  RowReader reader_;
  // Opened for the first conversation: a broken template does not matter for rows without conversations.
  mutable std::mutex opening_;
  mutable std::optional<ChatTemplate> chat_template_;
};

// Calls `take` with the blocks of the file in order, one at a time, from any thread (data/row_blocks.h). Rethrows the
// exception of the first broken row or of `take`; `take` gets no later blocks.
void encode_rows(const RowFile& file, const RowEncoder& encode, const std::function<void(const Block&)>& take);

}  // namespace rankfold
