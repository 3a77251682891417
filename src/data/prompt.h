// Reads one row: finds its layout (which columns it has) and extracts question and answer.
#pragma once

#include "data/conversation.h"
#include "rankfold/dataset.h"

#include <nlohmann/json_fwd.hpp>

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace rankfold {

using Columns = std::map<std::string, std::string>;  // standard column name -> name in the file

struct Prompted {
  std::string prompt_question;
  std::string answer;
  bool has_prompt = true;  // false: a plain text, all in `answer`
};

// Counts rows by name, in the order of first appearance. At most kMostNames names; the rest are counted together under
// "".
class NameCounts {
 public:
  static constexpr size_t kMostNames = 32;
  void add(std::string_view name, int64_t rows = 1);
  void add(const NameCounts& other);
  const std::vector<NameCount>& list() const { return counts_; }

 private:
  std::vector<NameCount> counts_;
};

// Reads rows whose columns are named by `columns`. kLayouts (prompt.cpp) lists the layouts. The first layout applies
// that uses every key of `columns` and whose columns are all in the row. Thread safe.
class RowReader {
 public:
  // Throws UserError for an unknown key, and for keys that no layout uses together. `questions_are_turns`: read a
  // question and its answer as a conversation, too. Rows with a system text, earlier turns or tools are always
  // conversations.
  RowReader(const Columns& columns, int64_t vocab_size, bool questions_are_turns = false);

  // A row with input_ids is used as it is, without its padding. Throws UserError that begins with `place`, the row's
  // "file:line". `text` is the source text of the row. `unused` receives the columns with a value that the layout does
  // not use.
  std::variant<Prompted, Example, Conversation> read(const nlohmann::json& row, std::string_view text,
                                                     const std::string& place, NameCounts* unused = nullptr) const;

  // A layout, with the column names of the file; an empty name: the layout has no such column.
  struct Keys {
    std::string question, input, answer;  // `answer`: input_ids for tokenised rows, the messages for conversations
    std::string labels, attention_mask, position_ids, token_type_ids;
    std::string system, history, tools, documents;
    bool is_ready = false, is_chat = false;
  };
  // The one that read() takes; null where the row has none.
  const Keys* layout_of(const nlohmann::json& row) const;

 private:
  Columns columns_;
  int64_t vocab_size_;
  bool questions_are_turns_;
  std::vector<Keys> layouts_;  // those that use all keys of `columns`
  std::string expected_;       // their names, for errors
};

}  // namespace rankfold
