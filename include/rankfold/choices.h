// Settings that take one of a few words. One table for each setting lists the words and their meanings. Checks, error
// messages, --help and the code that acts on a word all read it.
#pragma once

#include "rankfold/error.h"

#include <c10/core/ScalarType.h>

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>

namespace rankfold {

template <class Meaning>
struct Word {
  const char* text;
  Meaning meaning;
  const char* short_text = nullptr;  // accepted alias; null: none
};

enum class Schedule { kLinear, kCosine, kConstant, kConstantWithWarmup };
inline constexpr Word<Schedule> kSchedules[] = {{"linear", Schedule::kLinear},
                                                {"cosine", Schedule::kCosine},
                                                {"constant", Schedule::kConstant},
                                                {"constant_with_warmup", Schedule::kConstantWithWarmup}};

// What the backward pass recomputes instead of storing: nothing, gate and up of each layer, or whole layers.
enum class Checkpointing { none, mlp, full };
inline constexpr Word<std::optional<Checkpointing>> kCheckpointings[] = {
    {"none", Checkpointing::none}, {"mlp", Checkpointing::mlp}, {"full", Checkpointing::full}, {"auto", std::nullopt}};

// What happens to a row that is longer than max_length.
enum class Overlong { kTruncate, kDrop, kError };
inline constexpr Word<Overlong> kOverlongs[] = {
    {"truncate", Overlong::kTruncate}, {"drop", Overlong::kDrop}, {"error", Overlong::kError}};

enum class Finetuning { kLora, kFull };
inline constexpr Word<Finetuning> kFinetunings[] = {{"lora", Finetuning::kLora}, {"full", Finetuning::kFull}};

// When the held-out rows are evaluated. Auto: every eval_steps where eval_steps is set, else after each epoch, and
// never without held-out rows.
enum class EvalStrategy { kAuto, kNo, kSteps, kEpoch };
inline constexpr Word<EvalStrategy> kEvalStrategies[] = {{"auto", EvalStrategy::kAuto},
                                                         {"no", EvalStrategy::kNo},
                                                         {"steps", EvalStrategy::kSteps},
                                                         {"epoch", EvalStrategy::kEpoch}};

// Output in addition to the log and the HTML page that every run writes.
enum class Report { kNone, kTensorboard };
inline constexpr Word<Report> kReports[] = {{"none", Report::kNone}, {"tensorboard", Report::kTensorboard, "all"}};

// What a finished run does when the disk is too full to save its result.
enum class DiskFull { kWait, kFail };
inline constexpr Word<DiskFull> kDiskFulls[] = {{"wait", DiskFull::kWait}, {"fail", DiskFull::kFail}};

// Dtypes that a model computes in or is stored as.
inline constexpr Word<std::optional<at::ScalarType>> kDtypes[] = {{"auto", std::nullopt},
                                                                  {"float32", at::kFloat, "fp32"},
                                                                  {"bfloat16", at::kBFloat16, "bf16"},
                                                                  {"float16", at::kHalf, "fp16"}};

// Formats of quantised base weights: 4 bits in blocks of 64 (nf4, fp4), 8 bits by row (int8, fp8).
enum class Quantization { nf4, fp4, int8, fp8 };
inline constexpr Word<std::optional<Quantization>> kQuantizationTypes[] = {{"auto", std::nullopt},
                                                                           {"nf4", Quantization::nf4},
                                                                           {"fp4", Quantization::fp4},
                                                                           {"int8", Quantization::int8},
                                                                           {"fp8", Quantization::fp8}};

// Which weights a merge adds the adapter to: the original ones in 16 or 32 bits, or the decoded values of quantised
// ones. Auto: those of the given folder.
enum class MergeInto { kOriginal, kDequantized };
inline constexpr Word<std::optional<MergeInto>> kMergeIntos[] = {
    {"auto", std::nullopt}, {"original", MergeInto::kOriginal}, {"dequantized", MergeInto::kDequantized}};

// Returns the entry with this word or alias; null: none.
template <class Meaning, size_t N>
constexpr const Word<Meaning>* find_word(const Word<Meaning> (&table)[N], std::string_view text) {
  for (const Word<Meaning>& word : table)
    if (text == word.text || (word.short_text && text == word.short_text)) return &word;
  return nullptr;
}

// Returns the words as a list: "linear, cosine, constant or constant_with_warmup".
template <class Meaning, size_t N>
std::string list_words(const Word<Meaning> (&table)[N]) {
  std::string text;
  for (size_t i = 0; i < N; ++i) text += (i == 0 ? "" : i + 1 == N ? " or " : ", ") + std::string(table[i].text);
  return text;
}

template <class Meaning, size_t N>
Meaning meaning_of(const Word<Meaning> (&table)[N], const std::string& text) {
  if (const Word<Meaning>* word = find_word(table, text)) return word->meaning;
  throw UserError("expected " + list_words(table) + ", got \"" + text + "\"");
}

// Returns the word for a meaning; null: none.
template <class Meaning, size_t N>
constexpr const char* word_for(const Word<Meaning> (&table)[N], std::type_identity_t<Meaning> meaning) {
  for (const Word<Meaning>& word : table)
    if (word.meaning == meaning) return word.text;
  return nullptr;
}

}  // namespace rankfold
