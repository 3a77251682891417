// The questions of a data file: prompts for a model, and reference answers.
#pragma once

#include "rankfold/causal_lm.h"
#include "rankfold/chat_template.h"
#include "rankfold/config.h"
#include "rankfold/error.h"
#include "rankfold/generate.h"
#include "rankfold/tokenizer.h"

#include <cstdint>
#include <string>
#include <vector>

namespace rankfold {

// The source of a row's terms: a field of the row, or a list (eval/terms.h: terms_wanted), or nothing.
struct TermSource {
  std::string field = {};
  std::vector<std::string> list = {};
  bool is_mined = false;  // the list was mined from answers
  bool is_none() const { return field.empty() && list.empty(); }
};

struct Question {
  std::string text = {};             // for a conversation: the last message before the answer
  std::string reference = {};        // the row's answer; for a conversation: the last one
  std::vector<int32_t> prompt = {};  // ids
  std::vector<std::string> terms = {};
  std::string place = {};  // "file:line" of the row
};

struct Questions {
  std::vector<Question> list = {};
  int64_t without = 0;             // rows without a question: texts, ready ids, conversations that begin with an answer
  std::string first_without = {};  // "file:line" of the first of these
};

// Interprets the setting --terms, `said`. The first that fits counts:
//   empty                     no terms
//   a field of any row        the terms in that field
//   "mined"                   terms from the answers of `rows` and `train` (may be empty) that are rarer in
//                             `base_text`; if `base_text` is empty, rarer in the questions (eval/terms.h)
//   a file                    one term per line
// Files of `base_text` have rows, in which every text counts, or plain text, in which each line is a text. Throws
// UserError that begins with "--terms" for anything else and if there is no term. Throws UserError that begins with
// "--base_text" if that is not empty and nothing is mined.
TermSource term_source(const std::string& said, const DataFiles& rows, const DataFiles& train,
                       const DataFiles& base_text, const DataConfig& config, const Stop& stop = {});

struct AskedOf {
  const Tokenizer& tokenizer;
  const ChatTemplate* chat_template = nullptr;  // null: no conversation is asked
  int64_t vocab_size = 0;                       // of the model
};

// The rows with a question, in the order of the files. Throws UserError for a broken row and for one without its field
// of terms; with config.skip_bad_rows such rows are left out.
Questions read_questions(const DataFiles& files, const DataConfig& config, const TermSource& terms, const AskedOf& of,
                         const Stop& stop = {});

struct Answers {
  std::vector<std::string> texts = {};  // UTF-8
  int64_t tokens = 0;                   // generated
  double seconds = 0;
  double tokens_per_second() const { return seconds > 0 ? static_cast<double>(tokens) / seconds : 0; }
};

// The model's answers, one for each question in their order, config.batch_size at a time. Throws as complete() does.
Answers answer(const CausalLM& model, const std::vector<Question>& questions, const GenerateConfig& config,
               const Stop& stop = {});

}  // namespace rankfold
