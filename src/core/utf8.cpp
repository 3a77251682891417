#include "core/utf8.h"

#include "core/check.h"

#include <algorithm>
#include <cstdint>
#include <cstring>

namespace rankfold {
namespace {

unsigned char byte_at(std::string_view text, size_t at) {
  return at < text.size() ? static_cast<unsigned char>(text[at]) : 0;
}

// Bytes of the character that begins here, 0 when there is none (RFC 3629: no surrogates, no overlong forms).
size_t utf8_length(std::string_view text, size_t at) {
  const unsigned char c = byte_at(text, at), second = byte_at(text, at + 1);
  const auto tail = [&](size_t k) { return (byte_at(text, at + k) & 0xC0) == 0x80; };
  if (c < 0x80) return 1;
  if (c < 0xC2 || c > 0xF4 || !tail(1)) return 0;
  if (c < 0xE0) return 2;
  if ((c == 0xE0 && second < 0xA0) || (c == 0xED && second > 0x9F) || !tail(2)) return 0;
  if (c < 0xF0) return 3;
  if ((c == 0xF0 && second < 0x90) || (c == 0xF4 && second > 0x8F) || !tail(3)) return 0;
  return 4;
}

size_t first_invalid(std::string_view text) {
  for (size_t at = 0; at < text.size();) {
    uint64_t eight;
    if (at + sizeof eight <= text.size()) {
      std::memcpy(&eight, text.data() + at, sizeof eight);
      if ((eight & 0x8080808080808080u) == 0) {
        at += sizeof eight;
        continue;
      }
    }
    const size_t length = utf8_length(text, at);
    if (length == 0) return at;
    at += length;
  }
  return std::string_view::npos;
}

bool looks_like_gb18030(std::string_view text) {
  for (size_t at = 0; at < text.size(); ++at) {
    const unsigned char c = byte_at(text, at);
    if (c < 0x80) continue;
    const unsigned char second = byte_at(text, ++at);
    if (c == 0x80 || c == 0xFF) return false;
    if (second >= 0x30 && second <= 0x39)
      at += 2;
    else if (second < 0x40 || second == 0x7F || second == 0xFF)
      return false;
  }
  return true;
}

// The character that begins here; `length` as of utf8_length.
uint32_t character_at(std::string_view text, size_t at, size_t length) {
  if (length <= 1) return byte_at(text, at);
  uint32_t value = byte_at(text, at) & (0xFFu >> (length + 1));
  for (size_t k = 1; k < length; ++k) value = value << 6 | (byte_at(text, at + k) & 0x3F);
  return value;
}

bool is_within(uint32_t c, uint32_t first, uint32_t last) { return c >= first && c <= last; }

// What a terminal acts on: control characters, line separators, marks that turn the direction.
bool is_control(uint32_t c) {
  return c < 0x20 || is_within(c, 0x7F, 0x9F) || c == 0x200E || c == 0x200F || is_within(c, 0x2028, 0x202E) ||
         is_within(c, 0x2066, 0x2069);
}

// What cannot be seen, or not told from a space, but makes one text differ from another: Unicode's characters of format,
// fillers, variation selectors and the space that does not break.
bool is_unseen(uint32_t c) {
  return c == 0xA0 || c == 0xAD || c == 0x34F || c == 0x61C || is_within(c, 0x115F, 0x1160) ||
         is_within(c, 0x180B, 0x180E) || c == 0x3164 || c == 0xFFA0 || is_within(c, 0xFE00, 0xFE0F) ||
         is_within(c, 0xE0100, 0xE01EF) || is_within(c, 0x200B, 0x200F) || is_within(c, 0x2060, 0x206F) ||
         c == 0xFEFF || is_within(c, 0xFFF9, 0xFFFB) || is_within(c, 0xE0000, 0xE007F);
}

}  // namespace

std::string printable(std::string_view text, Shown as, const std::function<std::string(std::string_view)>& replace) {
  std::string shown;
  shown.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const size_t found = utf8_length(text, at), length = std::max<size_t>(1, found);
    const uint32_t c = character_at(text, at, found);
    const bool stays = as == Shown::kProse ? c == '\n' || !is_control(c) : !is_control(c) && !is_unseen(c);
    const std::string_view bytes = text.substr(at, length);
    shown += found > 0 && stays ? std::string(bytes) : replace(bytes);
    at += length;
  }
  return shown;
}

namespace {

// Without the middle of a long one.
std::string cut(std::string_view text) {
  constexpr size_t kBegin = 700, kEnd = 250;  // bytes that stay
  if (text.size() <= kBegin + kEnd) return std::string(text);
  const size_t begin = utf8_floor(text, kBegin), end = utf8_floor(text, text.size() - kEnd);
  return std::string(text.substr(0, begin)) + " ... " + std::string(text.substr(end));
}

}  // namespace

std::string one_line(std::string_view text) {
  const std::string shown = printable(cut(text), Shown::kLine, [](std::string_view bytes) {
    constexpr char kDigits[] = "0123456789abcdef";
    std::string numbers;
    for (const char c : bytes) {
      const auto byte = static_cast<unsigned char>(c);
      numbers.append("\\x").append(1, kDigits[byte >> 4]).append(1, kDigits[byte & 15]);
    }
    return numbers;
  });
  return cut(shown);  // numbers are longer
}

bool is_utf8(std::string_view text) { return first_invalid(text) == std::string_view::npos; }

void refuse_utf16(std::string_view text, const std::string& name) {
  if (text.starts_with("\xFF\xFE") || text.starts_with("\xFE\xFF"))
    fail(name, ":1: not UTF-8, but UTF-16: convert it with iconv -f UTF-16 -t UTF-8");
}

void check_utf8(std::string_view text, const std::string& name, size_t first_line, size_t first_column) {
  const size_t at = first_invalid(text);
  if (at == std::string_view::npos) return;
  const auto lines = std::count(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(at), '\n');
  const size_t begin = text.rfind('\n', at) + 1;  // 0 in the first line
  const std::string_view whole_line = text.substr(begin, text.find('\n', at) - begin);
  fail(name, ":", first_line + static_cast<size_t>(lines), ": not UTF-8 (byte ",
       at - begin + (begin == 0 ? first_column : 1), " of the line)",
       looks_like_gb18030(whole_line) ? "; if it is GB18030, convert with iconv -f GB18030 -t UTF-8"
                                      : "; convert the file to UTF-8");
}

size_t utf8_floor(std::string_view text, size_t position) {
  position = std::min(position, text.size());
  while (position > 0 && position < text.size() && (byte_at(text, position) & 0xC0) == 0x80) --position;
  return position;
}

}  // namespace rankfold
