#include "clean/personal_data.h"

#include "clean/labels.h"
#include "clean/normal_text.h"
#include "text/unicode.h"

#include <algorithm>
#include <initializer_list>
#include <optional>

namespace rankfold {
namespace {

bool is_digit(char32_t c) { return c >= '0' && c <= '9'; }
bool is_letter(char32_t c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

int value_of(std::string_view digits) {
  int value = 0;
  for (const char c : digits) value = 10 * value + (c - '0');
  return value;
}

bool is_date(int year, int month, int day) {
  constexpr int kDays[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
  const bool is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
  return month >= 1 && month <= 12 && day >= 1 && day <= kDays[month - 1] + (is_leap && month == 2);
}

// The six digits of a region (GB/T 2260). 81 to 83 are those of residents from Hong Kong, Macau and Taiwan; a
// foreigner's number of permanent residence begins with 9 and the province (2023).
bool is_region(std::string_view code) {
  constexpr std::string_view kProvinces =
      "11 12 13 14 15 21 22 23 31 32 33 34 35 36 37 41 42 43 44 45 46 50 51 52 53 54 61 62 63 64 65 71 81 82 83 ";
  const auto is_province = [&](std::string_view two) {
    return kProvinces.find(std::string(two) + " ") != std::string_view::npos;
  };
  if (code[0] == '9') return is_province(code.substr(1, 2));
  const int city = value_of(code.substr(2, 2));
  const bool has_city = code[0] >= '7' || (city >= 1 && (city <= 70 || city == 90));
  return is_province(code.substr(0, 2)) && has_city;
}

// 15 digits, as they were given out until 1999: no check digit.
bool is_old_resident_id(std::string_view number) {
  return number.size() == 15 && is_region(number) && number[0] != '9' &&
         is_date(1900 + value_of(number.substr(6, 2)), value_of(number.substr(8, 2)), value_of(number.substr(10, 2)));
}

bool fits_luhn(std::string_view number) {
  int sum = 0;
  for (size_t i = 0; i < number.size(); ++i) {
    const int digit = number[number.size() - 1 - i] - '0';
    sum += i % 2 == 0 ? digit : digit < 5 ? 2 * digit : 2 * digit - 9;
  }
  return sum % 10 == 0;
}

// Issuers of cards that are used in China, with the lengths of their numbers.
bool is_issuer(std::string_view number) {
  const int two = value_of(number.substr(0, 2)), four = value_of(number.substr(0, 4));
  const size_t size = number.size();
  if (two == 62 || two == 60 || two == 81) return true;                                // UnionPay
  if (two == 65 || (four >= 6440 && four <= 6499)) return true;                        // Discover
  if (number.substr(0, 3) == "955") return size == 16 || size == 18 || size == 19;     // ICBC, ABC, before UnionPay
  if (number[0] == '4') return size == 16 || size == 19;                               // Visa
  return size == 16 && ((two >= 51 && two <= 55) || (four >= 2221 && four <= 2720) ||  // MasterCard
                        (four >= 3528 && four <= 3589));                               // JCB
}

}  // namespace

bool is_resident_id(std::string_view number) {
  if (number.size() != 18 || !is_region(number)) return false;
  const int year = value_of(number.substr(6, 4));
  if (year < 1900 || year > 2049 || !is_date(year, value_of(number.substr(10, 2)), value_of(number.substr(12, 2))))
    return false;
  constexpr int kWeights[] = {7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2};
  int sum = 0;
  for (size_t i = 0; i < 17; ++i) sum += kWeights[i] * (number[i] - '0');
  const char last = number[17] == 'x' ? 'X' : number[17];
  return "10X98765432"[sum % 11] == last;
}

bool is_bank_card(std::string_view number) {
  if (number.size() < 16 || number.size() > 19 || !is_issuer(number) || !fits_luhn(number)) return false;
  std::string digits(number);
  std::sort(digits.begin(), digits.end());
  constexpr long kFewest = 3;  // different digits: 6222222222222222 is a filler
  return std::unique(digits.begin(), digits.end()) - digits.begin() >= kFewest && !is_resident_id(number);
}

bool is_mobile_number(std::string_view number) {
  if (number.size() != 11 || number[0] != '1') return false;
  // Third digits that are given out after 13, 14 ... 19.
  constexpr std::string_view kThird[] = {"0123456789", "56789",      "012356789", "2567",
                                         "012345678",  "0123456789", "012356789"};
  const int second = number[1] - '0';
  return second >= 3 && kThird[second - 3].find(number[2]) != std::string_view::npos;
}

namespace {

// Ends of the names of hosts, besides those of two letters.
constexpr std::string_view kTopLevels[] = {
    "com",      "net",    "org",     "edu",    "gov",        "mil",   "int",   "info",   "biz",    "name",     "pro",
    "mobi",     "asia",   "tel",     "jobs",   "coop",       "aero",  "post",  "top",    "xyz",    "vip",      "club",
    "site",     "shop",   "store",   "online", "tech",       "app",   "dev",   "cloud",  "wang",   "ltd",      "group",
    "work",     "link",   "live",    "fun",    "ink",        "art",   "love",  "email",  "ren",    "company",  "world",
    "life",     "today",  "wiki",    "design", "news",       "press", "bank",  "health", "clinic", "hospital", "doctor",
    "pharmacy", "center", "academy", "school", "university", "law",   "china", "beijing"};

// How many bytes of the text are a name of a host: labels with dots between, the last one a top level. 0: none are.
size_t length_of_domain(std::string_view text) {
  if (const size_t gap = text.find(".."); gap != std::string_view::npos) text = text.substr(0, gap);
  while (!text.empty() && (text.back() == '.' || text.back() == '-')) text.remove_suffix(1);
  const auto is_number = [](std::string_view label) {
    return std::all_of(label.begin(), label.end(), [](char c) { return is_digit(static_cast<unsigned char>(c)); });
  };
  for (;;) {
    const size_t dot = text.rfind('.');
    if (dot == std::string_view::npos || dot == 0) return 0;
    std::string last(text.substr(dot + 1));
    for (char& c : last) c = is_letter(static_cast<unsigned char>(c)) ? static_cast<char>(c | 0x20) : c;
    const bool is_word = std::all_of(last.begin(), last.end(), [](char c) { return c >= 'a' && c <= 'z'; });
    if (is_word &&
        (last.size() == 2 || std::find(std::begin(kTopLevels), std::end(kTopLevels), last) != std::end(kTopLevels)))
      break;
    text = text.substr(0, dot);
  }
  if (text.front() == '-' || text.front() == '.') return 0;
  const size_t first = text.find('.'), second = text.find('.', first + 1);
  const bool is_version = second != std::string_view::npos && is_number(text.substr(0, first)) &&
                          is_number(text.substr(first + 1, second - first - 1));
  return is_version ? 0 : text.size();
}

// A text as the rules see it: one character of ASCII for each of its full-width, dashed or spaced variants, and none
// for what is not seen.
class PlainText {
 public:
  explicit PlainText(std::string_view text) : text_(text) {
    plain_.reserve(text.size());
    offsets_.reserve(text.size());
    for (size_t at = 0; at < text.size();) {
      const size_t begin = at;
      const uint32_t c = unicode::next_character(text, at);
      if (is_unseen(c)) continue;
      offsets_.push_back(begin);
      plain_.push_back(plain(c));
    }
  }

  size_t size() const { return plain_.size(); }
  // 0 beyond the ends, also for an index that has passed below 0.
  char32_t at(size_t i) const { return i < plain_.size() ? plain_[i] : 0; }
  size_t offset(size_t i) const { return offsets_[i]; }
  size_t offset_behind(size_t i) const { return offsets_[i] + unicode::length_of(text_[offsets_[i]]); }
  size_t end_of_digits(size_t i) const {
    while (is_digit(at(i))) ++i;
    return i;
  }
  size_t begin_of_digits(size_t i) const {  // that end before i
    while (i > 0 && is_digit(at(i - 1))) --i;
    return i;
  }
  std::string ascii(size_t begin, size_t end) const {
    std::string text;
    for (size_t i = begin; i < end; ++i) text.push_back(plain_[i] < 0x80 ? static_cast<char>(plain_[i]) : '?');
    return text;
  }
  const std::u32string& characters() const { return plain_; }

 private:
  static char32_t plain(uint32_t c) {
    if (c < 0x80) return c;
    if (c >= 0xFF01 && c <= 0xFF5E) return c - 0xFEE0;
    if (c == 0xA0 || c == 0x3000 || (c >= 0x2000 && c <= 0x200A) || c == 0x202F) return ' ';
    if ((c >= 0x2010 && c <= 0x2013) || c == 0x2212) return '-';
    if (c == 0xB7 || c == 0x30FB) return '.';
    return c;
  }

  std::string_view text_;
  std::u32string plain_;
  std::vector<size_t> offsets_;
};

struct Range {
  size_t begin = 0, end = 0;
};

// How a number is written: the sizes of its groups of digits, and what may stand between them.
struct Form {
  std::array<uint8_t, 5> sizes;  // 0 behind the last
  std::string_view separators = " -";
};
constexpr Form kIdForms[] = {{{18}}, {{6, 8, 4}}, {{6, 4, 4, 4}}, {{6, 4, 2, 2, 4}}, {{3, 3, 4, 4, 4}}};
constexpr Form kCardForms[] = {
    {{16}},    {{17}},    {{18}},  {{19}}, {{4, 4, 4, 4}}, {{4, 4, 4, 4, 1}}, {{4, 4, 4, 4, 2}}, {{4, 4, 4, 4, 3}},
    {{6, 10}}, {{6, 13}}, {{8, 8}}};
constexpr Form kMobileForms[] = {{{11}}, {{3, 4, 4}, " -."}, {{3, 8}}, {{4, 4, 3}}, {{3, 3, 5}}};

class Finder {
 public:
  Finder(std::string_view text, PersonalKinds kinds, std::string_view label)
      : source_(text), text_(text), kinds_(kinds), labels_(text_.characters(), label) {}

  std::vector<PersonalSpan> find() {
    if (kinds_.has(PersonalKind::kEmail)) find_emails();
    for (size_t i = 0, mail = 0; i < text_.size();) {
      while (mail < emails_.size() && emails_[mail].end <= i) ++mail;
      if (mail < emails_.size() && i >= emails_[mail].begin) {
        i = emails_[mail].end;
        continue;
      }
      if (!is_digit(text_.at(i))) {
        ++i;
        continue;
      }
      const size_t end = text_.end_of_digits(i);
      i = take_number(i, end);
    }
    for (const Range& email : emails_) keep(PersonalKind::kEmail, email);
    std::sort(spans_.begin(), spans_.end(), [](const auto& a, const auto& b) { return a.begin < b.begin; });
    join_overlaps();
    size_t counted = 0, characters = 0;
    for (PersonalSpan& span : spans_) {
      characters += unicode::count_characters(source_.substr(counted, span.begin - counted));
      counted = span.begin;
      span.character = characters;
    }
    return std::move(spans_);
  }

 private:
  void keep(PersonalKind kind, Range range) {
    spans_.push_back({kind, text_.offset(range.begin), text_.offset_behind(range.end - 1)});
  }

  // A number whose last digits begin an e-mail address, +86 13812345678@139.com, is one place with it.
  void join_overlaps() {
    std::vector<PersonalSpan> apart;
    for (const PersonalSpan& span : spans_)
      if (apart.empty() || span.begin >= apart.back().end)
        apart.push_back(span);
      else
        apart.back().end = std::max(apart.back().end, span.end);
    spans_ = std::move(apart);
  }

  // Digits stand in [begin, end), and none beside them. Where to go on.
  size_t take_number(size_t begin, size_t end) {
    std::optional<Range> found;
    const auto take = [&](PersonalKind kind, auto find) {
      if (found || !kinds_.has(kind)) return;
      if ((found = find())) keep(kind, *found);
    };
    take(PersonalKind::kId, [&] { return id(begin, end); });
    take(PersonalKind::kBankCard, [&] { return bank_card(begin); });
    take(PersonalKind::kMobile, [&] { return mobile(begin, end); });
    return found ? found->end : end;
  }

  // What stands on the left does not belong to the number, unless it is a word such as "tel".
  bool begins(size_t begin) const {
    const char32_t before = text_.at(begin - 1);
    if (before == '.' && is_digit(text_.at(begin - 2))) return false;
    if (before == '/' && is_fraction(begin - 1)) return false;
    return before != '_' && (!is_letter(before) || labels_.is_joined(begin));
  }
  // 10.1038 before a slash, as in a DOI.
  bool is_fraction(size_t end) const {
    const size_t point = text_.begin_of_digits(end) - 1;
    return point + 1 < end && text_.at(point) == '.' && is_digit(text_.at(point - 1));
  }
  bool ends(size_t end) const {
    const char32_t after = text_.at(end);
    if (after == '.' && is_digit(text_.at(end + 1))) return false;
    return after != '_' && after != '%' && !is_letter(after);
  }

  // A number that begins here in one of these forms and that `fits`. All separators in it are the same, and no more
  // groups follow or, where `is_first`, stand before it. An X at the end counts where it may stand.
  template <size_t N, class Fits>
  std::optional<Range> number(size_t begin, const Form (&forms)[N], const Fits& fits, bool is_first = true,
                              bool may_end_in_x = false) const {
    std::string digits;
    for (const Form& form : forms)
      if (const auto range = groups(begin, form, digits, is_first, may_end_in_x); range && fits(digits)) return range;
    return std::nullopt;
  }

  std::optional<Range> groups(size_t begin, const Form& form, std::string& digits, bool is_first,
                              bool may_end_in_x) const {
    digits.clear();
    size_t at = begin;
    char32_t separator = 0;
    for (size_t k = 0; k < form.sizes.size() && form.sizes[k] != 0; ++k) {
      if (k > 0) {
        const char32_t c = text_.at(at);
        if (c >= 0x80 || form.separators.find(static_cast<char>(c)) == std::string_view::npos) return std::nullopt;
        if (separator != 0 && c != separator) return std::nullopt;
        separator = c;
        ++at;
      }
      size_t end = text_.end_of_digits(at);
      const bool is_last = k + 1 == form.sizes.size() || form.sizes[k + 1] == 0;
      if (is_last && may_end_in_x && (text_.at(end) == 'X' || text_.at(end) == 'x')) ++end;
      if (end - at != form.sizes[k]) return std::nullopt;
      digits += text_.ascii(at, end);
      at = end;
    }
    const auto goes_on = [&](char32_t beside, char32_t beyond) {
      return separator != 0 && beside == separator && is_digit(beyond);
    };
    if (goes_on(text_.at(at), text_.at(at + 1))) return std::nullopt;
    if (is_first && goes_on(text_.at(begin - 1), text_.at(begin - 2))) return std::nullopt;
    return Range{begin, at};
  }

  std::optional<Range> id(size_t begin, size_t end) const {
    if (!begins(begin)) return std::nullopt;
    if (const auto range = number(begin, kIdForms, is_resident_id, /*is_first=*/true, /*may_end_in_x=*/true))
      return ends(range->end) ? range : std::nullopt;
    const bool is_old = end - begin == 15 && ends(end) && is_old_resident_id(text_.ascii(begin, end));
    return is_old && labels_.names_id(begin) ? std::optional(Range{begin, end}) : std::nullopt;
  }

  std::optional<Range> bank_card(size_t begin) const {
    const auto range = number(begin, kCardForms, is_bank_card);
    const bool is_other = !range || !begins(begin) || !ends(range->end) || labels_.names_another_number(begin) ||
                          labels_.is_amount(begin) || labels_.is_unit(range->end);
    return is_other ? std::nullopt : range;
  }

  std::optional<Range> mobile(size_t begin, size_t end) const {
    std::optional<Range> found = mobile_as_float(begin, end);
    if (!found) found = number(begin, kMobileForms, is_mobile_number);
    if (!found) found = mobile_after_prefix(begin, end);
    if (!found || !ends(found->end) || labels_.is_unit(found->end)) return std::nullopt;
    widen_by_sign(*found);
    if (!begins(found->begin) || labels_.names_another_number(found->begin) || labels_.is_amount(found->begin))
      return std::nullopt;
    return is_joined_by_dash(*found) ? std::nullopt : found;
  }

  // As a table writes a number that it took for a float: 13912345678.0, 1.3912345678E+10. Few zeros at the end may be
  // left out of the second form: 1.5E10 is no telephone's.
  std::optional<Range> mobile_as_float(size_t begin, size_t end) const {
    constexpr size_t kDigits = 11, kMostLeftOut = 3, kLongest = 32;
    if (end - begin > kDigits) return std::nullopt;
    std::string digits = text_.ascii(begin, end);
    size_t at = end, exponent = 0;
    if (text_.at(at) == '.') {
      at = text_.end_of_digits(end + 1);
      if (at == end + 1 || at - end > kLongest) return std::nullopt;
      digits += text_.ascii(end + 1, at);
    }
    if (text_.at(at) == 'E' || text_.at(at) == 'e') {
      const size_t power = at + (text_.at(at + 1) == '+' ? 2 : 1);
      at = text_.end_of_digits(power);
      if (at == power || at - power > 2) return std::nullopt;
      exponent = static_cast<size_t>(value_of(text_.ascii(power, at)));
    }
    if (at == end || end - begin + exponent != kDigits || digits.size() + kMostLeftOut < kDigits) return std::nullopt;
    const bool is_whole = digits.find_first_not_of('0', kDigits) == std::string::npos;
    digits.resize(kDigits, '0');
    return is_whole && is_mobile_number(digits) ? std::optional(Range{begin, at}) : std::nullopt;
  }

  // 86 or 0086 begins here, and the number follows at once or after a bracket, a blank or a dash.
  std::optional<Range> mobile_after_prefix(size_t begin, size_t end) const {
    for (const std::string_view prefix : {"86", "0086"}) {
      size_t core = begin + prefix.size();
      if (core > end || text_.ascii(begin, core) != prefix) continue;
      if (core == end) {
        if (text_.at(core) == ')') ++core;
        if (text_.at(core) == ' ' || text_.at(core) == '-') ++core;
      }
      if (const auto range = number(core, kMobileForms, is_mobile_number, /*is_first=*/false))
        return Range{begin, range->end};
    }
    return std::nullopt;
  }

  // "+86" and "(86)" are part of what is masked.
  void widen_by_sign(Range& range) const {
    if (text_.at(range.begin) == '1') return;
    if (text_.at(range.begin - 1) == '+') --range.begin;
    if (text_.at(range.begin - 1) == '(' && closes(range)) --range.begin;
  }
  bool closes(const Range& range) const {
    for (size_t i = range.begin; i < range.end; ++i)
      if (text_.at(i) == ')') return true;
    return false;
  }

  // A part of a longer number such as 2023-13812345678-01, though not two mobile numbers.
  bool is_joined_by_dash(const Range& range) const {
    const auto is_mobile = [&](size_t begin, size_t end) {
      return end - begin == 11 && is_mobile_number(text_.ascii(begin, end));
    };
    if (text_.at(range.begin - 1) == '-' && is_digit(text_.at(range.begin - 2)) &&
        !is_mobile(text_.begin_of_digits(range.begin - 1), range.begin - 1))
      return true;
    return text_.at(range.end) == '-' && is_digit(text_.at(range.end + 1)) &&
           !is_mobile(range.end + 1, text_.end_of_digits(range.end + 1));
  }

  void find_emails() {
    size_t from = 0;
    for (size_t at = 0; at < text_.size(); ++at)
      if (text_.at(at) == '@')
        if (const auto email = email_around(at, from)) {
          emails_.push_back(*email);
          from = email->end;
        }
  }

  std::optional<Range> email_around(size_t at, size_t from) const {
    constexpr size_t kLongestLocal = 64, kLongestDomain = 253;
    const auto is_alphanumeric = [](char32_t c) { return is_digit(c) || is_letter(c); };
    const auto is_local = [&](char32_t c) {
      return is_alphanumeric(c) || c == '.' || c == '_' || c == '%' || c == '+' || c == '-';
    };
    size_t begin = at, end = at + 1;
    while (begin > from && is_local(text_.at(begin - 1))) --begin;
    while (begin < at && !is_alphanumeric(text_.at(begin)) && text_.at(begin) != '_') ++begin;
    if (begin == at || at - begin > kLongestLocal || text_.at(at - 1) == '.') return std::nullopt;
    while (end < text_.size() && end - at <= kLongestDomain &&
           (is_alphanumeric(text_.at(end)) || text_.at(end) == '-' || text_.at(end) == '.'))
      ++end;
    const std::string domain = text_.ascii(at + 1, end);
    const size_t length = length_of_domain(domain);
    if (length == 0) return std::nullopt;
    end = at + 1 + length;
    return is_call(end) || is_login(begin, end) ? std::nullopt : std::optional(Range{begin, end});
  }

  // q@k.to(...): a method of a product, where it is called like the name of a country.
  bool is_call(size_t end) const {
    constexpr std::string_view kMethods[] = {"to", "is", "at", "as", "mm", "mv", "eq", "ne", "lt", "le", "gt", "ge"};
    return text_.at(end) == '(' &&
           std::find(std::begin(kMethods), std::end(kMethods), text_.ascii(end - 2, end)) != std::end(kMethods);
  }

  // user:password@host of an address, and user@host:path as Git and scp write it.
  bool is_login(size_t begin, size_t end) const {
    size_t i = begin;
    while (i > 0 && (is_letter(text_.at(i - 1)) || is_digit(text_.at(i - 1)) || text_.at(i - 1) == ':' ||
                     text_.at(i - 1) == '-' || text_.at(i - 1) == '.'))
      --i;
    if (text_.at(i - 1) == '/' && text_.at(i - 2) == '/' && text_.at(i - 3) == ':') return true;
    if (text_.at(end) != ':') return false;
    for (i = end + 1; is_letter(text_.at(i)) || is_digit(text_.at(i)) || text_.at(i) == '_' || text_.at(i) == '-' ||
                      text_.at(i) == '.' || text_.at(i) == '~' || text_.at(i) == '/';
         ++i)
      if (text_.at(i) == '/') return true;
    return false;
  }

  std::string_view source_;
  PlainText text_;
  PersonalKinds kinds_;
  Labels labels_;
  std::vector<Range> emails_;
  std::vector<PersonalSpan> spans_;
};

// Whether it is worth a closer look: most texts have neither an @ nor eleven digits.
bool may_hold_any(std::string_view text) {
  constexpr size_t kFewestDigits = 11;
  size_t digits = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '@') return true;
    // Full-width digits and signs begin with EF BC, the at sign is EF BC A0.
    if (is_digit(static_cast<unsigned char>(c)) || (c == '\xEF' && i + 2 < text.size() && text[i + 1] == '\xBC')) {
      if (c == '\xEF' && text[i + 2] == '\xA0') return true;
      if (++digits >= kFewestDigits) return true;
    }
  }
  return false;
}

}  // namespace

std::vector<PersonalSpan> find_personal_data(std::string_view text, PersonalKinds kinds, std::string_view label) {
  if (!kinds.any() || !may_hold_any(text)) return {};
  return Finder(text, kinds, label).find();
}

std::string masked(std::string_view text, const std::vector<PersonalSpan>& spans) {
  std::string result;
  size_t at = 0;
  for (const PersonalSpan& span : spans) {
    result += text.substr(at, span.begin - at);
    result += word_of(span.kind).placeholder;
    at = span.end;
  }
  result += text.substr(at);
  return result;
}

}  // namespace rankfold
