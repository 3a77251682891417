// How many of the marked places of tests/clean/mask_examples.txt are found, and what else is: the precision and recall
// that docs/data-cleaning.md states.
#include "clean/mask_json.h"
#include "clean/personal_data.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <string>
#include <vector>

namespace rankfold {
namespace {

struct Example {
  std::string text;
  std::vector<PersonalSpan> marked;
};

std::string without_escapes(std::string line) {
  for (const auto& [from, to] : {std::pair{"\\n", "\n"}, std::pair{"\\t", "\t"}})
    for (size_t at = 0; (at = line.find(from, at)) != std::string::npos; ++at) line.replace(at, 2, to);
  return line;
}

Example example_of(const std::string& line) {
  static const std::string kOpen = "⟦", kClose = "⟧";
  Example example;
  for (size_t at = 0; at < line.size();) {
    const size_t open = line.find(kOpen, at);
    example.text += line.substr(at, open - at);
    if (open == std::string::npos) break;
    const size_t name = open + kOpen.size(), colon = line.find(':', name), close = line.find(kClose, colon);
    if (colon == std::string::npos || close == std::string::npos) throw std::logic_error("broken example: " + line);
    const std::string kind = line.substr(name, colon - name);
    const auto word = std::find_if(kPersonalWords.begin(), kPersonalWords.end(),
                                   [&kind](const PersonalWord& known) { return kind == known.word; });
    if (word == kPersonalWords.end()) throw std::logic_error("unknown kind: " + line);
    const size_t begin = example.text.size();
    example.text += line.substr(colon + 1, close - colon - 1);
    example.marked.push_back({word->kind, begin, example.text.size(), 0});
    at = close + kClose.size();
  }
  return example;
}

// Of the first part, by which rules were made too, or of the second, which was measured once and written last.
std::vector<Example> examples(bool of_second_part) {
  std::ifstream file(RANKFOLD_MASK_EXAMPLES);
  std::vector<Example> all;
  bool is_second = false;
  for (std::string line; std::getline(file, line);) {
    is_second = is_second || line.starts_with("# Measured once");
    if (!line.empty() && !line.starts_with("# ") && is_second == of_second_part)
      all.push_back(example_of(without_escapes(line)));
  }
  return all;
}

bool is_same(const PersonalSpan& a, const PersonalSpan& b) {
  return a.kind == b.kind && a.begin == b.begin && a.end == b.end;
}

struct Score {
  int64_t marked = 0, found = 0, right = 0;
  double precision() const { return found ? static_cast<double>(right) / static_cast<double>(found) : 1; }
  double recall() const { return marked ? static_cast<double>(right) / static_cast<double>(marked) : 1; }
};

struct Scores {
  std::array<Score, kPersonalKinds + 1> of = {};  // the last: of all kinds
  int64_t with = 0, without = 0, spoiled = 0;     // texts; those without, in which something was found
  std::string misses;
};

Scores measure(const std::vector<Example>& examples) {
  Scores scores;
  for (const Example& example : examples) {
    const std::vector<PersonalSpan> found = find_personal_data(example.text, PersonalKinds::all());
    (example.marked.empty() ? scores.without : scores.with) += 1;
    scores.spoiled += example.marked.empty() && !found.empty();
    const auto has = [](const std::vector<PersonalSpan>& list, const PersonalSpan& span) {
      return std::any_of(list.begin(), list.end(), [&span](const PersonalSpan& other) { return is_same(span, other); });
    };
    const auto count = [&scores](const PersonalSpan& span, int64_t Score::*what) {
      ++(scores.of[static_cast<size_t>(span.kind)].*what);
      ++(scores.of[kPersonalKinds].*what);
    };
    for (const PersonalSpan& span : example.marked) {
      count(span, &Score::marked);
      if (!has(found, span))
        scores.misses += std::string("  missed ") + word_of(span.kind).word + ": " + example.text + "\n";
    }
    for (const PersonalSpan& span : found) {
      count(span, &Score::found);
      if (has(example.marked, span))
        count(span, &Score::right);
      else
        scores.misses += std::string("  wrongly ") + word_of(span.kind).word + " \"" +
                         example.text.substr(span.begin, span.end - span.begin) + "\": " + example.text + "\n";
    }
  }
  return scores;
}

void print(const char* title, const Scores& scores) {
  const auto number = [](int64_t x) { return static_cast<long long>(x); };
  std::printf("%s: %lld texts with personal data, %lld without, of these %lld in which something was found\n", title,
              number(scores.with), number(scores.without), number(scores.spoiled));
  for (size_t i = 0; i <= kPersonalKinds; ++i)
    std::printf("  %-8s  marked %3lld  found %3lld  right %3lld  precision %.3f  recall %.3f\n",
                i == kPersonalKinds ? "all" : kPersonalWords[i].word, number(scores.of[i].marked),
                number(scores.of[i].found), number(scores.of[i].right), scores.of[i].precision(),
                scores.of[i].recall());
  std::cout << scores.misses;
}

TEST(MaskSet, PrecisionAndRecall) {
  const Scores first = measure(examples(false)), second = measure(examples(true));
  print("first part", first);
  print("second part", second);
  EXPECT_GE(first.with, 150);
  EXPECT_GE(first.without, 150);
  for (size_t i = 0; i <= kPersonalKinds; ++i) {
    EXPECT_GE(first.of[i].marked, 20) << i;
    EXPECT_GE(first.of[i].precision(), 0.98) << i;
    EXPECT_GE(first.of[i].recall(), 0.93) << i;
  }
  EXPECT_EQ(first.spoiled, 0);
  EXPECT_GE(second.of[kPersonalKinds].precision(), 0.9);
  EXPECT_GE(second.of[kPersonalKinds].recall(), 0.9);
}

// What is measured above is what a row gets, as UTF-8 and in escapes. A text that is JSON itself is read as such.
TEST(MaskSet, JsonIsMaskedAsItsTextsAre) {
  using nlohmann::json;
  for (const bool of_second_part : {false, true})
    for (const Example& example : examples(of_second_part)) {
      if (json::accept(example.text)) continue;
      const std::vector<PersonalSpan> spans = find_personal_data(example.text, PersonalKinds::all());
      for (const bool escapes : {false, true}) {
        const std::string row = json{{"text", example.text}}.dump(-1, ' ', escapes);
        const MaskedJson found = mask_json(row, PersonalKinds::all());
        EXPECT_EQ(json::parse(found.text.empty() ? row : found.text).at("text"), masked(example.text, spans)) << row;
        EXPECT_EQ(found.hits.size(), spans.size()) << row;
      }
    }
}

}  // namespace
}  // namespace rankfold
