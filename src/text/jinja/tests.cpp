// Tests: what stands behind `is`.
#include "text/jinja/library.h"
#include "text/jinja/operators.h"
#include "text/jinja/print.h"
#include "text/jinja/strings.h"

namespace rankfold::jinja {
namespace {

const Value& argument(const Arguments& arguments) {
  if (arguments.positional.size() != 1 || !arguments.named.empty()) throw Raised("the test expects one argument");
  return arguments.positional[0];
}

template <auto is>
Value plain(Context&, const Value& value, Arguments arguments) {
  if (!arguments.positional.empty() || !arguments.named.empty()) throw Raised("the test takes no argument");
  return is(value);
}

template <Comparison op>
Value compares(Context&, const Value& value, Arguments arguments) {
  return compare(op, value, argument(arguments));
}

bool is_divisible(const Value& value, const Value& by, int rest) {
  return equal(calculate(Operator::kModulo, value, by), rest);
}

bool is_sequence(const Value& value) {
  if (const ObjectPointer* object = value.object()) return (*object)->has_items() && (*object)->length();
  return value.is_text() || value.is_dict() || value.is<SequencePointer>() || value.is<Undefined>();
}

bool is_same(const Value& a, const Value& b) {
  if (a.object() != nullptr || b.object() != nullptr)
    return a.object() != nullptr && b.object() != nullptr && *a.object() == *b.object();
  if (const auto* x = a.get<SequencePointer>(), *y = b.get<SequencePointer>(); x != nullptr && y != nullptr)
    return *x == *y;
  if (const auto* x = a.get<MappingPointer>(), *y = b.get<MappingPointer>(); x != nullptr && y != nullptr)
    return *x == *y;
  return type_name(a) == type_name(b) && equal(a, b);
}

bool has_case(const Value& value, const char* method) { return truth(call(string_method(to_text(value), method), {})); }

}  // namespace

const Filters& tests() {
  static const Filters table = {
      {"odd", plain<[](const Value& v) { return is_divisible(v, 2, 1); }>},
      {"even", plain<[](const Value& v) { return is_divisible(v, 2, 0); }>},
      {"divisibleby",
       [](Context&, const Value& v, Arguments a) -> Value {
         return is_divisible(v, Bound("divisibleby", std::move(a), {"num"}, 1)[0], 0);
       }},
      {"defined", plain<[](const Value& v) { return !v.is<Undefined>(); }>},
      {"undefined", plain<[](const Value& v) { return v.is<Undefined>(); }>},
      {"filter", plain<[](const Value& v) { return v.is_text() && has_filter(v.text().view()); }>},
      {"test", plain<[](const Value& v) { return v.is_text() && has_test(v.text().view()); }>},
      {"none", plain<[](const Value& v) { return v.is_none(); }>},
      {"boolean", plain<[](const Value& v) { return v.is<bool>(); }>},
      {"false", plain<[](const Value& v) { return v.is<bool>() && !*v.get<bool>(); }>},
      {"true", plain<[](const Value& v) { return v.is<bool>() && *v.get<bool>(); }>},
      {"integer", plain<[](const Value& v) { return v.is_integer(); }>},
      {"float", plain<[](const Value& v) { return v.is<double>(); }>},
      {"number", plain<[](const Value& v) { return v.is_number(); }>},
      {"lower", plain<[](const Value& v) { return has_case(v, "islower"); }>},
      {"upper", plain<[](const Value& v) { return has_case(v, "isupper"); }>},
      {"string", plain<[](const Value& v) { return v.is_text(); }>},
      {"mapping", plain<[](const Value& v) { return v.is_dict(); }>},
      {"sequence", plain<is_sequence>},
      {"iterable", plain<is_iterable>},
      {"callable", plain<[](const Value& v) {
         return v.is<Undefined>() || (v.object() != nullptr && (*v.object())->is_callable());
       }>},
      {"sameas",
       [](Context&, const Value& v, Arguments a) -> Value {
         return is_same(v, Bound("sameas", std::move(a), {"other"}, 1)[0]);
       }},
      {"escaped", plain<[](const Value& v) { return v.is_text() && v.text().is_safe(); }>},
      {"in",
       [](Context&, const Value& v, Arguments a) -> Value {
         return contains(Bound("in", std::move(a), {"seq"}, 1)[0], v);
       }},
      {"==", compares<Comparison::kEqual>},
      {"eq", compares<Comparison::kEqual>},
      {"equalto", compares<Comparison::kEqual>},
      {"!=", compares<Comparison::kNotEqual>},
      {"ne", compares<Comparison::kNotEqual>},
      {">", compares<Comparison::kGreater>},
      {"gt", compares<Comparison::kGreater>},
      {"greaterthan", compares<Comparison::kGreater>},
      {">=", compares<Comparison::kGreaterEqual>},
      {"ge", compares<Comparison::kGreaterEqual>},
      {"<", compares<Comparison::kLess>},
      {"lt", compares<Comparison::kLess>},
      {"lessthan", compares<Comparison::kLess>},
      {"<=", compares<Comparison::kLessEqual>},
      {"le", compares<Comparison::kLessEqual>},
  };
  return table;
}

}  // namespace rankfold::jinja
