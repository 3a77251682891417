#include "text/jinja/lexer.h"

#include "core/check.h"
#include "core/utf8.h"
#include "text/python_characters.h"
#include "text/unicode.h"

#include <algorithm>
#include <array>
#include <optional>
#include <utility>

namespace rankfold::jinja {
namespace {

constexpr size_t kLongestName = 1000;

// Line ends become \n, and one at the end goes.
std::string normalized(std::string source) {
  std::string text;
  text.reserve(source.size());
  for (size_t at = 0; at < source.size(); ++at) {
    if (source[at] == '\r' && at + 1 < source.size() && source[at + 1] == '\n') ++at;
    text += source[at] == '\r' ? '\n' : source[at];
  }
  if (text.ends_with('\n')) text.pop_back();
  return text;
}

bool is_digit(char c) { return c >= '0' && c <= '9'; }

bool is_digit_of(char c, unsigned base) {
  const char lower = static_cast<char>(c | 0x20);
  return base == 16 ? is_digit(c) || (lower >= 'a' && lower <= 'f') : c >= '0' && c < static_cast<char>('0' + base);
}

class Lexer {
 public:
  Lexer(std::string source, const std::string& name) : source_(std::move(source)), name_(name) {}

  std::vector<Token> run() {
    while (at_ < source_.size()) data();
    add(TokenKind::kEnd, "");
    return std::move(tokens_);
  }

 private:
  template <class... Parts>
  [[noreturn]] void fail_here(const Parts&... parts) const {
    fail(name_, ":", line_, ": ", parts...);
  }

  std::string_view rest() const { return std::string_view(source_).substr(at_); }
  char peek(size_t ahead = 0) const { return at_ + ahead < source_.size() ? source_[at_ + ahead] : '\0'; }

  void add(TokenKind kind, std::string text) { tokens_.push_back({kind, line_, std::move(text)}); }

  void advance(size_t to) {
    line_ += static_cast<size_t>(std::count(source_.begin() + static_cast<std::ptrdiff_t>(at_),
                                            source_.begin() + static_cast<std::ptrdiff_t>(to), '\n'));
    line_starts_ = to > at_ ? source_[to - 1] == '\n' : line_starts_;
    at_ = to;
  }

  size_t after_spaces(size_t at) const {
    while (at < source_.size()) {
      size_t next = at;
      if (!python::is_space(unicode::next_character(source_, next))) break;
      at = next;
    }
    return at;
  }

  // Text from at_ to `end`, where a tag begins whose sign is `sign`.
  void add_data(size_t end, char sign, bool may_strip) {
    const std::string_view text = std::string_view(source_).substr(at_, end - at_);
    size_t size = text.size();
    const auto strip_to = [&](size_t least) {
      while (size > least) {
        size_t before = size;
        if (!python::is_space(unicode::previous_character(text, before))) break;
        size = before;
      }
    };
    if (sign == '-') {
      strip_to(0);
    } else if (sign != '+' && may_strip) {
      const size_t line_begin = text.rfind('\n') + 1;
      if (line_begin > 0 || line_starts_) {
        strip_to(line_begin);
        if (size > line_begin) size = text.size();  // not only blanks
      }
    }
    if (size > 0) add(TokenKind::kData, std::string(text.substr(0, size)));
    advance(end);
  }

  static char sign_at(std::string_view text, size_t at) {
    return at < text.size() && (text[at] == '-' || text[at] == '+') ? text[at] : '\0';
  }

  // Where `{% raw %}` or `{% endraw %}` that begins at `at` ends; nothing if another tag begins there.
  std::optional<size_t> raw_tag(size_t at, std::string_view word, char& closing) const {
    size_t place = at + 2 + (sign_at(source_, at + 2) == '\0' ? 0 : 1);
    place = after_spaces(place);
    if (!std::string_view(source_).substr(place).starts_with(word)) return std::nullopt;
    place = after_spaces(place + word.size());
    closing = sign_at(source_, place);
    if (closing != '\0') ++place;
    if (!std::string_view(source_).substr(place).starts_with("%}")) return std::nullopt;
    return place + 2;
  }

  void data() {
    size_t begin = at_;
    while (true) {
      begin = source_.find('{', begin);
      const char second = begin == std::string::npos || begin + 1 >= source_.size() ? '\0' : source_[begin + 1];
      if (begin == std::string::npos || second == '%' || second == '{' || second == '#') break;
      ++begin;
    }
    if (begin == std::string::npos) {
      add(TokenKind::kData, std::string(rest()));
      advance(source_.size());
      return;
    }
    const char kind = source_[begin + 1];
    const char sign = sign_at(source_, begin + 2);
    add_data(begin, sign, kind != '{');
    char closing;
    if (const auto raw_begin = kind == '%' ? raw_tag(begin, "raw", closing) : std::nullopt; raw_begin && closing != '+')
      return raw(closing == '-' ? after_spaces(*raw_begin) : *raw_begin);
    advance(begin + 2 + (sign == '\0' ? 0 : 1));
    if (kind == '#') return comment();
    add(kind == '%' ? TokenKind::kBlockBegin : TokenKind::kVariableBegin, "");
    tag(kind == '%');
  }

  void raw(size_t begin) {
    advance(begin);
    for (size_t end = at_; (end = source_.find("{%", end)) != std::string::npos; ++end) {
      char closing;
      if (const auto after = raw_tag(end, "endraw", closing)) {
        add_data(end, sign_at(source_, end + 2), true);
        return advance(after_end(*after, closing));
      }
    }
    fail_here("Missing end of raw directive");
  }

  // Behind `%}` or `#}`, which ends at `at`, and what its sign takes with it.
  size_t after_end(size_t at, char sign) const {
    if (sign == '-') return after_spaces(at);
    return sign == '\0' && at < source_.size() && source_[at] == '\n' ? at + 1 : at;
  }

  void comment() {
    const size_t end = source_.find("#}", at_);
    if (end == std::string::npos) fail_here("Missing end of comment tag");
    const char sign = end > at_ ? sign_at(source_, end - 1) : '\0';
    advance(after_end(end + 2, sign));
  }

  // `-%}`, `%}`, `}}` and so on, if it stands here.
  bool tag_end(bool is_block) {
    const char sign = sign_at(source_, at_);
    if (sign == '+' && !is_block) return false;
    const size_t end = at_ + (sign == '\0' ? 0 : 1);
    if (!std::string_view(source_).substr(end).starts_with(is_block ? "%}" : "}}")) return false;
    add(is_block ? TokenKind::kBlockEnd : TokenKind::kVariableEnd, "");
    advance(is_block || sign == '-' ? after_end(end + 2, sign) : end + 2);
    return true;
  }

  void tag(bool is_block) {
    std::string open;  // brackets
    while (at_ < source_.size()) {
      if (open.empty() && tag_end(is_block)) return;
      if (const size_t after = after_spaces(at_); after > at_)
        advance(after);
      else if (!number() && !name() && !string())
        operation(open);
    }
  }

  size_t digits(size_t at, unsigned base, bool may_begin_with_line) const {
    const size_t begin = at;
    while (at < source_.size()) {
      const bool skips = source_[at] == '_' && (at > begin || may_begin_with_line);
      const size_t digit = at + (skips ? 1 : 0);
      if (digit >= source_.size() || !is_digit_of(source_[digit], base)) break;
      at = digit + 1;
    }
    return at;
  }

  size_t exponent(size_t at) const {
    if (at >= source_.size() || (source_[at] | 0x20) != 'e') return at;
    const size_t begin = at + 1 + (sign_at(source_, at + 1) == '\0' ? 0 : 1);
    const size_t end = digits(begin, 10, false);
    return end > begin ? end : at;
  }

  bool number() {
    if (!is_digit(peek())) return false;
    const size_t whole = digits(at_, 10, false);
    if (at_ == 0 || source_[at_ - 1] != '.') {
      size_t end = whole;
      if (whole < source_.size() && source_[whole] == '.') {
        const size_t fraction = digits(whole + 1, 10, false);
        if (fraction > whole + 1) end = fraction;
      }
      end = exponent(end);
      if (end > whole) return add_number(TokenKind::kFloat, at_, end);
    }
    const char letter = static_cast<char>(peek(1) | 0x20);
    const unsigned base = letter == 'x' ? 16 : letter == 'o' ? 8 : letter == 'b' ? 2 : 10;
    if (peek() == '0' && base != 10)
      if (const size_t end = digits(at_ + 2, base, true); end > at_ + 2)
        return add_number(TokenKind::kInteger, at_, end);
    if (peek() != '0') return add_number(TokenKind::kInteger, at_, whole);
    size_t zeros = at_ + 1;
    while (zeros < source_.size() && (source_[zeros] == '0' || (source_[zeros] == '_' && zeros + 1 < source_.size() &&
                                                                source_[zeros + 1] == '0')))
      ++zeros;
    return add_number(TokenKind::kInteger, at_, zeros);
  }

  bool add_number(TokenKind kind, size_t begin, size_t end) {
    std::string text = source_.substr(begin, end - begin);
    std::erase(text, '_');
    add(kind, std::move(text));
    advance(end);
    return true;
  }

  bool name() {
    size_t end = at_;
    while (end < source_.size()) {
      size_t next = end;
      if (!python::is_word(unicode::next_character(source_, next))) break;
      end = next;
    }
    if (end == at_) return false;
    if (end - at_ > kLongestName) fail_here("a name is longer than ", kLongestName, " bytes");
    size_t first = at_;
    if (!python::starts_name(unicode::next_character(source_, first))) fail_here("Invalid character in identifier");
    add(TokenKind::kName, source_.substr(at_, end - at_));
    advance(end);
    return true;
  }

  bool string() {
    const char quote = peek();
    if (quote != '\'' && quote != '"') return false;
    size_t end = at_ + 1;
    while (end < source_.size() && source_[end] != quote) end += source_[end] == '\\' ? 2 : 1;
    if (end >= source_.size()) fail_here("expected the ", quote, " that ends a string");
    add(TokenKind::kString, unescaped(std::string_view(source_).substr(at_ + 1, end - at_ - 1)));
    advance(end + 1);
    return true;
  }

  std::string unescaped(std::string_view text) const {
    std::string result;
    for (size_t at = 0; at < text.size();) {
      if (text[at] != '\\') {
        result += text[at++];
        continue;
      }
      ++at;
      constexpr std::string_view kLetters = "\\'\"abfnrtv", kMeanings = "\\'\"\a\b\f\n\r\t\v";
      const char letter = text[at];
      if (const size_t known = kLetters.find(letter); known != std::string_view::npos) {
        result += kMeanings[known];
        ++at;
      } else if (letter == '\n') {
        ++at;
      } else if (is_digit_of(letter, 8)) {
        size_t end = at;
        while (end < text.size() && end < at + 3 && is_digit_of(text[end], 8)) ++end;
        add_character(result, text.substr(at, end - at), 8);
        at = end;
      } else if (letter == 'x' || letter == 'u' || letter == 'U') {
        const size_t count = letter == 'x' ? 2 : letter == 'u' ? 4 : 8;
        const std::string_view code = text.substr(at + 1, count);
        if (code.size() < count || !std::all_of(code.begin(), code.end(), [](char c) { return is_digit_of(c, 16); }))
          fail_here("expected ", count, " hexadecimal digits after \\", letter);
        add_character(result, code, 16);
        at += 1 + count;
      } else if (letter == 'N') {
        fail_here("names of characters (\\N{...}) are not supported, write \\u and the number");
      } else if (static_cast<unsigned char>(letter) >= 0x80) {
        add_code(result, unicode::next_character(text, at));
      } else {
        result += '\\';  // and the letter stays too
      }
    }
    return result;
  }

  void add_character(std::string& text, std::string_view digits, int base) const {
    const unsigned long c = std::stoul(std::string(digits), nullptr, base);
    if (c > 0x10FFFF || (c >= 0xD800 && c <= 0xDFFF)) fail_here("an escape in a string is not a character");
    unicode::append(static_cast<uint32_t>(c), text);
  }

  // Python decodes a backslash before such a letter as if its code were written there.
  static void add_code(std::string& text, uint32_t c) {
    char code[16];
    std::snprintf(code, sizeof code, c < 0x100 ? "\\x%02x" : c < 0x10000 ? "\\u%04x" : "\\U%08x", c);
    text += code;
  }

  void operation(std::string& open) {
    static constexpr std::array<std::string_view, 26> kOperators = {"//", "**", "==", "!=", ">=", "<=", "+", "-", "/",
                                                                    "*",  "%",  "~",  "[",  "]",  "(",  ")", "{", "}",
                                                                    ">",  "<",  "=",  ".",  ":",  "|",  ",", ";"};
    const auto found =
        std::find_if(kOperators.begin(), kOperators.end(), [&](auto o) { return rest().starts_with(o); });
    if (found == kOperators.end()) {
      size_t end = at_;
      unicode::next_character(source_, end);
      fail_here("unexpected char '", source_.substr(at_, end - at_), "'");
    }
    const char c = (*found)[0];
    if (c == '(' || c == '[' || c == '{') open += c == '(' ? ')' : c == '[' ? ']' : '}';
    if (c == ')' || c == ']' || c == '}') {
      if (open.empty()) fail_here("unexpected '", c, "'");
      if (open.back() != c) fail_here("unexpected '", c, "', expected '", open.back(), "'");
      open.pop_back();
    }
    add(TokenKind::kOperator, std::string(*found));
    advance(at_ + found->size());
  }

  std::string source_;
  const std::string& name_;
  std::vector<Token> tokens_;
  size_t at_ = 0, line_ = 1;
  bool line_starts_ = true;  // the last tag ended with its line
};

}  // namespace

std::vector<Token> tokenize(std::string source, const std::string& name) {
  check_utf8(source, name);
  return Lexer(normalized(std::move(source)), name).run();
}

std::string describe(const Token& token) {
  switch (token.kind) {
    case TokenKind::kData:
      return "template data / text";
    case TokenKind::kVariableBegin:
      return "begin of print statement";
    case TokenKind::kVariableEnd:
      return "end of print statement";
    case TokenKind::kBlockBegin:
      return "begin of statement block";
    case TokenKind::kBlockEnd:
      return "end of statement block";
    case TokenKind::kString:
      return "string";
    case TokenKind::kInteger:
      return "integer";
    case TokenKind::kFloat:
      return "float";
    case TokenKind::kEnd:
      return "end of template";
    default:
      return token.text;
  }
}

}  // namespace rankfold::jinja
