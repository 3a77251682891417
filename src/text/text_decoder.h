// Ids to text: tokenizer.json's "decoder".
#pragma once

#include "text/json_node.h"
#include "text/vocabulary.h"

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace rankfold {

// The settings, in the order in which they are carried out.
struct DecoderSettings {
  // ByteLevel; or Metaspace; or a Sequence of Replace, ByteFallback, then Metaspace or Fuse and Strip, each of which
  // may be missing; or null. Throws UserError for others.
  static DecoderSettings of(const JsonNode& node);

  bool is_none = true;  // pieces with spaces between
  bool is_byte_level = false;
  std::vector<std::pair<std::string, std::string>> replaced;  // in each piece
  bool byte_fallback = false;      // <0xNN> is a byte; a run of them that is no UTF-8 is a U+FFFD for each
  std::string space_mark;          // Metaspace: this is a space,
  bool drops_first_marks = false;  // but nothing in the first piece
  std::string stripped;            // Strip: this character is dropped at the begin of the text,
  size_t most_stripped = 0;        // so often at most

  std::string of_piece(std::string_view piece) const;  // its bytes: what precedes the byte fallback
};

// One decoded text after the other.
class TextDecoder : public IncrementalDecoder {
 public:
  // Of each id; null: it has no text. The settings must stay.
  using PieceOf = std::function<const std::string*(int32_t id)>;
  TextDecoder(const DecoderSettings& settings, PieceOf decoded_piece)
      : settings_(settings), piece_of_(std::move(decoded_piece)) {}
  std::string push(int32_t id) override;
  std::string finish() override;

 private:
  void flush_bytes(std::string& text);
  void put(std::string_view piece, std::string& text);

  const DecoderSettings& settings_;
  PieceOf piece_of_;
  std::string held_;   // bytes that are not yet a text
  size_t pieces_ = 0;  // put so far
  size_t stripped_ = 0;
  bool may_strip_ = true;
};

}  // namespace rankfold
