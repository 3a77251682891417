#include "text/tokenizer_model.h"

#include "text/vocabulary.h"

#include "core/check.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <unordered_set>
#include <vector>

namespace rankfold {
namespace {

// Vocabularies have up to 256,000 pieces, the longest of some 100 bytes. At each limit a model opens within a second.
constexpr size_t kMostModelPieces = 400'000;
constexpr size_t kLongestPiece = 512;        // sentencepiece dies at some 100,000
constexpr size_t kMostTrieNodes = 1 << 20;   // of the trie that it builds over pieces
constexpr size_t kMostSpecial = 16 * 1024;   // control, user-defined and unused pieces
constexpr size_t kMostCollisions = 64;       // pieces with one place in a hash table; by chance some ten
constexpr size_t kMostNestedPieces = 64;     // sentencepiece's PrefixMatcher has room for so many matches,
constexpr size_t kMostNestedRules = 32;      // its Normalizer for these, and neither looks
constexpr size_t kLargestTable = 1 << 20;    // sentencepiece's own four have 240 kB,
constexpr size_t kLongestReplacement = 256;  // and 33 bytes for U+FDFA

uint32_t read_u32(std::string_view bytes, size_t at) {
  uint32_t x;
  std::memcpy(&x, bytes.data() + at, sizeof x);
  return x;
}

// Protobuf's wire format: one field after the other, with numbers from 1 to `highest`. Stricter than protobuf where two
// readers could differ: it cuts a long key to 32 bits, and would see another field than we do.
class ProtobufFields {
 public:
  ProtobufFields(std::string_view rest, uint64_t highest, const std::string& name)
      : rest_(rest), highest_(highest), name_(name) {}

  bool next() {
    if (rest_.empty()) return false;
    const uint64_t key = varint(kShort);
    if (key > UINT32_MAX || key >> 3 == 0) broken();
    number = key >> 3;
    if (number > highest_) fail(name_, ": not a sentencepiece model (field ", number, " is none of its)");
    payload = {};
    switch (wire_ = key & 7) {
      case kVarint:
        value = varint(kLong);
        break;
      case kEightBytes:
        payload = take(8);
        break;
      case kBytes:
        payload = take(varint(kShort));
        break;
      case kFourBytes:
        payload = take(4);
        break;
      default:
        broken();
    }
    return true;
  }

  // Protobuf passes over a known field that is written as another kind: what we take for the last one, it does not.
  enum Wire : uint64_t { kVarint = 0, kEightBytes = 1, kBytes = 2, kFourBytes = 5 };
  void expect(Wire wire) const {
    if (wire_ != wire) broken();
  }

  uint64_t number = 0;
  uint64_t value = 0;        // of a varint
  std::string_view payload;  // of all others

 private:
  static constexpr int kShort = 5, kLong = 10;  // bytes of a varint

  [[noreturn]] void broken() const { fail(name_, ": not a sentencepiece model (broken protobuf)"); }

  uint64_t varint(int most) {
    uint64_t x = 0;
    for (int i = 0; i < most; ++i) {
      const auto byte = static_cast<unsigned char>(take(1)[0]);
      x |= uint64_t{byte & 0x7Fu} << (7 * i);
      if (byte < 0x80) return x;
    }
    broken();
  }

  std::string_view take(uint64_t count) {
    if (count > rest_.size()) broken();
    const std::string_view taken = rest_.substr(0, count);
    rest_.remove_prefix(count);
    return taken;
  }

  std::string_view rest_;
  uint64_t highest_, wire_ = kVarint;
  const std::string& name_;
};

enum Type : uint64_t { kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5, kByte = 6 };

struct ModelPiece {
  std::string_view text;
  uint64_t type = kNormal;
};

ModelPiece read_piece(std::string_view bytes, size_t index, const std::string& name) {
  ModelPiece piece;
  for (ProtobufFields field(bytes, 3, name); field.next();) {
    field.expect(field.number == 1   ? ProtobufFields::kBytes
                 : field.number == 2 ? ProtobufFields::kFourBytes
                                     : ProtobufFields::kVarint);
    if (field.number == 1) piece.text = field.payload;
    if (field.number == 3) piece.type = field.value;
    if (field.number == 2) {
      float score;
      std::memcpy(&score, field.payload.data(), sizeof score);
      if (!std::isfinite(score)) fail(name, ": the score of piece ", index, " is not finite");
    }
  }
  if (piece.type < kNormal || piece.type > kByte)
    fail(name, ": piece ", index, " is of type ", piece.type, "; expected 1 to 6");
  if (piece.text.size() > kLongestPiece)
    fail(name, ": piece ", index, " is ", piece.text.size(), " bytes long; at most ", kLongestPiece, " are supported");
  if (piece.text.find('\0') != std::string_view::npos) fail(name, ": piece ", index, " holds a NUL byte");
  return piece;
}

// Fills a hash table as sentencepiece does, with its hash and growth: made to collide, 85,000 pieces take it a minute.
void check_collisions(const std::vector<ModelPiece>& pieces, const std::string& name) {
  std::unordered_set<std::string_view> normal, reserved;
  const auto check = [&name](const auto& table, size_t bucket) {
    if (table.bucket_size(bucket) > kMostCollisions)
      fail(name, ": more than ", kMostCollisions, " pieces have one place in a hash table");
  };
  for (const ModelPiece& piece : pieces) {
    auto& table = piece.type == kUnknown || piece.type == kControl || piece.type == kByte ? reserved : normal;
    table.insert(piece.text);
    check(table, table.bucket(piece.text));
  }
  for (const auto& table : {std::cref(normal), std::cref(reserved)})  // after the last time that it grew
    for (size_t bucket = 0; bucket < table.get().bucket_count(); ++bucket) check(table.get(), bucket);
}

// Gives the number of nodes of a trie over the pieces.
size_t trie_nodes(std::vector<std::string_view>& pieces) {
  std::sort(pieces.begin(), pieces.end());
  size_t nodes = 0;
  for (std::string_view before; const std::string_view piece : pieces) {
    nodes += static_cast<size_t>(piece.end() -
                                 std::mismatch(piece.begin(), piece.end(), before.begin(), before.end()).first);
    before = piece;
  }
  return nodes;
}

// Of sorted pieces.
void check_nesting(const std::vector<std::string_view>& pieces, const std::string& name) {
  std::vector<std::string_view> around;  // each begins the next
  for (const std::string_view piece : pieces) {
    while (!around.empty() && !piece.starts_with(around.back())) around.pop_back();
    around.push_back(piece);
    if (around.size() > kMostNestedPieces)
      fail(name, ": more than ", kMostNestedPieces, " user-defined pieces begin one another");
  }
}

// Length of a Darts trie, the trie, then texts that end in NUL. A unit of the trie leads to (index ^ offset) ^ byte
// where that is labelled with the byte, and, where it has a leaf, by (index ^ offset) to a text.
class NormaliserTable {
 public:
  NormaliserTable(std::string_view table, const std::string& name) : name_(name) {
    if (table.size() > kLargestTable)
      fail(name, ": its normaliser table has ", table.size(), " bytes; at most ", kLargestTable, " are supported");
    if (table.size() < 4) broken();
    const size_t size = read_u32(table, 0);
    if (size >= table.size() - 4 || size % 4 != 0 || size == 0 || table.back() != '\0') broken();
    trie_ = table.substr(4, size);
    texts_ = table.substr(4 + size);
    units_ = size / 4;
    if (unit(0) & kLabel) broken();  // no byte leads to the root
    for (uint32_t i = 0; i < units_; ++i) {
      if (unit(i) >> 31) {  // a value: no byte leads here
        if ((unit(i) & kValue) >= texts_.size()) broken();
      } else if ((below(i) | 0xFF) >= units_ || (has_leaf(i) && (unit(below(i)) & kValue) >= texts_.size())) {
        broken();
      }
    }
  }

  // How many bytes it makes of one at most. Two units may lead to the same ones: Darts shares equal endings.
  size_t growth() const {
    std::vector<uint32_t> ways(units_);  // to a unit, from those that the root leads to
    std::vector<uint32_t> reached = {0};
    for (size_t i = 0; i < reached.size(); ++i)
      for_each_child(reached[i], [&](uint32_t child) {
        if (ways[child]++ == 0) reached.push_back(child);
      });

    // Again, each after all that lead to it; what a circle leads to has no turn.
    size_t most = 1;
    std::vector<uint32_t> bytes(units_, UINT32_MAX), rules(units_);  // of the shortest way to a unit; on any
    bytes[0] = 0;
    std::vector<uint32_t> ready = {0};
    for (size_t i = 0; i < ready.size(); ++i) {
      const uint32_t from = ready[i];
      if (from > 0 && has_leaf(from)) {
        if (++rules[from] > kMostNestedRules)
          fail(name_, ": more than ", kMostNestedRules, " rules of its normaliser begin one another");
        most = std::max(most, (length_of_text(from) - 1) / bytes[from] + 1);
      }
      for_each_child(from, [&](uint32_t child) {
        rules[child] = std::max(rules[child], rules[from]);
        bytes[child] = std::min(bytes[child], bytes[from] + 1);
        if (--ways[child] == 0) ready.push_back(child);
      });
    }
    if (ready.size() != reached.size()) fail(name_, ": its normaliser table leads in a circle");
    return most;
  }

 private:
  static constexpr uint32_t kValue = 0x7FFFFFFF, kLabel = 0x800000FF;

  [[noreturn]] void broken() const { fail(name_, ": its normaliser table is broken"); }
  uint32_t unit(size_t i) const { return read_u32(trie_, 4 * i); }
  bool has_leaf(uint32_t i) const { return unit(i) & 0x100; }
  uint32_t below(uint32_t i) const { return i ^ (unit(i) >> 10 << ((unit(i) & 0x200) >> 6)); }

  template <class Take>
  void for_each_child(uint32_t i, Take take) const {
    for (uint32_t byte = 0, first = below(i); byte < 256; ++byte)
      if ((unit(first ^ byte) & kLabel) == byte) take(first ^ byte);
  }

  size_t length_of_text(uint32_t i) const {
    const std::string_view begin = texts_.substr(unit(below(i)) & kValue, kLongestReplacement + 1);
    const std::string_view text = begin.substr(0, begin.find('\0'));
    if (text.size() > kLongestReplacement)
      fail(name_, ": its normaliser makes a text of more than ", kLongestReplacement, " bytes");
    const auto spaces = static_cast<size_t>(std::count(text.begin(), text.end(), ' '));
    return std::max<size_t>(1, text.size() + 2 * spaces);  // a space becomes U+2581
  }

  const std::string& name_;
  std::string_view trie_, texts_;
  size_t units_ = 0;
};

size_t growth_of_normaliser(std::string_view spec, const std::string& name) {
  size_t growth = 1;
  for (ProtobufFields field(spec, 6, name); field.next();) {
    if (field.number != 2) continue;
    field.expect(ProtobufFields::kBytes);
    if (!field.payload.empty()) growth = std::max(growth, NormaliserTable(field.payload, name).growth());
  }
  return growth;
}

void check_pieces(const std::vector<ModelPiece>& pieces, bool is_unigram, size_t growth, const std::string& name) {
  if (pieces.empty()) fail(name, ": not a sentencepiece model (no pieces)");
  std::vector<std::string_view> user_defined, unigrams;
  size_t special = 0, control_bytes = 0;
  for (const ModelPiece& piece : pieces) {
    const bool is_normal = piece.type == kNormal || piece.type == kUserDefined || piece.type == kUnused;
    if (piece.type == kUserDefined) user_defined.push_back(piece.text);
    if (is_unigram && is_normal) unigrams.push_back(piece.text);
    if (piece.type == kControl) control_bytes += piece.text.size();
    special += piece.type == kControl || piece.type == kUserDefined || piece.type == kUnused;
  }
  if (special > kMostSpecial)
    fail(name, ": has ", special, " control, user-defined and unused pieces; at most ", kMostSpecial, " are supported");
  if (control_bytes * growth > kLongestText)  // each is encoded once, when the model is opened
    fail(name, ": its control pieces have ", control_bytes, " bytes; at most ", kLongestText / growth,
         " are supported");
  if (trie_nodes(user_defined) + trie_nodes(unigrams) > kMostTrieNodes)
    fail(name, ": its pieces have more than ", kMostTrieNodes, " different beginnings");
  check_nesting(user_defined, name);
  check_collisions(pieces, name);
}

}  // namespace

size_t check_tokenizer_model(std::string_view bytes, const std::string& name) {
  std::vector<ModelPiece> pieces;
  size_t growth = 1;
  bool is_unigram = true;  // as is a type that sentencepiece does not know
  for (ProtobufFields field(bytes, 5, name); field.next();) {
    field.expect(ProtobufFields::kBytes);
    switch (field.number) {
      case 1:
        if (pieces.size() == kMostModelPieces) fail(name, ": has more than ", kMostModelPieces, " pieces");
        pieces.push_back(read_piece(field.payload, pieces.size(), name));
        break;
      case 2:  // settings of the training; later versions have some more
        for (ProtobufFields spec(field.payload, 99, name); spec.next();)
          if (spec.number == 3) is_unigram = spec.value < 2 || spec.value > 4;
        break;
      case 4:  // texts that sentencepiece would encode now, and print
        if (!field.payload.empty()) fail(name, ": holds samples to test itself with, which are not supported");
        break;
      default:  // normaliser, denormaliser
        growth = std::max(growth, growth_of_normaliser(field.payload, name));
    }
  }
  check_pieces(pieces, is_unigram, growth, name);
  return growth;
}

}  // namespace rankfold
