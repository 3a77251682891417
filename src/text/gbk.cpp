#include "text/gbk.h"

#include "text/unicode.h"

#include <vector>

namespace rankfold::gbk {
namespace {

constexpr uint32_t kFirstLead = 0x81, kLastLead = 0xFE, kFirstTrail = 0x40, kNoTrail = 0x7F, kTrails = 190;

class Table {
 public:
  static const Table& get() {
    static const Table table;
    return table;
  }

  uint32_t character(unsigned char lead, unsigned char trail) const {
    if (lead < kFirstLead || lead > kLastLead || trail < kFirstTrail || trail == kNoTrail || trail == 0xFF) return 0;
    return characters_[(lead - kFirstLead) * kTrails + trail - kFirstTrail - (trail > kNoTrail)];
  }
  uint16_t pair(uint32_t character) const { return character < pairs_.size() ? pairs_[character] : 0; }

 private:
  Table() : pairs_(0x10000) {
    characters_.reserve((kLastLead - kFirstLead + 1) * kTrails);
    for (size_t i = 0; i < kRunCount; ++i)
      for (uint32_t k = 0; k < kRuns[i] >> 16; ++k) {
        const uint32_t first = kRuns[i] & 0xFFFF, index = static_cast<uint32_t>(characters_.size());
        characters_.push_back(first ? static_cast<uint16_t>(first + k) : 0);
        if (!first) continue;
        const uint32_t trail = kFirstTrail + index % kTrails;
        pairs_[first + k] = static_cast<uint16_t>((kFirstLead + index / kTrails) << 8 | (trail + (trail >= kNoTrail)));
      }
  }

  std::vector<uint16_t> characters_, pairs_;
};

// Calls take(pair, character) for each character beyond ASCII and plain(byte) for the others; false where the bytes are
// no GBK.
template <class Take, class Plain>
bool each(std::string_view bytes, const Take& take, const Plain& plain) {
  const Table& table = Table::get();
  for (size_t i = 0; i < bytes.size(); ++i) {
    const auto lead = static_cast<unsigned char>(bytes[i]);
    if (lead < 0x80) {
      plain(bytes[i]);
      continue;
    }
    if (++i == bytes.size()) return false;
    const auto trail = static_cast<unsigned char>(bytes[i]);
    const uint32_t character = table.character(lead, trail);
    if (character == 0) return false;
    take(static_cast<uint16_t>(lead << 8 | trail), character);
  }
  return true;
}

}  // namespace

std::optional<std::string> decode(std::string_view bytes) {
  std::string text;
  text.reserve(bytes.size() * 3 / 2);
  const bool is_whole = each(
      bytes, [&text](uint16_t, uint32_t character) { unicode::append(character, text); },
      [&text](char byte) { text.push_back(byte); });
  return is_whole ? std::optional(std::move(text)) : std::nullopt;
}

bool is_likely(std::string_view bytes) {
  size_t all = 0, usual = 0;
  const auto count = [&](uint16_t pair, uint32_t) {
    ++all;
    usual += is_frequent(pair);
  };
  return each(bytes, count, [](char) {}) && all > 0 && 5 * usual >= 4 * all;
}

uint16_t encode(uint32_t character) { return Table::get().pair(character); }

}  // namespace rankfold::gbk
