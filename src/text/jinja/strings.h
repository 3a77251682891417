// Python's str methods on text that knows its origins.
#pragma once

#include "text/jinja/object.h"

namespace rankfold::jinja {

// As std::string_view::find and rfind, with their steps counted.
size_t find_bytes(std::string_view text, std::string_view part, size_t from = 0);
size_t find_bytes_last(std::string_view text, std::string_view part);

Text escape(const Text& text);  // for HTML, as markupsafe; the result is safe

enum class Side { kLeft, kRight, kBoth };
Text strip(const Text& text, Side side);
Text strip(const Text& text, Side side, const Text& characters);

Text to_upper(const Text& text);
Text to_lower(const Text& text);
Text to_title(const Text& text);     // the method
Text title_words(const Text& text);  // the filter
Text capitalize(const Text& text);
Text swap_case(const Text& text);
Text fold_case(const Text& text);

// At most `count` times, all if below 0.
Text replace(const Text& text, const Text& old, const Text& by, int64_t count);
std::vector<Value> split(const Text& text, int64_t count, bool from_right);  // at runs of white space
std::vector<Value> split(const Text& text, const Text& separator, int64_t count, bool from_right);
std::vector<Value> split_lines(const Text& text, bool keep_ends);
Text join_values(const Text& separator, const Value& items);  // texts only
Text repeated(const Text& text, size_t count);

// A str method as a value, bound to its text; missing where str has none of that name.
Value string_method(const Text& text, std::string_view name);

}  // namespace rankfold::jinja
