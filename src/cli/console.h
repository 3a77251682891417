// What lora-train says on standard output, and lora-eval of its data.
#pragma once

#include "rankfold/adapter.h"
#include "rankfold/causal_lm.h"
#include "rankfold/dataset.h"
#include "rankfold/trainer.h"

#include <cstddef>
#include <cstdint>
#include <iosfwd>
#include <string>

namespace rankfold {

// Of the terminal that standard output is, asked at each call; else as COLUMNS says, else `otherwise`.
size_t terminal_columns(size_t otherwise);

std::string rows_text(int64_t rows);  // "1 row", "1,234 rows"

// Text of a file or a model as a terminal may be shown it: nothing in it drives the terminal.
std::string harmless(const std::string& text);

void print_modules(std::ostream& out, const CausalLM& model, const Adapter& adapter);
// What was read of the data and what of it is not used, or not as it may be meant. `tokenizer` may be null; `terms`: a
// column that is used elsewhere.
void print_report(std::ostream& out, const DataFiles& files, const Dataset& dataset, const DataConfig& config,
                  const Tokenizer* tokenizer, const std::string& terms = {});
// A line where the text, which is `what`, spells control tokens.
void print_spelled_tokens(std::ostream& out, const Tokenizer& tokenizer, const std::string& what,
                          const std::string& text);
// The first row as text; what is learnt stands in brackets. `tokenizer` may be null.
void print_sample(std::ostream& out, const Dataset& dataset, const Tokenizer* tokenizer);

}  // namespace rankfold
