#include "text/pattern.h"

#include "core/check.h"
#include "core/json.h"
#include "core/pcre2.h"

#include <nlohmann/json.hpp>

#include <chrono>
#include <ctime>
#include <new>
#include <utility>

namespace rankfold {
namespace {

constexpr size_t kLongest = 20'000;     // bytes of an expression; DeepSeek's first had 6,000
constexpr uint32_t kSteps = 1'000'000;  // of one match
constexpr uint32_t kHeap = 64 << 10;    // KiB
constexpr size_t kMatchesATick = 256;   // between two looks at the clock, which takes longer than a match
constexpr auto kPatience = std::chrono::seconds(2);
constexpr auto kPatienceOfAByte = std::chrono::microseconds(2);  // 20 times what an ordinary expression takes

void add(std::vector<Match>& parts, size_t begin, size_t end, bool is_match) {
  if (begin < end) parts.push_back({static_cast<uint32_t>(begin), static_cast<uint32_t>(end), is_match});
}

}  // namespace

Pattern Pattern::of_text(std::string text) {
  Pattern pattern;
  pattern.text_ = std::move(text);
  return pattern;
}

Pattern Pattern::of_regex(const std::string& key, const std::string& regex, By by) {
  Pattern pattern;
  pattern.key_ = key;
  pattern.text_ = regex;
  if (by == By::kScanner) pattern.scanner_ = known_scanner(regex);
  if (pattern.scanner_ != nullptr) return pattern;
  if (regex.size() > kLongest)
    fail(key, ": expected a regular expression of at most ", kLongest, " bytes, got ", regex.size());
  const std::string translated = translated_regex(key, regex);
  int error = 0;
  size_t at = 0;
  const auto context = pcre2::owned(::pcre2_compile_context_create(nullptr), ::pcre2_compile_context_free);
  ::pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  pcre2_code* const code = ::pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                                           PCRE2_UTF | PCRE2_UCP, &error, &at, context.get());
  if (code == nullptr)
    fail(key, ": ", brief(regex), " is not a regular expression that is supported: ", pcre2::message(error));
  pattern.code_ = {code, ::pcre2_code_free};
  uint32_t may_be_empty = 0;
  ::pcre2_pattern_info(code, PCRE2_INFO_MATCHEMPTY, &may_be_empty);
  if (may_be_empty) fail(key, ": ", brief(regex), " may match no characters at all, which is not supported");
  ::pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);  // where it cannot, the match is interpreted
  return pattern;
}

void Pattern::find(std::string_view text, std::vector<Match>& parts) const {
  parts.clear();
  if (scanner_ != nullptr)
    scanner_(text, parts);
  else if (code_ != nullptr)
    find_regex(text, parts);
  else
    find_text(text, parts);
}

void Pattern::find_text(std::string_view text, std::vector<Match>& parts) const {
  size_t done = 0;
  for (size_t at; !text_.empty() && (at = text.find(text_, done)) != std::string_view::npos; done = at + text_.size()) {
    add(parts, done, at, false);
    add(parts, at, at + text_.size(), true);
  }
  add(parts, done, text.size(), false);
}

void Pattern::find_regex(std::string_view text, std::vector<Match>& parts) const {
  const auto context = pcre2::owned(::pcre2_match_context_create(nullptr), ::pcre2_match_context_free);
  const auto data = pcre2::owned(::pcre2_match_data_create(1, nullptr), ::pcre2_match_data_free);
  ::pcre2_set_match_limit(context.get(), kSteps);
  ::pcre2_set_heap_limit(context.get(), kHeap);
  const auto deadline = pcre2::thread_time() + kPatience + kPatienceOfAByte * text.size();
  const size_t* const found = ::pcre2_get_ovector_pointer(data.get());
  size_t done = 0;
  for (size_t matches = 1; done < text.size(); ++matches) {
    const auto match = [&](uint32_t options) {
      return ::pcre2_match(code_.get(), reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), done,
                           PCRE2_NO_UTF_CHECK | options, data.get(), context.get());
    };
    int result = match(0);
    if (result == PCRE2_ERROR_JIT_STACKLIMIT) result = match(PCRE2_NO_JIT);
    if (result == PCRE2_ERROR_NOMATCH) break;
    if (result == PCRE2_ERROR_NOMEMORY) throw std::bad_alloc();
    if (result < 0 || (matches % kMatchesATick == 0 && pcre2::thread_time() > deadline))
      fail(key_, ": the regular expression ", brief(text_), " takes too long to match a text",
           result < 0 ? join(" (", pcre2::message(result), ")") : "");
    add(parts, done, found[0], false);
    add(parts, found[0], found[1], true);
    done = found[1];
  }
  add(parts, done, text.size(), false);
}

}  // namespace rankfold
