// A text or regular expression, for the replacements of a normaliser and the splits of a pre-tokenizer.
#pragma once

#include "text/scanners.h"

#include <memory>
#include <string>
#include <string_view>
#include <vector>

struct pcre2_real_code_8;

namespace rankfold {

// Finds the same matches as the Python package tokenizers, which uses Oniguruma. Scanners implement the expressions of
// known model families; PCRE2 handles others. PCRE2 gives no category to characters newer than its own Unicode version.
// Thread safe.
class Pattern {
 public:
  static Pattern of_text(std::string text);
  // Throws UserError, which begins with `key`, for an invalid expression and one that is too long. Also for one that
  // matches the empty text, or that PCRE2 and Oniguruma read differently (\w, ^, $, nested sets, ...).
  enum class By { kScanner, kPcre2 };  // kPcre2: use PCRE2 even if there is a scanner
  static Pattern of_regex(const std::string& key, const std::string& regex, By by = By::kScanner);

  // Sets `parts` to all parts of a UTF-8 text, in order. Throws UserError where the expression takes too long.
  void find(std::string_view text, std::vector<Match>& parts) const;

 private:
  void find_text(std::string_view text, std::vector<Match>& parts) const;
  void find_regex(std::string_view text, std::vector<Match>& parts) const;

  std::string key_, text_;
  Scanner scanner_ = nullptr;
  std::shared_ptr<pcre2_real_code_8> code_;
};

// Translates the expression into PCRE2's syntax, for the same matches. Throws like of_regex().
std::string translated_regex(const std::string& key, std::string_view regex);

}  // namespace rankfold
