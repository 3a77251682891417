#include "text/jinja/operators.h"

#include "text/jinja/format.h"
#include "text/jinja/print.h"
#include "text/jinja/strings.h"
#include "text/unicode.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace rankfold::jinja {
namespace {

constexpr const char* kSigns[] = {"+", "-", "*", "/", "//", "%", "** or pow()"};

bool is_whole(const Value& value) { return value.is_integer() || value.is<bool>(); }

Integer to_integer(const Value& value) {
  if (const bool* boolean = value.get<bool>()) return *boolean ? 1 : 0;
  if (const int64_t* small = value.get<int64_t>()) return *small;
  return **value.get<IntegerPointer>();
}

double to_double(const Value& value) {
  if (const double* number = value.get<double>()) return *number;
  if (const std::optional<int64_t> small = to_integer(value).small()) return static_cast<double>(*small);
  const double number = to_integer(value).to_double();
  if (std::isinf(number)) throw Raised("int too large to convert to float");
  return number;
}

double floor_divide(double a, double b, double& rest) {
  rest = std::fmod(a, b);
  double quotient = (a - rest) / b;
  if (rest != 0) {
    if ((b < 0) != (rest < 0)) rest += b, quotient -= 1;
  } else {
    rest = std::copysign(0.0, b);
  }
  if (quotient == 0) return std::copysign(0.0, a / b);
  const double floor = std::floor(quotient);
  return quotient - floor > 0.5 ? floor + 1 : floor;
}

double float_power(double a, double b) {
  if (a == 0 && b < 0) throw Raised("0.0 cannot be raised to a negative power");
  if (a < 0 && std::isfinite(a) && std::isfinite(b) && b != std::trunc(b))
    throw Raised("a negative number to a fraction's power is a complex number, which is not supported");
  const double result = std::pow(a, b);
  if (std::isinf(result) && std::isfinite(a) && std::isfinite(b)) throw Raised("(34, 'Numerical result out of range')");
  return result;
}

Value calculate_floats(Operator op, double a, double b) {
  double rest = 0;
  switch (op) {
    case Operator::kAdd:
      return a + b;
    case Operator::kSubtract:
      return a - b;
    case Operator::kMultiply:
      return a * b;
    case Operator::kPower:
      return float_power(a, b);
    default:
      break;
  }
  if (b == 0)
    throw Raised(op == Operator::kDivide        ? "float division by zero"
                 : op == Operator::kFloorDivide ? "float floor division by zero"
                                                : "float modulo");
  if (op == Operator::kDivide) return a / b;
  const double quotient = floor_divide(a, b, rest);
  return op == Operator::kModulo ? rest : quotient;
}

Value true_divide(const Value& a, const Value& b) {
  const std::optional<int64_t> left = to_integer(a).small(), right = to_integer(b).small();
  if (left && right) return static_cast<double>(static_cast<long double>(*left) / static_cast<long double>(*right));
  const double quotient = to_integer(a).to_double() / to_integer(b).to_double();
  if (std::isnan(quotient) || std::isinf(quotient)) throw Raised("integer division result too large for a float");
  return quotient;
}

std::optional<Value> calculate_small(Operator op, int64_t a, int64_t b) {
  int64_t result;
  switch (op) {
    case Operator::kAdd:
      return __builtin_add_overflow(a, b, &result) ? std::nullopt : std::optional<Value>(result);
    case Operator::kSubtract:
      return __builtin_sub_overflow(a, b, &result) ? std::nullopt : std::optional<Value>(result);
    case Operator::kMultiply:
      return __builtin_mul_overflow(a, b, &result) ? std::nullopt : std::optional<Value>(result);
    default:
      return std::nullopt;
  }
}

Value calculate_integers(Operator op, const Value& a, const Value& b) {
  if (const auto* x = a.get<int64_t>(), *y = b.get<int64_t>(); x != nullptr && y != nullptr)
    if (std::optional<Value> result = calculate_small(op, *x, *y)) return *result;
  const Integer left = to_integer(a), right = to_integer(b);
  switch (op) {
    case Operator::kAdd:
      return left + right;
    case Operator::kSubtract:
      return left - right;
    case Operator::kMultiply:
      return left * right;
    case Operator::kPower: {
      if (right.is_negative()) return float_power(to_double(a), to_double(b));
      const std::optional<int64_t> exponent = right.small();
      if (!exponent) throw Raised("the exponent is too large");
      return Integer::power(left, static_cast<uint64_t>(*exponent));
    }
    default:
      break;
  }
  if (right.is_zero())
    throw Raised(op == Operator::kDivide ? "division by zero" : "integer division or modulo by zero");
  if (op == Operator::kDivide) return true_divide(a, b);
  Integer quotient, rest;
  Integer::divide(left, right, quotient, rest);
  return op == Operator::kModulo ? rest : quotient;
}

Value repeat(const Value& value, const Value& times) {
  const auto count = static_cast<size_t>(std::max<int64_t>(0, *as_index(times)));
  if (value.is_text()) return repeated(value.text(), count);
  const std::vector<Value>& items = value.items();
  std::vector<Value> all;
  if (!items.empty() && count > 0) {
    if (count > (uint64_t{1} << 40) / (items.size() * sizeof(Value))) throw Raised("the result is too large");
    const Charge charge(items.size() * sizeof(Value) * count);
    for (size_t k = 0; k < count; ++k) all.insert(all.end(), items.begin(), items.end());
  }
  return value.is_tuple() ? Value::tuple(std::move(all)) : Value::list(std::move(all));
}

Value add_texts(const Text& a, const Text& b) {
  const bool is_safe = a.is_safe() || b.is_safe();
  TextBuilder sum;
  sum.append(is_safe && !a.is_safe() ? escape(a) : a);
  sum.append(is_safe && !b.is_safe() ? escape(b) : b);
  return sum.build(is_safe);
}

[[noreturn]] void fail_types(std::string_view sign, const Value& a, const Value& b) {
  throw Raised(join("unsupported operand type(s) for ", sign, ": '", type_name(a), "' and '", type_name(b), "'"));
}

Value add_sequences(const Value& a, const Value& b) {
  std::vector<Value> all = a.items();
  all.insert(all.end(), b.items().begin(), b.items().end());
  return a.is_tuple() ? Value::tuple(std::move(all)) : Value::list(std::move(all));
}

}  // namespace

void refuse_undefined(const Value& value) {
  if (const auto* undefined = value.get<Undefined>()) throw UndefinedRaised(*undefined->why);
}

Value calculate(Operator op, const Value& a, const Value& b) {
  if (is_whole(a) && is_whole(b)) return calculate_integers(op, a, b);
  if (a.is_number() && b.is_number()) return calculate_floats(op, to_double(a), to_double(b));
  if (op == Operator::kModulo && a.is_text()) return format_percent(a.text(), b);
  refuse_undefined(a);
  refuse_undefined(b);
  if (op == Operator::kAdd && a.is_text() && b.is_text()) return add_texts(a.text(), b.text());
  if (op == Operator::kAdd && ((a.is_list() && b.is_list()) || (a.is_tuple() && b.is_tuple())))
    return add_sequences(a, b);
  const auto repeats = [](const Value& value) { return value.is_text() || value.is<SequencePointer>(); };
  if (op == Operator::kMultiply && repeats(a) && is_whole(b)) return repeat(a, b);
  if (op == Operator::kMultiply && repeats(b) && is_whole(a)) return repeat(b, a);
  if (op == Operator::kAdd && (a.is_text() || a.is_list() || a.is_tuple()))
    throw Raised(join("can only concatenate ", type_name(a), " (not \"", type_name(b), "\") to ", type_name(a)));
  if (op == Operator::kMultiply && (repeats(a) || repeats(b)))
    throw Raised(join("can't multiply sequence by non-int of type '", type_name(repeats(a) ? b : a), "'"));
  fail_types(kSigns[static_cast<int>(op)], a, b);
}

Value negate(const Value& value) {
  refuse_undefined(value);
  if (const double* number = value.get<double>()) return -*number;
  if (!is_whole(value)) throw Raised(join("bad operand type for unary -: '", type_name(value), "'"));
  return -to_integer(value);
}

Value plus(const Value& value) {
  refuse_undefined(value);
  if (value.is<bool>()) return to_integer(value);
  if (!value.is_number()) throw Raised(join("bad operand type for unary +: '", type_name(value), "'"));
  return value;
}

namespace {

// Below 0, 0, above 0; nothing where one is not a number.
std::optional<int> compare_numbers(const Value& a, const Value& b) {
  if (is_whole(a) && is_whole(b)) {
    const int64_t *x = a.get<int64_t>(), *y = b.get<int64_t>();
    if (x != nullptr && y != nullptr) return *x < *y ? -1 : *x > *y;
    return to_integer(a).compare(to_integer(b));
  }
  const double *x = a.get<double>(), *y = b.get<double>();
  if (x != nullptr && y != nullptr) {
    if (std::isnan(*x) || std::isnan(*y)) return std::nullopt;
    return *x < *y ? -1 : *x > *y;
  }
  if (x == nullptr) {
    const std::optional<int> other = compare_numbers(b, a);
    return other ? std::optional<int>(-*other) : std::nullopt;
  }
  if (std::isnan(*x)) return std::nullopt;
  if (std::isinf(*x)) return *x < 0 ? -1 : 1;
  const int whole = Integer::truncate(*x).compare(to_integer(b));
  if (whole != 0) return whole;
  const double fraction = *x - std::trunc(*x);
  return fraction < 0 ? -1 : fraction > 0;
}

// `a op b` for the four that order.
bool order(Comparison op, const Value& a, const Value& b) {
  spend(1);
  const auto by = [&](int sign) {
    switch (op) {
      case Comparison::kLess:
        return sign < 0;
      case Comparison::kLessEqual:
        return sign <= 0;
      case Comparison::kGreater:
        return sign > 0;
      default:
        return sign >= 0;
    }
  };
  if (a.is_number() && b.is_number()) {
    const std::optional<int> sign = compare_numbers(a, b);
    return sign && by(*sign);
  }
  // UTF-8 is in the order of code points.
  if (a.is_text() && b.is_text()) {
    spend(std::min(a.text().size(), b.text().size()) / 64);
    return by(a.text().view().compare(b.text().view()));
  }
  refuse_undefined(a);
  refuse_undefined(b);
  if (a.is<SequencePointer>() && b.is<SequencePointer>() && a.is_tuple() == b.is_tuple()) {
    const std::vector<Value>&x = a.items(), &y = b.items();
    for (size_t k = 0; k < std::min(x.size(), y.size()); ++k)
      if (!equal(x[k], y[k])) return order(op, x[k], y[k]);
    return by(x.size() < y.size() ? -1 : x.size() > y.size());
  }
  constexpr const char* kOrders[] = {"==", "!=", "<", "<=", ">", ">="};
  throw Raised(join("'", kOrders[static_cast<int>(op)], "' not supported between instances of '", type_name(a),
                    "' and '", type_name(b), "'"));
}

}  // namespace

bool less(const Value& a, const Value& b) { return order(Comparison::kLess, a, b); }

bool compare(Comparison op, const Value& a, const Value& b) {
  switch (op) {
    case Comparison::kEqual:
      return equal(a, b);
    case Comparison::kNotEqual:
      return !equal(a, b);
    case Comparison::kIn:
      return contains(b, a);
    case Comparison::kNotIn:
      return !contains(b, a);
    default:
      return order(op, a, b);
  }
}

bool contains(const Value& container, const Value& item) {
  if (container.is_text()) {
    if (!item.is_text()) throw Raised(join("'in <string>' requires string as left operand, not ", type_name(item)));
    return find_bytes(container.text().view(), item.text().view()) != std::string_view::npos;
  }
  if (container.is_dict()) return container.find(item) != nullptr || (hash(item), false);
  if (container.is<SequencePointer>()) {
    const std::vector<Value>& items = container.items();
    return std::any_of(items.begin(), items.end(), [&](const Value& other) { return equal(other, item); });
  }
  if (const ObjectPointer* object = container.object()) return (*object)->contains(item);
  if (container.is<Undefined>()) return false;
  throw Raised(join("argument of type '", type_name(container), "' is not iterable"));
}

std::optional<int64_t> as_index(const Value& value) {
  if (!is_whole(value)) return std::nullopt;
  const Integer whole = to_integer(value);
  if (const std::optional<int64_t> small = whole.small()) return small;
  return whole.is_negative() ? std::numeric_limits<int64_t>::min() : std::numeric_limits<int64_t>::max();
}

namespace {

bool is_hashable(const Value& value) {
  if (value.is_tuple()) return std::all_of(value.items().begin(), value.items().end(), is_hashable);
  return !value.is_list() && !value.is_dict() &&
         (value.object() == nullptr || dynamic_cast<View*>(value.object()->get()) == nullptr);
}

}  // namespace

Value item_of(const Value& container, const Value& index) {
  refuse_undefined(container);
  if (container.is_dict()) {
    const Value* const found = is_hashable(index) ? container.find(index) : nullptr;
    return found == nullptr ? Value() : *found;
  }
  if (const ObjectPointer* object = container.object()) return (*object)->item(index);
  if (!container.is_text() && !container.is<SequencePointer>()) return {};
  const std::optional<int64_t> place = as_index(index);
  if (!place) return {};
  const auto count = static_cast<int64_t>(length(container));
  const int64_t at = *place < 0 ? *place + count : *place;
  if (at < 0 || at >= count) return {};
  const auto k = static_cast<size_t>(at);
  return container.is_text() ? container.text().characters(k, k + 1) : container.items()[k];
}

namespace {

struct Stride {
  int64_t start, step, count;
};

Stride stride_of(int64_t size, const Value& start, const Value& stop, const Value& step) {
  const auto bound = [](const Value& value, int64_t otherwise) {
    if (value.is<Missing>() || value.is_none()) return otherwise;
    const std::optional<int64_t> index = as_index(value);
    if (!index) throw Raised("slice indices must be integers or None or have an __index__ method");
    return *index;
  };
  const int64_t stride = std::max(bound(step, 1), -std::numeric_limits<int64_t>::max());
  if (stride == 0) throw Raised("slice step cannot be zero");
  const int64_t low = stride < 0 ? -1 : 0, high = stride < 0 ? size - 1 : size;
  const auto place = [&](const Value& value, int64_t otherwise) {
    int64_t at = bound(value, otherwise);
    if (value.is<Missing>() || value.is_none()) return otherwise;
    if (at < 0) at = at < -size ? low : at + size;
    return std::clamp(at, low, high);
  };
  const int64_t first = place(start, stride < 0 ? high : low), end = place(stop, stride < 0 ? low : high);
  int64_t count = 0;
  if (stride > 0 && end > first) count = (end - first - 1) / stride + 1;
  if (stride < 0 && end < first) count = (first - end - 1) / -stride + 1;
  return {first, stride, count};
}

Text slice_text(const Text& text, const Stride& stride) {
  const auto [start, step, count] = stride;
  const auto first = static_cast<size_t>(start), number = static_cast<size_t>(count);
  if (count == 0) return text.slice(0, 0);
  if (step == 1) {
    const size_t begin = text.position_of(first);
    return text.slice(begin, text.is_ascii() ? begin + number : unicode::skip_characters(text.view(), number, begin));
  }
  std::vector<size_t> begins;
  for (size_t at = 0; at < text.size(); unicode::next_character(text.view(), at)) begins.push_back(at);
  begins.push_back(text.size());
  spend(begins.size());
  TextBuilder part;
  for (int64_t k = 0; k < count; ++k) {
    const auto at = static_cast<size_t>(start + k * step);
    part.append(text, begins[at], begins[at + 1]);
  }
  return part.build(text.is_safe());
}

}  // namespace

Value slice(const Value& container, const Value& start, const Value& stop, const Value& step) {
  refuse_undefined(container);
  if (container.is_dict()) throw Raised("unhashable type: 'slice'");
  const auto* range = container.object() == nullptr ? nullptr : dynamic_cast<const Range*>(container.object()->get());
  if (!container.is_text() && !container.is<SequencePointer>() && range == nullptr)
    throw Raised(join("'", type_name(container), "' object is not subscriptable"));
  const Stride stride = stride_of(static_cast<int64_t>(length(container)), start, stop, step);
  if (container.is_text()) return slice_text(container.text(), stride);
  if (range != nullptr) return range->slice(stride.start, stride.step, stride.count);
  std::vector<Value> items;
  const Charge charge(static_cast<uint64_t>(stride.count) * sizeof(Value));
  for (int64_t k = 0; k < stride.count; ++k) {
    const auto at = static_cast<size_t>(stride.start + k * stride.step);
    items.push_back(container.items()[at]);
  }
  Value part = container.is_tuple() ? Value::tuple(std::move(items)) : Value::list(std::move(items));
  part.set_origin(container.mark().origin);
  return part;
}

}  // namespace rankfold::jinja
