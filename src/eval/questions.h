// The questions of a data file: what a model is asked, and what it should answer.
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

// Where the terms of a row come from: a field of the row, else a list (eval/terms.h: terms_wanted), else there are none.
struct TermSource {
  std::string field = {};
  std::vector<std::string> list = {};
  bool is_mined = false;  // the list
  bool is_none() const { return field.empty() && list.empty(); }
};

struct Question {
  std::string text = {};             // of a conversation, its last message before the answer
  std::string reference = {};        // the row's answer; of a conversation, its last
  std::vector<int32_t> prompt = {};  // ids
  std::vector<std::string> terms = {};
  std::string place = {};  // "file:line" of the row
};

struct Questions {
  std::vector<Question> list = {};
  int64_t without = 0;             // rows that ask nothing: texts, ready ids, conversations that open with an answer
  std::string first_without = {};  // "file:line" of the first of these
};

// What `said` means; the first that fits counts. Empty: no terms. The name of a field that any of the rows has. "mined":
// terms found in the answers of `rows` and `train` (may be empty), which `base_text` has more rarely (eval/terms.h); an
// empty `base_text` stands for the questions. A file with one term per line. UserError, which begins with "--terms", for
// anything else and where no term is found; with "--base_text" for one that is not empty where nothing is mined. Files of
// `base_text` hold rows, whose every text counts, or plain text, of which each line is a text.
TermSource term_source(const std::string& said, const DataFiles& rows, const DataFiles& train,
                       const DataFiles& base_text, const DataConfig& config, const Stop& stop = {});

struct AskedOf {
  const Tokenizer& tokenizer;
  const ChatTemplate* chat_template = nullptr;  // null: no conversation is asked
  int64_t vocab_size = 0;                       // of the model
};

// The rows of the files that ask something, in their order. UserError for a broken row and one without its field of terms;
// with config.skip_bad_rows they are left out.
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
