// How many of the words that an answer must hold stand in it.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include <filesystem>
#include <string>
#include <vector>

namespace rankfold {

// The row's terms: a text or a list of texts, none of them empty. UserError that begins with `place`
// otherwise.
std::vector<std::string> row_terms(const nlohmann::json& row, const std::string& field, const std::string& place);

// The terms that stand in the text; ASCII letters in either case.
std::vector<std::string> terms_found(const std::string& text, const std::vector<std::string>& terms);

// A text file with a term a line; empty lines and blanks at the ends of a line do not count, nor does a term that has
// been there. UserError where none is left.
std::vector<std::string> read_terms(const std::filesystem::path& file);

// Of a list the terms that an answer to this question should hold: those that stand in the reference answer and not in
// the question, without those that stand in another of them.
std::vector<std::string> terms_wanted(const std::string& question, const std::string& reference,
                                      const std::vector<std::string>& list);

// The terms of a field of knowledge: phrases of up to 8 words (eval/answer_metrics.h) that at least two of the different
// `texts` have, in different surroundings, and that are five times as frequent there as in `base_texts`, by the share of
// texts that have them. No single characters of scripts without spaces, nothing of numbers alone. The most telling ones
// first, at most 2,000.
std::vector<std::string> mine_terms(const std::vector<std::string>& texts, const std::vector<std::string>& base_texts);

}  // namespace rankfold
