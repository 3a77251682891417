// Reads keys of config.json, and throws UserError with one line for a wrong value.
#pragma once

#include "core/check.h"
#include "core/config.h"
#include "core/json.h"
#include "rankfold/causal_lm.h"

#include <nlohmann/json.hpp>

#include <cmath>
#include <cstdint>
#include <optional>
#include <set>
#include <string>

namespace rankfold {

// Reads keys of one object. A key that is absent or null gives the fallback; without a fallback it is an error.
class ConfigReader {
 public:
  ConfigReader(const nlohmann::json& object, std::string source) : object_(object), source_(std::move(source)) {}

  const std::string& source() const { return source_; }
  const nlohmann::json& object() const { return object_; }
  const std::set<std::string>& asked() const { return asked_; }  // keys that were looked up
  const nlohmann::json& at(const std::string& key) const {
    static const nlohmann::json none;
    asked_.insert(key);
    const auto found = object_.find(key);
    return found == object_.end() ? none : *found;
  }
  bool has(const std::string& key) const { return !at(key).is_null(); }

  [[noreturn]] void refuse(const std::string& key, const std::string& expected) const {
    fail(source_, ": ", key, ": expected ", expected, ", got ", object_.contains(key) ? brief(at(key)) : "nothing");
  }

  template <class T>
  T read(const std::string& key, const std::string& expected, std::optional<T> fallback, auto is_good) const {
    if (!has(key) && fallback) return *fallback;
    T value{};
    if (!assign(at(key), value) || !is_good(value)) refuse(key, expected);
    return value;
  }
  int64_t integer(const std::string& key, int64_t low, int64_t high, std::optional<int64_t> fallback = {}) const {
    return read<int64_t>(key, join("an integer in [", low, ", ", high, "]"), fallback,
                         [&](int64_t x) { return x >= low && x <= high; });
  }
  double number(const std::string& key, const std::string& expected, double fallback, auto is_good) const {
    return read<double>(key, expected, fallback, [&](double x) { return std::isfinite(x) && is_good(x); });
  }
  bool flag(const std::string& key, bool fallback) const {
    return read<bool>(key, "true or false", fallback, [](bool) { return true; });
  }

 private:
  const nlohmann::json& object_;
  std::string source_;
  mutable std::set<std::string> asked_;
};

// Adds one line to config.notes that names the keys which were never looked up. It leaves out those in
// `without_effect`, a list separated by blanks.
void note_unknown_keys(const ConfigReader& reader, const char* without_effect, ModelConfig& config);

}  // namespace rankfold
