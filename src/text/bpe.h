// Byte-pair encoding of one word: tokenizer.json's "model".
#pragma once

#include "text/aligned_text.h"
#include "text/json_node.h"
#include "text/pieces.h"
#include "text/tokenizer_file.h"

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace rankfold {

// A cache of the tokens of short words, of fixed size. A word replaces another one with the same hash slot.
class WordCache {
 public:
  static constexpr size_t kLongest = 22, kMostTokens = 8;
  struct Entry {
    uint8_t length = 0, tokens = 0;
    char word[kLongest];
    int32_t ids[kMostTokens];
    uint8_t ends[kMostTokens];  // end of each token, in bytes of the word
  };
  static_assert(sizeof(Entry) == 64);

  // The slot of a word of 1 to kLongest bytes; it may contain another word.
  Entry& place(std::string_view word) {
    if (entries_.empty()) entries_.resize(kPlaces);
    return entries_[hash_of(word) & (kPlaces - 1)];
  }

 private:
  static constexpr size_t kPlaces = 1 << 15;  // 2 MB
  std::vector<Entry> entries_;
};

class Bpe {
 public:
  // Working memory for one word, reused from word to word.
  struct Scratch {
    struct Symbol {
      int32_t id;
      uint32_t begin, end;  // bytes of the word; an empty range: merged into another symbol
      int32_t before, after;
    };
    struct Candidate {
      uint32_t rank, at;
      int32_t id;
    };
    std::vector<Symbol> symbols;
    std::vector<Candidate> heap;
    std::vector<uint32_t> ranks;
    std::vector<int32_t> results;
    WordCache cache;
  };

  // Throws UserError for another kind of model and for an unsupported setting. Moves the lists out of `file`. The words
  // of a byte-level model are bytes.
  Bpe(const JsonNode& model, TokenizerFile& file, bool is_byte_level);

  // Appends a word's tokens. It does not use `blocked` ids (empty: none is blocked), except the id for unknown
  // characters. Use one Scratch for one set of blocked ids only, because of its cache.
  void encode(const Piece& word, const std::vector<bool>& blocked, Scratch& scratch, Tokens& tokens) const;

  const Pieces& pieces() const { return pieces_; }
  // may_give: some word produces this id, by merges or as a whole. is_elementary: words are split into such ids before
  // merging.
  bool may_give(int32_t id) const;
  bool is_elementary(int32_t id) const;
  uint64_t checksum(uint64_t before) const;  // of everything that determines ids

 private:
  struct Merge {
    uint32_t rank = UINT32_MAX;  // the lowest is applied first
    int32_t id = -1;
  };
  class Merges {  // merges by pair of ids
   public:
    void reserve(size_t count);
    void set(int32_t left, int32_t right, Merge merge);
    Merge find(int32_t left, int32_t right) const;

   private:
    struct Slot {
      uint64_t pair = UINT64_MAX;
      Merge merge;
    };
    size_t slot_of(uint64_t pair) const;
    std::vector<Slot> slots_;
  };

  void read_merges(TokenizerFile& file);
  void read_bytes(const std::string& name);
  void read_characters();

  Merge merge_of(int32_t left, int32_t right, const std::vector<bool>& blocked) const {
    const Merge merge = merges_.find(left, right);
    return merge.id >= 0 && !blocked.empty() && blocked[static_cast<size_t>(merge.id)] ? Merge{} : merge;
  }
  void encode_part(const Piece& word, const std::vector<bool>& blocked, Scratch& scratch, Tokens& tokens) const;
  void split_bytes(std::string_view word, Scratch& scratch) const;
  void split_characters(std::string_view word, const std::vector<bool>& blocked, Scratch& scratch) const;
  void merge_short(const std::vector<bool>& blocked, Scratch& scratch) const;
  void merge_long(const std::vector<bool>& blocked, Scratch& scratch) const;
  int32_t id_of_character(uint32_t character) const;
  int32_t unknown() const;

  Pieces pieces_;
  Merges merges_;
  std::string name_, unknown_text_;
  bool is_byte_level_, has_unknown_ = false, fuses_unknown_, byte_fallback_, ignores_merges_;
  bool cuts_at_spaces_ = false;  // no merge crosses the beginning of a run of U+2581
  int32_t unknown_ = -1;
  int32_t byte_ids_[256];  // byte-level model: ids of bytes, else of <0xNN>; -1: none
  // Ids of characters: page_of_[character >> 8], pages of 256 ids; the first page is empty.
  std::vector<int32_t> pages_;
  std::vector<uint16_t> page_of_;
  std::vector<bool> is_result_;     // ids that a merge produces
  std::vector<std::string> words_;  // pieces of a byte-level model that ignores merges, as bytes
  TextTable whole_words_;
  uint64_t checksum_ = 0;
};

}  // namespace rankfold
