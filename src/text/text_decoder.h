// Converts ids to text: tokenizer.json's "decoder".
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

// Settings of the decoder, in the order of execution.
struct DecoderSettings {
  // Supports ByteLevel, Metaspace, null, or a Sequence: Replace, ByteFallback, then Metaspace or Fuse and Strip, each
  // optional. Throws UserError for others.
  static DecoderSettings of(const JsonNode& node);

  bool is_none = true;  // null: pieces are separated by spaces
  bool is_byte_level = false;
  std::vector<std::pair<std::string, std::string>> replaced;  // replacements in each piece
  bool byte_fallback = false;      // <0xNN> is a byte; an invalid UTF-8 run gives one U+FFFD for each byte
  std::string space_mark;          // Metaspace: text that stands for a space
  bool drops_first_marks = false;  // Metaspace: remove it from the first piece
  std::string stripped;            // Strip: character to remove at the beginning of the text
  size_t most_stripped = 0;        // Strip: at most so many times

  std::string of_piece(std::string_view piece) const;  // decoded bytes, before the byte fallback
};

// Decodes one text after another.
class TextDecoder : public IncrementalDecoder {
 public:
  // Returns the decoded piece of an id; null: the id has no text. The settings must outlive the decoder.
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
  std::string held_;   // bytes that are not output yet
  size_t pieces_ = 0;  // pieces so far
  size_t stripped_ = 0;
  bool may_strip_ = true;
};

}  // namespace rankfold
