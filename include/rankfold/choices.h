// Settings that take one of a few words. Which words there are and what each stands for is one table a setting: checks,
// error lines, --help and the code that acts on a word read it.
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
  const char* short_text = nullptr;  // another spelling that is taken
};

enum class Schedule { kLinear, kCosine, kConstant, kConstantWithWarmup };
inline constexpr Word<Schedule> kSchedules[] = {{"linear", Schedule::kLinear},
                                                {"cosine", Schedule::kCosine},
                                                {"constant", Schedule::kConstant},
                                                {"constant_with_warmup", Schedule::kConstantWithWarmup}};

// What the backward pass computes again instead of keeping it: nothing, gate and up of each layer, or whole layers.
enum class Checkpointing { none, mlp, full };
inline constexpr Word<std::optional<Checkpointing>> kCheckpointings[] = {
    {"none", Checkpointing::none}, {"mlp", Checkpointing::mlp}, {"full", Checkpointing::full}, {"auto", std::nullopt}};

// What becomes of a row that is longer than max_length.
enum class Overlong { kTruncate, kDrop, kError };
inline constexpr Word<Overlong> kOverlongs[] = {
    {"truncate", Overlong::kTruncate}, {"drop", Overlong::kDrop}, {"error", Overlong::kError}};

enum class Finetuning { kLora, kFull };
inline constexpr Word<Finetuning> kFinetunings[] = {{"lora", Finetuning::kLora}, {"full", Finetuning::kFull}};

// When the held-out rows are evaluated. Auto: by steps where eval_steps says so, else after each epoch; without held-out
// rows, never.
enum class EvalStrategy { kAuto, kNo, kSteps, kEpoch };
inline constexpr Word<EvalStrategy> kEvalStrategies[] = {{"auto", EvalStrategy::kAuto},
                                                         {"no", EvalStrategy::kNo},
                                                         {"steps", EvalStrategy::kSteps},
                                                         {"epoch", EvalStrategy::kEpoch}};

// Beside the log and the page that a run always writes.
enum class Report { kNone, kTensorboard };
inline constexpr Word<Report> kReports[] = {{"none", Report::kNone}, {"tensorboard", Report::kTensorboard, "all"}};

// What a finished run does that cannot be saved for want of space.
enum class DiskFull { kWait, kFail };
inline constexpr Word<DiskFull> kDiskFulls[] = {{"wait", DiskFull::kWait}, {"fail", DiskFull::kFail}};

// What a model computes in or is stored as.
inline constexpr Word<std::optional<at::ScalarType>> kDtypes[] = {{"auto", std::nullopt},
                                                                  {"float32", at::kFloat, "fp32"},
                                                                  {"bfloat16", at::kBFloat16, "bf16"},
                                                                  {"float16", at::kHalf, "fp16"}};

// What a base in fewer bits is stored as: 4 bits in blocks of 64 (nf4, fp4), 8 bits by row (int8, fp8).
enum class Quantization { nf4, fp4, int8, fp8 };
inline constexpr Word<std::optional<Quantization>> kQuantizationTypes[] = {{"auto", std::nullopt},
                                                                           {"nf4", Quantization::nf4},
                                                                           {"fp4", Quantization::fp4},
                                                                           {"int8", Quantization::int8},
                                                                           {"fp8", Quantization::fp8}};

// What a merge adds the adapter to: the weights in 16 or 32 bits, or what decoding those in fewer bits gives. Auto: the
// folder's own.
enum class MergeInto { kOriginal, kDequantized };
inline constexpr Word<std::optional<MergeInto>> kMergeIntos[] = {
    {"auto", std::nullopt}, {"original", MergeInto::kOriginal}, {"dequantized", MergeInto::kDequantized}};

// Null: no word of the table.
template <class Meaning, size_t N>
constexpr const Word<Meaning>* find_word(const Word<Meaning> (&table)[N], std::string_view text) {
  for (const Word<Meaning>& word : table)
    if (text == word.text || (word.short_text && text == word.short_text)) return &word;
  return nullptr;
}

// "linear, cosine, constant or constant_with_warmup".
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

// Null: no word stands for it.
template <class Meaning, size_t N>
constexpr const char* word_for(const Word<Meaning> (&table)[N], std::type_identity_t<Meaning> meaning) {
  for (const Word<Meaning>& word : table)
    if (word.meaning == meaning) return word.text;
  return nullptr;
}

}  // namespace rankfold
