// Oniguruma's regular expressions for PCRE2. What the two read alike is copied, some is spelt otherwise, and all else
// is refused: an expression must not match something else than in Python.
#include "core/check.h"
#include "core/json.h"
#include "text/pattern.h"

#include <nlohmann/json.hpp>

namespace rankfold {
namespace {

// \s of Oniguruma: without U+180E, which PCRE2 has.
constexpr std::string_view kBlanks =
    R"(\x{9}-\x{d} \x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";
// Two letters of these are one character in Oniguruma when case is ignored (ss and U+00DF), so no others may be.
constexpr std::string_view kContractions = "'s|'t|'re|'ve|'m|'ll|'d)";

bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
bool is_digit(char c) { return c >= '0' && c <= '9'; }

class Translator {
 public:
  Translator(const std::string& key, std::string_view regex) : key_(key), regex_(regex) {}

  std::string translate() {
    while (at_ < regex_.size()) {
      element();
      quantifier();
    }
    if (depth_ != 0) refuse("a group without an end");
    return std::move(out_);
  }

 private:
  template <class... Parts>
  [[noreturn]] void refuse(const Parts&... what) const {
    fail(key_, ": ", brief(std::string(regex_)), " is not a regular expression that is supported (byte ", at_, ": ",
         what..., ")");
  }

  char next() const { return at_ < regex_.size() ? regex_[at_] : '\0'; }
  bool take(std::string_view text) {
    if (!regex_.substr(at_).starts_with(text)) return false;
    at_ += text.size();
    return true;
  }

  void element() {
    can_repeat_ = true;
    const char c = next();
    switch (c) {
      case '\\':
        escape(false);
        break;
      case '[':
        set();
        break;
      case '(':
        group();
        break;
      case ')':
        if (depth_-- == 0) refuse("no group begins");
        out_ += regex_[at_++];
        break;
      case '|':
        can_repeat_ = false;
        out_ += regex_[at_++];
        break;
      case '^':
      case '$':
      case '*':
      case '+':
      case '?':
      case '{':
        refuse("'", c, "'");
      default:
        out_ += regex_[at_++];
    }
  }

  void group() {
    can_repeat_ = false;
    if (take("(?i:")) {
      if (!take(kContractions)) refuse("case is ignored for English contractions only");
      (out_ += "(?i:") += kContractions;
      can_repeat_ = true;
      return;
    }
    for (const std::string_view begin : {"(?:", "(?=", "(?!", "(?>", "(?<=", "(?<!"})
      if (take(begin)) {
        out_ += begin;
        ++depth_;
        return;
      }
    if (regex_.substr(at_).starts_with("(?") || regex_.substr(at_).starts_with("(*")) refuse("a group of this kind");
    ++depth_;
    ++at_;
    out_ += "(?:";
  }

  void quantifier() {
    const char c = next();
    if (c != '*' && c != '+' && c != '?' && c != '{') return;
    if (!can_repeat_) refuse("nothing to repeat");
    bool is_counted = false, is_range = false;
    if (c == '{') {
      is_counted = true;
      const size_t begin = at_++;
      while (is_digit(next())) ++at_;
      if (at_ == begin + 1) refuse("a count without a lowest");
      if (next() == ',') {
        is_range = true;
        ++at_;
        while (is_digit(next())) ++at_;
      }
      if (next() != '}') refuse("a count without an end");
      out_ += regex_.substr(begin, ++at_ - begin);
    } else {
      out_ += regex_[at_++];
    }
    if (next() == '+' || next() == '?') {  // after a count the two read a + otherwise, and a ? after one number
      if (is_counted && (next() == '+' || !is_range)) refuse("'", next(), "' after a count");
      out_ += regex_[at_++];
    }
    if (next() == '*' || next() == '+' || next() == '?' || next() == '{') refuse("a repeat of a repeat");
  }

  void escape(bool in_set) {
    ++at_;
    const char c = next();
    if (c == 'p' || c == 'P') return property();
    if (c == 'u') return code(4);
    if (c == 'x') {
      if (regex_.substr(at_ + 1, 1) != "{") refuse("\\x without braces");
      const size_t end = regex_.find('}', at_);
      if (end == std::string_view::npos) refuse("\\x without an end");
      out_ += '\\';
      out_ += regex_.substr(at_, end + 1 - at_);
      at_ = end + 1;
      return;
    }
    ++at_;
    if (c == 's') {
      if (in_set) {
        out_ += kBlanks;
      } else {
        ((out_ += '[') += kBlanks) += ']';
      }
    } else if (c == 'S' && !in_set) {
      ((out_ += "[^") += kBlanks) += ']';
    } else if (c == 'd' || c == 'D') {
      out_ += c == 'd' ? "\\p{Nd}" : "\\P{Nd}";
    } else if (c == 'r' || c == 'n' || c == 't' || c == 'f') {
      (out_ += '\\') += c;
    } else if (c > ' ' && c < '\x7F' && !is_letter(c) && !is_digit(c)) {
      (out_ += '\\') += c;
    } else {
      --at_;
      refuse("'\\", c, "'");
    }
  }

  void code(size_t digits) {
    const std::string_view number = regex_.substr(at_ + 1, digits);
    if (number.size() != digits || number.find_first_not_of("0123456789abcdefABCDEF") != std::string_view::npos)
      refuse("\\u without 4 digits");
    ((out_ += "\\x{") += number) += '}';
    at_ += 1 + digits;
  }

  void property() {
    bool is_negated = next() == 'P';
    ++at_;
    if (!take("{")) refuse("\\p without braces");
    if (take("^")) is_negated = !is_negated;
    const size_t begin = at_;
    while (is_letter(next()) || next() == '_') ++at_;
    const std::string_view name = regex_.substr(begin, at_ - begin);
    if (name.empty() || !take("}")) refuse("\\p{...} of this kind");
    out_ += is_negated ? "\\P{" : "\\p{";
    if (name.size() > 2) out_ += "sc:";  // a script: without this, PCRE2 adds what is shared with others
    (out_ += name) += '}';
  }

  void set() {
    out_ += regex_[at_++];
    if (take("^")) out_ += '^';
    for (bool is_first = true; next() != ']' || is_first; is_first = false) {
      if (at_ >= regex_.size()) refuse("a set without an end");
      if (next() == '[') refuse("a set in a set");
      if (next() == ']') refuse("an empty set");
      if (regex_.substr(at_).starts_with("&&")) refuse("what two sets share");
      if (next() == '\\')
        escape(true);
      else
        out_ += regex_[at_++];
    }
    out_ += regex_[at_++];
  }

  const std::string& key_;
  std::string_view regex_;
  std::string out_;
  size_t at_ = 0, depth_ = 0;
  bool can_repeat_ = false;
};

}  // namespace

std::string translated_regex(const std::string& key, std::string_view regex) {
  return Translator(key, regex).translate();
}

}  // namespace rankfold
