// Text that lora-train, and for its data lora-eval, writes to standard output.
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

// The width of the terminal on standard output, read at each call; without a terminal COLUMNS, else `otherwise`.
size_t terminal_columns(size_t otherwise);

std::string rows_text(int64_t rows);  // "1 row", "1,234 rows"

// Text of a file or a model that is safe to print: it has no control sequences for the terminal.
std::string harmless(const std::string& text);

void print_modules(std::ostream& out, const CausalLM& model, const Adapter& adapter);
// Prints what was read from the data, what is not used, and what may not be used as intended. `tokenizer` may be null;
// `terms`: a column that is used elsewhere.
void print_report(std::ostream& out, const DataFiles& files, const Dataset& dataset, const DataConfig& config,
                  const Tokenizer* tokenizer, const std::string& terms = {});
// Prints a line if `text` contains the spelling of control tokens. `what` names the text.
void print_spelled_tokens(std::ostream& out, const Tokenizer& tokenizer, const std::string& what,
                          const std::string& text);
// Prints the first row as text, with the learnt parts in brackets. `tokenizer` may be null.
void print_sample(std::ostream& out, const Dataset& dataset, const Tokenizer* tokenizer);

}  // namespace rankfold
