// Values with behaviour: functions, namespaces, loops, generators and the like.
#pragma once

#include "text/jinja/value.h"

#include <functional>
#include <initializer_list>

namespace rankfold::jinja {

class Iterator {
 public:
  virtual ~Iterator() = default;
  virtual bool next(Value& item) = 0;  // false at the end
};
using IteratorPointer = std::unique_ptr<Iterator>;

struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;

  // Null where it was not given. Takes it out, so that what is left is one too many.
  std::optional<Value> take_named(std::string_view name);
};

// Arguments by parameter, as Python binds them. Missing where one was not given.
class Bound {
 public:
  Bound(std::string_view function, Arguments arguments, std::initializer_list<const char*> names, size_t required = 0);
  const Value& operator[](size_t parameter) const { return values_[parameter]; }
  bool has(size_t parameter) const { return !values_[parameter].is<Missing>(); }

  int64_t integer(size_t parameter, int64_t otherwise) const;  // also of a boolean
  bool boolean(size_t parameter, bool otherwise) const;        // the truth of any value
  Text text(size_t parameter, const Text& otherwise) const;    // only text

 private:
  std::string_view function_;
  std::vector<const char*> names_;
  std::vector<Value> values_;
};

class Object {
 public:
  virtual ~Object() = default;
  virtual std::string type_name() const = 0;
  virtual Text print() { return "<" + type_name() + " object>"; }
  virtual bool is_callable() const { return false; }
  virtual Value call(Arguments arguments);
  virtual Value attribute(std::string_view) { return {}; }  // missing where there is none
  virtual Value item(const Value&) { return {}; }           // missing where there is none
  virtual IteratorPointer iterate() { return nullptr; }     // null where that is not possible
  virtual IteratorPointer reversed() { return nullptr; }
  virtual std::optional<size_t> length() { return std::nullopt; }
  virtual bool has_items() const { return false; }  // x[...] means something
  virtual bool equals(const Object& other) const { return this == &other; }
  virtual size_t hash() const { return std::hash<const Object*>()(this); }  // throws Raised where Python has none
  // Lets go of all values, so that no circle of them stays behind.
  virtual void clear() {}
  virtual uint32_t depth() const { return 1; }
  virtual bool contains(const Value& item);
};

class Function : public Object {
 public:
  Function(std::string name, std::function<Value(Arguments)> body) : name_(std::move(name)), body_(std::move(body)) {}
  std::string type_name() const override { return "function"; }
  Text print() override { return "<function " + name_ + ">"; }
  bool is_callable() const override { return true; }
  Value call(Arguments arguments) override { return body_(std::move(arguments)); }

 private:
  std::string name_;
  std::function<Value(Arguments)> body_;
};

// What a filter such as map makes: its items are found when asked for, and only once.
class Generator : public Object {
 public:
  Generator(std::function<IteratorPointer()> start, uint32_t depth, std::string type = "generator");
  std::string type_name() const override { return type_; }
  IteratorPointer iterate() override;
  uint32_t depth() const override { return depth_; }

 private:
  class State;
  std::shared_ptr<State> state_;
  uint32_t depth_;
  std::string type_;
};

class Range : public Object {
 public:
  Range(int64_t start, int64_t stop, int64_t step, size_t count)
      : start_(start), stop_(stop), step_(step), count_(count) {}
  std::string type_name() const override { return "range"; }
  Text print() override;
  Value item(const Value& index) override;
  IteratorPointer iterate() override;
  IteratorPointer reversed() override;
  std::optional<size_t> length() override { return count_; }
  bool has_items() const override { return true; }
  bool equals(const Object& other) const override;
  Value at(size_t index) const { return start_ + static_cast<int64_t>(index) * step_; }
  size_t hash() const override { return count_ == 0 ? 0 : count_ * 31 + static_cast<size_t>(start_); }
  Value attribute(std::string_view name) override;
  ObjectPointer slice(int64_t start, int64_t step, int64_t count) const;

 private:
  int64_t start_, stop_, step_;
  size_t count_;
};

// keys(), values() and items() of a dict.
class View : public Object {
 public:
  enum class Of { kKeys, kValues, kItems };
  View(MappingPointer mapping, Of of) : mapping_(std::move(mapping)), of_(of) {}
  std::string type_name() const override;
  Text print() override;
  IteratorPointer iterate() override;
  IteratorPointer reversed() override;
  std::optional<size_t> length() override { return mapping_->entries().size(); }
  uint32_t depth() const override { return mapping_->depth() + 1; }
  Value at(size_t index) const;
  bool equals(const Object& other) const override;
  size_t hash() const override;

 private:
  MappingPointer mapping_;
  Of of_;
};

class Namespace : public Object {
 public:
  explicit Namespace(std::vector<Entry> entries);
  std::string type_name() const override { return "jinja2.utils.Namespace"; }
  Text print() override;
  Value attribute(std::string_view name) override;
  void set(const Text& name, Value value);
  void clear() override { entries_.clear(), places_.clear(); }

 private:
  Text entries_text();

  bool is_printing_ = false;
  Charge charge_{sizeof(Namespace)};
  std::vector<Entry> entries_;
  std::unordered_map<std::string, size_t> places_;
};

// Iterates as Python's iter(): throws Raised where a value has no items. `value` must stay.
IteratorPointer iterate(const Value& value);
IteratorPointer iterate_indexed(size_t count, std::function<Value(size_t)> at);
// Those for which `keeps`, which may change them, is true, found one by one.
IteratorPointer filtered(IteratorPointer from, std::function<bool(Value&)> keeps);
bool is_iterable(const Value& value);
std::vector<Value> to_vector(const Value& value);
// Python's len(): throws Raised where a value has none.
size_t length(const Value& value);

}  // namespace rankfold::jinja
