// value.name, value[index] and calls.
#include "core/utf8.h"
#include "text/jinja/library.h"
#include "text/jinja/operators.h"
#include "text/jinja/print.h"
#include "text/jinja/strings.h"

#include <algorithm>
#include <cmath>

namespace rankfold::jinja {
namespace {

Value function(std::string_view name, std::function<Value(Arguments)> body) {
  return ObjectPointer(std::make_shared<Function>(std::string(name), std::move(body)));
}

bool is_one_of(std::string_view name, std::initializer_list<std::string_view> names) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

Value dict_get(const MappingPointer& mapping, Arguments arguments) {
  if (!arguments.named.empty()) throw Raised("dict.get() takes no keyword arguments");
  const Bound bound("get", std::move(arguments), {"key", "default"}, 1);
  const size_t must_hash = hash(bound[0]);
  static_cast<void>(must_hash);
  const Value* const found = mapping->find(bound[0]);
  return found != nullptr ? *found : bound.has(1) ? bound[1] : None();
}

Value dict_attribute(const MappingPointer& mapping, std::string_view name) {
  const auto view = [&](View::Of of) {
    return function(name, [mapping, of](Arguments arguments) -> Value {
      Bound("view", std::move(arguments), {});
      checked_depth(mapping->depth() + 1);
      return ObjectPointer(std::make_shared<View>(mapping, of));
    });
  };
  if (name == "items") return view(View::Of::kItems);
  if (name == "keys") return view(View::Of::kKeys);
  if (name == "values") return view(View::Of::kValues);
  if (name == "get") return function(name, [mapping](Arguments a) { return dict_get(mapping, std::move(a)); });
  if (name == "copy") return function(name, [mapping](Arguments) -> Value { return mapping; });
  if (name == "fromkeys")
    return function(name, [](Arguments arguments) {
      const Bound bound("fromkeys", std::move(arguments), {"iterable", "value"}, 1);
      std::vector<Entry> entries;
      for (Value& key : to_vector(bound[0])) entries.emplace_back(std::move(key), bound.has(1) ? bound[1] : None());
      return Value::dict(std::move(entries));
    });
  return {};
}

Value list_attribute(const SequencePointer& list, std::string_view name) {
  if (name == "count")
    return function(name, [list](Arguments arguments) -> Value {
      const Bound bound("count", std::move(arguments), {"value"}, 1);
      return static_cast<int64_t>(std::count_if(list->items.begin(), list->items.end(),
                                                [&](const Value& item) { return equal(item, bound[0]); }));
    });
  if (name == "index")
    return function(name, [list](Arguments arguments) -> Value {
      const Bound bound("index", std::move(arguments), {"value", "start", "stop"}, 1);
      const auto size = static_cast<int64_t>(list->items.size());
      const auto place = [&](size_t parameter, int64_t otherwise) {
        const int64_t at = bound.integer(parameter, otherwise);
        return std::clamp<int64_t>(at < 0 ? at + size : at, 0, size);
      };
      for (int64_t k = place(1, 0); k < place(2, size); ++k)
        if (equal(list->items[static_cast<size_t>(k)], bound[0])) return k;
      throw Raised(join(repr(bound[0]).view(), " is not in list"));
    });
  if (name == "copy" && !list->is_tuple) return function(name, [list](Arguments) -> Value { return list; });
  return {};
}

Value number_attribute(const Value& value, std::string_view name) {
  if (name == "real") return plus(value);
  if (name == "imag") return value.is<double>() ? Value(0.0) : Value(0);
  if (value.is<double>()) {
    if (name == "is_integer")
      return function(name, [number = *value.get<double>()](Arguments) -> Value {
        return std::isfinite(number) && number == std::trunc(number);
      });
    return {};
  }
  if (name == "numerator") return plus(value);
  if (name == "denominator") return 1;
  if (name == "bit_length")
    return function(name, [value](Arguments) -> Value { return Integer::parse(integer_text(value)).bits(); });
  return {};
}

// Methods that would change the value: the sandbox takes them away.
bool is_unsafe(const Value& value, std::string_view name) {
  if (value.is_dict()) return is_one_of(name, {"clear", "pop", "popitem", "setdefault", "update"});
  return value.is_list() &&
         is_one_of(name, {"append", "clear", "pop", "reverse", "insert", "sort", "extend", "remove"});
}

// Messages of undefined values are kept with them, so a long name must not be.
std::string brief(std::string_view name) {
  constexpr size_t kLongest = 100;
  return name.size() <= kLongest ? std::string(name) : std::string(name.substr(0, utf8_floor(name, kLongest))) + "...";
}

Value unsafe(const Value& value, std::string_view name) {
  return Value::undefined(
      join("access to attribute '", brief(name), "' of '", type_name(value), "' object is unsafe."));
}

Value plain_attribute(const Value& value, std::string_view name) {
  if (value.is_text()) return string_method(value.text(), name);
  if (const auto* mapping = value.get<MappingPointer>()) return dict_attribute(*mapping, name);
  if (const auto* sequence = value.get<SequencePointer>()) return list_attribute(*sequence, name);
  if (const ObjectPointer* object = value.object()) return (*object)->attribute(name);
  return value.is_number() ? number_attribute(value, name) : Value();
}

std::string object_name(const Value& value) { return value.is_none() ? "None" : type_name(value) + " object"; }

Value no_attribute(const Value& value, std::string_view name) {
  return Value::undefined(join("'", object_name(value), "' has no attribute '", brief(name), "'"));
}

// Python's attribute, or its place holder where the sandbox hides it; missing where there is none.
Value safe_attribute(const Value& value, std::string_view name) {
  if (is_unsafe(value, name)) return unsafe(value, name);
  const bool is_private = name.starts_with('_');
  if (is_private && (value.object() == nullptr || name.starts_with("__"))) return {};
  Value found = plain_attribute(value, name);
  return is_private && !found.is<Missing>() ? unsafe(value, name) : found;
}

}  // namespace

Value attribute(const Value& value, std::string_view name) {
  refuse_undefined(value);
  Value found = safe_attribute(value, name);
  if (found.is<Missing>()) found = item_of(value, Text(name));
  return found.is<Missing>() ? no_attribute(value, name) : found;
}

Value attribute_only(const Value& value, std::string_view name) {
  refuse_undefined(value);
  Value found = safe_attribute(value, name);
  return found.is<Missing>() ? no_attribute(value, name) : found;
}

Value item(const Value& value, const Value& index) {
  Value found = item_of(value, index);
  if (!found.is<Missing>()) return found;
  if (!index.is_text())
    return Value::undefined(join(object_name(value), " has no element ", brief(repr(index).view())));
  found = safe_attribute(value, index.text().view());
  return found.is<Missing>() ? no_attribute(value, index.text().view()) : found;
}

Value call(const Value& function, Arguments arguments) {
  refuse_undefined(function);
  if (const ObjectPointer* object = function.object()) {
    const ObjectPointer stays = *object;
    return stays->call(std::move(arguments));
  }
  throw Raised(join("'", type_name(function), "' object is not callable"));
}

}  // namespace rankfold::jinja
