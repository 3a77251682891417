// What a normaliser replaces and a pre-tokenizer cuts at: a text or a regular expression.
#pragma once

#include "text/scanners.h"

#include <memory>
#include <string>
#include <string_view>
#include <vector>

struct pcre2_real_code_8;

namespace rankfold {

// Finds what PyPI's tokenizers finds, which uses Oniguruma. Expressions of known families are read by scanners, others
// by PCRE2: there, characters newer than PCRE2's own Unicode are of no category. Thread safe.
class Pattern {
 public:
  static Pattern of_text(std::string text);
  // Throws UserError, which begins with `key`, for an expression that is none, that the two read differently (\w, ^, $,
  // sets in sets, ...), that matches no characters at all, or that is too long.
  enum class By { kScanner, kPcre2 };  // the latter also for those that have a scanner
  static Pattern of_regex(const std::string& key, const std::string& regex, By by = By::kScanner);

  // Replaces what `parts` holds by all parts of a text in UTF-8, in order. Throws UserError where an expression takes
  // too long.
  void find(std::string_view text, std::vector<Match>& parts) const;

 private:
  void find_text(std::string_view text, std::vector<Match>& parts) const;
  void find_regex(std::string_view text, std::vector<Match>& parts) const;

  std::string key_, text_;
  Scanner scanner_ = nullptr;
  std::shared_ptr<pcre2_real_code_8> code_;
};

// The expression as PCRE2 reads it, for the same matches. Throws as of_regex() does.
std::string translated_regex(const std::string& key, std::string_view regex);

}  // namespace rankfold
