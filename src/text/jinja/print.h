// Values as text: str(), repr() and JSON, as Python writes them.
#pragma once

#include "text/jinja/object.h"

namespace rankfold::jinja {

Text to_text(const Value& value);  // str(value)
Text repr(const Value& value);
std::string float_text(double value);
std::string integer_text(const Value& value);  // of an integer or boolean; refuses more than 4,300 digits, as Python

struct JsonStyle {
  bool ensure_ascii = false;
  bool sort_keys = false;
  bool has_indent = false;
  std::string indent;  // of one level
  std::string item_separator = ", ";
  std::string key_separator = ": ";
};
Text to_json(const Value& value, const JsonStyle& style);

}  // namespace rankfold::jinja
