// The methods of str by name.
#include "text/jinja/format.h"
#include "text/jinja/operators.h"
#include "text/jinja/strings.h"
#include "text/python_characters.h"
#include "text/unicode.h"

#include <algorithm>
#include <map>

namespace rankfold::jinja {
namespace {

using Method = Value (*)(const Text& text, Arguments arguments);

// Most methods take their arguments by place only.
Bound by_place(const char* method, Arguments arguments, std::initializer_list<const char*> names, size_t required = 0) {
  if (!arguments.named.empty()) throw Raised(join("str.", method, "() takes no keyword arguments"));
  return Bound(method, std::move(arguments), names, required);
}

bool is_given(const Bound& bound, size_t parameter) { return bound.has(parameter) && !bound[parameter].is_none(); }

Value strip_method(const char* name, const Text& text, Arguments arguments, Side side) {
  const Bound bound = by_place(name, std::move(arguments), {"chars"});
  return is_given(bound, 0) ? strip(text, side, bound.text(0, {})) : strip(text, side);
}

Value split_method(const char* name, const Text& text, Arguments arguments, bool from_right) {
  const Bound bound(name, std::move(arguments), {"sep", "maxsplit"});
  const int64_t count = bound.integer(1, -1);
  std::vector<Value> parts =
      is_given(bound, 0) ? split(text, bound.text(0, {}), count, from_right) : split(text, count, from_right);
  return Value::list(std::move(parts));
}

// The bytes of the part of `text` from character `start` to `stop`, as slices have it. Nothing where it begins beyond
// the end.
std::optional<std::pair<size_t, size_t>> part_of(const Text& text, const Bound& bound, size_t first) {
  const auto size = static_cast<int64_t>(text.length());
  const auto place = [&](size_t parameter, int64_t otherwise) {
    if (!is_given(bound, parameter)) return otherwise;
    const std::optional<int64_t> index = as_index(bound[parameter]);
    if (!index) throw Raised("slice indices must be integers or None or have an __index__ method");
    return *index < 0 ? std::max<int64_t>(0, *index + size) : *index;
  };
  const int64_t start = place(first, 0), stop = std::min(place(first + 1, size), size);
  if (start > size) return std::nullopt;
  const size_t begin = text.position_of(static_cast<size_t>(start));
  return std::pair(begin, start >= stop ? begin : text.position_of(static_cast<size_t>(stop)));
}

Value affix(const char* name, const Text& text, Arguments arguments, bool at_start) {
  const Bound bound = by_place(name, std::move(arguments), {"prefix", "start", "end"}, 1);
  const auto part = part_of(text, bound, 1);
  const std::string_view bytes =
      part ? text.view().substr(part->first, part->second - part->first) : std::string_view();
  const auto has = [&](const Value& affix) {
    if (!affix.is_text()) throw Raised(join(name, " first arg must be str or a tuple of str, not ", type_name(affix)));
    return part && (at_start ? bytes.starts_with(affix.text().view()) : bytes.ends_with(affix.text().view()));
  };
  if (!bound[0].is_tuple()) return has(bound[0]);
  return std::any_of(bound[0].items().begin(), bound[0].items().end(), has);
}

// The number of the character where it is found, below 0 where it is not.
int64_t find_in(const char* name, const Text& text, Arguments arguments, bool from_right) {
  const Bound bound = by_place(name, std::move(arguments), {"sub", "start", "end"}, 1);
  const Text sub = bound.text(0, {});
  const auto part = part_of(text, bound, 1);
  if (!part) return -1;
  const std::string_view bytes = text.view().substr(0, part->second);
  const size_t found = from_right ? find_bytes_last(bytes, sub.view()) : find_bytes(bytes, sub.view(), part->first);
  if (found == std::string_view::npos || found < part->first) return -1;
  return static_cast<int64_t>(unicode::count_characters(bytes.substr(0, found)));
}

Value index_in(const char* name, const Text& text, Arguments arguments, bool from_right) {
  const int64_t found = find_in(name, text, std::move(arguments), from_right);
  if (found < 0) throw Raised("substring not found");
  return found;
}

Value count_in(const Text& text, Arguments arguments) {
  const Bound bound = by_place("count", std::move(arguments), {"sub", "start", "end"}, 1);
  const Text sub = bound.text(0, {});
  const auto part = part_of(text, bound, 1);
  if (!part) return 0;
  const std::string_view bytes = text.view().substr(part->first, part->second - part->first);
  if (sub.empty()) return unicode::count_characters(bytes) + 1;
  size_t count = 0;
  for (size_t at = 0; (at = find_bytes(bytes, sub.view(), at)) != std::string_view::npos; at += sub.size()) ++count;
  return count;
}

bool all_are(const Text& text, const auto& is, bool of_empty = false) {
  spend(text.size() / 2);
  for (size_t at = 0; at < text.size();)
    if (!is(unicode::next_character(text.view(), at))) return false;
  return of_empty || !text.empty();
}

// islower() and isupper(): some letter has the case, and none the other.
bool is_of_case(const Text& text, bool lower) {
  spend(text.size() / 2);
  bool has_cased = false;
  for (size_t at = 0; at < text.size();) {
    const uint32_t c = unicode::next_character(text.view(), at);
    if (python::is_title(c) || (lower ? python::is_upper(c) : python::is_lower(c))) return false;
    has_cased = has_cased || (lower ? python::is_lower(c) : python::is_upper(c));
  }
  return has_cased;
}

bool is_title_text(const Text& text) {
  spend(text.size() / 2);
  bool follows_cased = false, has_cased = false;
  for (size_t at = 0; at < text.size();) {
    const uint32_t c = unicode::next_character(text.view(), at);
    const bool is_upper = python::is_upper(c) || python::is_title(c), is_lower = python::is_lower(c);
    if ((is_upper && follows_cased) || (is_lower && !follows_cased)) return false;
    follows_cased = is_upper || is_lower;
    has_cased = has_cased || follows_cased;
  }
  return has_cased;
}

Value pad(const char* name, const Text& text, Arguments arguments, char align) {
  const Bound bound = by_place(name, std::move(arguments), {"width", "fillchar"}, 1);
  const Text fill = bound.text(1, " ");
  if (fill.length() != 1) throw Raised("The fill character must be exactly one character long");
  const int64_t length = static_cast<int64_t>(text.length()), width = bound.integer(0, 0);
  if (width <= length) return text;
  const auto room = static_cast<size_t>(width - length);
  // Where it cannot be even, Python puts the odd one left for odd widths.
  const size_t left = align == '<' ? 0 : align == '>' ? room : room / 2 + (room & static_cast<size_t>(width) & 1);
  TextBuilder out;
  out.append(repeated(fill, left));
  out.append(text);
  out.append(repeated(fill, room - left));
  return out.build(text.is_safe());
}

Value fill_zeros(const Text& text, Arguments arguments) {
  const Bound bound = by_place("zfill", std::move(arguments), {"width"}, 1);
  const int64_t length = static_cast<int64_t>(text.length()), width = bound.integer(0, 0);
  if (width <= length) return text;
  const size_t sign = text.view().starts_with('+') || text.view().starts_with('-') ? 1 : 0;
  TextBuilder out;
  out.append(text, 0, sign);
  out.append(repeated("0", static_cast<size_t>(width - length)));
  out.append(text, sign, text.size());
  return out.build(text.is_safe());
}

Value partition(const char* name, const Text& text, Arguments arguments, bool from_right) {
  const Bound bound = by_place(name, std::move(arguments), {"sep"}, 1);
  const Text separator = bound.text(0, {});
  std::vector<Value> parts = split(text, separator, 1, from_right);
  const Text nothing = text.slice(0, 0);
  if (parts.size() < 2)
    return from_right ? Value::tuple({nothing, nothing, text}) : Value::tuple({text, nothing, nothing});
  const size_t begin = parts[0].text().size();
  return Value::tuple({parts[0], text.slice(begin, begin + separator.size()), parts[1]});
}

Value without_affix(const char* name, const Text& text, Arguments arguments, bool at_start) {
  const Bound bound = by_place(name, std::move(arguments), {"affix"}, 1);
  const Text affix = bound.text(0, {});
  if (at_start && text.view().starts_with(affix.view())) return text.slice(affix.size(), text.size());
  if (!at_start && text.view().ends_with(affix.view())) return text.slice(0, text.size() - affix.size());
  return text;
}

Value expand_tabs(const Text& text, Arguments arguments) {
  const Bound bound("expandtabs", std::move(arguments), {"tabsize"});
  const int64_t size = bound.integer(0, 8);
  spend(text.size() / 4);
  TextBuilder out;
  int64_t column = 0;
  size_t plain = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t begin = at;
    const uint32_t c = unicode::next_character(text.view(), at);
    ++column;
    if (c == '\n' || c == '\r') column = 0;
    if (c != '\t') continue;
    --column;
    out.append(text, plain, begin);
    const int64_t room = size > 0 ? size - column % size : 0;
    out.append(repeated(Text(" ", text.mark_at(begin)), static_cast<size_t>(room)));
    column += room;
    plain = at;
  }
  out.append(text, plain, text.size());
  return out.build(text.is_safe());
}

Value replace_method(const Text& text, Arguments arguments) {
  const Bound bound = by_place("replace", std::move(arguments), {"old", "new", "count"}, 2);
  Text by = bound.text(1, {});
  if (text.is_safe() && !by.is_safe()) by = escape(by);
  return replace(text, bound.text(0, {}), by, bound.integer(2, -1));
}

template <Text (*form)(const Text&)>
Value changed(const Text& text, Arguments arguments) {
  by_place("method", std::move(arguments), {});
  return form(text);
}

template <bool (*is)(uint32_t)>
Value all(const Text& text, Arguments arguments) {
  by_place("method", std::move(arguments), {});
  return all_are(text, is);
}

const std::map<std::string_view, Method>& methods() {
  static const std::map<std::string_view, Method> table = {
      {"upper", changed<to_upper>},
      {"lower", changed<to_lower>},
      {"title", changed<to_title>},
      {"capitalize", changed<capitalize>},
      {"swapcase", changed<swap_case>},
      {"casefold", changed<fold_case>},
      {"isalpha", all<python::is_alpha>},
      {"isdecimal", all<python::is_decimal>},
      {"isdigit", all<python::is_digit>},
      {"isnumeric", all<python::is_numeric>},
      {"isalnum", all<python::is_alphanumeric>},
      {"isspace", all<python::is_space>},
      {"isprintable", [](const Text& t, Arguments) -> Value { return all_are(t, python::is_printable, true); }},
      {"isascii", [](const Text& t, Arguments) -> Value { return t.is_ascii(); }},
      {"islower", [](const Text& t, Arguments) -> Value { return is_of_case(t, true); }},
      {"isupper", [](const Text& t, Arguments) -> Value { return is_of_case(t, false); }},
      {"istitle", [](const Text& t, Arguments) -> Value { return is_title_text(t); }},
      {"isidentifier",
       [](const Text& t, Arguments) -> Value {
         size_t at = 0;
         return all_are(t, python::is_word) && python::starts_name(unicode::next_character(t.view(), at));
       }},
      {"strip", [](const Text& t, Arguments a) { return strip_method("strip", t, std::move(a), Side::kBoth); }},
      {"lstrip", [](const Text& t, Arguments a) { return strip_method("lstrip", t, std::move(a), Side::kLeft); }},
      {"rstrip", [](const Text& t, Arguments a) { return strip_method("rstrip", t, std::move(a), Side::kRight); }},
      {"split", [](const Text& t, Arguments a) { return split_method("split", t, std::move(a), false); }},
      {"rsplit", [](const Text& t, Arguments a) { return split_method("rsplit", t, std::move(a), true); }},
      {"splitlines",
       [](const Text& t, Arguments a) {
         const Bound bound("splitlines", std::move(a), {"keepends"});
         return Value::list(split_lines(t, bound.boolean(0, false)));
       }},
      {"startswith", [](const Text& t, Arguments a) { return affix("startswith", t, std::move(a), true); }},
      {"endswith", [](const Text& t, Arguments a) { return affix("endswith", t, std::move(a), false); }},
      {"find", [](const Text& t, Arguments a) -> Value { return find_in("find", t, std::move(a), false); }},
      {"rfind", [](const Text& t, Arguments a) -> Value { return find_in("rfind", t, std::move(a), true); }},
      {"index", [](const Text& t, Arguments a) { return index_in("index", t, std::move(a), false); }},
      {"rindex", [](const Text& t, Arguments a) { return index_in("rindex", t, std::move(a), true); }},
      {"count", count_in},
      {"replace", replace_method},
      {"join",
       [](const Text& t, Arguments a) -> Value {
         const Bound bound = by_place("join", std::move(a), {"iterable"}, 1);
         if (!is_iterable(bound[0])) throw Raised("can only join an iterable");
         return join_values(t, bound[0]);
       }},
      {"center", [](const Text& t, Arguments a) { return pad("center", t, std::move(a), '^'); }},
      {"ljust", [](const Text& t, Arguments a) { return pad("ljust", t, std::move(a), '<'); }},
      {"rjust", [](const Text& t, Arguments a) { return pad("rjust", t, std::move(a), '>'); }},
      {"zfill", fill_zeros},
      {"partition", [](const Text& t, Arguments a) { return partition("partition", t, std::move(a), false); }},
      {"rpartition", [](const Text& t, Arguments a) { return partition("rpartition", t, std::move(a), true); }},
      {"removeprefix", [](const Text& t, Arguments a) { return without_affix("removeprefix", t, std::move(a), true); }},
      {"removesuffix",
       [](const Text& t, Arguments a) { return without_affix("removesuffix", t, std::move(a), false); }},
      {"expandtabs", expand_tabs},
      {"format", [](const Text& t, Arguments a) -> Value { return format_braces(t, a); }},
      {"format_map",
       [](const Text& t, Arguments a) -> Value {
         const Bound bound = by_place("format_map", std::move(a), {"mapping"}, 1);
         if (!bound[0].is_dict()) throw Raised("format_map() argument after ** must be a mapping");
         Arguments values;
         for (const auto& [key, value] : bound[0].mapping().entries())
           if (key.is_text()) values.named.emplace_back(key.text().string(), value);
         return format_braces(t, values);
       }},
  };
  return table;
}

}  // namespace

Value string_method(const Text& text, std::string_view name) {
  if (const auto method = methods().find(name); method != methods().end())
    return ObjectPointer(std::make_shared<Function>(
        std::string(name),
        [text, run = method->second](Arguments arguments) { return run(text, std::move(arguments)); }));
  for (const std::string_view other : {"encode", "translate", "maketrans"})
    if (name == other)
      return ObjectPointer(std::make_shared<Function>(std::string(name), [other](Arguments) -> Value {
        throw Raised(join("str.", other, "() is not supported"));
      }));
  return {};
}

}  // namespace rankfold::jinja
