// Numbers and addresses that name a person: resident ID numbers, mobile numbers and bank cards of China, e-mail.
// docs/data-cleaning.md has the rules in words, and what they find of a set of examples.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace rankfold {

enum class PersonalKind : uint8_t { kId, kMobile, kEmail, kBankCard };
inline constexpr size_t kPersonalKinds = 4;

struct PersonalWord {
  PersonalKind kind;
  const char* word;         // of --mask and reports
  const char* placeholder;  // that stands in the text afterwards
};
// In the order of the enumeration.
inline constexpr std::array<PersonalWord, kPersonalKinds> kPersonalWords = {
    {{PersonalKind::kId, "id", "[ID]"},
     {PersonalKind::kMobile, "mobile", "[MOBILE]"},
     {PersonalKind::kEmail, "email", "[EMAIL]"},
     {PersonalKind::kBankCard, "bankcard", "[BANKCARD]"}}};
inline const PersonalWord& word_of(PersonalKind kind) { return kPersonalWords[static_cast<size_t>(kind)]; }

class PersonalKinds {
 public:
  static PersonalKinds all() { return PersonalKinds((1u << kPersonalKinds) - 1); }
  PersonalKinds() = default;
  void add(PersonalKind kind) { bits_ |= 1u << static_cast<unsigned>(kind); }
  bool has(PersonalKind kind) const { return bits_ >> static_cast<unsigned>(kind) & 1; }
  bool any() const { return bits_ != 0; }

 private:
  explicit PersonalKinds(unsigned bits) : bits_(bits) {}
  unsigned bits_ = 0;
};

struct PersonalSpan {
  PersonalKind kind;
  size_t begin = 0, end = 0;  // bytes
  size_t character = 0;       // of `begin`
};

// The spans in the order of the text; none overlap. `label`: what the text stands under, such as the key of a column;
// it is read as if it stood before the text. Only `kinds` are looked for; where two could begin at one place, e-mail
// comes first, then ID, bank card, mobile. `text`: UTF-8 that is known to be sound.
std::vector<PersonalSpan> find_personal_data(std::string_view text, PersonalKinds kinds, std::string_view label = {});

// The text with placeholders for the spans.
std::string masked(std::string_view text, const std::vector<PersonalSpan>& spans);

// 18 characters, the last a digit or X: region, date of birth, and a check digit that fits (GB 11643-1999).
bool is_resident_id(std::string_view number);
// 16 to 19 digits: issuer, length, and a check digit that fits (Luhn).
bool is_bank_card(std::string_view number);
// 11 digits that begin with a prefix of a mobile network.
bool is_mobile_number(std::string_view number);

}  // namespace rankfold
