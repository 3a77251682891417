// What a row says: its layout (which columns it has), question and answer.
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

using Columns = std::map<std::string, std::string>;  // our name of a column -> the file's name

struct Prompted {
  std::string prompt_question;
  std::string answer;
  bool has_prompt = true;  // false: a text, all of it in `answer`
};

// Rows counted by name, in the order in which the names came. Bounded: kMostNames, and the rest together under "".
class NameCounts {
 public:
  static constexpr size_t kMostNames = 32;
  void add(std::string_view name, int64_t rows = 1);
  void add(const NameCounts& other);
  const std::vector<NameCount>& list() const { return counts_; }

 private:
  std::vector<NameCount> counts_;
};

// Reads rows whose columns are named by `columns`. The layouts stand in kLayouts (prompt.cpp); the first one counts that
// uses every key of `columns` and is whole in the row. Thread safe.
class RowReader {
 public:
  // Throws UserError for a key that is not one of ours, and for keys that no layout uses together.
  // `questions_are_turns`: a question and its answer are a conversation, too; those with a system text, earlier turns
  // or tools always are.
  RowReader(const Columns& columns, int64_t vocab_size, bool questions_are_turns = false);

  // A row of input_ids is taken as it is, without its padding. Throws UserError that begins with `place`, the row's
  // "file:line". `text`: the row's, as it stands. `unused` takes the columns that hold something and that the layout
  // does not use.
  std::variant<Prompted, Example, Conversation> read(const nlohmann::json& row, std::string_view text,
                                                     const std::string& place, NameCounts* unused = nullptr) const;

  // A layout in the file's names; empty: it has no such column.
  struct Keys {
    std::string question, input, answer;  // `answer`: of ready ids, input_ids; of a chat, the messages
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
  std::vector<Keys> layouts_;  // those that use all that `columns` maps
  std::string expected_;       // their names, for errors
};

}  // namespace rankfold
