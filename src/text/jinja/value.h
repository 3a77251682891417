// The values of templates: Python's, as far as templates meet them. Copies share what they hold, which never changes;
// objects (namespaces, loops) are the exception and live no longer than their rendering.
#pragma once

#include "text/jinja/integer.h"
#include "text/jinja/text.h"

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

namespace rankfold::jinja {

class Value;
class Object;
struct Sequence;
class Mapping;

// Python's None. Not having a value at all is Missing, which templates never see.
struct None {};
struct Missing {};
struct Undefined {
  std::shared_ptr<const std::string> why;  // "'x' is undefined"
};

using SequencePointer = std::shared_ptr<const Sequence>;
using MappingPointer = std::shared_ptr<const Mapping>;
using ObjectPointer = std::shared_ptr<Object>;
using IntegerPointer = std::shared_ptr<const Integer>;

class Value {
 public:
  Value();  // missing
  Value(const Value&);
  Value(Value&&) noexcept;
  Value& operator=(const Value&);
  Value& operator=(Value&&) noexcept;
  ~Value();
  Value(None) : data_(None{}) {}                               // NOLINT(google-explicit-constructor)
  Value(bool value) : data_(value) {}                          // NOLINT
  Value(int value) : data_(int64_t{value}) {}                  // NOLINT
  Value(int64_t value) : data_(value) {}                       // NOLINT
  Value(size_t value) : data_(static_cast<int64_t>(value)) {}  // NOLINT
  Value(double value) : data_(value) {}                        // NOLINT
  Value(Text text) : data_(std::move(text)) {}                 // NOLINT
  Value(const char* text) : data_(Text(text)) {}               // NOLINT
  Value(std::string text) : data_(Text(std::move(text))) {}    // NOLINT
  Value(std::string_view text) : data_(Text(text)) {}          // NOLINT
  Value(const Integer& value);                                 // NOLINT
  Value(Undefined undefined) : data_(std::move(undefined)) {}  // NOLINT
  Value(SequencePointer value) : data_(std::move(value)) {}    // NOLINT
  Value(MappingPointer value) : data_(std::move(value)) {}     // NOLINT
  Value(ObjectPointer value) : data_(std::move(value)) {}      // NOLINT

  static Value list(std::vector<Value> items);
  static Value tuple(std::vector<Value> items);
  static Value dict(std::vector<std::pair<Value, Value>> entries);  // a key given twice keeps its place, not its value
  static Value undefined(std::string why);

  template <class T>
  bool is() const {
    return std::holds_alternative<T>(data_);
  }
  template <class T>
  const T* get() const {
    return std::get_if<T>(&data_);
  }
  bool is_none() const { return is<None>(); }
  bool is_text() const { return is<Text>(); }
  bool is_integer() const { return is<int64_t>() || is<IntegerPointer>(); }  // without booleans
  bool is_number() const { return is_integer() || is<bool>() || is<double>(); }
  bool is_list() const;
  bool is_tuple() const;
  bool is_dict() const { return is<MappingPointer>(); }

  const Text& text() const { return std::get<Text>(data_); }
  const std::vector<Value>& items() const;  // of a list or tuple
  const Mapping& mapping() const { return *std::get<MappingPointer>(data_); }
  const ObjectPointer* object() const { return get<ObjectPointer>(); }

  // Of a dict: null where there is no such key.
  const Value* find(const Value& key) const;

  // The same with all that is in it, keys too, from there.
  Value marked(int32_t origin) const;
  // Where its digits, brackets and quotes come from when it is printed. The characters of a text know it themselves,
  // and what a template computes is the template's.
  Mark mark() const { return {origin_, 0}; }
  void set_origin(int32_t origin) { origin_ = origin; }

  // How deep lists and the like are nested in it.
  uint32_t depth() const;

 private:
  std::variant<Missing, None, bool, int64_t, IntegerPointer, double, Text, SequencePointer, MappingPointer, Undefined,
               ObjectPointer>
      data_;
  int32_t origin_ = kTemplateOrigin;
};

using Entry = std::pair<Value, Value>;

// A list or a tuple.
struct Sequence {
  Sequence(std::vector<Value> values, bool tuple);
  Charge charge;
  std::vector<Value> items;
  bool is_tuple;
  uint32_t depth;
};

// A dict in the order in which its keys came.
class Mapping {
 public:
  explicit Mapping(std::vector<Entry> entries);
  const std::vector<Entry>& entries() const { return entries_; }
  const Value* find(const Value& key) const;
  uint32_t depth() const { return depth_; }

 private:
  std::optional<size_t> place(const Value& key) const;
  Charge charge_;
  std::vector<Entry> entries_;
  std::unordered_multimap<size_t, size_t> by_hash_;  // empty for a small one
  uint32_t depth_;
};

// Values deeper than this are refused: what prints or compares them calls itself for each level.
inline constexpr uint32_t kDeepestValue = 200;
uint32_t checked_depth(uint32_t depth);

// From JSON text, all of it from `origin`: integers, of up to some 300 digits, and floats apart, objects in the order
// of the text. Throws UserError "source:..." as parse_json() does; a key given twice is an error here too.
Value from_json(std::string_view json, const std::string& source = "JSON", int32_t origin = kTemplateOrigin);

bool truth(const Value& value);
bool equal(const Value& a, const Value& b);
size_t hash(const Value& value);  // equal values have equal ones; throws Raised for lists and dicts
std::string type_name(const Value& value);

}  // namespace rankfold::jinja
