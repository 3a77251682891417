#include "text/unicode.h"

#include <algorithm>
#include <map>

namespace rankfold::unicode {

Properties::Properties(const uint32_t* runs, size_t count) {
  std::vector<uint16_t> all;
  all.reserve(kCharacters);
  for (size_t i = 0; i < count; ++i) all.insert(all.end(), runs[i] >> 12, static_cast<uint16_t>(runs[i] & 0xFFF));
  all.resize(kCharacters);
  std::map<std::vector<uint16_t>, uint16_t> known;
  for (uint32_t page = 0; page < kCharacters >> 8; ++page) {
    std::vector<uint16_t> values(all.begin() + (page << 8), all.begin() + ((page + 1) << 8));
    const auto [entry, is_new] = known.try_emplace(std::move(values), static_cast<uint16_t>(pages_.size() >> 8));
    if (is_new) pages_.insert(pages_.end(), entry->first.begin(), entry->first.end());
    page_of_[page] = entry->second;
  }
}

const Properties& Properties::get() {
  static const Properties properties(kRuns, kRunCount);
  return properties;
}

const Properties& Properties::of_python() {
  static const Properties properties(kPythonRuns, kPythonRunCount);
  return properties;
}

void append(uint32_t c, std::string& text) {
  const auto put = [&text](uint32_t byte) { text.push_back(static_cast<char>(byte)); };
  const auto tail = [&put, c](int shift) { put(0x80 | (c >> shift & 0x3F)); };
  if (c < 0x80) {
    put(c);
  } else if (c < 0x800) {
    put(0xC0 | c >> 6);
    tail(0);
  } else if (c < 0x10000) {
    put(0xE0 | c >> 12);
    tail(6);
    tail(0);
  } else {
    put(0xF0 | c >> 18);
    tail(12);
    tail(6);
    tail(0);
  }
}

size_t count_characters(std::string_view text) {
  return text.size() - static_cast<size_t>(std::count_if(text.begin(), text.end(), is_continuation));
}

size_t skip_characters(std::string_view text, size_t count, size_t from) {
  for (; count > 0 && from < text.size(); --count) from += length_of(text[from]);
  return std::min(from, text.size());
}

}  // namespace rankfold::unicode
