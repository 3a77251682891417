#include "text/jinja/strings.h"

#include "text/jinja/operators.h"
#include "text/python_characters.h"
#include "text/unicode.h"

#include <algorithm>
#include <cstring>
#include <string>

namespace rankfold::jinja {

using python::Case;

size_t find_bytes(std::string_view text, std::string_view part, size_t from) {
  spend((text.size() - std::min(from, text.size())) / 32);
  if (from > text.size() || part.size() > text.size() - from) return std::string_view::npos;
  if (part.empty()) return from;
  // glibc's takes time in proportion to the text alone, std::string_view's also to the part.
  const void* const found = ::memmem(text.data() + from, text.size() - from, part.data(), part.size());
  return found == nullptr ? std::string_view::npos : static_cast<size_t>(static_cast<const char*>(found) - text.data());
}

size_t find_bytes_last(std::string_view text, std::string_view part) {
  spend(text.size() / 64 * part.size());
  return text.rfind(part);
}

Text escape(const Text& text) {
  spend(text.size() / 4);
  TextBuilder out;
  size_t plain = 0;
  for (size_t at = 0; at < text.size(); ++at) {
    constexpr std::string_view kLetters = "&<>'\"";
    constexpr const char* kEscapes[] = {"&amp;", "&lt;", "&gt;", "&#39;", "&#34;"};
    const size_t found = kLetters.find(text.view()[at]);
    if (found == std::string_view::npos) continue;
    out.append(text, plain, at);
    out.append(kEscapes[found], text.mark_at(at));
    plain = at + 1;
  }
  out.append(text, plain, text.size());
  return out.build(true);
}

namespace {

Text strip_where(const Text& text, Side side, const auto& goes) {
  const std::string_view bytes = text.view();
  size_t begin = 0, end = bytes.size();
  while (side != Side::kRight && begin < end) {
    size_t next = begin;
    if (!goes(unicode::next_character(bytes, next))) break;
    begin = next;
  }
  while (side != Side::kLeft && end > begin) {
    size_t before = end;
    if (!goes(unicode::previous_character(bytes, before))) break;
    end = before;
  }
  spend((begin + bytes.size() - end) / 4);
  return text.slice(begin, end);
}

// `form(c, at, next)` appends what the character becomes; unchanged runs of marks stay together.
Text map_characters(const Text& text, const auto& form) {
  TextBuilder out;
  const std::string_view bytes = text.view();
  spend(bytes.size() / 2);
  size_t at = 0;
  for (const Run& run : text.runs()) {
    std::string mapped;
    while (at < run.end) {
      const size_t begin = at;
      const uint32_t c = unicode::next_character(bytes, at);
      form(mapped, c, begin, at);
    }
    out.append(mapped, run.mark);
  }
  return out.build(text.is_safe());
}

// A capital sigma at a word's end has a lower form of its own.
bool is_final_sigma(std::string_view text, size_t begin, size_t end) {
  const auto neighbour = [](uint32_t c) { return !python::is_case_ignorable(c); };
  bool before = false;
  for (size_t at = begin; at > 0;)
    if (const uint32_t c = unicode::previous_character(text, at); neighbour(c)) {
      before = python::is_cased(c);
      break;
    }
  if (!before) return false;
  for (size_t at = end; at < text.size();)
    if (const uint32_t c = unicode::next_character(text, at); neighbour(c)) return !python::is_cased(c);
  return true;
}

void append_lower(std::string& out, std::string_view text, uint32_t c, size_t begin, size_t end) {
  if (c == 0x3A3 && is_final_sigma(text, begin, end))
    unicode::append(0x3C2, out);
  else
    python::append_cased(c, Case::kLower, out);
}

}  // namespace

Text strip(const Text& text, Side side) {
  return strip_where(text, side, [](uint32_t c) { return python::is_space(c); });
}

Text strip(const Text& text, Side side, const Text& characters) {
  std::vector<uint32_t> set;
  for (size_t at = 0; at < characters.size();) set.push_back(unicode::next_character(characters.view(), at));
  return strip_where(text, side, [&](uint32_t c) {
    spend(1 + set.size() / 64);
    return std::find(set.begin(), set.end(), c) != set.end();
  });
}

Text to_upper(const Text& text) {
  return map_characters(
      text, [](std::string& out, uint32_t c, size_t, size_t) { python::append_cased(c, Case::kUpper, out); });
}

Text fold_case(const Text& text) {
  return map_characters(
      text, [](std::string& out, uint32_t c, size_t, size_t) { python::append_cased(c, Case::kFold, out); });
}

Text to_lower(const Text& text) {
  return map_characters(text, [&](std::string& out, uint32_t c, size_t begin, size_t end) {
    append_lower(out, text.view(), c, begin, end);
  });
}

Text to_title(const Text& text) {
  bool follows_cased = false;
  return map_characters(text, [&](std::string& out, uint32_t c, size_t begin, size_t end) {
    if (follows_cased)
      append_lower(out, text.view(), c, begin, end);
    else
      python::append_cased(c, Case::kTitle, out);
    follows_cased = python::is_cased(c);
  });
}

Text title_words(const Text& text) {
  // Words begin after white space and - ( { [ <; the first letter gets its upper form, not the title one. Python lowers
  // each word by itself, so that a sigma looks no further.
  const auto parts = [](uint32_t c) {
    return python::is_space(c) ||
           (c < 0x80 && std::string_view("-({[<").find(static_cast<char>(c)) != std::string_view::npos);
  };
  std::string_view word;
  size_t word_begin = 0, word_end = 0;
  return map_characters(text, [&](std::string& out, uint32_t c, size_t begin, size_t end) {
    if (parts(c)) return unicode::append(c, out);
    if (begin > 0 && begin < word_end) return append_lower(out, word, c, begin - word_begin, end - word_begin);
    word_begin = begin;
    word_end = end;
    for (size_t at = end; at < text.size(); word_end = at)
      if (parts(unicode::next_character(text.view(), at))) break;
    word = text.view().substr(word_begin, word_end - word_begin);
    python::append_cased(c, Case::kUpper, out);
  });
}

Text capitalize(const Text& text) {
  return map_characters(text, [&](std::string& out, uint32_t c, size_t begin, size_t end) {
    if (begin == 0)
      python::append_cased(c, Case::kTitle, out);
    else
      append_lower(out, text.view(), c, begin, end);
  });
}

Text swap_case(const Text& text) {
  return map_characters(text, [&](std::string& out, uint32_t c, size_t begin, size_t end) {
    if (python::is_upper(c))
      append_lower(out, text.view(), c, begin, end);
    else if (python::is_lower(c))
      python::append_cased(c, Case::kUpper, out);
    else
      unicode::append(c, out);
  });
}

Text replace(const Text& text, const Text& old, const Text& by, int64_t count) {
  TextBuilder out;
  const std::string_view bytes = text.view();
  uint64_t left = count < 0 ? UINT64_MAX : static_cast<uint64_t>(count);
  size_t done = 0;
  if (old.empty()) {  // between all characters
    while (left > 0) {
      out.append(by);
      --left;
      if (done >= bytes.size()) break;
      const size_t begin = done;
      unicode::next_character(bytes, done);
      out.append(text, begin, done);
    }
  } else {
    for (; left > 0; --left) {
      const size_t found = find_bytes(bytes, old.view(), done);
      if (found == std::string_view::npos) break;
      out.append(text, done, found);
      out.append(by);
      done = found + old.size();
    }
  }
  out.append(text, done, bytes.size());
  return out.build(text.is_safe());
}

std::vector<Value> split(const Text& text, int64_t count, bool from_right) {
  const std::string_view bytes = text.view();
  spend(bytes.size() / 4);
  uint64_t left = count < 0 ? UINT64_MAX : static_cast<uint64_t>(count);
  std::vector<Value> parts;
  size_t begin = 0, end = bytes.size();
  const auto skip = [&](bool spaces) {  // from the side that is split next
    while (begin < end) {
      size_t at = from_right ? end : begin;
      const uint32_t c = from_right ? unicode::previous_character(bytes, at) : unicode::next_character(bytes, at);
      if (python::is_space(c) != spaces) return;
      (from_right ? end : begin) = at;
    }
  };
  while (true) {
    skip(true);
    if (begin >= end) break;
    if (left-- == 0) {
      parts.push_back(strip(text.slice(begin, end), from_right ? Side::kRight : Side::kLeft));
      break;
    }
    const size_t from = from_right ? end : begin;
    skip(false);
    parts.push_back(from_right ? text.slice(end, from) : text.slice(from, begin));
  }
  if (from_right) std::reverse(parts.begin(), parts.end());
  return parts;
}

std::vector<Value> split(const Text& text, const Text& separator, int64_t count, bool from_right) {
  if (separator.empty()) throw Raised("empty separator");
  const std::string_view bytes = text.view();
  uint64_t left = count < 0 ? UINT64_MAX : static_cast<uint64_t>(count);
  std::vector<Value> parts;
  size_t begin = 0, end = bytes.size();
  for (; left > 0; --left) {
    const size_t found = from_right ? find_bytes_last(bytes.substr(0, end), separator.view())
                                    : find_bytes(bytes, separator.view(), begin);
    if (found == std::string_view::npos) break;
    parts.push_back(from_right ? text.slice(found + separator.size(), end) : text.slice(begin, found));
    if (from_right)
      end = found;
    else
      begin = found + separator.size();
  }
  parts.push_back(text.slice(begin, end));
  if (from_right) std::reverse(parts.begin(), parts.end());
  return parts;
}

std::vector<Value> split_lines(const Text& text, bool keep_ends) {
  std::vector<Value> lines;
  const std::string_view bytes = text.view();
  spend(bytes.size() / 4);
  for (size_t begin = 0; begin < bytes.size();) {
    size_t end = begin, next = begin;
    while (end < bytes.size()) {
      next = end;
      const uint32_t c = unicode::next_character(bytes, next);
      if (python::is_line_end(c)) {
        if (c == '\r' && next < bytes.size() && bytes[next] == '\n') ++next;
        break;
      }
      end = next;
    }
    lines.push_back(text.slice(begin, keep_ends ? next : end));
    begin = next;
  }
  return lines;
}

Text join_values(const Text& separator, const Value& items) {
  TextBuilder out;
  size_t index = 0;
  const IteratorPointer from = iterate(items);
  for (Value item; from->next(item); ++index) {
    if (!item.is_text())
      throw Raised(join("sequence item ", index, ": expected str instance, ", type_name(item), " found"));
    if (index > 0) out.append(separator);
    out.append(separator.is_safe() && !item.text().is_safe() ? escape(item.text()) : item.text());
  }
  return out.build(separator.is_safe());
}

Text repeated(const Text& text, size_t count) {
  if (text.empty() || count == 0) return text.slice(0, 0);
  if (count > (uint64_t{1} << 40) / text.size()) throw Raised("the result is too large");
  const Charge charge(text.size() * count);  // refused before it is made
  TextBuilder out;
  if (count < 16) {
    for (size_t k = 0; k < count; ++k) out.append(text);
  } else {
    const Text part = repeated(text, count / 16);
    for (size_t k = 0; k < 16; ++k) out.append(part);
    out.append(repeated(text, count % 16));
  }
  return out.build(text.is_safe());
}

}  // namespace rankfold::jinja
