// Filters, tests, functions and attributes that templates find by name.
#pragma once

#include "text/jinja/object.h"

#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace rankfold::jinja {

struct DateTime;

// Of one rendering.
struct Context {
  const DateTime* now;
  std::vector<ObjectPointer> kept;  // those that may hold themselves, cleared when it ends
};

// Thrown by raise_exception: the text is the template's own.
class ChosenByTemplate : public Raised {
 public:
  using Raised::Raised;
};

using Filter = Value (*)(Context& context, const Value& value, Arguments arguments);
using Filters = std::map<std::string_view, Filter>;

// The tables that find_filter() and find_test() look into.
const Filters& text_filters();
const Filters& list_filters();
const Filters& other_filters();
const Filters& tests();

bool has_filter(std::string_view name);
bool has_test(std::string_view name);
// Throw Raised where there is none of the name.
Value call_filter(Context& context, std::string_view name, const Value& value, Arguments arguments);
Value call_test(Context& context, std::string_view name, const Value& value, Arguments arguments);

// Functions that every template has; missing where there is none of the name.
Value find_function(Context& context, std::string_view name);

// value.name and value[index], in Jinja's order of attributes and items; undefined where there is neither.
Value attribute(const Value& value, std::string_view name);
Value item(const Value& value, const Value& index);
Value attribute_only(const Value& value, std::string_view name);

// Throws Raised where the value cannot be called.
Value call(const Value& function, Arguments arguments);

std::string format_time(const DateTime& time, std::string_view format);  // as Python's strftime

}  // namespace rankfold::jinja
