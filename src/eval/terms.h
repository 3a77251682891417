// Terms: words and phrases that an answer should contain. Reads, mines and finds them.
#pragma once

#include <nlohmann/json_fwd.hpp>

#include <filesystem>
#include <string>
#include <vector>

namespace rankfold {

// The row's terms: a text or a list of texts, none of them empty. UserError that begins with `place` otherwise.
std::vector<std::string> row_terms(const nlohmann::json& row, const std::string& field, const std::string& place);

// The terms that occur in the text, also inside a longer word. ASCII letters match in either case.
std::vector<std::string> terms_found(const std::string& text, const std::vector<std::string>& terms);

// Reads a text file with one term per line. It ignores empty lines, blanks at the ends of a line, and repeated terms
// (ASCII letters in either case). Throws UserError for a file of more than 16 MiB, one that is not UTF-8, and one
// without a term.
std::vector<std::string> read_terms(const std::filesystem::path& file);

// The terms of a list that an answer to this question should contain: those in the reference answer but not in the
// question. A term that is part of another such term is left out.
std::vector<std::string> terms_wanted(const std::string& question, const std::string& reference,
                                      const std::vector<std::string>& list);

// Mines the terms of a field of knowledge: phrases of up to 8 words (eval/answer_metrics.h), letters in either case. At
// least two different `texts` must have the phrase, in different contexts. The share of texts that have it must be five
// times that of `base_texts`. No single word of one or two letters, and nothing without a letter. At most 2,000, the
// most distinctive first; may be empty.
std::vector<std::string> mine_terms(const std::vector<std::string>& texts, const std::vector<std::string>& base_texts);

}  // namespace rankfold
