#include "text/bpe.h"

#include "core/checksum.h"
#include "text/byte_level.h"

#include <algorithm>
#include <array>
#include <bit>
#include <span>

namespace rankfold {
namespace {

constexpr std::string_view kSpaceMark = "\xE2\x96\x81";  // U+2581

uint64_t pair_of(int32_t left, int32_t right) {
  return uint64_t{static_cast<uint32_t>(left)} << 32 | static_cast<uint32_t>(right);
}

// The bytes that a byte-level piece stands for; false where it has other characters.
bool to_bytes(std::string_view piece, std::string& bytes) {
  bytes.clear();
  uint32_t length = 0;
  for (size_t i = 0; i < piece.size(); i += length) {
    const int byte = kByteLevel.byte_of(unicode::character_at(piece.data() + i, length));
    if (byte < 0) return false;
    bytes.push_back(static_cast<char>(byte));
  }
  return true;
}

}  // namespace

void Bpe::Merges::reserve(size_t count) { slots_.assign(std::bit_ceil(2 * count + 1), {}); }

size_t Bpe::Merges::slot_of(uint64_t pair) const {
  size_t at = hash_of(pair) & (slots_.size() - 1);
  while (slots_[at].pair != pair && slots_[at].pair != UINT64_MAX) at = (at + 1) & (slots_.size() - 1);
  return at;
}

void Bpe::Merges::set(int32_t left, int32_t right, Merge merge) {
  const uint64_t pair = pair_of(left, right);
  slots_[slot_of(pair)] = {pair, merge};
}

Bpe::Merge Bpe::Merges::find(int32_t left, int32_t right) const {
  return slots_[slot_of(pair_of(left, right))].merge;  // of none where there is no such pair
}

Bpe::Bpe(const JsonNode& model, TokenizerFile& file, bool is_byte_level)
    : pieces_(std::move(file.vocabulary), file.name), name_(file.name), is_byte_level_(is_byte_level) {
  if (model["type"].text("BPE") != "BPE") model["type"].refuse("BPE");
  model.expect_only({"type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk",
                     "byte_fallback", "ignore_merges", "vocab", "merges"});
  if (const JsonNode dropout = model["dropout"]; !dropout.is_null() && dropout.value() != 0)
    dropout.refuse("null or 0");
  for (const char* affix : {"continuing_subword_prefix", "end_of_word_suffix"})
    if (!model[affix].text("").empty()) model[affix].refuse("null or \"\"");
  has_unknown_ = !model["unk_token"].is_null();
  unknown_text_ = model["unk_token"].text("");
  unknown_ = has_unknown_ ? pieces_.find(unknown_text_) : -1;
  fuses_unknown_ = model["fuse_unk"].flag(false);
  byte_fallback_ = model["byte_fallback"].flag(false);
  ignores_merges_ = model["ignore_merges"].flag(false);

  const std::string settings = model.value().dump();
  checksum_ = checksum64(std::as_bytes(std::span(settings)));
  for (int32_t id = 0; id < pieces_.size(); ++id) {
    const std::string& piece = pieces_.text(id);
    const uint32_t begin[] = {static_cast<uint32_t>(id), static_cast<uint32_t>(piece.size())};
    checksum_ = checksum64(std::as_bytes(std::span(piece)), checksum64(std::as_bytes(std::span(begin)), checksum_));
  }
  read_merges(file);
  if (is_byte_level)
    read_bytes(file.name);
  else
    read_characters();
}

void Bpe::read_merges(TokenizerFile& file) {
  merges_.reserve(file.merges.size());
  is_result_.resize(static_cast<size_t>(pieces_.size()));
  cuts_at_spaces_ = !is_byte_level_ && !ignores_merges_ && pieces_.find(kSpaceMark) >= 0;
  for (size_t rank = 0; rank < file.merges.size(); ++rank) {
    const auto& [left, right] = file.merges[rank];
    const auto id = [&](const std::string& piece) {
      const int32_t found = pieces_.find(piece);
      if (found < 0) fail(file.name, ": model.merges[", rank, "]: expected pieces of model.vocab, got ", brief(piece));
      return found;
    };
    const int32_t ids[] = {id(left), id(right), id(left + right)};
    merges_.set(ids[0], ids[1], {static_cast<uint32_t>(rank), ids[2]});  // of two for one pair, the last counts
    is_result_[static_cast<size_t>(ids[2])] = true;
    if (right.starts_with(kSpaceMark) && !left.ends_with(kSpaceMark)) cuts_at_spaces_ = false;
    checksum_ = checksum64(std::as_bytes(std::span(ids)), checksum_);
  }
  file.merges = {};
}

void Bpe::read_bytes(const std::string& name) {
  std::string piece;
  for (size_t byte = 0; byte < 256; ++byte) {
    piece.clear();
    unicode::append(kByteLevel.character[byte], piece);
    byte_ids_[byte] = pieces_.find(piece);
    if (byte_ids_[byte] < 0 && byte_fallback_)
      fail(name, ": model.byte_fallback: expected false with the pre-tokenizer ByteLevel, where a byte (", byte,
           ") has no piece");
  }
  if (!ignores_merges_) return;
  words_.resize(static_cast<size_t>(pieces_.size()));
  whole_words_.reserve(words_.size());
  for (int32_t id = 0; id < pieces_.size(); ++id)
    if (std::string& word = words_[static_cast<size_t>(id)]; pieces_.has(id) && to_bytes(pieces_.text(id), word))
      whole_words_.insert(word, id);
}

void Bpe::read_characters() {
  constexpr char kDigits[] = "0123456789ABCDEF";
  for (size_t byte = 0; byte < 256; ++byte)
    byte_ids_[byte] = pieces_.find(std::string("<0x") + kDigits[byte >> 4] + kDigits[byte & 15] + ">");
  page_of_.resize(unicode::kCharacters >> 8);
  pages_.assign(256, -1);
  for (int32_t id = 0; id < pieces_.size(); ++id) {
    const std::string& piece = pieces_.text(id);
    if (piece.empty() || unicode::length_of(piece[0]) != piece.size()) continue;
    uint32_t length = 0;
    const uint32_t character = unicode::character_at(piece.data(), length);
    uint16_t& page = page_of_[character >> 8];
    if (page == 0) {
      page = static_cast<uint16_t>(pages_.size() >> 8);
      pages_.resize(pages_.size() + 256, -1);
    }
    pages_[size_t{page} << 8 | (character & 0xFF)] = id;
  }
}

int32_t Bpe::id_of_character(uint32_t character) const {
  return pages_[size_t{page_of_[character >> 8]} << 8 | (character & 0xFF)];
}

bool Bpe::may_give(int32_t id) const {
  return pieces_.has(id) && (ignores_merges_ || is_result_[static_cast<size_t>(id)] || is_elementary(id) ||
                             unicode::length_of(pieces_.text(id)[0]) == pieces_.text(id).size());
}

bool Bpe::is_elementary(int32_t id) const {
  return (is_byte_level_ || byte_fallback_) && std::find(byte_ids_, byte_ids_ + 256, id) != byte_ids_ + 256;
}

uint64_t Bpe::checksum(uint64_t before) const {
  const uint64_t both[] = {checksum_, is_byte_level_};
  return checksum64(std::as_bytes(std::span(both)), before);
}

int32_t Bpe::unknown() const {
  if (unknown_ < 0)
    fail(name_, ": model.unk_token: expected a piece of model.vocab for a character that has none, got ",
         brief(unknown_text_));
  return unknown_;
}

void Bpe::split_bytes(std::string_view word, Scratch& scratch) const {
  auto& symbols = scratch.symbols;
  for (uint32_t i = 0; i < word.size(); ++i) {
    const int32_t id = byte_ids_[static_cast<unsigned char>(word[i])];
    if (id < 0 && !has_unknown_) continue;
    if (id < 0 && fuses_unknown_ && !symbols.empty() && symbols.back().id == unknown_)
      symbols.back().end = i + 1;
    else
      symbols.push_back({id < 0 ? unknown() : id, i, i + 1, 0, 0});
  }
}

// A character that is no piece becomes its bytes, where all of them are pieces, else it is unknown. Unknown ones come
// after the bytes behind them, up to the next piece: so does PyPI's tokenizers.
void Bpe::split_characters(std::string_view word, const std::vector<bool>& blocked, Scratch& scratch) const {
  auto& symbols = scratch.symbols;
  uint32_t unknown_begin = 0, unknown_end = 0, length = 0;
  const auto flush = [&] {
    if (unknown_end > unknown_begin) symbols.push_back({unknown(), unknown_begin, unknown_end, 0, 0});
    unknown_begin = unknown_end = 0;
  };
  for (uint32_t i = 0; i < word.size(); i += length) {
    const int32_t id = id_of_character(unicode::character_at(word.data() + i, length));
    if (id >= 0 && (blocked.empty() || !blocked[static_cast<size_t>(id)])) {
      flush();
      symbols.push_back({id, i, i + length, 0, 0});
      continue;
    }
    const auto byte_id = [&](uint32_t k) { return byte_ids_[static_cast<unsigned char>(word[i + k])]; };
    bool has_bytes = byte_fallback_;
    for (uint32_t k = 0; k < length; ++k) has_bytes = has_bytes && byte_id(k) >= 0;
    if (has_bytes) {
      for (uint32_t k = 0; k < length; ++k) symbols.push_back({byte_id(k), i + k, i + k + 1, 0, 0});
    } else if (has_unknown_) {
      if (!fuses_unknown_) flush();
      if (unknown_end == unknown_begin) unknown_begin = i;
      unknown_end = i + length;
    }
  }
  flush();
}

// Looks through all pairs for each merge, which for a short word is the fastest.
void Bpe::merge_short(const std::vector<bool>& blocked, Scratch& scratch) const {
  auto& symbols = scratch.symbols;
  auto& ranks = scratch.ranks;
  auto& results = scratch.results;
  const auto look = [&](size_t i) {
    const Merge merge = merge_of(symbols[i].id, symbols[i + 1].id, blocked);
    ranks[i] = merge.rank;
    results[i] = merge.id;
  };
  ranks.resize(symbols.size());
  results.resize(symbols.size());
  for (size_t i = 0; i + 1 < symbols.size(); ++i) look(i);
  while (symbols.size() > 1) {
    const auto pairs = static_cast<std::ptrdiff_t>(symbols.size()) - 1;
    const auto best = std::min_element(ranks.begin(), ranks.begin() + pairs) - ranks.begin();
    const auto at = static_cast<size_t>(best);
    if (ranks[at] == UINT32_MAX) return;
    symbols[at].id = results[at];
    symbols[at].end = symbols[at + 1].end;
    symbols.erase(symbols.begin() + best + 1);
    ranks.erase(ranks.begin() + best);
    results.erase(results.begin() + best);
    if (at > 0) look(at - 1);
    if (at + 1 < symbols.size()) look(at);
  }
}

// The same with a heap of the pairs that may be merged; those of which a part has gone are passed over.
void Bpe::merge_long(const std::vector<bool>& blocked, Scratch& scratch) const {
  auto& symbols = scratch.symbols;
  auto& heap = scratch.heap;
  const auto is_later = [](const Scratch::Candidate& a, const Scratch::Candidate& b) {
    return a.rank != b.rank ? a.rank > b.rank : a.at > b.at;
  };
  const auto look = [&](int32_t at) {
    const auto& symbol = symbols[static_cast<size_t>(at)];
    const Merge merge = merge_of(symbol.id, symbols[static_cast<size_t>(symbol.after)].id, blocked);
    if (merge.id < 0) return;
    heap.push_back({merge.rank, static_cast<uint32_t>(at), merge.id});
    std::push_heap(heap.begin(), heap.end(), is_later);
  };
  const auto count = static_cast<int32_t>(symbols.size());
  for (int32_t i = 0; i < count; ++i) {
    symbols[static_cast<size_t>(i)].before = i - 1;
    symbols[static_cast<size_t>(i)].after = i + 1 < count ? i + 1 : -1;
  }
  heap.clear();
  for (int32_t i = 0; i + 1 < count; ++i) look(i);
  while (!heap.empty()) {
    const Scratch::Candidate top = heap.front();
    std::pop_heap(heap.begin(), heap.end(), is_later);
    heap.pop_back();
    auto& left = symbols[top.at];
    if (left.begin == left.end || left.after < 0) continue;
    auto& right = symbols[static_cast<size_t>(left.after)];
    if (merge_of(left.id, right.id, blocked).id != top.id) continue;
    left.id = top.id;
    left.end = right.end;
    right.begin = right.end;
    left.after = right.after;
    if (right.after >= 0) symbols[static_cast<size_t>(right.after)].before = static_cast<int32_t>(top.at);
    if (left.before >= 0) look(left.before);
    if (left.after >= 0) look(static_cast<int32_t>(top.at));
  }
  std::erase_if(symbols, [](const auto& symbol) { return symbol.begin == symbol.end; });
}

void Bpe::encode_part(const Piece& word, const std::vector<bool>& blocked, Scratch& scratch, Tokens& tokens) const {
  const auto add = [&](int32_t id, size_t begin, size_t end) {
    tokens.ids.push_back(id);
    tokens.ranges.push_back(word.range(begin, end));
  };
  WordCache::Entry* entry = nullptr;
  if (word.text.size() <= WordCache::kLongest) {
    entry = &scratch.cache.place(word.text);
    if (std::string_view(entry->word, entry->length) == word.text) {
      for (size_t i = 0; i < entry->tokens; ++i) add(entry->ids[i], i == 0 ? 0 : entry->ends[i - 1], entry->ends[i]);
      return;
    }
  }
  scratch.symbols.clear();
  int32_t whole = -1;
  if (ignores_merges_) whole = is_byte_level_ ? whole_words_.find(word.text) : pieces_.find(word.text);
  if (whole >= 0 && (blocked.empty() || !blocked[static_cast<size_t>(whole)])) {
    scratch.symbols.push_back({whole, 0, static_cast<uint32_t>(word.text.size()), 0, 0});
  } else {
    if (is_byte_level_)
      split_bytes(word.text, scratch);
    else
      split_characters(word.text, blocked, scratch);
    constexpr size_t kShort = 64;
    if (scratch.symbols.size() <= kShort)
      merge_short(blocked, scratch);
    else
      merge_long(blocked, scratch);
  }
  for (const auto& symbol : scratch.symbols) add(symbol.id, symbol.begin, symbol.end);
  if (entry == nullptr || scratch.symbols.size() > WordCache::kMostTokens) return;
  const bool has_gaps = [&] {  // characters that have no piece, and unknown ones out of order
    uint32_t at = 0;
    for (const auto& symbol : scratch.symbols)
      if (symbol.begin != std::exchange(at, symbol.end)) return true;
    return false;
  }();
  if (has_gaps) return;
  entry->length = static_cast<uint8_t>(word.text.copy(entry->word, WordCache::kLongest));
  entry->tokens = static_cast<uint8_t>(scratch.symbols.size());
  for (size_t i = 0; i < scratch.symbols.size(); ++i) {
    entry->ids[i] = scratch.symbols[i].id;
    entry->ends[i] = static_cast<uint8_t>(scratch.symbols[i].end);
  }
}

void Bpe::encode(const Piece& word, const std::vector<bool>& blocked, Scratch& scratch, Tokens& tokens) const {
  if (!cuts_at_spaces_) return encode_part(word, blocked, scratch, tokens);
  const std::string_view text = word.text;
  size_t begin = 0;
  for (size_t at = 0; (at = text.find(kSpaceMark, at)) != std::string_view::npos; at += kSpaceMark.size()) {
    if (at == begin || text.substr(0, at).ends_with(kSpaceMark)) continue;
    encode_part(word.part(begin, at), blocked, scratch, tokens);
    begin = at;
  }
  encode_part(word.part(begin, text.size()), blocked, scratch, tokens);
}

}  // namespace rankfold
