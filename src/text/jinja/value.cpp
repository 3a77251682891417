#include "text/jinja/value.h"

#include "text/jinja/object.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <utility>

namespace rankfold::jinja {

uint32_t checked_depth(uint32_t depth) {
  if (depth > kDeepestValue) throw Raised("values are nested deeper than " + std::to_string(kDeepestValue) + " levels");
  return depth;
}

namespace {

uint32_t depth_of(const std::vector<Value>& items) {
  uint32_t depth = 0;
  for (const Value& item : items) depth = std::max(depth, item.depth());
  return checked_depth(depth + 1);
}

uint32_t depth_of(const std::vector<Entry>& entries) {
  uint32_t depth = 0;
  for (const auto& [key, value] : entries) depth = std::max({depth, key.depth(), value.depth()});
  return checked_depth(depth + 1);
}

constexpr size_t kSmallDict = 8;  // entries: looking through them is as fast as an index

}  // namespace

// Not in the header, where they would be inlined everywhere, and GCC 12 would warn of values without a content.
Value::Value() = default;
Value::Value(const Value&) = default;
Value::Value(Value&&) noexcept = default;
Value& Value::operator=(const Value&) = default;
Value& Value::operator=(Value&&) noexcept = default;
Value::~Value() = default;

Value::Value(const Integer& value) {
  if (const std::optional<int64_t> small = value.small())
    data_ = *small;
  else
    data_ = std::make_shared<const Integer>(value);
}

Value Value::list(std::vector<Value> items) { return std::make_shared<const Sequence>(std::move(items), false); }
Value Value::tuple(std::vector<Value> items) { return std::make_shared<const Sequence>(std::move(items), true); }
Value Value::dict(std::vector<Entry> entries) { return std::make_shared<const Mapping>(std::move(entries)); }
Value Value::undefined(std::string why) { return Undefined{std::make_shared<const std::string>(std::move(why))}; }

bool Value::is_list() const {
  const auto* sequence = get<SequencePointer>();
  return sequence != nullptr && !(*sequence)->is_tuple;
}

bool Value::is_tuple() const {
  const auto* sequence = get<SequencePointer>();
  return sequence != nullptr && (*sequence)->is_tuple;
}

const std::vector<Value>& Value::items() const { return std::get<SequencePointer>(data_)->items; }

const Value* Value::find(const Value& key) const { return mapping().find(key); }

Value Value::marked(int32_t origin) const {
  Value copy = *this;
  if (is_text()) {
    copy = Text(text().string(), Mark{origin, 0}).as_safe(text().is_safe());
  } else if (const auto* sequence = get<SequencePointer>()) {
    std::vector<Value> items;
    for (const Value& item : (*sequence)->items) items.push_back(item.marked(origin));
    copy = (*sequence)->is_tuple ? tuple(std::move(items)) : list(std::move(items));
  } else if (is_dict()) {
    std::vector<Entry> entries;
    for (const auto& [key, value] : mapping().entries()) entries.emplace_back(key.marked(origin), value.marked(origin));
    copy = dict(std::move(entries));
  }
  copy.origin_ = origin;
  return copy;
}

uint32_t Value::depth() const {
  if (const auto* sequence = get<SequencePointer>()) return (*sequence)->depth;
  if (is_dict()) return mapping().depth();
  return object() == nullptr ? 0 : (*object())->depth();
}

Sequence::Sequence(std::vector<Value> values, bool tuple)
    : charge(sizeof(Sequence) + values.size() * sizeof(Value)),
      items(std::move(values)),
      is_tuple(tuple),
      depth(depth_of(items)) {}

Mapping::Mapping(std::vector<Entry> entries)
    : charge_(sizeof(Mapping) + entries.size() * (sizeof(Entry) + (entries.size() > kSmallDict ? 48 : 0))) {
  const bool is_small = entries.size() <= kSmallDict;
  for (auto& [key, value] : entries) {
    const size_t its_hash = hash(key);
    if (const std::optional<size_t> before = place(key)) {
      entries_[*before].second = std::move(value);
      continue;
    }
    if (!is_small) by_hash_.emplace(its_hash, entries_.size());
    entries_.emplace_back(std::move(key), std::move(value));
  }
  depth_ = depth_of(entries_);
}

std::optional<size_t> Mapping::place(const Value& key) const {
  if (by_hash_.empty()) {
    for (size_t k = 0; k < entries_.size(); ++k)
      if (equal(entries_[k].first, key)) return k;
    return std::nullopt;
  }
  const auto [first, last] = by_hash_.equal_range(hash(key));
  for (auto found = first; found != last; ++found) {
    spend(1);  // a stranger's keys may share one hash
    if (equal(entries_[found->second].first, key)) return found->second;
  }
  return std::nullopt;
}

const Value* Mapping::find(const Value& key) const {
  const std::optional<size_t> found = place(key);
  return found ? &entries_[*found].second : nullptr;
}

bool truth(const Value& value) {
  if (const bool* boolean = value.get<bool>()) return *boolean;
  if (const int64_t* integer = value.get<int64_t>()) return *integer != 0;
  if (const double* number = value.get<double>()) return *number != 0;
  if (value.is_text()) return !value.text().empty();
  if (const auto* sequence = value.get<SequencePointer>()) return !(*sequence)->items.empty();
  if (value.is_dict()) return !value.mapping().entries().empty();
  if (const ObjectPointer* object = value.object()) return (*object)->length().value_or(1) != 0;
  return value.is<IntegerPointer>();
}

namespace {

std::optional<Integer> as_integer(const Value& value) {
  if (const bool* boolean = value.get<bool>()) return Integer(*boolean ? 1 : 0);
  if (const int64_t* small = value.get<int64_t>()) return Integer(*small);
  if (const auto* big = value.get<IntegerPointer>()) return **big;
  const double* number = value.get<double>();
  if (number != nullptr && std::isfinite(*number) && *number == std::trunc(*number)) return Integer::truncate(*number);
  return std::nullopt;
}

bool equal_numbers(const Value& a, const Value& b) {
  const int64_t* const small_a = a.get<int64_t>();
  const int64_t* const small_b = b.get<int64_t>();
  if (small_a != nullptr && small_b != nullptr) return *small_a == *small_b;
  const double* const double_a = a.get<double>();
  const double* const double_b = b.get<double>();
  if (double_a != nullptr && double_b != nullptr) return *double_a == *double_b;
  const std::optional<Integer> whole_a = as_integer(a), whole_b = as_integer(b);
  return whole_a && whole_b && *whole_a == *whole_b;
}

bool equal_mappings(const Mapping& a, const Mapping& b) {
  if (a.entries().size() != b.entries().size()) return false;
  return std::all_of(a.entries().begin(), a.entries().end(), [&](const Entry& entry) {
    const Value* const other = b.find(entry.first);
    return other != nullptr && equal(entry.second, *other);
  });
}

}  // namespace

bool equal(const Value& a, const Value& b) {
  spend(1);
  if (a.is_number() && b.is_number()) return equal_numbers(a, b);
  if (a.is_text() && b.is_text()) {
    if (a.text().size() == b.text().size()) spend(a.text().size() / 64);
    return a.text() == b.text();
  }
  if (a.is<None>()) return b.is<None>();
  if (a.is<Undefined>()) return b.is<Undefined>();
  if (a.is<SequencePointer>() && b.is<SequencePointer>())
    return a.is_tuple() == b.is_tuple() &&
           std::equal(a.items().begin(), a.items().end(), b.items().begin(), b.items().end(), equal);
  if (a.is_dict() && b.is_dict()) return equal_mappings(a.mapping(), b.mapping());
  return a.object() != nullptr && b.object() != nullptr && (*a.object())->equals(**b.object());
}

size_t hash(const Value& value) {
  spend(1);
  if (value.is_text()) {
    spend(value.text().size() / 64);
    return std::hash<std::string_view>()(value.text().view());
  }
  if (value.is_tuple()) {
    size_t sum = 0x345678;
    for (const Value& item : value.items()) sum = sum * 1000003 ^ hash(item);
    return sum;
  }
  if (value.is_list() || value.is_dict()) throw Raised("unhashable type: '" + type_name(value) + "'");
  if (const std::optional<Integer> whole = as_integer(value)) {
    if (const std::optional<int64_t> small = whole->small()) return std::hash<int64_t>()(*small);
    return std::hash<double>()(whole->to_double());
  }
  if (const double* number = value.get<double>()) return std::hash<double>()(*number);
  if (const ObjectPointer* object = value.object()) return (*object)->hash();
  return value.is_none() ? 1 : 2;
}

std::string type_name(const Value& value) {
  if (value.is<bool>()) return "bool";
  if (value.is_integer()) return "int";
  if (value.is<double>()) return "float";
  if (value.is_text()) return value.text().is_safe() ? "Markup" : "str";
  if (value.is_list()) return "list";
  if (value.is_tuple()) return "tuple";
  if (value.is_dict()) return "dict";
  if (const ObjectPointer* object = value.object()) return (*object)->type_name();
  return value.is_none() ? "NoneType" : "Undefined";
}

}  // namespace rankfold::jinja
