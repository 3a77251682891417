#include "text/scanners.h"

#include "text/unicode.h"

namespace rankfold {
namespace {

using namespace unicode;

// The text that a scanner reads, and the parts of expressions that several have.
class CharacterReader {
 public:
  explicit CharacterReader(std::string_view text) : text_(text) {}

  size_t size() const { return text_.size(); }
  char byte(size_t at) const { return text_[at]; }
  const char* from(size_t at) const { return text_.data() + at; }
  // 0 and no bytes at the end of the text.
  uint32_t at(size_t position, uint32_t& length) const {
    length = 0;
    return position < text_.size() ? table_.at(text_.data() + position, length) : 0;
  }

  // Where the characters end that have one of these properties, or with `kNone` none of them.
  enum Wanted { kAny, kNone };
  template <Wanted wanted>
  size_t run(size_t position, uint32_t of, size_t most = SIZE_MAX) const {
    uint32_t length = 0;
    for (; most > 0 && position < text_.size(); position += length, --most)
      if (((table_.at(text_.data() + position, length) & of) != 0) != (wanted == kAny)) break;
    return position;
  }

  size_t bytes(size_t position, std::string_view any_of) const {
    while (position < text_.size() && any_of.find(text_[position]) != std::string_view::npos) ++position;
    return position;
  }

  // 's|'t|'re|'ve|'m|'ll|'d: where it ends, or `position`. Without case, s is also the long s, U+017F.
  size_t contraction(size_t position, bool ignores_case) const {
    if (position + 1 >= text_.size() || text_[position] != '\'') return position;
    const auto letter = [&](size_t at) {
      const char c = at < text_.size() ? text_[at] : '\0';
      return ignores_case && c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
    };
    const char first = letter(position + 1), second = letter(position + 2);
    if (first == 's' || first == 't' || first == 'm' || first == 'd') return position + 2;
    if ((second == 'e' && (first == 'r' || first == 'v')) || (first == 'l' && second == 'l')) return position + 3;
    if (ignores_case && text_.substr(position + 1, 2) == "\xC5\xBF") return position + 3;
    return position;
  }

  // \s*[\r\n]+|\s+(?!\S)|\s+ with `line_ends`, else only the last two: where it ends, or `position`.
  size_t blanks(size_t position, bool line_ends) const {
    size_t end = position, last = position, line_end = position;
    uint32_t length = 0;
    for (uint32_t c; (c = at(end, length)) & kSpace; end += length) {
      last = end;
      if (c & kLineEnd) line_end = end + length;
    }
    if (line_ends && line_end > position) return line_end;
    return end == text_.size() || last == position ? end : last;  // else the last goes with what follows
  }

 private:
  std::string_view text_;
  const Properties& table_ = Properties::get();
};

// Each of these gives where the expression's match ends that begins at `i`; `i` itself where there is none.

// 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
size_t gpt2(const CharacterReader& text, size_t i) {
  if (const size_t end = text.contraction(i, false); end > i) return end;
  uint32_t length = 0;
  const size_t word = i + (text.byte(i) == ' ');
  const uint32_t c = text.at(word, length);
  if (length > 0 && !(c & kSpace)) {
    if (c & kLetter) return text.run<CharacterReader::kAny>(word + length, kLetter);
    if (c & kNumber) return text.run<CharacterReader::kAny>(word + length, kNumber);
    return text.run<CharacterReader::kNone>(word + length, kSpace | kLetter | kNumber);
  }
  return text.blanks(i, false);
}

// What ends the expressions that follow:  ?[^\s\p{L}\p{N}]+[...]*|\s*[\r\n]+|\s+(?!\S)|\s+
size_t symbols_or_blanks(const CharacterReader& text, size_t i, std::string_view after_symbols,
                         uint32_t letters = kLetter) {
  uint32_t length = 0;
  const size_t word = i + (text.byte(i) == ' ');
  const uint32_t c = text.at(word, length), others = kSpace | letters | kNumber;
  if (length > 0 && !(c & others))
    return text.bytes(text.run<CharacterReader::kNone>(word + length, others), after_symbols);
  return text.blanks(i, true);
}

// (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,digits}| ?[^\s\p{L}\p{N}]+[\r\n]*|...
// Where marks are letters too, one may be what comes before the letters: the match is the same.
template <size_t digits, uint32_t letters = kLetter>
size_t cl100k(const CharacterReader& text, size_t i) {
  if (const size_t end = text.contraction(i, true); end > i) return end;
  uint32_t length = 0, next_length = 0;
  const uint32_t c = text.at(i, length);
  if (c & letters) return text.run<CharacterReader::kAny>(i + length, letters);
  if (c & kNumber) return text.run<CharacterReader::kAny>(i, kNumber, digits);
  if (!(c & kLineEnd) && text.at(i + length, next_length) & letters)
    return text.run<CharacterReader::kAny>(i + length + next_length, letters);
  return symbols_or_blanks(text, i, "\r\n", letters);
}

// [\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+: the first part takes all that it can and gives back no
// more than the second needs.
size_t lower_case_word(const CharacterReader& text, size_t i) {
  uint32_t length = 0;
  size_t end = i, last_of_both = i;  // where the last character ends that either part takes
  for (uint32_t c; (c = text.at(end, length)) & (kLetter | kMark) && !(c & kLower);) {
    end += length;
    if (!(c & kUpper)) last_of_both = end;
  }
  if (!(text.at(end, length) & kLower)) return last_of_both;
  for (uint32_t c; (c = text.at(end, length)) & (kLetter | kMark) && !(c & kUpper);) end += length;
  return end;
}

// [\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*, after the other has failed: no lower case letter follows.
size_t upper_case_word(const CharacterReader& text, size_t i) {
  uint32_t length = 0;
  for (uint32_t c; (c = text.at(i, length)) & (kLetter | kMark) && !(c & kLower);) i += length;
  return i;
}

// The expression of GPT-4o, and Mistral's, which has no contractions and single digits.
template <bool contractions, size_t digits>
size_t o200k(const CharacterReader& text, size_t i) {
  uint32_t length = 0;
  const uint32_t c = text.at(i, length);
  const bool may_be_prefix = !(c & (kLineEnd | kLetter | kNumber));
  for (const auto word : {lower_case_word, upper_case_word})
    for (const size_t begin : {i + length, i}) {
      if (begin > i && !may_be_prefix) continue;
      if (const size_t end = word(text, begin); end > begin) return contractions ? text.contraction(end, true) : end;
    }
  if (c & kNumber) return text.run<CharacterReader::kAny>(i, kNumber, digits);
  return symbols_or_blanks(text, i, "\r\n/");
}

bool is_ascii_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
bool is_ascii_symbol(char c) { return c > ' ' && c < '\x7F' && !is_ascii_letter(c) && !(c >= '0' && c <= '9'); }

// DeepSeek's third: numbers and control characters match nothing.
size_t deepseek(const CharacterReader& text, size_t i) {
  uint32_t length = 0;
  const uint32_t c = text.at(i, length);
  if (is_ascii_symbol(text.byte(i))) {
    size_t end = i + 1;
    while (end < text.size() && is_ascii_letter(text.byte(end))) ++end;
    if (end > i + 1) return end;
  }
  if (!(c & (kLineEnd | kLetter | kSymbol)))
    if (const size_t end = text.run<CharacterReader::kAny>(i + length, kLetter | kMark); end > i + length) return end;
  if (c & (kLetter | kMark)) return text.run<CharacterReader::kAny>(i, kLetter | kMark);
  const size_t word = i + (text.byte(i) == ' ');
  if (const size_t end = text.run<CharacterReader::kAny>(word, kSymbol); end > word) return text.bytes(end, "\r\n");
  return text.blanks(i, true);
}

// [一-龥぀-ゟ゠-ヿ]+
size_t cjk(const CharacterReader& text, size_t i) {
  for (uint32_t length = 0; i < text.size(); i += length) {
    const uint32_t c = character_at(text.from(i), length);
    if (!((c >= 0x4E00 && c <= 0x9FA5) || (c >= 0x3040 && c <= 0x30FF))) break;
  }
  return i;
}

template <size_t most>
size_t numbers(const CharacterReader& text, size_t i) {
  return text.run<CharacterReader::kAny>(i, kNumber, most);
}

// [0-9][0-9][0-9]
size_t three_digits(const CharacterReader& text, size_t i) {
  for (size_t k = i; k < i + 3; ++k)
    if (k >= text.size() || text.byte(k) < '0' || text.byte(k) > '9') return i;
  return i + 3;
}

template <size_t (*end_of_match)(const CharacterReader&, size_t)>
void scan(std::string_view text, std::vector<Match>& parts) {
  const CharacterReader reader(text);
  size_t done = 0;
  for (size_t i = 0; i < text.size();) {
    const size_t end = end_of_match(reader, i);
    if (end == i) {
      i += length_of(text[i]);
      continue;
    }
    if (done < i) parts.push_back({static_cast<uint32_t>(done), static_cast<uint32_t>(i), false});
    parts.push_back({static_cast<uint32_t>(i), static_cast<uint32_t>(end), true});
    done = i = end;
  }
  if (done < text.size()) parts.push_back({static_cast<uint32_t>(done), static_cast<uint32_t>(text.size()), false});
}

#define CONTRACTIONS R"((?i:'s|'t|'re|'ve|'m|'ll|'d))"
#define CL100K_BEGIN CONTRACTIONS R"(|[^\r\n\p{L}\p{N}]?\p{L}+|)"
#define BLANKS R"(|\s*[\r\n]+|\s+(?!\S)|\s+)"
#define CL100K_END R"(| ?[^\s\p{L}\p{N}]+[\r\n]*)" BLANKS
#define LOWER_CASE R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+)"
#define UPPER_CASE R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*)"
#define O200K_END R"(| ?[^\s\p{L}\p{N}]+[\r\n/]*)" BLANKS

struct Known {
  std::string_view regex;
  Scanner scanner;
};
constexpr Known kKnown[] = {
    {R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)", scan<gpt2>},
    {CL100K_BEGIN R"(\p{N}{1,3})" CL100K_END, scan<cl100k<3>>},
    {CL100K_BEGIN R"(\p{N})" CL100K_END, scan<cl100k<1>>},
    {CONTRACTIONS R"(|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*)" BLANKS,
     scan<cl100k<1, kLetter | kMark>>},
    {LOWER_CASE "|" UPPER_CASE R"(|\p{N})" O200K_END, scan<o200k<false, 1>>},
    {LOWER_CASE CONTRACTIONS "?|" UPPER_CASE CONTRACTIONS R"(?|\p{N}{1,3})" O200K_END, scan<o200k<true, 3>>},
    {R"re([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*)re" BLANKS,
     scan<deepseek>},
    {"[一-龥぀-ゟ゠-ヿ]+", scan<cjk>},
    {R"(\p{N}{1,3})", scan<numbers<3>>},
    {R"(\p{N})", scan<numbers<1>>},
    {"[0-9][0-9][0-9]", scan<three_digits>},
};

}  // namespace

const std::string_view kByteLevelRegex = kKnown[0].regex;

Scanner known_scanner(std::string_view regex) {
  for (const Known& known : kKnown)
    if (known.regex == regex) return known.scanner;
  return nullptr;
}

std::vector<std::string_view> known_regexes() {
  std::vector<std::string_view> regexes;
  for (const Known& known : kKnown) regexes.push_back(known.regex);
  return regexes;
}

}  // namespace rankfold
