#include "data/tokenizer_model.h"

#include "core/check.h"

#include <cmath>
#include <cstdint>
#include <cstring>

namespace rankfold {
namespace {

constexpr size_t kLongestPiece = 4096;  // bytes; real ones stay below 400, sentencepiece dies at some 100,000

uint32_t read_u32(std::string_view bytes, size_t at) {
  uint32_t x;
  std::memcpy(&x, bytes.data() + at, sizeof x);
  return x;
}

// Protobuf's wire format: one field after the other.
class Fields {
 public:
  Fields(std::string_view rest, const std::string& name) : rest_(rest), name_(name) {}

  bool next() {
    if (rest_.empty()) return false;
    const uint64_t key = varint();
    number = key >> 3;
    payload = {};
    switch (key & 7) {
      case 0:
        varint();
        break;
      case 1:
        payload = take(8);
        break;
      case 2:
        payload = take(varint());
        break;
      case 5:
        payload = take(4);
        break;
      default:
        broken();
    }
    return true;
  }

  uint64_t number = 0;
  std::string_view payload;  // empty for a varint

 private:
  [[noreturn]] void broken() const { fail(name_, ": not a sentencepiece model (broken protobuf)"); }

  uint64_t varint() {
    uint64_t x = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      const auto byte = static_cast<unsigned char>(take(1)[0]);
      x |= uint64_t{byte & 0x7Fu} << shift;
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
  const std::string& name_;
};

void check_piece(std::string_view bytes, size_t index, const std::string& name) {
  for (Fields field(bytes, name); field.next();) {
    if (field.number == 1 && field.payload.size() > kLongestPiece)
      fail(name, ": piece ", index, " is ", field.payload.size(), " bytes long; at most ", kLongestPiece,
           " are supported");
    if (field.number == 1 && field.payload.find('\0') != std::string_view::npos)
      fail(name, ": piece ", index, " holds a NUL byte");
    if (field.number == 2 && field.payload.size() == 4) {
      float score;
      std::memcpy(&score, field.payload.data(), sizeof score);
      if (!std::isfinite(score)) fail(name, ": the score of piece ", index, " is not finite");
    }
  }
}

// Normaliser table: length of a Darts trie, the trie, then texts that end in NUL. A unit of the trie leads to
// (index ^ offset) ^ byte and, where it has a leaf, by (index ^ offset) to a text.
bool is_sound_table(std::string_view table) {
  if (table.empty()) return true;
  if (table.size() < 4) return false;
  const size_t trie_size = read_u32(table, 0);
  if (trie_size >= table.size() - 4 || trie_size % 4 != 0 || trie_size == 0 || table.back() != '\0') return false;
  const std::string_view trie = table.substr(4, trie_size);
  const size_t units = trie_size / 4, text_size = table.size() - 4 - trie_size;
  for (size_t i = 0; i < units; ++i) {
    const uint32_t unit = read_u32(trie, 4 * i);
    if (i > 0 && unit >> 31) {  // a value: no byte leads here
      if ((unit & 0x7FFFFFFFu) >= text_size) return false;
      continue;
    }
    const size_t child = i ^ (size_t{unit >> 10} << ((unit & 0x200u) >> 6));
    if ((child | 0xFF) >= units) return false;
    if ((unit & 0x100u) && (read_u32(trie, 4 * child) & 0x7FFFFFFFu) >= text_size) return false;
  }
  return true;
}

}  // namespace

void check_tokenizer_model(std::string_view bytes, const std::string& name) {
  size_t pieces = 0;
  for (Fields field(bytes, name); field.next();) {
    if (field.number == 1) check_piece(field.payload, pieces++, name);
    if (field.number != 3 && field.number != 5) continue;  // normalizer_spec, denormalizer_spec
    for (Fields spec(field.payload, name); spec.next();)
      if (spec.number == 2 && !is_sound_table(spec.payload)) fail(name, ": its normaliser table is broken");
  }
  if (pieces == 0) fail(name, ": not a sentencepiece model (no pieces)");
}

}  // namespace rankfold
