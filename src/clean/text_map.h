// The first row in which each text came, by the texts' hashes.
#pragma once

#include "clean/normal_text.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace rankfold {

// Open addressing: 36 to 72 bytes for each text.
class TextMap {
 public:
  static constexpr uint32_t kNone = UINT32_MAX;

  uint32_t find(const TextHash& text) const { return entries_.empty() ? kNone : entries_[slot(text)].row; }

  // The row that has come with this text before; it keeps the place. kNone: this one is the first.
  uint32_t add(const TextHash& text, uint32_t row) {
    if (3 * size_ >= 2 * entries_.size()) grow();
    Entry& entry = entries_[slot(text)];
    if (entry.row != kNone) return entry.row;
    entry = {text, row};
    ++size_;
    return kNone;
  }

 private:
  struct Entry {
    TextHash text;
    uint32_t row = kNone;
  };

  size_t slot(const TextHash& text) const {
    size_t at = text.low & (entries_.size() - 1);
    while (entries_[at].row != kNone && !(entries_[at].text == text)) at = (at + 1) & (entries_.size() - 1);
    return at;
  }
  void grow() {
    std::vector<Entry> old(std::max<size_t>(1024, 2 * entries_.size()));
    old.swap(entries_);
    for (const Entry& entry : old)
      if (entry.row != kNone) entries_[slot(entry.text)] = entry;
  }

  std::vector<Entry> entries_;
  size_t size_ = 0;
};

}  // namespace rankfold
