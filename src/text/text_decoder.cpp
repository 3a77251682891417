#include "text/text_decoder.h"

#include "core/check.h"
#include "core/utf8.h"
#include "text/byte_level.h"
#include "text/unicode.h"

#include <algorithm>

namespace rankfold {
namespace {

constexpr std::string_view kBroken = "\xEF\xBF\xBD";  // U+FFFD

std::string replaced(std::string_view text, const std::string& what, const std::string& by) {
  std::string changed;
  size_t done = 0;
  for (size_t at; (at = text.find(what, done)) != std::string_view::npos; done = at + what.size())
    changed.append(text, done, at - done).append(by);
  return changed.append(text, done);
}

// 0 to 255 for <0xNN>, else -1.
int byte_of(std::string_view piece) {
  if (piece.size() != 6 || !piece.starts_with("<0x") || piece[5] != '>') return -1;
  int value = 0;
  for (const char c : piece.substr(3, 2)) {
    const int digit = c >= '0' && c <= '9'   ? c - '0'
                      : c >= 'A' && c <= 'F' ? c - 'A' + 10
                      : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                             : -1;
    if (digit < 0) return -1;
    value = 16 * value + digit;
  }
  return value;
}

// How many bytes at the begin are a whole character, may become one (`is_open`), or are none: then as many as one
// U+FFFD stands for, which is the longest begin of a character.
struct Begin {
  size_t length;
  enum { kWhole, kOpen, kBroken } kind;
};
Begin begin_of(std::string_view bytes) {
  const auto at = [bytes](size_t i) { return static_cast<unsigned char>(bytes[i]); };
  const unsigned char first = at(0);
  if (first < 0x80) return {1, Begin::kWhole};
  if (first < 0xC2 || first > 0xF4) return {1, Begin::kBroken};
  const size_t length = unicode::length_of(bytes[0]);
  for (size_t i = 1; i < length; ++i) {
    if (i == bytes.size()) return {i, Begin::kOpen};
    unsigned char least = 0x80, most = 0xBF;
    if (i == 1 && first == 0xE0) least = 0xA0;
    if (i == 1 && first == 0xED) most = 0x9F;
    if (i == 1 && first == 0xF0) least = 0x90;
    if (i == 1 && first == 0xF4) most = 0x8F;
    if (at(i) < least || at(i) > most) return {i, Begin::kBroken};
  }
  return {length, Begin::kWhole};
}

// Takes the bytes out that are decided, as text.
void take_characters(std::string& bytes, std::string& text) {
  size_t done = 0;
  while (done < bytes.size()) {
    const Begin begin = begin_of(std::string_view(bytes).substr(done));
    if (begin.kind == Begin::kOpen) break;
    if (begin.kind == Begin::kWhole)
      text.append(bytes, done, begin.length);
    else
      text += kBroken;
    done += begin.length;
  }
  bytes.erase(0, done);
}

std::string one_character(const JsonNode& node) {
  const std::string text = node.text();
  if (text.empty() || unicode::length_of(text[0]) != text.size()) node.refuse("one character");
  return text;
}

// Which settings may follow which.
enum Order { kBegin, kReplace, kByteFallback, kFuse, kEnd };

void read(const JsonNode& node, DecoderSettings& settings, Order& order) {
  const std::string type = node["type"].text();
  const auto advance = [&](Order earliest, Order latest, Order next) {
    if (order < earliest || order > latest) node["type"].refuse("another place in the sequence for this");
    order = next;
  };
  settings.is_none = false;
  if (type == "Sequence") {
    node.expect_only({"type", "decoders"});
    for (const JsonNode& one : node["decoders"].list()) read(one, settings, order);
  } else if (type == "ByteLevel") {
    node.expect_only({"type", "add_prefix_space", "trim_offsets", "use_regex"});
    advance(kBegin, kBegin, kEnd);
    settings.is_byte_level = true;
  } else if (type == "Replace") {
    node.expect_only({"type", "pattern", "content"});
    node["pattern"].expect_only({"String"});
    advance(kBegin, kReplace, kReplace);
    if (node["pattern"]["String"].text().empty()) node["pattern"]["String"].refuse("a text of some characters");
    if (settings.replaced.size() == 16) node.refuse("at most 16 of this");
    settings.replaced.emplace_back(node["pattern"]["String"].text(), node["content"].text());
    if (settings.replaced.back().second.size() > 64) node["content"].refuse("a text of at most 64 bytes");
  } else if (type == "ByteFallback") {
    node.expect_only({"type"});
    advance(kBegin, kReplace, kByteFallback);
    settings.byte_fallback = true;
  } else if (type == "Fuse") {
    node.expect_only({"type"});
    advance(kBegin, kByteFallback, kFuse);
  } else if (type == "Strip") {
    node.expect_only({"type", "content", "start", "stop"});
    advance(kFuse, kFuse, kEnd);
    settings.stripped = one_character(node["content"]);
    settings.most_stripped = static_cast<size_t>(node["start"].number(0, 1000));
    node["stop"].number(0, 0);
  } else if (type == "Metaspace") {
    node.expect_only({"type", "replacement", "add_prefix_space", "prepend_scheme", "split", "str_rep"});
    advance(kBegin, kByteFallback, kEnd);
    settings.space_mark = one_character(node["replacement"]);
    settings.drops_first_marks =
        node["prepend_scheme"].text(node["add_prefix_space"].flag(true) ? "always" : "never") != "never";
  } else {
    node["type"].refuse("ByteLevel, Replace, ByteFallback, Fuse, Strip, Metaspace or Sequence");
  }
}

}  // namespace

DecoderSettings DecoderSettings::of(const JsonNode& node) {
  DecoderSettings settings;
  Order order = kBegin;
  if (!node.is_null()) read(node, settings, order);
  return settings;
}

std::string DecoderSettings::of_piece(std::string_view piece) const {
  std::string text(piece);
  if (is_byte_level) {
    std::string bytes;
    uint32_t length = 0;
    for (size_t i = 0; i < piece.size(); i += length) {
      const int byte = kByteLevel.byte_of(unicode::character_at(piece.data() + i, length));
      if (byte < 0) return text;  // an added token in other characters
      bytes.push_back(static_cast<char>(byte));
    }
    return bytes;
  }
  for (const auto& [what, by] : this->replaced) text = rankfold::replaced(text, what, by);
  return text;
}

void TextDecoder::put(std::string_view piece, std::string& text) {
  std::string changed;
  if (!settings_.space_mark.empty()) {
    const bool drops = pieces_ == 0 && settings_.drops_first_marks;
    changed = replaced(piece, settings_.space_mark, drops ? "" : " ");
    piece = changed;
  }
  if (settings_.is_none && pieces_ > 0) text += ' ';
  ++pieces_;
  while (may_strip_ && !piece.empty()) {
    may_strip_ = stripped_ < settings_.most_stripped && piece.starts_with(settings_.stripped);
    if (!may_strip_) break;
    piece.remove_prefix(settings_.stripped.size());
    ++stripped_;
  }
  text += piece;
}

void TextDecoder::flush_bytes(std::string& text) {
  if (held_.empty()) return;
  if (is_utf8(held_))
    put(held_, text);
  else
    for (size_t i = 0; i < held_.size(); ++i) put(kBroken, text);
  held_.clear();
}

std::string TextDecoder::push(int32_t id) {
  std::string text;
  const std::string* const piece = piece_of_(id);
  if (piece == nullptr) return text;
  if (settings_.is_byte_level) {
    held_ += *piece;
    take_characters(held_, text);
    return text;
  }
  if (const int byte = settings_.byte_fallback ? byte_of(*piece) : -1; byte >= 0) {
    held_.push_back(static_cast<char>(byte));
    return text;
  }
  flush_bytes(text);
  put(*piece, text);
  return text;
}

std::string TextDecoder::finish() {
  std::string text;
  if (!settings_.is_byte_level)
    flush_bytes(text);
  else if (!held_.empty())
    text += kBroken;  // the begin of one character
  held_.clear();
  pieces_ = stripped_ = 0;
  may_strip_ = true;
  return text;
}

}  // namespace rankfold
