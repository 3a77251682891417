// Changes a text before it is split into words: tokenizer.json's "normalizer".
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
  // Working memory for one text, reused from text to text.
  struct Scratch {
    AlignedText texts[2];
    std::vector<Match> parts;
  };

  // Supports NFC, Prepend, Replace, Sequence and null. Throws UserError for others.
  static Normalizer of(const JsonNode& node);

  // Returns the piece, or the changed one, which refers to `scratch`. Throws UserError where the text becomes too long.
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

// Sets `changed` to the piece with each match replaced by `content`, which gets the range of the match's last
// character. Returns false where there is no match. Throws UserError where the text becomes too long.
bool replace(const Piece& piece, const Pattern& pattern, std::string_view content, AlignedText& changed,
             std::vector<Match>& parts);

// {"String": "text"} or {"Regex": "expression"}
Pattern read_pattern(const JsonNode& node);

// Limits in bytes of a text, and of the normalised text.
inline constexpr size_t kLongestInput = 8 << 20;
inline constexpr size_t kLongestNormalized = 4 * kLongestInput;

}  // namespace rankfold
