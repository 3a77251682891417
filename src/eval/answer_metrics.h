// Metrics that compare a generated answer with its row's reference answer. Texts are UTF-8. Results are in [0, 1]; 1
// means equal. Pure functions; they throw no errors of their own.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace rankfold {

// A text as the measures see it. Letters, digits and marks, in lower case, make words. White space, punctuation and the
// symbols of ASCII separate words and are left out. Two kinds of characters are a word each: those of scripts that
// write no spaces between words (Chinese, Japanese kana, Thai, Lao, Khmer, Burmese), and symbols beyond ASCII.
struct TextWord {
  std::string text = {};
  size_t begin = 0, end = 0;  // bytes of the text that it was found in
};
std::vector<TextWord> words_of(std::string_view text);

// Whether both are the same text. White space at the ends does not count, and a run of it counts as one space.
bool exact_match(std::string_view answer, std::string_view reference);

// 2 c / (a + r): c characters that both texts have (each as often as in the text that has it less often), of a and r
// characters of their words_of(), in any order. Texts without a word: 1 where both have none, else 0.
double char_f1(std::string_view answer, std::string_view reference);

// ROUGE-L, its F measure: 2 c / (a + r), where c is the length of the longest common subsequence of the a and r words
// of words_of(). Takes time in proportion to a * r / 64, memory in proportion to a + r.
double rouge_l(std::string_view answer, std::string_view reference);

}  // namespace rankfold
