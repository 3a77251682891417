#include "eval/answer_metrics.h"
#include "eval/terms.h"
#include "text/unicode.h"

#include <algorithm>
#include <cstdint>
#include <set>
#include <string_view>
#include <unordered_map>

namespace rankfold {
namespace {

constexpr size_t kLongestPhrase = 8, kMostTerms = 2000;
constexpr int64_t kFewestTexts = 2;
constexpr double kTimesAsFrequent = 5;

// What was seen of a phrase.
struct Phrase {
  std::string spelling;               // where it was first met
  int64_t texts = 0, base_texts = 0;  // that have it
  int64_t last = -1;                  // the text that was counted last
  std::string_view before, behind;    // the words beside it where it was first met
  bool begins = false, ends = false;  // it stood at an edge of its text, or beside another word too
};
using Phrases = std::unordered_map<std::string, Phrase>;  // by their text in lower case, as answers are searched

// Nothing but a space between two words.
bool adjoin(std::string_view text, const TextWord& a, const TextWord& b) {
  const std::string_view between = text.substr(a.end, b.begin - a.end);
  return between.empty() || between == " ";
}

// Calls visit(first, last) for each run of `count` words that adjoin.
template <class Visit>
void each_phrase(std::string_view text, const std::vector<TextWord>& words, size_t count, const Visit& visit) {
  size_t run = 0;  // words that follow each other up to here
  for (size_t i = 0; i < words.size(); ++i) {
    run = i > 0 && adjoin(text, words[i - 1], words[i]) ? run + 1 : 1;
    if (run >= count) visit(i + 1 - count, i);
  }
}

std::string spelling_of(std::string_view text, const std::vector<TextWord>& words, size_t first, size_t last) {
  return std::string(text.substr(words[first].begin, words[last].end - words[first].begin));
}

// The name of a phrase, the same however it is spelt.
std::string key_of(const std::vector<TextWord>& words, size_t first, size_t last) {
  std::string key = words[first].text;
  for (size_t i = first + 1; i <= last; ++i) {
    if (words[i].begin > words[i - 1].end) key += ' ';
    key += words[i].text;
  }
  return key;
}

// Letters enough to mean something, and not a number.
bool may_be_term(const std::string& phrase, size_t words) {
  const auto& properties = unicode::Properties::get();
  bool has_letter = false;
  for (size_t at = 0; at < phrase.size();)
    has_letter |= (properties.of(unicode::next_character(phrase, at)) & unicode::kLetter) != 0;
  return has_letter && (words > 1 || unicode::count_characters(phrase) > 2);
}

}  // namespace

std::vector<std::string> mine_terms(const std::vector<std::string>& all_texts,
                                    const std::vector<std::string>& base_texts) {
  const std::set<std::string> distinct(all_texts.begin(), all_texts.end());
  const std::vector<std::string> texts(distinct.begin(), distinct.end());
  std::vector<std::vector<TextWord>> words;
  for (const std::string& text : texts) words.push_back(words_of(text));
  Phrases shorter, found;
  const auto is_frequent = [&shorter](const std::string& phrase) {
    const auto at = shorter.find(phrase);
    return at != shorter.end() && at->second.texts >= kFewestTexts;
  };
  // A phrase is frequent only where those are that one word less makes: few others are ever held.
  for (size_t count = 1; count <= kLongestPhrase; ++count) {
    Phrases here;
    for (size_t t = 0; t < texts.size(); ++t) {
      const std::vector<TextWord>& list = words[t];
      each_phrase(texts[t], list, count, [&](size_t first, size_t last) {
        if (count > 1 && !(is_frequent(key_of(list, first, last - 1)) && is_frequent(key_of(list, first + 1, last))))
          return;
        const auto [entry, is_new] = here.try_emplace(key_of(list, first, last));
        Phrase& phrase = entry->second;
        const bool has_before = first > 0 && adjoin(texts[t], list[first - 1], list[first]);
        const bool has_behind = last + 1 < list.size() && adjoin(texts[t], list[last], list[last + 1]);
        const std::string_view before = has_before ? std::string_view(list[first - 1].text) : "";
        const std::string_view behind = has_behind ? std::string_view(list[last + 1].text) : "";
        if (is_new)
          phrase.spelling = spelling_of(texts[t], list, first, last), phrase.before = before, phrase.behind = behind;
        phrase.begins |= !has_before || before != phrase.before;
        phrase.ends |= !has_behind || behind != phrase.behind;
        phrase.texts += phrase.last != static_cast<int64_t>(t);
        phrase.last = static_cast<int64_t>(t);
      });
    }
    for (const auto& [text, phrase] : here)
      if (phrase.texts >= kFewestTexts && phrase.begins && phrase.ends && may_be_term(text, count))
        found.emplace(text, phrase);
    shorter = std::move(here);
  }

  for (size_t t = 0; t < base_texts.size(); ++t) {
    const std::vector<TextWord> list = words_of(base_texts[t]);
    std::set<Phrase*> seen;
    for (size_t count = 1; count <= kLongestPhrase; ++count)
      each_phrase(base_texts[t], list, count, [&](size_t first, size_t last) {
        const auto entry = found.find(key_of(list, first, last));
        if (entry != found.end()) seen.insert(&entry->second);
      });
    for (Phrase* phrase : seen) ++phrase->base_texts;
  }
  std::vector<std::pair<double, std::string>> ranked;
  for (const auto& [text, phrase] : found) {
    const double here = static_cast<double>(phrase.texts) / static_cast<double>(texts.size());
    // Half a text more: what was never seen there is not infinitely rarer.
    const double there = (static_cast<double>(phrase.base_texts) + 0.5) / static_cast<double>(base_texts.size() + 1);
    if (here >= kTimesAsFrequent * there) ranked.emplace_back(-here / there, phrase.spelling);
  }
  std::sort(ranked.begin(), ranked.end());
  if (ranked.size() > kMostTerms) ranked.resize(kMostTerms);
  std::vector<std::string> terms;
  for (auto& [rank, text] : ranked) terms.push_back(std::move(text));
  return terms;
}

}  // namespace rankfold
