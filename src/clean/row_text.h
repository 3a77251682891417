// What a row says, for whoever compares rows and looks at their texts. Unlike RowReader it takes rows whose texts are
// empty.
#pragma once

#include "data/prompt.h"

#include <nlohmann/json_fwd.hpp>

#include <string>
#include <vector>

namespace rankfold {

struct RowText {
  enum class Kind {
    kContext,   // system texts, tools, documents, an instruction beside an input: what many rows may share
    kQuestion,  // also what a tool answers
    kAnswer,    // of an assistant, with its calls of tools; a plain text
    kIds,       // ready ids and labels, as JSON
  };
  struct Part {
    Kind kind;
    std::string text;
  };
  std::vector<Part> parts;  // in the order in which they train
  bool has_empty_answer = false;

  std::string question() const;  // what stands before the last answer and after the answer before it
  std::string answer() const;    // the last one
  std::string compared() const;  // questions and answers: by this near duplicates are found
};

// `keys`: the row's layout. What has the wrong type is left out: RowReader says so.
RowText text_of(const nlohmann::json& row, const RowReader::Keys& keys);

// The row in normal form.
struct NormalRow {
  std::string question, answer;  // as of RowText
  // All parts. Rows that have the same differ in width, white space and columns that do not train, no more.
  std::string identity;
  size_t asked = 0;  // bytes of `identity` before the last answer; 0: nothing is asked
};
NormalRow normal_of(const RowText& text);

}  // namespace rankfold
