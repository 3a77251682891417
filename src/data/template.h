// The prompt template: what it may hold, and the prompt made of it and a question.
#pragma once

#include "rankfold/tokenizer.h"

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace rankfold {

// What a template holds that is not meant as it stands, for an error: a backslash and an n where there is no line end,
// doubled braces, a place in braces that nothing fills. Empty where there is nothing of the kind.
std::string template_defect(std::string_view prompt_template);

// Throws UserError for such a template, and for one longer than 64 KiB.
void check_template(const std::string& prompt_template);

// Every {question} of the template replaced. What the question spells is never replaced again. Throws UserError where that
// is longer than kLongestText. The template may be one that a model was trained with: its defects stay.
std::string render_prompt(const std::string& prompt_template, const std::string& question);

}  // namespace rankfold
