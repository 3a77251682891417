// Finds added tokens in a text, as the Python package tokenizers does.
#pragma once

#include "text/aligned_text.h"

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace rankfold {

// An added token in a text; id -1: the text between two of them. If a token includes the blanks after it (rstrip), the
// next token may begin within these blanks.
struct Found {
  int32_t id;
  size_t begin, end;
};

// Tokens that are not recognised where one of their bytes is in one of these ranges of the original text.
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
  // `pattern`: the token's text, normalised if the token is. Returns false if another token has the same pattern.
  bool add(const AddedToken& token, std::string_view pattern);

  // Sets `found` to all parts of a text, in order. Worst-case time is the text's length times the longest pattern. It
  // is fast where few characters begin a pattern.
  void find(const Piece& piece, const HiddenTokens& hidden, std::vector<Found>& found) const;

 private:
  struct Node {
    int32_t child = -1, sibling = -1;
    int32_t token = -1;  // token that ends at this node; -1: none
    char byte = 0;
  };
  int32_t child_of(int32_t node, char byte) const;

  std::vector<AddedToken> tokens_;
  std::vector<Node> nodes_ = std::vector<Node>(1);
  bool begins_[256] = {};  // bytes that begin a pattern
};

}  // namespace rankfold
