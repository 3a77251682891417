#include "core/check.h"
#include "core/json.h"
#include "text/jinja/value.h"

#include <nlohmann/json.hpp>

#include <string>
#include <unordered_set>

namespace rankfold::jinja {
namespace {

class Reader : public nlohmann::json_sax<nlohmann::json> {
 public:
  Reader(const std::string& source, std::string_view text, int32_t origin)
      : source_(source), text_(text), origin_(origin) {}

  Value take() { return std::move(root_); }

  bool null() override { return add(None()); }
  bool boolean(bool value) override { return add(value); }
  bool number_integer(int64_t value) override { return add(value); }
  bool number_unsigned(uint64_t value) override { return add(Integer::parse(std::to_string(value))); }
  bool number_float(double value, const std::string& digits) override {
    const bool is_integer = digits.find_first_of(".eE") == std::string::npos;
    return add(is_integer ? Value(Integer::parse(digits)) : Value(value));
  }
  bool string(std::string& value) override { return add(Text(value, Mark{origin_, 0})); }
  bool binary(binary_t&) override { return false; }
  bool start_object(size_t) override { return open(true); }
  bool start_array(size_t) override { return open(false); }
  bool key(std::string& name) override {
    if (!open_.back().names.insert(name).second) fail(source_, ": the key '", name, "' is given twice in one object");
    open_.back().keys.emplace_back(Text(name, Mark{origin_, 0}));
    return true;
  }
  bool end_array() override {
    Value list = Value::list(std::move(open_.back().values));
    open_.pop_back();
    return add(std::move(list));
  }
  bool end_object() override {
    Open& object = open_.back();
    std::vector<Entry> entries;
    entries.reserve(object.keys.size());
    for (size_t k = 0; k < object.keys.size(); ++k)
      entries.emplace_back(std::move(object.keys[k]), std::move(object.values[k]));
    open_.pop_back();
    return add(Value::dict(std::move(entries)));
  }
  bool parse_error(size_t, const std::string&, const nlohmann::detail::exception& error) override {
    // Rare: the text is read again by the reader whose errors name the place.
    parse_json(text_, source_);
    fail(source_, ": ", error.what());
  }

 private:
  struct Open {
    bool is_object;
    std::vector<Value> keys, values;
    std::unordered_set<std::string> names;
  };

  bool open(bool is_object) {
    if (open_.size() == kDeepestJson) fail(source_, ": nested deeper than ", kDeepestJson, " levels");
    open_.push_back({is_object, {}, {}, {}});
    return true;
  }
  bool add(Value value) {
    value.set_origin(origin_);
    (open_.empty() ? root_ : open_.back().values.emplace_back()) = std::move(value);
    return true;
  }

  const std::string& source_;
  std::string_view text_;
  int32_t origin_;
  Value root_;
  std::vector<Open> open_;
};

}  // namespace

Value from_json(std::string_view json, const std::string& source, int32_t origin) {
  if (json.find('\0') != std::string_view::npos) fail(source, ": a NUL byte is not JSON");
  Reader reader(source, json, origin);
  nlohmann::json::sax_parse(json.begin(), json.end(), &reader);
  return reader.take();
}

}  // namespace rankfold::jinja
