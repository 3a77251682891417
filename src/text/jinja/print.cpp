#include "text/jinja/print.h"

#include "text/jinja/operators.h"
#include "text/python_characters.h"
#include "text/unicode.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <utility>

namespace rankfold::jinja {
namespace {

constexpr size_t kMostDigits = 4300;  // Python refuses to print longer integers

std::string hex(uint32_t value, int digits) {
  char text[16];
  std::snprintf(text, sizeof text, "%0*x", digits, value);
  return text;
}

void append_escaped(TextBuilder& out, const Text& text, const auto& escape) {
  const std::string_view bytes = text.view();
  spend(bytes.size() / 4);
  size_t plain = 0;  // where the part that needs no escape begins
  for (size_t at = 0; at < bytes.size();) {
    const size_t begin = at;
    const std::string escaped = escape(unicode::next_character(bytes, at));
    if (escaped.empty()) continue;
    out.append(text, plain, begin);
    out.append(escaped, text.mark_at(begin));
    plain = at;
  }
  out.append(text, plain, bytes.size());
}

// Between two quotes, which come from where the text beside them does; an empty one from where its value does.
void append_between(TextBuilder& out, std::string_view quote, const Value& value, const auto& escape) {
  const Text& text = value.text();
  const auto mark = [&](size_t at) { return text.empty() ? value.mark() : Mark{text.mark_at(at).origin, 0}; };
  out.append(quote, mark(0));
  append_escaped(out, text, escape);
  out.append(quote, mark(text.size() - 1));
}

void append_quoted(TextBuilder& out, const Value& value) {
  const std::string_view bytes = value.text().view();
  const bool is_double = bytes.find('\'') != std::string_view::npos && bytes.find('"') == std::string_view::npos;
  const char quote = is_double ? '"' : '\'';
  append_between(out, {&quote, 1}, value, [quote](uint32_t c) -> std::string {
    if (c == '\\') return "\\\\";
    if (c == static_cast<uint32_t>(quote)) return {'\\', quote};
    if (c == '\n') return "\\n";
    if (c == '\r') return "\\r";
    if (c == '\t') return "\\t";
    if (python::is_printable(c)) return {};
    return c < 0x100 ? "\\x" + hex(c, 2) : c < 0x10000 ? "\\u" + hex(c, 4) : "\\U" + hex(c, 8);
  });
}

void append_repr(TextBuilder& out, const Value& value) {
  const Level level;
  spend(1);
  const Mark mark = value.mark();
  if (value.is_text()) {
    if (value.text().is_safe()) out.append("Markup(");
    append_quoted(out, value);
    if (value.text().is_safe()) out.append(")");
  } else if (value.is<SequencePointer>()) {
    const std::vector<Value>& items = value.items();
    out.append(value.is_tuple() ? "(" : "[", mark);
    for (size_t k = 0; k < items.size(); ++k) {
      if (k > 0) out.append(", ", mark);
      append_repr(out, items[k]);
    }
    out.append(!value.is_tuple() ? "]" : items.size() == 1 ? ",)" : ")", mark);
  } else if (value.is_dict()) {
    out.append("{", mark);
    bool is_first = true;
    for (const auto& [key, item] : value.mapping().entries()) {
      if (!std::exchange(is_first, false)) out.append(", ", mark);
      append_repr(out, key);
      out.append(": ", mark);
      append_repr(out, item);
    }
    out.append("}", mark);
  } else if (value.is<Undefined>()) {
    out.append("Undefined");
  } else {
    out.append(to_text(value));
  }
}

class JsonWriter {
 public:
  explicit JsonWriter(const JsonStyle& style) : style_(style) {}

  Text write(const Value& value) {
    append(value, 0);
    return out_.build();
  }

 private:
  void append(const Value& value, size_t depth) {
    const Level level;
    spend(1);
    if (value.is_text())
      append_string(value);
    else if (value.is<SequencePointer>())
      append_list(value, depth);
    else if (value.is_dict())
      append_dict(value, depth);
    else
      out_.append(scalar(value), value.mark());
  }

  static std::string scalar(const Value& value) {
    if (value.is_none()) return "null";
    if (const bool* boolean = value.get<bool>()) return *boolean ? "true" : "false";
    if (value.is_integer()) return integer_text(value);
    const double* number = value.get<double>();
    if (number == nullptr) throw Raised(join("Object of type ", short_type(value), " is not JSON serializable"));
    if (std::isnan(*number)) return "NaN";
    if (std::isinf(*number)) return *number < 0 ? "-Infinity" : "Infinity";
    return float_text(*number);
  }

  static std::string short_type(const Value& value) {
    const std::string type = type_name(value);
    return type.substr(type.rfind('.') + 1);
  }

  void append_string(const Value& value) {
    append_between(out_, "\"", value, [this](uint32_t c) -> std::string {
      if (c == '"') return "\\\"";
      if (c == '\\') return "\\\\";
      constexpr std::string_view kShort = "\b\f\n\r\t", kLetters = "bfnrt";
      if (const size_t found = c < 0x80 ? kShort.find(static_cast<char>(c)) : std::string_view::npos;
          found != std::string_view::npos)
        return {'\\', kLetters[found]};
      if (c >= 0x20 && (c < 0x7F || !style_.ensure_ascii)) return {};
      if (c < 0x10000) return "\\u" + hex(c, 4);
      return "\\u" + hex(0xD800 + ((c - 0x10000) >> 10), 4) + "\\u" + hex(0xDC00 + (c & 0x3FF), 4);
    });
  }

  void new_line(size_t depth, Mark mark) {
    if (!style_.has_indent) return;
    out_.append("\n", mark);
    for (size_t k = 0; k < depth; ++k) out_.append(style_.indent, mark);
  }

  void append_list(const Value& value, size_t depth) {
    const Mark mark = value.mark();
    if (value.items().empty()) return out_.append("[]", mark);
    out_.append("[", mark);
    bool is_first = true;
    for (const Value& item : value.items()) {
      if (!std::exchange(is_first, false)) out_.append(style_.item_separator, mark);
      new_line(depth + 1, mark);
      append(item, depth + 1);
    }
    new_line(depth, mark);
    out_.append("]", mark);
  }

  void append_dict(const Value& value, size_t depth) {
    const Mark mark = value.mark();
    const std::vector<Entry>& entries = value.mapping().entries();
    if (entries.empty()) return out_.append("{}", mark);
    std::vector<Entry> sorted;
    if (style_.sort_keys) {
      sorted = entries;
      std::stable_sort(sorted.begin(), sorted.end(),
                       [](const Entry& a, const Entry& b) { return less(a.first, b.first); });
    }
    out_.append("{", mark);
    bool is_first = true;
    for (const auto& [key, item] : style_.sort_keys ? sorted : entries) {
      if (!std::exchange(is_first, false)) out_.append(style_.item_separator, mark);
      new_line(depth + 1, mark);
      if (!key.is_text() && !key.is_number() && !key.is_none())
        throw Raised(join("keys must be str, int, float, bool or None, not ", short_type(key)));
      append_string(key.is_text() ? key : Value(Text(scalar(key), key.mark())));
      out_.append(style_.key_separator, mark);
      append(item, depth + 1);
    }
    new_line(depth, mark);
    out_.append("}", mark);
  }

  const JsonStyle& style_;
  TextBuilder out_;
};

}  // namespace

std::string float_text(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  char buffer[64];
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::scientific).ptr;
  std::string digits(buffer, end);  // -d.ddde-XX
  const size_t e = digits.find('e');
  const int exponent = std::stoi(digits.substr(e + 1));
  if (exponent >= -4 && exponent < 16) {
    const auto fixed = std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::fixed).ptr;
    std::string text(buffer, fixed);
    return text.find('.') == std::string::npos ? text + ".0" : text;
  }
  digits.resize(e);
  char tail[16];
  std::snprintf(tail, sizeof tail, "e%c%02d", exponent < 0 ? '-' : '+', std::abs(exponent));
  return digits + tail;
}

std::string integer_text(const Value& value) {
  if (const bool* boolean = value.get<bool>()) return *boolean ? "1" : "0";
  if (const int64_t* small = value.get<int64_t>()) return std::to_string(*small);
  std::string digits = (*value.get<IntegerPointer>())->to_string();
  if (digits.size() > kMostDigits + (digits[0] == '-' ? 1 : 0))
    throw Raised(join("Exceeds the limit (", kMostDigits, " digits) for integer string conversion"));
  return digits;
}

Text to_text(const Value& value) {
  if (value.is_text()) return value.text();
  const auto scalar = [&value](std::string text) { return Text(std::move(text), value.mark()); };
  if (const bool* boolean = value.get<bool>()) return scalar(*boolean ? "True" : "False");
  if (value.is_integer()) return scalar(integer_text(value));
  if (const double* number = value.get<double>()) return scalar(float_text(*number));
  if (value.is_none()) return scalar("None");
  if (value.is<Undefined>()) return {};
  if (const ObjectPointer* object = value.object()) return (*object)->print();
  return repr(value);
}

Text repr(const Value& value) {
  TextBuilder out;
  append_repr(out, value);
  return out.build();
}

Text to_json(const Value& value, const JsonStyle& style) { return JsonWriter(style).write(value); }

}  // namespace rankfold::jinja
