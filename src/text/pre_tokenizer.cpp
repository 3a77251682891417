#include "text/pre_tokenizer.h"

#include "core/check.h"
#include "text/byte_level.h"
#include "text/normalizer.h"
#include "text/unicode.h"

#include <algorithm>
#include <utility>

namespace rankfold {
namespace {

constexpr size_t kMostPreTokenizers = 16;

Behavior read_behavior(const JsonNode& node) {
  constexpr std::pair<const char*, Behavior> kBehaviors[] = {{"Removed", Behavior::kRemoved},
                                                             {"Isolated", Behavior::kIsolated},
                                                             {"MergedWithPrevious", Behavior::kMergedWithPrevious},
                                                             {"MergedWithNext", Behavior::kMergedWithNext},
                                                             {"Contiguous", Behavior::kContiguous}};
  const std::string name = node.text();
  for (const auto& [known, behavior] : kBehaviors)
    if (name == known) return behavior;
  node.refuse("Removed, Isolated, MergedWithPrevious, MergedWithNext or Contiguous");
}

void find_characters(std::string_view text, uint16_t property, std::vector<Match>& parts) {
  const unicode::Properties& properties = unicode::Properties::get();
  parts.clear();
  uint32_t done = 0, length = 0;
  const auto size = static_cast<uint32_t>(text.size());
  for (uint32_t i = 0; i < size; i += length) {
    if (!(properties.at(text.data() + i, length) & property)) continue;
    if (done < i) parts.push_back({done, i, false});
    parts.push_back({i, i + length, true});
    done = i + length;
  }
  if (done < size) parts.push_back({done, size, false});
}

// The bytes as the characters that stand for them, and of each byte of these the byte that it stands for.
void write_out(std::string_view bytes, AlignedText& text, std::vector<uint32_t>& byte_of) {
  text.clear();
  byte_of.clear();
  for (uint32_t i = 0; i < bytes.size(); ++i) {
    unicode::append(kByteLevel.character[static_cast<unsigned char>(bytes[i])], text.text);
    byte_of.resize(text.text.size(), i);
  }
  byte_of.push_back(static_cast<uint32_t>(bytes.size()));
}

bool stand_for_themselves(std::string_view bytes) {
  return std::all_of(bytes.begin(), bytes.end(), [](char c) { return c > ' ' && c < '\x7F'; });
}

}  // namespace

void join_parts(std::vector<Match>& parts, Behavior behavior) {
  if (behavior == Behavior::kIsolated || behavior == Behavior::kRemoved) return;
  const bool is_backward = behavior == Behavior::kMergedWithNext;
  if (is_backward) std::reverse(parts.begin(), parts.end());
  size_t joined = 0;
  bool before = false;
  for (const Match part : parts) {
    const bool joins =
        joined > 0 && (behavior == Behavior::kContiguous ? part.is_match == before : part.is_match && !before);
    before = part.is_match;
    if (!joins) {
      parts[joined++] = part;
      continue;
    }
    Match& last = parts[joined - 1];
    last.begin = std::min(last.begin, part.begin);
    last.end = std::max(last.end, part.end);
  }
  parts.resize(joined);
  if (is_backward) std::reverse(parts.begin(), parts.end());
}

PreTokenizer PreTokenizer::of(const JsonNode& node) {
  PreTokenizer pre_tokenizer;
  if (!node.is_null()) pre_tokenizer.add(node);
  return pre_tokenizer;
}

void PreTokenizer::add(const JsonNode& node) {
  const std::string type = node["type"].text();
  if (type == "Sequence") {
    node.expect_only({"type", "pretokenizers"});
    for (const JsonNode& one : node["pretokenizers"].list()) add(one);
    return;
  }
  if (steps_.size() == kMostPreTokenizers) node.refuse("at most ", kMostPreTokenizers, " pre-tokenizers");
  if (is_byte_level() && (type == "ByteLevel" || type == "Metaspace"))
    node["type"].refuse("no second one that changes the text after ByteLevel");
  Step step{};
  if (type == "Split") {
    node.expect_only({"type", "pattern", "behavior", "invert"});
    step.kind = Step::kSplit;
    step.pattern = read_pattern(node["pattern"]);
    step.behavior = read_behavior(node["behavior"]);
    step.inverts = node["invert"].flag();
  } else if (type == "ByteLevel") {
    node.expect_only({"type", "add_prefix_space", "trim_offsets", "use_regex"});
    step.kind = Step::kByteLevel;
    step.adds_prefix = node["add_prefix_space"].flag();
    step.cuts = node["use_regex"].flag(true);
    step.pattern = Pattern::of_regex(node.place(), std::string(kByteLevelRegex));
    byte_level_ = steps_.size();
  } else if (type == "Digits") {
    node.expect_only({"type", "individual_digits"});
    step.kind = Step::kNumeric;
    step.behavior = node["individual_digits"].flag() ? Behavior::kIsolated : Behavior::kContiguous;
  } else if (type == "Punctuation") {
    node.expect_only({"type", "behavior"});
    step.kind = Step::kPunctuation;
    if (!node["behavior"].is_null()) step.behavior = read_behavior(node["behavior"]);
  } else if (type == "Metaspace") {
    node.expect_only({"type", "replacement", "add_prefix_space", "prepend_scheme", "split", "str_rep"});
    step.kind = Step::kMetaspace;
    step.replacement = node["replacement"].text();
    if (step.replacement.empty() || unicode::length_of(step.replacement[0]) != step.replacement.size())
      node["replacement"].refuse("one character");
    const std::string scheme = node["prepend_scheme"].text("always");
    if (scheme != "always" && scheme != "first" && scheme != "never")
      node["prepend_scheme"].refuse("always, first or never");
    if (!node["add_prefix_space"].flag(true) && scheme != "never")
      node["add_prefix_space"].refuse("the same as prepend_scheme, which says ", scheme);
    step.prepends = scheme == "always" ? Step::kAlways : scheme == "first" ? Step::kFirst : Step::kNever;
    step.pattern = Pattern::of_text(step.replacement);
    step.behavior = Behavior::kMergedWithNext;
    step.cuts = node["split"].flag(true);
  } else {
    node["type"].refuse("Split, ByteLevel, Digits, Punctuation, Metaspace or Sequence");
  }
  steps_.push_back(std::move(step));
}

void PreTokenizer::find(const Step& step, std::string_view text, std::vector<Match>& parts) const {
  if (!step.cuts) {
    parts.assign(1, {0, static_cast<uint32_t>(text.size()), false});
    return;
  }
  if (step.kind == Step::kNumeric || step.kind == Step::kPunctuation)
    find_characters(text, step.kind == Step::kNumeric ? unicode::kNumeric : unicode::kPunctuation, parts);
  else
    step.pattern.find(text, parts);
  if (step.inverts)
    for (Match& part : parts) part.is_match = !part.is_match;
  join_parts(parts, step.behavior);
}

Piece PreTokenizer::cut(size_t number, const Piece& piece, Scratch::Level& level) const {
  static const Pattern space = Pattern::of_text(" ");
  const Step& step = steps_[number];
  Piece changed = piece;
  if (step.kind == Step::kByteLevel && step.adds_prefix && piece.text[0] != ' ') {
    prepend(piece, " ", level.text);
    changed = level.text.piece(piece);
  }
  if (step.kind == Step::kMetaspace) {
    if (replace(piece, space, step.replacement, level.text, level.parts)) changed = level.text.piece(piece);
    if (!changed.text.starts_with(step.replacement) &&
        (step.prepends == Step::kAlways || (step.prepends == Step::kFirst && piece.begin_in_original() == 0))) {
      AlignedText prepended;
      prepend(changed, step.replacement, prepended);
      std::swap(level.text, prepended);
      changed = level.text.piece(piece);
    }
  }
  if (number <= byte_level_ || byte_level_ == SIZE_MAX || stand_for_themselves(changed.text)) {
    find(step, changed.text, level.parts);
    return changed;
  }
  write_out(changed.text, level.text, level.byte_of);
  find(step, level.text.text, level.parts);
  for (Match& part : level.parts) part = {level.byte_of[part.begin], level.byte_of[part.end], part.is_match};
  return changed;
}

}  // namespace rankfold
