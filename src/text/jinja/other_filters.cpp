// Filters of numbers and of any value, and the look-up of all filters and tests.
#include "text/jinja/library.h"
#include "text/jinja/operators.h"
#include "text/jinja/print.h"
#include "text/jinja/strings.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>

namespace rankfold::jinja {
namespace {

Value default_filter(Context&, const Value& value, Arguments arguments) {
  const Bound bound("default", std::move(arguments), {"default_value", "boolean"});
  if (!value.is<Undefined>() && !(bound.boolean(1, false) && !truth(value))) return value;
  return bound.has(0) ? bound[0] : Value("");
}

// Digits with single underscores between, as in Python's literals; nothing where it is not that.
std::optional<std::string> digits_of(std::string_view text, unsigned base) {
  std::string digits;
  bool may_skip = false;
  for (const char c : text) {
    const bool is_decimal = c >= '0' && c <= '9';
    const unsigned digit = is_decimal ? static_cast<unsigned>(c - '0') : static_cast<unsigned>((c | 0x20) - 'a' + 10);
    const bool is_digit = (is_decimal || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z')) && digit < base;
    if (!is_digit && !(c == '_' && may_skip)) return std::nullopt;
    if (is_digit) digits += c;
    may_skip = is_digit;
  }
  return may_skip ? std::optional(digits) : std::nullopt;
}

std::optional<Value> parse_integer(const Text& text, int64_t base) {
  if (base != 0 && (base < 2 || base > 36)) throw Raised("int() base must be >= 2 and <= 36, or 0");
  const Text stripped = strip(text, Side::kBoth);
  std::string_view digits = stripped.view();
  const bool is_negative = digits.starts_with('-');
  if (is_negative || digits.starts_with('+')) digits.remove_prefix(1);
  const char letter = digits.size() > 2 && digits[0] == '0' ? static_cast<char>(digits[1] | 0x20) : '\0';
  const int64_t prefixed = letter == 'x' ? 16 : letter == 'o' ? 8 : letter == 'b' ? 2 : 0;
  if (prefixed != 0 && (base == 0 || base == prefixed)) {
    base = prefixed;
    digits.remove_prefix(2);
    if (digits.starts_with('_')) digits.remove_prefix(1);
  }
  const bool is_open = base == 0;
  const std::optional<std::string> found = digits_of(digits, is_open ? 10 : static_cast<unsigned>(base));
  if (!found || found->size() > 4300) return std::nullopt;
  if (is_open && found->size() > 1 && (*found)[0] == '0' && found->find_first_not_of('0') != std::string::npos)
    return std::nullopt;
  return Integer::parse((is_negative ? "-" : "") + *found, is_open ? 10 : static_cast<unsigned>(base));
}

std::optional<double> parse_float(const Text& text) {
  const Text stripped = strip(text, Side::kBoth);
  std::string plain;
  for (size_t k = 0; k < stripped.size(); ++k) {
    const std::string_view bytes = stripped.view();
    const auto is_digit = [&](size_t at) { return at < bytes.size() && bytes[at] >= '0' && bytes[at] <= '9'; };
    if (bytes[k] == '_' && k > 0 && is_digit(k - 1) && is_digit(k + 1)) continue;
    plain += static_cast<char>(bytes[k] >= 'A' && bytes[k] <= 'Z' ? bytes[k] | 0x20 : bytes[k]);
  }
  const std::string unsigned_part = plain.substr(plain.starts_with('-') || plain.starts_with('+') ? 1 : 0);
  const bool is_word = unsigned_part == "inf" || unsigned_part == "infinity" || unsigned_part == "nan";
  if (!is_word && (unsigned_part.empty() || plain.find_first_not_of("0123456789+-.e") != std::string::npos))
    return std::nullopt;
  char* end = nullptr;
  const double number = std::strtod(plain.c_str(), &end);
  return *end == '\0' ? std::optional(number) : std::nullopt;
}

// float(value); nothing where Python raises TypeError or ValueError.
std::optional<double> to_float(const Value& value) {
  refuse_undefined(value);
  if (value.is_text()) return parse_float(value.text());
  if (!value.is_number()) return std::nullopt;
  return *calculate(Operator::kAdd, value, 0.0).get<double>();
}

Value int_filter(Context&, const Value& value, Arguments arguments) {
  const Bound bound("int", std::move(arguments), {"default", "base"});
  const Value otherwise = bound.has(0) ? bound[0] : Value(0);
  refuse_undefined(value);
  if (value.is_integer() || value.is<bool>()) return plus(value);
  if (value.is_text())
    if (const std::optional<Value> whole = parse_integer(value.text(), bound.integer(1, 10))) return *whole;
  const std::optional<double> number = to_float(value);
  if (number && std::isinf(*number) && !value.is_text()) throw Raised("cannot convert float infinity to integer");
  return number && std::isfinite(*number) ? Value(Integer::truncate(*number)) : otherwise;
}

Value float_filter(Context&, const Value& value, Arguments arguments) {
  const Bound bound("float", std::move(arguments), {"default"});
  if (const std::optional<double> number = to_float(value)) return *number;
  return bound.has(0) ? bound[0] : Value(0.0);
}

Value absolute(Context&, const Value& value, Arguments) {
  refuse_undefined(value);
  if (!value.is_number()) throw Raised(join("bad operand type for abs(): '", type_name(value), "'"));
  if (const double* number = value.get<double>()) return std::fabs(*number);
  return less(value, 0) ? negate(value) : plus(value);
}

double round_float(double value, int64_t places) {
  if (!std::isfinite(value) || places > 350) return value;
  if (places < -350) return std::copysign(0.0, value);
  if (places >= 0) {
    char text[800];
    std::snprintf(text, sizeof text, "%.*f", static_cast<int>(places), value);
    return std::strtod(text, nullptr);
  }
  const double unit = std::pow(10.0, static_cast<double>(-places));
  const double scaled = value / unit;
  double whole = std::round(scaled);
  if (std::fabs(scaled - whole) == 0.5) whole = 2 * std::round(scaled / 2);
  return whole * unit;
}

Value round_integer(const Value& value, int64_t places) {
  if (places >= 0) return plus(value);
  if (places < -5000) return 0;
  const Value unit = calculate(Operator::kPower, 10, -places);
  const Value rest = calculate(Operator::kModulo, value, unit), low = calculate(Operator::kSubtract, value, rest);
  const Value twice = calculate(Operator::kMultiply, rest, 2);
  const Value is_odd = calculate(Operator::kModulo, calculate(Operator::kFloorDivide, low, unit), 2);
  const bool goes_up = less(unit, twice) || (equal(unit, twice) && truth(is_odd));
  return goes_up ? calculate(Operator::kAdd, low, unit) : low;
}

Value round_filter(Context&, const Value& value, Arguments arguments) {
  const Bound bound("round", std::move(arguments), {"precision", "method"});
  const Text method = bound.text(1, "common");
  const int64_t places = bound.integer(0, 0);
  if (method.view() != "common" && method.view() != "ceil" && method.view() != "floor")
    throw Raised("method must be common, ceil or floor");
  refuse_undefined(value);
  if (!value.is_number()) throw Raised(join("type ", type_name(value), " doesn't define __round__ method"));
  if (method.view() == "common") {
    const double* const number = value.get<double>();
    return number == nullptr ? round_integer(value, places) : Value(round_float(*number, places));
  }
  const Value unit = calculate(Operator::kPower, 10, places);
  Value scaled = calculate(Operator::kMultiply, value, unit);
  if (const double* number = scaled.get<double>()) {
    if (!std::isfinite(*number)) throw Raised("cannot convert float infinity or NaN to integer");
    scaled = Integer::truncate(method.view() == "ceil" ? std::ceil(*number) : std::floor(*number));
  }
  return calculate(Operator::kDivide, scaled, unit);
}

Value attr(Context&, const Value& value, Arguments arguments) {
  const Bound bound("attr", std::move(arguments), {"name"}, 1);
  return attribute_only(value, bound.text(0, {}).view());
}

Value to_json_filter(Context&, const Value& value, Arguments arguments) {
  const Bound bound("tojson", std::move(arguments), {"ensure_ascii", "indent", "separators", "sort_keys"});
  JsonStyle style;
  style.ensure_ascii = bound.boolean(0, false);
  style.sort_keys = bound.boolean(3, false);
  style.has_indent = bound.has(1) && !bound[1].is_none();
  if (style.has_indent) {
    style.indent = bound[1].is_text() ? bound[1].text().string()
                                      : calculate(Operator::kMultiply, " ", bound.integer(1, 0)).text().string();
    style.item_separator = ",";
  }
  if (bound.has(2) && !bound[2].is_none()) {
    const std::vector<Value> two = to_vector(bound[2]);
    if (two.size() != 2 || !two[0].is_text() || !two[1].is_text())
      throw Raised("tojson: separators must be two strings");
    style.item_separator = two[0].text().string();
    style.key_separator = two[1].text().string();
  }
  return to_json(value, style);
}

Filter find(std::string_view name, std::initializer_list<const Filters*> tables) {
  for (const Filters* table : tables)
    if (const auto found = table->find(name); found != table->end()) return found->second;
  return nullptr;
}

Filter find_filter(std::string_view name) { return find(name, {&text_filters(), &list_filters(), &other_filters()}); }

}  // namespace

const Filters& other_filters() {
  static const Filters table = {
      {"default", default_filter}, {"d", default_filter},   {"int", int_filter}, {"float", float_filter},
      {"abs", absolute},           {"round", round_filter}, {"attr", attr},      {"tojson", to_json_filter},
  };
  return table;
}

bool has_filter(std::string_view name) { return find_filter(name) != nullptr; }
bool has_test(std::string_view name) { return tests().contains(name); }

Value call_filter(Context& context, std::string_view name, const Value& value, Arguments arguments) {
  const Filter filter = find_filter(name);
  if (filter == nullptr) throw Raised(join("No filter named '", name, "' found."));
  return filter(context, value, std::move(arguments));
}

Value call_test(Context& context, std::string_view name, const Value& value, Arguments arguments) {
  const Filter test = find(name, {&tests()});
  if (test == nullptr) throw Raised(join("No test named '", name, "' found."));
  return test(context, value, std::move(arguments));
}

}  // namespace rankfold::jinja
