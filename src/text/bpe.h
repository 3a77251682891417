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

// What short words become, by the word. Bounded: a word drives out another with the same place.
class WordCache {
 public:
  static constexpr size_t kLongest = 22, kMostTokens = 8;
  struct Entry {
    uint8_t length = 0, tokens = 0;
    char word[kLongest];
    int32_t ids[kMostTokens];
    uint8_t ends[kMostTokens];  // of the tokens, in the word
  };
  static_assert(sizeof(Entry) == 64);

  // The place of a word of 1 to kLongest bytes, whether or not it holds that word.
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
  // Room for one word.
  struct Scratch {
    struct Symbol {
      int32_t id;
      uint32_t begin, end;  // bytes of the word; an empty one has gone
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

  // Throws UserError for what is no BPE model or has a setting that is not supported. Takes the lists out of the file.
  // Words of a byte-level model are bytes.
  Bpe(const JsonNode& model, TokenizerFile& file, bool is_byte_level);

  // Appends a word's tokens. No id is one of `blocked` (empty: none is), but for that of unknown characters. A scratch
  // is for one set of blocked ids only.
  void encode(const Piece& word, const std::vector<bool>& blocked, Scratch& scratch, Tokens& tokens) const;

  const Pieces& pieces() const { return pieces_; }
  // Whether some word gives it, by merges or as a whole; whether words are made of it in the end.
  bool may_give(int32_t id) const;
  bool is_elementary(int32_t id) const;
  uint64_t checksum(uint64_t before) const;  // of all that decides on ids

 private:
  struct Merge {
    uint32_t rank = UINT32_MAX;  // the lowest is made first
    int32_t id = -1;
  };
  class Merges {  // of two ids
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
  bool cuts_at_spaces_ = false;  // no merge joins anything with a U+2581 behind it
  int32_t unknown_ = -1;
  int32_t byte_ids_[256];       // of bytes in a byte-level model, else of <0xNN>; -1: none
  std::vector<int32_t> pages_;  // of characters: page_of_[character >> 8], 256 ids each; the first has none
  std::vector<uint16_t> page_of_;
  std::vector<bool> is_result_;     // of a merge
  std::vector<std::string> words_;  // the pieces of a byte-level model that ignores merges, as bytes
  TextTable whole_words_;
  uint64_t checksum_ = 0;
};

}  // namespace rankfold
