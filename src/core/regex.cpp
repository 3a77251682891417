#include "core/regex.h"

#include "core/check.h"
#include "core/json.h"
#include "core/pcre2.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <ctime>
#include <new>
#include <utility>

namespace rankfold {
namespace {

constexpr size_t kLongest = 20'000;    // bytes: a model's names in full, with bars between; compiled at most 64 KiB
constexpr size_t kLongestName = 1000;  // bytes
// Of one match. A step may go through all of the expression, so a long one has fewer: some 10 ms for .*.*.*.*, 100 ms at
// most. 100 bytes have a million.
constexpr uint64_t kSteps = 1'000'000, kStepsOfAByte = 40'000'000;
constexpr uint32_t kHeap = 16 << 10;  // KiB

// What PCRE2 and Python (3.9 to 3.14) read alike, element by element.
constexpr char kAlike[] = R"((?x)
  (?: [^\\\[\](){}*+?]
    | \\ (?: [dDwWsSbB] | [^a-zA-Z0-9] )
    | \[ \^? \]? (?: [^\\\[\]] | \\ (?: [dDwWsS] | [^a-zA-Z0-9] ) )* \]
    | \( (?: \? (?: [:=!] | i: | P<[A-Za-z_][A-Za-z0-9_]*> ) )? (?! [?*] )
    | \)
    | (?: [*+?] | \{ [0-9]+ (?: , [0-9]* )? \} ) \?? (?! [*+?{] )
  )*+)";

// Null for what is not a regular expression: `error` says why and `at` at which byte.
std::shared_ptr<pcre2_code> compile(std::string_view pattern, uint32_t options, int& error, size_t& at) {
  const auto context = pcre2::owned(::pcre2_compile_context_create(nullptr), ::pcre2_compile_context_free);
  ::pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);  // as in Python, the dot matches all but \n
  pcre2_code* const code =
      ::pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                      options | PCRE2_ANCHORED | PCRE2_UTF | PCRE2_UCP, &error, &at, context.get());
  if (code == nullptr && error == PCRE2_ERROR_HEAP_FAILED) throw std::bad_alloc();
  return {code, ::pcre2_code_free};
}

// How many bytes from `begin` match; an error's number, below 0, where none do.
ptrdiff_t matched(const pcre2_code* code, size_t pattern_size, std::string_view text, size_t begin) {
  const auto context = pcre2::owned(::pcre2_match_context_create(nullptr), ::pcre2_match_context_free);
  const auto data = pcre2::owned(::pcre2_match_data_create(1, nullptr), ::pcre2_match_data_free);
  ::pcre2_set_match_limit(context.get(), static_cast<uint32_t>(std::min(kSteps, kStepsOfAByte / (pattern_size + 1))));
  ::pcre2_set_heap_limit(context.get(), kHeap);
  const int result =
      ::pcre2_match(code, reinterpret_cast<PCRE2_SPTR>(text.data()), text.size(), begin, 0, data.get(), context.get());
  if (result == PCRE2_ERROR_NOMEMORY) throw std::bad_alloc();
  return result < 0 ? result : static_cast<ptrdiff_t>(::pcre2_get_ovector_pointer(data.get())[1] - begin);
}

}  // namespace

Regex::Regex(std::string key, std::string_view pattern, std::shared_ptr<Patience> patience)
    : key_(std::move(key)), pattern_(pattern), patience_(std::move(patience)) {
  if (pattern.size() > kLongest)
    fail(key_, ": expected a regular expression of at most ", kLongest, " bytes, got ", pattern.size());
  int error = 0;
  size_t at = 0;
  static const std::shared_ptr<pcre2_code> alike = compile(kAlike, 0, error, at);
  const ptrdiff_t length = matched(alike.get(), sizeof kAlike, pattern, 0);
  if (length < 0)
    fail(key_, ": ", brief(pattern_), " is not a regular expression: ", pcre2::message(static_cast<int>(length)));
  at = static_cast<size_t>(length);
  if (at < pattern.size())
    fail(key_, ": ", brief(pattern_), " is not a regular expression that is supported (byte ", at, ": ",
         brief(pattern_.substr(at, 4)), ")");
  code_ = compile(pattern, PCRE2_ENDANCHORED, error, at);
  if (!code_)
    fail(key_, ": ", brief(pattern_), " is not a regular expression: ", pcre2::message(error), " (byte ", at, ")");
}

bool Regex::match(std::string_view name) const { return match_from(name, 0); }

bool Regex::match_after_dot(std::string_view name) const {
  for (size_t begin = 0;; ++begin) {
    if (match_from(name, begin)) return true;
    begin = name.find('.', begin);
    if (begin == std::string_view::npos) return false;
  }
}

bool Regex::match_from(std::string_view name, size_t begin) const {
  if (name.size() > kLongestName)
    fail(key_, ": expected names of at most ", kLongestName, " bytes for a regular expression, got '", name, "'");
  const auto start = pcre2::thread_time();
  const ptrdiff_t result = matched(code_.get(), pattern_.size(), name, begin);
  patience_->left -= pcre2::thread_time() - start;
  if (patience_->left.count() < 0) fail(key_, ": the regular expression ", brief(pattern_), " takes too long to match");
  if (result < 0 && result != PCRE2_ERROR_NOMATCH)
    fail(key_, ": the regular expression ", brief(pattern_), " cannot be matched with '", name,
         "': ", pcre2::message(static_cast<int>(result)));
  return result >= 0;
}

}  // namespace rankfold
