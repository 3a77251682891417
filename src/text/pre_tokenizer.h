// Splits a text into words, which the model encodes separately: tokenizer.json's "pre_tokenizer".
#pragma once

#include "text/aligned_text.h"
#include "text/json_node.h"
#include "text/pattern.h"

#include <string>
#include <string_view>
#include <vector>

namespace rankfold {

// What happens to the matches of a pattern, as in the Python package tokenizers.
enum class Behavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };
// Merges parts as the behaviour requires. For kRemoved, the caller skips the matches.
void join_parts(std::vector<Match>& parts, Behavior behavior);

class PreTokenizer {
 public:
  // Working memory for one text, reused from text to text.
  struct Scratch {
    struct Level {
      std::vector<Match> parts;
      AlignedText text;
      std::vector<uint32_t> byte_of;  // of each byte of written-out bytes
    };
    std::vector<Level> levels;
  };

  // Supports Split, ByteLevel, Digits, Punctuation, Metaspace, Sequence and null. Throws UserError for others.
  static PreTokenizer of(const JsonNode& node);

  // Whether words are bytes. Pieces in the file then have the characters of byte_level.h.
  bool is_byte_level() const { return byte_level_ < steps_.size(); }

  // Calls take(Piece) for each word, in order.
  template <class Take>
  void apply(const Piece& piece, Scratch& scratch, const Take& take) const {
    scratch.levels.resize(steps_.size());
    run(0, piece, scratch, take);
  }

 private:
  struct Step {
    enum Kind { kSplit, kByteLevel, kNumeric, kPunctuation, kMetaspace } kind;
    Behavior behavior = Behavior::kIsolated;
    Pattern pattern = Pattern::of_text("");
    bool inverts = false;                                // the text between matches counts as the match
    bool cuts = true;                                    // split at the pattern
    bool adds_prefix = false;                            // ByteLevel: add a space before each piece without one
    enum { kNever, kFirst, kAlways } prepends = kNever;  // Metaspace
    std::string replacement = {};
  };

  template <class Take>
  void run(size_t number, const Piece& piece, Scratch& scratch, const Take& take) const {
    if (piece.text.empty()) return;
    if (number == steps_.size()) {
      take(piece);
      return;
    }
    Scratch::Level& level = scratch.levels[number];
    const Piece changed = cut(number, piece, level);
    for (size_t i = 0; i < level.parts.size(); ++i) {
      const Match part = level.parts[i];
      if (part.is_match && steps_[number].behavior == Behavior::kRemoved) continue;
      run(number + 1, changed.part(part.begin, part.end), scratch, take);
    }
  }

  void add(const JsonNode& node);
  Piece cut(size_t number, const Piece& piece, Scratch::Level& level) const;  // into level.parts
  void find(const Step& step, std::string_view text, std::vector<Match>& parts) const;
  std::vector<Step> steps_;
  size_t byte_level_ = SIZE_MAX;  // index of the ByteLevel step; SIZE_MAX: none
};

}  // namespace rankfold
