// Finds added tokens in a text, as PyPI's tokenizers does.
#pragma once

#include "text/aligned_text.h"

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace rankfold {

// An added token in a text, or with the id -1 what lies between two. A token that took the blanks behind it may be
// followed by one that begins among these.
struct Found {
  int32_t id;
  size_t begin, end;
};

// Tokens that stay text where a byte that spells them lies in one of the ranges of the original text.
struct HiddenTokens {
  const std::vector<bool>& ids;  // empty: none
  std::span<const TextRange> ranges;

  bool has(const Piece& piece, int32_t id, size_t begin, size_t end) const {
    if (ids.empty() || !ids[static_cast<size_t>(id)]) return false;
    const TextRange range = piece.range(begin, end);
    return has_part_of(ranges, range.begin, range.end);
  }
};

class AddedTokenFinder {
 public:
  // `pattern` is what stands for it in the text; false where another token has the same.
  bool add(const AddedToken& token, std::string_view pattern);

  // Replaces what `found` holds by all of a text, in order. Takes time in proportion to the text times the longest
  // pattern at worst, and hardly any where few characters begin one.
  void find(const Piece& piece, const HiddenTokens& hidden, std::vector<Found>& found) const;

 private:
  struct Node {
    int32_t child = -1, sibling = -1;
    int32_t token = -1;  // that ends here
    char byte = 0;
  };
  int32_t child_of(int32_t node, char byte) const;

  std::vector<AddedToken> tokens_;
  std::vector<Node> nodes_ = std::vector<Node>(1);
  bool begins_[256] = {};  // some pattern
};

}  // namespace rankfold
