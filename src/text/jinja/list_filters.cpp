// Filters that take or make lists.
#include "text/jinja/library.h"
#include "text/jinja/operators.h"
#include "text/jinja/print.h"
#include "text/jinja/strings.h"

#include <algorithm>
#include <functional>
#include <unordered_map>

namespace rankfold::jinja {
namespace {

using Getter = std::function<Value(const Value&)>;

std::vector<Value> attribute_parts(const Value& attribute) {
  if (attribute.is<Missing>() || attribute.is_none()) return {};
  if (!attribute.is_text()) return {attribute};
  std::vector<Value> parts = split(attribute.text(), ".", -1, false);
  for (Value& part : parts) {
    const std::string_view name = part.text().view();
    if (!name.empty() && name.size() < 18 && name.find_first_not_of("0123456789") == std::string_view::npos)
      part = static_cast<int64_t>(std::stoll(std::string(name)));
  }
  return parts;
}

Value without_case(Value value) { return value.is_text() ? Value(to_lower(value.text())) : value; }

// What an attribute such as "a.0.b" of a value is; the value itself for none.
Getter getter(const Value& attribute, bool ignores_case, Value otherwise = {}) {
  return [parts = attribute_parts(attribute), ignores_case, otherwise](const Value& value) {
    Value found = value;
    for (const Value& part : parts) {
      found = item(found, part);
      if (found.is<Undefined>() && !otherwise.is<Missing>() && !otherwise.is_none()) found = otherwise;
    }
    return ignores_case ? without_case(std::move(found)) : found;
  };
}

uint32_t depth_of(const Value& value, const Arguments& arguments) {
  uint32_t depth = value.depth();
  for (const Value& argument : arguments.positional) depth = std::max(depth, argument.depth());
  for (const auto& [name, argument] : arguments.named) depth = std::max(depth, argument.depth());
  return depth + 1;
}

// The items for which `make`'s function, which may change them, is true. As in Python nothing happens before an item is
// asked for.
Value generator(const Value& value, uint32_t depth, std::function<std::function<bool(Value&)>()> make) {
  return ObjectPointer(std::make_shared<Generator>(
      [value, make = std::move(make)]() -> IteratorPointer {
        if (!truth(value)) return nullptr;
        std::function<bool(Value&)> keeps = make();
        return filtered(iterate(value), std::move(keeps));
      },
      depth));
}

Value list_generator(uint32_t depth, std::function<std::vector<Value>()> make, std::string type = "generator") {
  return ObjectPointer(std::make_shared<Generator>(
      [make = std::move(make)] {
        const auto items = std::make_shared<std::vector<Value>>(make());
        return iterate_indexed(items->size(), [items](size_t k) { return (*items)[k]; });
      },
      depth, std::move(type)));
}

Value map_filter(Context& context, const Value& value, Arguments arguments) {
  const uint32_t depth = depth_of(value, arguments);
  return generator(value, depth, [context = &context, arguments]() -> std::function<bool(Value&)> {
    Arguments left = arguments;
    if (left.positional.empty()) {
      const std::optional<Value> attribute = left.take_named("attribute");
      if (!attribute) throw Raised("map requires a filter argument");
      const Value otherwise = left.take_named("default").value_or(Value());
      if (!left.named.empty()) throw Raised(join("Unexpected keyword argument '", left.named[0].first, "'"));
      return [get = getter(*attribute, false, otherwise)](Value& item) { return item = get(item), true; };
    }
    const std::string name = to_text(left.positional[0]).string();
    left.positional.erase(left.positional.begin());
    return [context, name, left](Value& item) { return item = call_filter(*context, name, item, left), true; };
  });
}

template <bool of_attribute, bool wanted>
Value select_filter(Context& context, const Value& value, Arguments arguments) {
  const uint32_t depth = depth_of(value, arguments);
  return generator(value, depth, [context = &context, arguments]() -> std::function<bool(Value&)> {
    Arguments left = arguments;
    std::vector<Value>& given = left.positional;
    Getter get = [](const Value& item) { return item; };
    if (of_attribute) {
      if (given.empty()) throw Raised("Missing parameter for attribute name");
      get = getter(given[0], false);
      given.erase(given.begin());
    }
    if (given.empty()) return [get](Value& item) { return truth(get(item)) == wanted; };
    const std::string name = to_text(given[0]).string();
    given.erase(given.begin());
    return
        [context, get, name, left](Value& item) { return truth(call_test(*context, name, get(item), left)) == wanted; };
  });
}

Value length_filter(Context&, const Value& value, Arguments) { return length(value); }

Value list_filter(Context&, const Value& value, Arguments) {
  Value list = Value::list(to_vector(value));
  list.set_origin(value.mark().origin);
  return list;
}

Value first(Context&, const Value& value, Arguments) {
  Value item;
  return iterate(value)->next(item) ? item : Value::undefined("No first item, sequence was empty.");
}

// Null where Python cannot reverse.
IteratorPointer reversed(const Value& value) {
  if (value.is<Undefined>()) return iterate(value);
  if (value.is_text() || value.is<SequencePointer>()) {
    const size_t size = length(value);
    return iterate_indexed(size, [value, size](size_t k) { return item_of(value, size - 1 - k); });
  }
  if (const auto* mapping = value.get<MappingPointer>()) {
    const size_t size = (*mapping)->entries().size();
    return iterate_indexed(size, [m = *mapping, size](size_t k) { return m->entries()[size - 1 - k].first; });
  }
  return value.object() == nullptr ? nullptr : (*value.object())->reversed();
}

Value last(Context&, const Value& value, Arguments) {
  const IteratorPointer items = reversed(value);
  if (!items) throw Raised(join("'", type_name(value), "' object is not reversible"));
  Value item;
  return items->next(item) ? item : Value::undefined("No last item, sequence was empty.");
}

Value reverse(Context&, const Value& value, Arguments) {
  if (value.is_text()) return slice(value, {}, {}, -1);
  if (reversed(value))
    return ObjectPointer(
        std::make_shared<Generator>([value] { return reversed(value); }, value.depth() + 1, "list_reverseiterator"));
  if (!is_iterable(value)) throw Raised("argument must be iterable");
  std::vector<Value> items = to_vector(value);
  std::reverse(items.begin(), items.end());
  return Value::list(std::move(items));
}

Value join_filter(Context&, const Value& value, Arguments arguments) {
  const Bound bound("join", std::move(arguments), {"d", "attribute"});
  const Text separator = bound.has(0) ? to_text(bound[0]) : Text();
  const Getter get = getter(bound[1], false);
  TextBuilder out;
  bool is_first = true;
  const IteratorPointer items = iterate(value);
  for (Value item; items->next(item); is_first = false) {
    if (!is_first) out.append(separator);
    out.append(to_text(get(item)));
  }
  return out.build();
}

// `key` is asked for once an item.
std::vector<Value> sorted(const std::vector<Value>& items, const Getter& key, bool reverse) {
  std::vector<Entry> keyed;
  const Charge charge(items.size() * sizeof(Entry));
  for (const Value& item : items) keyed.emplace_back(key(item), item);
  std::stable_sort(keyed.begin(), keyed.end(), [reverse](const Entry& a, const Entry& b) {
    return reverse ? less(b.first, a.first) : less(a.first, b.first);
  });
  std::vector<Value> result;
  for (Entry& entry : keyed) result.push_back(std::move(entry.second));
  return result;
}

Value sort(Context&, const Value& value, Arguments arguments) {
  const Bound bound("sort", std::move(arguments), {"reverse", "case_sensitive", "attribute"});
  std::vector<Getter> getters;
  const bool ignores_case = !bound.boolean(1, false);
  if (bound[2].is_text())
    for (const Value& attribute : split(bound[2].text(), ",", -1, false))
      getters.push_back(getter(attribute, ignores_case));
  else
    getters.push_back(getter(bound[2], ignores_case));
  const auto key = [&](const Value& item) {
    std::vector<Value> keys;
    for (const Getter& get : getters) keys.push_back(get(item));
    return Value::list(std::move(keys));
  };
  return Value::list(sorted(to_vector(value), key, bound.boolean(0, false)));
}

Value dict_sort(Context&, const Value& value, Arguments arguments) {
  const Bound bound("dictsort", std::move(arguments), {"case_sensitive", "by", "reverse"});
  const Text by = bound.text(1, "key");
  if (by.view() != "key" && by.view() != "value") throw Raised("You can only sort by either \"key\" or \"value\"");
  const int place = by.view() == "key" ? 0 : 1;
  const Value items = call(attribute(value, "items"), {});
  return Value::list(sorted(to_vector(items), getter(place, !bound.boolean(0, false)), bound.boolean(2, false)));
}

Value unique(Context&, const Value& value, Arguments arguments) {
  const uint32_t depth = depth_of(value, arguments);
  const Bound bound("unique", std::move(arguments), {"case_sensitive", "attribute"});
  const Getter get = getter(bound[1], !bound.boolean(0, false));
  return list_generator(depth, [value, get] {
    std::vector<Value> items;
    std::unordered_multimap<size_t, Value> seen;
    for (Value& item : to_vector(value)) {
      const Value key = get(item);
      const size_t its_hash = hash(key);
      const auto [begin, end] = seen.equal_range(its_hash);
      if (std::any_of(begin, end, [&](const auto& other) { return equal(other.second, key); })) continue;
      seen.emplace(its_hash, key);
      items.push_back(std::move(item));
    }
    return items;
  });
}

template <bool largest>
Value extreme(Context&, const Value& value, Arguments arguments) {
  const Bound bound("min", std::move(arguments), {"case_sensitive", "attribute"});
  const Getter key = getter(bound[1], !bound.boolean(0, false));
  const IteratorPointer items = iterate(value);
  Value best, item;
  if (!items->next(best)) return Value::undefined("No aggregated item, sequence was empty.");
  for (Value best_key = key(best); items->next(item);) {
    Value its_key = key(item);
    if (!(largest ? compare(Comparison::kGreater, its_key, best_key) : less(its_key, best_key))) continue;
    best = std::move(item);
    best_key = std::move(its_key);
  }
  return best;
}

Value sum(Context&, const Value& value, Arguments arguments) {
  const Bound bound("sum", std::move(arguments), {"attribute", "start"});
  const Getter get = getter(bound[0], false);
  Value total = bound.has(1) ? bound[1] : Value(0);
  if (total.is_text()) throw Raised("sum() can't sum strings [use ''.join(seq) instead]");
  const IteratorPointer items = iterate(value);
  for (Value item; items->next(item);) total = calculate(Operator::kAdd, total, get(item));
  return total;
}

Value batch(Context&, const Value& value, Arguments arguments) {
  const uint32_t depth = depth_of(value, arguments) + 1;
  const Bound bound("batch", std::move(arguments), {"linecount", "fill_with"}, 1);
  return list_generator(depth, [value, count = bound.integer(0, 0), fill = bound[1]] {
    std::vector<Value> rows, row;
    const auto size = static_cast<size_t>(std::max<int64_t>(0, count));
    for (Value& item : to_vector(value)) {
      if (static_cast<int64_t>(row.size()) == count) rows.push_back(Value::list(std::exchange(row, {})));
      row.push_back(std::move(item));
    }
    if (row.empty()) return rows;
    const Charge charge(size * sizeof(Value));
    if (!fill.is<Missing>() && !fill.is_none()) row.resize(std::max(row.size(), size), fill);
    rows.push_back(Value::list(std::move(row)));
    return rows;
  });
}

Value slice_filter(Context&, const Value& value, Arguments arguments) {
  const uint32_t depth = depth_of(value, arguments) + 1;
  const Bound bound("slice", std::move(arguments), {"slices", "fill_with"}, 1);
  return list_generator(depth, [value, count = bound.integer(0, 0), fill = bound[1]] {
    const std::vector<Value> items = to_vector(value);
    if (count == 0) throw Raised("integer division or modulo by zero");
    std::vector<Value> rows;
    const auto slices = static_cast<size_t>(std::max<int64_t>(0, count));
    const Charge charge(slices * sizeof(Value));
    for (size_t k = 0, begin = 0; k < slices; ++k) {
      const bool is_longer = k < items.size() % slices;
      const size_t end = begin + items.size() / slices + (is_longer ? 1 : 0);
      std::vector<Value> row(items.begin() + static_cast<std::ptrdiff_t>(begin),
                             items.begin() + static_cast<std::ptrdiff_t>(end));
      if (!fill.is<Missing>() && !fill.is_none() && !is_longer) row.push_back(fill);
      rows.push_back(Value::list(std::move(row)));
      begin = end;
    }
    return rows;
  });
}

// A pair that groupby makes: a tuple with names for its parts.
class Group : public Object {
 public:
  explicit Group(Value pair) : pair_(std::move(pair)) {}
  std::string type_name() const override { return "tuple"; }
  Text print() override { return repr(pair_); }
  Value attribute(std::string_view name) override {
    return name == "grouper" ? pair_.items()[0] : name == "list" ? pair_.items()[1] : Value();
  }
  Value item(const Value& index) override { return item_of(pair_, index); }
  IteratorPointer iterate() override { return jinja::iterate(pair_); }
  IteratorPointer reversed() override { return jinja::reversed(pair_); }
  std::optional<size_t> length() override { return 2; }
  bool has_items() const override { return true; }
  uint32_t depth() const override { return pair_.depth(); }

 private:
  Value pair_;
};

Value group_by(Context&, const Value& value, Arguments arguments) {
  const Bound bound("groupby", std::move(arguments), {"attribute", "default", "case_sensitive"}, 1);
  const Getter key = getter(bound[0], !bound.boolean(2, false), bound[1]), real_key = getter(bound[0], false, bound[1]);
  const std::vector<Value> items = sorted(to_vector(value), key, false);
  std::vector<Value> groups;
  for (size_t begin = 0, end = 0; begin < items.size(); begin = end) {
    while (end < items.size() && equal(key(items[begin]), key(items[end]))) ++end;
    std::vector<Value> group(items.begin() + static_cast<std::ptrdiff_t>(begin),
                             items.begin() + static_cast<std::ptrdiff_t>(end));
    groups.push_back(
        ObjectPointer(std::make_shared<Group>(Value::tuple({real_key(items[begin]), Value::list(std::move(group))}))));
  }
  return Value::list(std::move(groups));
}

Value items_filter(Context&, const Value& value, Arguments) {
  return list_generator(value.depth() + 2, [value] {
    if (value.is<Undefined>()) return std::vector<Value>();
    if (!value.is_dict()) throw Raised("Can only get item pairs from a mapping.");
    std::vector<Value> pairs;
    for (const auto& [key, item] : value.mapping().entries()) pairs.push_back(Value::tuple({key, item}));
    return pairs;
  });
}

}  // namespace

const Filters& list_filters() {
  static const Filters table = {
      {"length", length_filter},
      {"count", length_filter},
      {"list", list_filter},
      {"first", first},
      {"last", last},
      {"reverse", reverse},
      {"join", join_filter},
      {"map", map_filter},
      {"select", select_filter<false, true>},
      {"reject", select_filter<false, false>},
      {"selectattr", select_filter<true, true>},
      {"rejectattr", select_filter<true, false>},
      {"sort", sort},
      {"dictsort", dict_sort},
      {"unique", unique},
      {"min", extreme<false>},
      {"max", extreme<true>},
      {"sum", sum},
      {"batch", batch},
      {"slice", slice_filter},
      {"groupby", group_by},
      {"items", items_filter},
  };
  return table;
}

}  // namespace rankfold::jinja
