// Several prompts from a file, and their completions as JSON Lines.
#pragma once

#include "data/conversation.h"
#include "rankfold/generate.h"
#include "rankfold/tokenizer.h"

#include <filesystem>
#include <string>
#include <variant>
#include <vector>

namespace rankfold {

struct GivenPrompt {
  std::string place;                             // "file:line"
  std::variant<std::string, Conversation> said;  // the question; or messages
  std::string row;                               // the JSON object that its result lines begin with
};

// Detects the format: rows of {"prompt": "..."} or {"messages": [...]} as JSON Lines or an array, or plain text with
// one prompt per line. It skips empty lines. Throws UserError with file and line.
std::vector<GivenPrompt> read_prompts(const std::filesystem::path& file);

// A line for each completion, in order: the row, then "sample" where there are several, "completion", "finish_reason",
// "tokens", and where asked for "ids", "pieces" and "log_probabilities".
std::string completion_lines(const std::vector<GivenPrompt>& prompts, const std::vector<Completion>& completions,
                             const GenerateConfig& config, const Tokenizer& tokenizer);

}  // namespace rankfold
