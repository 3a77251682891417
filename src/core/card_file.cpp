#include "core/card_file.h"

#include "core/check.h"
#include "core/checksum.h"
#include "core/file.h"
#include "core/write.h"

#include <optional>
#include <span>
#include <utility>

namespace rankfold {
namespace fs = std::filesystem;
namespace {

constexpr std::string_view kSignature = "\n<!-- Written by Rankfold, which keeps a file that was changed. ";
constexpr std::string_view kEarlier =
    "\nTrained with Rankfold; loads with `peft.PeftModel.from_pretrained(base, folder)`.\n";
constexpr uint64_t kLargestCard = 16 << 20;

std::string signature_of(std::string_view text) {
  return join(kSignature, checksum_text(checksum64(std::as_bytes(std::span(text)))), " -->\n");
}

struct Found {
  bool is_persons = false;
  std::optional<std::string> text = {};  // of a person's file that can be read
};

Found look_at(const fs::path& file) {
  try {
    const std::string there = what_stands_at(file);
    if (there == "nothing") return {};
    if (there != "a file") return {.is_persons = true};
    std::string text = read_text(file, kLargestCard);
    if (is_our_card(text)) return {};
    return {.is_persons = true, .text = std::move(text)};
  } catch (const Error&) {
    return {.is_persons = true};
  }
}

}  // namespace

std::string sign_card(const std::string& text) { return text + signature_of(text); }

bool is_our_card(const std::string& text) {
  if (text.ends_with(kEarlier)) return true;
  const size_t at = text.rfind(kSignature);
  return at != std::string::npos && text.substr(at) == signature_of(std::string_view(text).substr(0, at));
}

bool keep_own_readme(const fs::path& staging, const fs::path& target) {
  if (what_stands_at(staging / kCard) == "nothing") return false;
  const Found readme = look_at(target / kCard);
  if (!readme.is_persons) return false;
  const std::string card = read_text(staging / kCard, kLargestCard);
  if (readme.text == card) return false;  // the base's own, which full tuning brings along
  const Found beside = look_at(target / kCardBeside);
  // All that is kept is part of the new set of files: what only the old set has is taken away.
  const auto put = [&](const char* name, const std::optional<std::string>& text) {
    text ? write_text(staging / name, *text) : remove_file(staging / name);
  };
  put(kCardBeside, beside.is_persons ? beside.text : card);
  put(kCard, readme.text);
  return true;
}

std::string shell_word(const std::string& text) {
  constexpr std::string_view kPlain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./=:,+@%";
  if (!text.empty() && text.find_first_not_of(kPlain) == std::string::npos) return text;
  std::string word = "'";
  for (const char c : text) word += c == '\'' ? "'\\''" : std::string(1, c);
  return word + "'";
}

}  // namespace rankfold
