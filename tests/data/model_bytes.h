// tokenizer.model by hand: protobuf's fields, sentencepiece's pieces and its normaliser tables.
#pragma once

#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <vector>

namespace rankfold::testing {

inline std::string varint(uint64_t x) {
  std::string bytes;
  for (; x >= 0x80; x >>= 7) bytes += static_cast<char>((x & 0x7F) | 0x80);
  return bytes + static_cast<char>(x);
}
inline std::string number_field(int number, uint64_t x) {
  return varint(static_cast<uint64_t>(number) << 3) + varint(x);
}
inline std::string field(int number, const std::string& bytes) {
  return varint(static_cast<uint64_t>(number) << 3 | 2) + varint(bytes.size()) + bytes;
}
inline std::string real_field(int number, float x) {
  std::string bytes(sizeof x, '\0');
  std::memcpy(bytes.data(), &x, sizeof x);
  return varint(static_cast<uint64_t>(number) << 3 | 5) + bytes;
}

enum PieceType : uint64_t { kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5, kByte = 6 };

inline std::string piece(const std::string& name, float score = 0, uint64_t type = kNormal) {
  return field(1, field(1, name) + real_field(2, score) + number_field(3, type));
}

// A Darts trie with 256 units of its own for what lies below each key's beginning, then the texts that keys turn into.
struct NormaliserTable {
  using Rules = std::map<std::string, std::string>;  // keys without NUL
  static constexpr uint32_t kLeaf = 1 << 8, kValue = 1u << 31;

  static NormaliserTable of(const Rules& rules) {
    NormaliserTable table;
    table.add(rules);
    return table;
  }
  static uint32_t unit_of(uint32_t begin, char byte) { return begin ^ static_cast<unsigned char>(byte); }
  static uint32_t lead(uint32_t unit, uint32_t child) { return (unit ^ child) << 10; }

  std::string bytes() const { return bytes(static_cast<uint32_t>(4 * units.size())); }
  std::string bytes(uint32_t claimed_size) const {
    std::string bytes(4 + 4 * units.size(), '\0');
    std::memcpy(bytes.data(), &claimed_size, 4);
    std::memcpy(bytes.data() + 4, units.data(), 4 * units.size());
    return bytes + texts;
  }

  std::vector<uint32_t> units;
  std::string texts;

 private:
  void add(const Rules& rules) {
    std::map<std::string, uint32_t> below{{"", 256}};  // a beginning -> where its units begin
    for (const auto& [key, text] : rules)
      for (size_t i = 1; i <= key.size(); ++i)
        below.try_emplace(key.substr(0, i), 256 * static_cast<uint32_t>(below.size() + 1));
    units.resize(256 * (below.size() + 1), kValue);  // a value where no byte leads
    units[0] = 256 << 10;
    for (const auto& [beginning, child] : below)
      if (!beginning.empty()) {
        const uint32_t unit = unit_of(below.at(beginning.substr(0, beginning.size() - 1)), beginning.back());
        units[unit] = lead(unit, child) | static_cast<unsigned char>(beginning.back());
      }
    for (const auto& [key, text] : rules) {
      units[unit_of(below.at(key.substr(0, key.size() - 1)), key.back())] |= kLeaf;
      units[below.at(key)] = kValue | static_cast<uint32_t>(texts.size());
      texts.append(text).append(1, '\0');
    }
  }
};

}  // namespace rankfold::testing
