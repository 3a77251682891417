// A value of tokenizer.json together with its path in the file, for error messages.
#pragma once

#include "core/check.h"
#include "core/json.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <initializer_list>
#include <optional>
#include <string>
#include <vector>

namespace rankfold {

class JsonNode {
 public:
  JsonNode(const nlohmann::json& value, std::string place) : value_(&value), place_(std::move(place)) {}

  const std::string& place() const { return place_; }  // "folder/tokenizer.json: decoder.decoders[1]"
  const nlohmann::json& value() const { return *value_; }
  bool is_null() const { return value_->is_null(); }

  template <class... Expected>
  [[noreturn]] void refuse(const Expected&... expected) const {
    fail(place_, ": expected ", expected..., ", got ", brief(*value_));
  }

  // Member of an object; a missing key gives null.
  JsonNode operator[](const char* key) const {
    static const nlohmann::json none;
    if (!value_->is_object()) refuse("an object");
    const auto found = value_->find(key);
    return {found == value_->end() ? none : *found, place_ + (is_root() ? ": " : ".") + key};
  }

  std::vector<JsonNode> list() const {
    if (!value_->is_array()) refuse("a list");
    std::vector<JsonNode> nodes;
    for (const auto& element : *value_) nodes.emplace_back(element, place_ + "[" + std::to_string(nodes.size()) + "]");
    return nodes;
  }

  // Throws UserError for any other key: an unknown setting could change the result.
  void expect_only(std::initializer_list<const char*> keys) const {
    if (!value_->is_object()) refuse("an object");
    for (const auto& [key, value] : value_->items())
      if (std::find(keys.begin(), keys.end(), key) == keys.end())
        fail(place_, is_root() ? ": " : ".", key, ": a setting that is not known, with the value ", brief(value));
  }

  std::string text() const {
    if (!value_->is_string()) refuse("a text");
    return value_->get<std::string>();
  }
  std::string text(std::string otherwise) const { return is_null() ? otherwise : text(); }
  bool flag() const {
    if (!value_->is_boolean()) refuse("true or false");
    return value_->get<bool>();
  }
  bool flag(bool otherwise) const { return is_null() ? otherwise : flag(); }
  int64_t number(int64_t least, int64_t most) const {
    if (!value_->is_number_integer() || (value_->is_number_unsigned() && value_->get<uint64_t>() > INT64_MAX) ||
        value_->get<int64_t>() < least || value_->get<int64_t>() > most)
      refuse("a number from ", least, " to ", most);
    return value_->get<int64_t>();
  }

 private:
  bool is_root() const { return place_.find(": ") == std::string::npos; }

  const nlohmann::json* value_;
  std::string place_;
};

}  // namespace rankfold
