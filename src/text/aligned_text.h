// Text that was changed before tokenisation. Each of its bytes has a range of bytes in the original text.
#pragma once

#include "text/unicode.h"
#include "text/vocabulary.h"

#include <algorithm>
#include <string>
#include <string_view>
#include <vector>

namespace rankfold {

// A part of the original text or of a changed one. A view: owns nothing.
struct Piece {
  std::string_view text;
  std::string_view original;          // the whole original text
  const TextRange* ranges = nullptr;  // for each byte; null: the text equals the original from `origin` on
  uint32_t origin = 0;

  Piece part(size_t begin, size_t end) const {
    return {text.substr(begin, end - begin), original, ranges == nullptr ? nullptr : ranges + begin,
            ranges == nullptr ? origin + static_cast<uint32_t>(begin) : origin};
  }

  // The range of [begin, end) in the original, extended to whole characters. The piece must not be empty.
  TextRange range(size_t begin, size_t end) const {
    if (ranges != nullptr) {
      const size_t first = std::min(begin, text.size() - 1);
      return {ranges[first].begin, ranges[std::max(end, first + 1) - 1].end};
    }
    uint32_t first = origin + static_cast<uint32_t>(begin), last = origin + static_cast<uint32_t>(end);
    while (first > 0 && first < original.size() && unicode::is_continuation(original[first])) --first;
    while (last < original.size() && unicode::is_continuation(original[last])) ++last;
    return {first, last};
  }

  uint32_t begin_in_original() const { return ranges != nullptr && !text.empty() ? ranges[0].begin : origin; }
};

struct AlignedText {
  std::string text;
  std::vector<TextRange> ranges;

  void clear() {
    text.clear();
    ranges.clear();
  }
  void append(const Piece& piece);
  void append(std::string_view content, TextRange range) {
    text += content;
    ranges.insert(ranges.end(), content.size(), range);
  }
  Piece piece(const Piece& from) const { return {text, from.original, ranges.data(), from.origin}; }
};

inline void AlignedText::append(const Piece& piece) {
  text += piece.text;
  if (piece.ranges != nullptr) {
    ranges.insert(ranges.end(), piece.ranges, piece.ranges + piece.text.size());
    return;
  }
  uint32_t at = piece.origin;
  for (size_t i = 0; i < piece.text.size();) {
    const uint32_t length = unicode::length_of(piece.text[i]);
    ranges.insert(ranges.end(), length, {at, at + length});
    i += length;
    at += length;
  }
}

// Sets `changed` to `content` followed by the piece. `content` gets the range of the piece's first character. The piece
// must not be empty.
inline void prepend(const Piece& piece, std::string_view content, AlignedText& changed) {
  changed.clear();
  changed.append(content, piece.range(0, unicode::length_of(piece.text[0])));
  changed.append(piece);
}

}  // namespace rankfold
