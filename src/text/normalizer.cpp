#include "text/normalizer.h"

#include "core/check.h"
#include "text/nfc.h"

namespace rankfold {
namespace {

constexpr size_t kMostNormalizers = 16;
constexpr size_t kLongestContent = 64;  // bytes that a match or a text's begin may become

std::string read_content(const JsonNode& node) {
  const std::string content = node.text();
  if (content.size() > kLongestContent) node.refuse("a text of at most ", kLongestContent, " bytes");
  return content;
}

}  // namespace

Pattern read_pattern(const JsonNode& node) {
  node.expect_only({"String", "Regex"});
  if (!node["String"].is_null()) {
    const std::string text = node["String"].text();
    if (text.empty()) node["String"].refuse("a text of some characters");
    return Pattern::of_text(text);
  }
  return Pattern::of_regex(node["Regex"].place(), node["Regex"].text());
}

Normalizer Normalizer::of(const JsonNode& node) {
  Normalizer normalizer;
  if (!node.is_null()) normalizer.add(node);
  return normalizer;
}

void Normalizer::add(const JsonNode& node) {
  const std::string type = node["type"].text();
  if (type == "Sequence") {
    node.expect_only({"type", "normalizers"});
    for (const JsonNode& one : node["normalizers"].list()) add(one);
    return;
  }
  if (steps_.size() == kMostNormalizers) node.refuse("at most ", kMostNormalizers, " normalizers");
  if (type == "NFC") {
    node.expect_only({"type"});
    steps_.push_back({Step::kNfc});
  } else if (type == "Prepend") {
    node.expect_only({"type", "prepend"});
    steps_.push_back({Step::kPrepend, read_content(node["prepend"])});
  } else if (type == "Replace") {
    node.expect_only({"type", "pattern", "content"});
    steps_.push_back({Step::kReplace, read_content(node["content"]), read_pattern(node["pattern"])});
  } else {
    node["type"].refuse("NFC, Prepend, Replace or Sequence");
  }
}

bool replace(const Piece& piece, const Pattern& pattern, std::string_view content, AlignedText& changed,
             std::vector<Match>& parts) {
  pattern.find(piece.text, parts);
  if (parts.size() <= 1 && (parts.empty() || !parts[0].is_match)) return false;
  size_t size = 0;
  for (const Match& part : parts) size += part.is_match ? content.size() : part.end - part.begin;
  if (size > kLongestNormalized)
    fail("a text that normalising makes ", size, " bytes long; at most ", kLongestNormalized, " are encoded");
  changed.clear();
  for (const Match& part : parts) {
    if (!part.is_match) {
      changed.append(piece.part(part.begin, part.end));
      continue;
    }
    size_t last = part.end - 1;
    while (last > part.begin && unicode::is_continuation(piece.text[last])) --last;
    changed.append(content, piece.range(last, part.end));
  }
  return true;
}

Piece Normalizer::apply(Piece piece, Scratch& scratch) const {
  size_t next = 0;
  for (const Step& step : steps_) {
    AlignedText& changed = scratch.texts[next];
    bool is_changed = false;
    if (step.kind == Step::kNfc) {
      is_changed = to_nfc(piece, changed);
    } else if (step.kind == Step::kReplace) {
      is_changed = replace(piece, step.pattern, step.content, changed, scratch.parts);
    } else if (!piece.text.empty()) {
      prepend(piece, step.content, changed);
      is_changed = true;
    }
    if (!is_changed) continue;
    piece = changed.piece(piece);
    next = 1 - next;
  }
  return piece;
}

}  // namespace rankfold
