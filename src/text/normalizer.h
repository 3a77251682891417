// Changes a text before it is cut into words: tokenizer.json's "normalizer".
#pragma once

#include "text/aligned_text.h"
#include "text/json_node.h"
#include "text/pattern.h"
#include "text/vocabulary.h"

#include <string>
#include <vector>

namespace rankfold {

class Normalizer {
 public:
  // Room for what one text becomes.
  struct Scratch {
    AlignedText texts[2];
    std::vector<Match> parts;
  };

  // NFC, Prepend, Replace, Sequence or null. Throws UserError for others.
  static Normalizer of(const JsonNode& node);

  // The piece, changed or not; it lies in `scratch` where it is. Throws UserError where it grows too long.
  Piece apply(Piece piece, Scratch& scratch) const;

 private:
  struct Step {
    enum Kind { kNfc, kPrepend, kReplace } kind;
    std::string content = {};
    Pattern pattern = Pattern::of_text("");
  };
  void add(const JsonNode& node);
  std::vector<Step> steps_;
};

// Replaces what `changed` holds by the piece with `content` in place of each match, which has the range of the match's
// last character. False where there is no match. Throws UserError where it grows too long.
bool replace(const Piece& piece, const Pattern& pattern, std::string_view content, AlignedText& changed,
             std::vector<Match>& parts);

// {"String": "text"} or {"Regex": "expression"}
Pattern read_pattern(const JsonNode& node);

// Of one text, and of what normalising makes of it.
inline constexpr size_t kLongestInput = 8 << 20;
inline constexpr size_t kLongestNormalized = 4 * kLongestInput;

}  // namespace rankfold
