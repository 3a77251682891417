// What a check of rows finds. The words are those of --remove and of the report.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace rankfold {

// In the order in which reasons count: a row that is left out for several of them is counted under the first.
enum class RowFinding : uint8_t {
  kBadRow,
  kWrongEncoding,
  kEmptyAnswer,
  kExactDuplicate,
  kNearDuplicate,
  kConflict,
  kShortAnswer,
  kAnswerInQuestion,
  kControl,
  kReplacement,
  kPrivateUse,
  kMojibake,
  kHeldOutExact,
  kHeldOutQuestion,
  kHeldOutNear,
  kPersonal,
  kMasked,
};
inline constexpr size_t kFindings = 17;

struct FindingWord {
  RowFinding finding;
  const char* word;
  const char* meaning;  // behind a count of rows
  bool may_be_removed = true;
};
// In the order of the enumeration.
inline constexpr std::array<FindingWord, kFindings> kFindingWords = {{
    {RowFinding::kBadRow, "bad_rows", "cannot be read as rows"},
    {RowFinding::kWrongEncoding, "wrong_encoding", "are not UTF-8"},
    {RowFinding::kEmptyAnswer, "empty_answers", "have no answer, or an empty one"},
    {RowFinding::kExactDuplicate, "exact_duplicates", "repeat an earlier row, but for width and white space"},
    {RowFinding::kNearDuplicate, "near_duplicates", "have most of their text in common with an earlier row"},
    {RowFinding::kConflict, "conflicts", "ask what an earlier row asks and answer otherwise"},
    {RowFinding::kShortAnswer, "short_answers", "have an answer shorter than min_answer_length"},
    {RowFinding::kAnswerInQuestion, "answers_in_questions", "have their whole answer in their question"},
    {RowFinding::kControl, "control_characters", "hold control characters"},
    {RowFinding::kReplacement, "replacement_characters", "hold U+FFFD: a converter could not read what stood there"},
    {RowFinding::kPrivateUse, "private_use_characters", "hold characters without a meaning of their own"},
    {RowFinding::kMojibake, "mojibake", "look as if they were read in the wrong encoding"},
    {RowFinding::kHeldOutExact, "heldout_exact", "stand among the held-out rows too"},
    {RowFinding::kHeldOutQuestion, "heldout_questions", "ask what a held-out row asks"},
    {RowFinding::kHeldOutNear, "heldout_near", "have most of their text in common with a held-out row"},
    {RowFinding::kPersonal, "personal_data", "hold what looks like personal data, and are not masked", false},
    {RowFinding::kMasked, "masked", "had personal data masked", false},
}};
inline const FindingWord& word_of(RowFinding finding) { return kFindingWords[static_cast<size_t>(finding)]; }

class RowFindings {
 public:
  void add(RowFinding finding) { bits_ |= bit(finding); }
  bool has(RowFinding finding) const { return bits_ & bit(finding); }
  bool any() const { return bits_ != 0; }
  RowFindings common(RowFindings other) const { return RowFindings(bits_ & other.bits_); }
  RowFinding first() const {  // of a set that is not empty
    size_t at = 0;
    while (!has(static_cast<RowFinding>(at))) ++at;
    return static_cast<RowFinding>(at);
  }
  RowFindings() = default;

 private:
  explicit RowFindings(uint32_t bits) : bits_(bits) {}
  static uint32_t bit(RowFinding finding) { return uint32_t{1} << static_cast<unsigned>(finding); }
  uint32_t bits_ = 0;
};

}  // namespace rankfold
