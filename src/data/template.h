// Checks the prompt template and fills it with a question.
#pragma once

#include "rankfold/tokenizer.h"

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace rankfold {

// Returns an error text for a probable mistake in a template: a backslash and n instead of a line end, doubled braces,
// or a placeholder in braces that nothing fills. Empty: none.
std::string template_defect(std::string_view prompt_template);

// Throws UserError for a template with such a mistake, and for one longer than 64 KiB.
void check_template(const std::string& prompt_template);

// Replaces every {question} of the template; placeholders in the question itself are not replaced. Throws UserError
// where the result is longer than kLongestText. Accepts a template with mistakes, because a trained model may have used
// it.
std::string render_prompt(const std::string& prompt_template, const std::string& question);

}  // namespace rankfold
