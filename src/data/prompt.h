// What a row says: its layout (which keys it has), question and answer, and the prompt made of them.
#pragma once

#include "rankfold/dataset.h"

#include <nlohmann/json_fwd.hpp>

#include <cstdint>
#include <map>
#include <string>
#include <variant>

namespace rankfold {

using Columns = std::map<std::string, std::string>;  // our name of a column -> the file's name

struct Prompted {
  std::string prompt_question;
  std::string answer;
  bool has_prompt = true;  // false: a text, all of it in `answer`
};

// Throws UserError for a key that is not one of ours.
void check_columns(const Columns& columns);

// Layouts, in this order: input_ids [labels], question/answer, instruction [input]/output, prompt/completion,
// query/response, text; one that `columns` names comes before one that it does not. Other keys are ignored.
// A row of input_ids is taken as it is. Throws UserError that begins with `place`, the row's "file:line".
std::variant<Prompted, Example> read_row(const nlohmann::json& row, const std::string& place, const Columns& columns,
                                         int64_t vocab_size);

// Throws UserError for one longer than 64 KiB.
void check_template(const std::string& prompt_template);

// Every {question} of the template replaced. What the question spells is never replaced again. Throws UserError where that
// is longer than kLongestText.
std::string render_prompt(const std::string& prompt_template, const std::string& question);

}  // namespace rankfold
