// Terms: words and phrases that an answer should contain. Where they come from, and which of them an answer contains.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include <filesystem>
#include <string>
#include <vector>

namespace rankfold {

// The row's terms: a text or a list of texts, none of them empty. UserError that begins with `place` otherwise.
std::vector<std::string> row_terms(const nlohmann::json& row, const std::string& field, const std::string& place);

// The terms that stand in the text, also inside a longer word; ASCII letters in either case.
std::vector<std::string> terms_found(const std::string& text, const std::vector<std::string>& terms);

// A text file with one term per line. Empty lines and blanks at the ends of a line do not count, nor does a term that came
// before, ASCII letters in either case. UserError for a file of more than 16 MiB, one that is no UTF-8, and one without a
// term.
std::vector<std::string> read_terms(const std::filesystem::path& file);

// Of a list the terms that an answer to this question should hold: those that stand in the reference answer and not in
// the question, without those that stand in another of them.
std::vector<std::string> terms_wanted(const std::string& question, const std::string& reference,
                                      const std::vector<std::string>& list);

// The terms of a field of knowledge: phrases of up to 8 words (eval/answer_metrics.h) that at least two of the different
// `texts` have, in different surroundings, and that are five times as frequent there as in `base_texts`, by the share of
// texts that have them; letters in either case. No word of one or two letters alone, nothing without a letter. The
// most telling ones first, at most 2,000. Empty where there is no such phrase.
std::vector<std::string> mine_terms(const std::vector<std::string>& texts, const std::vector<std::string>& base_texts);

}  // namespace rankfold
