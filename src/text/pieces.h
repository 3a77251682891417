// The entries (pieces) of a vocabulary, by text and by id.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace rankfold {

// A hash with a random seed for each process, so that an untrusted file cannot cause collisions.
uint64_t hash_of(std::string_view text);
uint64_t hash_of(uint64_t number);

// A hash map from texts to numbers of 0 or more. Does not own the texts.
class TextTable {
 public:
  void reserve(size_t count);
  bool insert(std::string_view text, int32_t number);  // false: the text exists already
  int32_t find(std::string_view text) const;           // -1: not found

 private:
  struct Slot {
    std::string_view text;
    int32_t number = -1;
  };
  size_t slot_of(std::string_view text) const;
  std::vector<Slot> slots_;
  size_t count_ = 0;
};

class Pieces {
 public:
  // Throws UserError, which begins with `name`, for a duplicate piece or id.
  Pieces(std::vector<std::pair<std::string, int32_t>> pieces, const std::string& name);
  Pieces(const Pieces&) = delete;
  Pieces& operator=(const Pieces&) = delete;

  int32_t find(std::string_view text) const { return table_.find(text); }
  const std::string& text(int32_t id) const { return texts_[static_cast<size_t>(id)]; }  // requires an id below size()
  bool has(int32_t id) const { return id >= 0 && id < size() && is_piece_[static_cast<size_t>(id)]; }
  int32_t size() const { return static_cast<int32_t>(texts_.size()); }  // 1 + the highest id
  int32_t count() const { return count_; }

 private:
  std::vector<std::string> texts_;
  std::vector<bool> is_piece_;
  TextTable table_;
  int32_t count_ = 0;
};

}  // namespace rankfold
