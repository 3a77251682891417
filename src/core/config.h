// Parses, writes and lists the config structs of rankfold/config.h, all through their lists of fields.
#pragma once

#include "rankfold/config.h"

#include <nlohmann/json_fwd.hpp>

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

namespace rankfold {

// Type checks and conversions, one overload for each member type. assign() returns false for a value of another type
// (16.7, 16.0 and true are not integers). from_text() converts a flag's text into the JSON that a file would contain.
// JSON keeps its order here, because the first entry of a pattern that matches applies.
template <class T>
bool assign(const nlohmann::ordered_json& value, T& member);
template <class T>
void store(const T& member, nlohmann::ordered_json& value);
template <class T>
void from_text(const std::string& text, nlohmann::ordered_json& value);

// One member of a config. It refers to the config, which must outlive the field.
struct Field {
  std::string name;
  std::vector<std::string> aliases;
  std::string section;  // heading in --help
  std::string help;
  std::string expected;
  bool is_bool = false;
  bool is_word = false;   // `expected` lists the allowed words
  bool is_files = false;  // paths, which may be given without the key
  void (*from_text)(const std::string&, nlohmann::ordered_json&) = nullptr;
  // Returns false and leaves the member unchanged for a wrong type or a value out of range.
  std::function<bool(const nlohmann::ordered_json&)> set = {};
  std::function<void(nlohmann::ordered_json&)> get = {};
};
using Fields = std::vector<Field>;
template <class T>
concept HasFields = !std::is_same_v<std::remove_const_t<T>, Fields>;

template <class Check>
concept ListsWords = requires {
  Check::lists_words;
};

// A visitor of Config::fields() that collects the fields.
struct FieldList {
  Fields fields;
  std::string title;

  void section(const char* next) { title = next; }
  template <class T, class Check>
  void operator()(const char* name, T& member, const char* help, Check check, const char* expected, Aliases aliases) {
    Field field{.name = name,
                .aliases = {aliases.begin(), aliases.end()},
                .section = title,
                .help = help,
                .expected = expected,
                .is_bool = std::is_same_v<T, bool>,
                .is_word = ListsWords<Check>,
                .is_files = std::is_same_v<T, DataFiles>,
                .from_text = from_text<T>};
    field.set = [&member, check](const nlohmann::ordered_json& value) {
      T wanted{};
      if (!assign(value, wanted) || !check(wanted)) return false;
      member = std::move(wanted);
      return true;
    };
    field.get = [&member](nlohmann::ordered_json& value) { store(member, value); };
    fields.push_back(std::move(field));
  }
};

template <class Config>
Fields fields_of(Config& config) {
  FieldList list;
  config.fields(list);
  return std::move(list.fields);
}

// Finds a field by name or alias, with - or _; null: none.
const Field* find_field(const Fields& fields, const std::string& name);
std::vector<std::string> all_names(const Fields& fields);  // names and aliases

// Advice in the error for an unknown name: what to write instead of another trainer's key, or the nearest of our names.
std::string advice_on_unknown(const std::string& name, const Fields& fields, const std::string& dashes);

bool is_all_linear(const std::string& target_modules);  // "all-linear" or "all" in any case

// Sets the members that `object` names. Throws UserError "source: key: expected ..., got ...". `unknown_is_error`: true
// for our own files, where aliases are allowed and every key must be known. False for files of other programs: no
// aliases, and unknown keys and null values are ignored.
void read_fields(const nlohmann::ordered_json& object, const std::string& source, const Fields& fields,
                 bool unknown_is_error);
// Sets a field from the text of a flag, with the same checks as in a file. Errors begin with `source` ("--r").
void set_from_text(const Field& field, const std::string& text, const std::string& source);
nlohmann::ordered_json to_json(const Fields& fields);  // all fields in order, canonical names
nlohmann::ordered_json some_to_json(const Fields& fields, const std::vector<std::string>& names);

template <class T>
[[noreturn]] void refuse_value(const char* key, const char* expected, const T& value);

// Checks a config that is passed to a public function. Throws UserError "key: expected ..., got ..." for the first
// value that a file or a flag could not contain.
template <HasFields Config>
void check_fields(Config config) {
  config.fields([](const char* key, auto& value, const char*, const auto& check, const char* expected, Aliases) {
    if (!check(value)) refuse_value(key, expected, value);
  });
}

// Returns as JSON the fields for which a resume does `wanted`. It does not compile for a field without a RunHelp;
// config.cpp applies it to all fields of a run.
template <HasFields Config>
auto values_of(Config config, Resume wanted) {
  std::vector<std::string> names;
  config.fields([&](const char* key, auto&, RunHelp help, const auto&, const char*, Aliases) {
    if (help.resume == wanted) names.push_back(key);
  });
  return some_to_json(fields_of(config), names);
}

template <HasFields Config>
void read_fields(const nlohmann::ordered_json& object, const std::string& source, Config& config,
                 bool unknown_is_error) {
  read_fields(object, source, fields_of(config), unknown_is_error);
}
template <HasFields Config>
auto to_json(Config& config) {
  return to_json(fields_of(config));
}

}  // namespace rankfold
