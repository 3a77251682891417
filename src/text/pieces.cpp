#include "text/pieces.h"

#include "core/check.h"
#include "core/json.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <bit>
#include <cstring>
#include <random>

namespace rankfold {
namespace {

uint64_t mix(uint64_t x) {  // of splitmix64
  x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
  x = (x ^ x >> 27) * 0x94D049BB133111EBu;
  return x ^ x >> 31;
}

// The lists by id have a place for every id up to the highest: without a bound, a small file could claim much memory by
// one high id.
constexpr int64_t kMostSpareIds = 1 << 16, kMostIdsOfAPiece = 4;

const uint64_t kSeed = std::random_device()() * uint64_t{0x9E3779B97F4A7C15};

}  // namespace

uint64_t hash_of(uint64_t number) { return mix(number ^ kSeed); }

uint64_t hash_of(std::string_view text) {
  uint64_t hash = kSeed ^ text.size();
  for (; text.size() > 8; text.remove_prefix(8)) {
    uint64_t eight;
    std::memcpy(&eight, text.data(), sizeof eight);
    hash = mix(hash ^ eight);
  }
  uint64_t rest = 0;
  std::memcpy(&rest, text.data(), text.size());
  return mix(hash ^ rest);
}

void TextTable::reserve(size_t count) { slots_.assign(std::bit_ceil(2 * count + 1), {}); }

size_t TextTable::slot_of(std::string_view text) const {
  size_t at = hash_of(text) & (slots_.size() - 1);
  while (slots_[at].number >= 0 && slots_[at].text != text) at = (at + 1) & (slots_.size() - 1);
  return at;
}

bool TextTable::insert(std::string_view text, int32_t number) {
  RANKFOLD_ASSERT(2 * count_ < slots_.size());
  Slot& slot = slots_[slot_of(text)];
  if (slot.number >= 0) return false;
  slot = {text, number};
  ++count_;
  return true;
}

int32_t TextTable::find(std::string_view text) const { return slots_.empty() ? -1 : slots_[slot_of(text)].number; }

Pieces::Pieces(std::vector<std::pair<std::string, int32_t>> pieces, const std::string& name)
    : count_(static_cast<int32_t>(pieces.size())) {
  int32_t highest = -1;
  for (const auto& [text, id] : pieces) highest = std::max(highest, id);
  if (const int64_t ids = kMostSpareIds + kMostIdsOfAPiece * count_; highest >= ids)
    fail(name, ": model.vocab: expected ids below ", ids, " for ", count_, " pieces, got ", highest);
  texts_.resize(static_cast<size_t>(highest + 1));
  is_piece_.resize(texts_.size());
  table_.reserve(pieces.size());
  for (auto& [text, id] : pieces) {
    const auto index = static_cast<size_t>(id);
    if (is_piece_[index])
      fail(name, ": model.vocab: pieces ", brief(texts_[index]), " and ", brief(text), " have one id, ", id);
    is_piece_[index] = true;
    texts_[index] = std::move(text);
    if (!table_.insert(texts_[index], id)) fail(name, ": model.vocab: piece ", brief(texts_[index]), " is given twice");
  }
}

}  // namespace rankfold
