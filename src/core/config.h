// Reading, writing and flags of the structs in rankfold/config.h: all of them go through one list of fields.
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

// Type checks and conversions, one overload for each type of member. assign() is false for a value of another
// type (16.7, 16.0 and true are no integers); from_text() turns a flag's text into the JSON a file would
// hold. JSON keeps its order here: of a pattern's entries the first that matches counts.
template <class T>
bool assign(const nlohmann::ordered_json& value, T& member);
template <class T>
void store(const T& member, nlohmann::ordered_json& value);
template <class T>
void from_text(const std::string& text, nlohmann::ordered_json& value);

// A member of a config. Holds references into it: the config must outlive the field.
struct Field {
  std::string name;
  std::vector<std::string> aliases;
  std::string section;  // of --help
  std::string help;
  std::string expected;
  bool is_bool = false;
  bool is_word = false;  // `expected` lists the words that it may be
  bool is_files = false;
  void (*from_text)(const std::string&, nlohmann::ordered_json&) = nullptr;
  // False, and the member as it was: wrong type or out of range.
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

// The visitor that lists the fields.
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

const Field* find_field(const Fields& fields,
                        const std::string& name);          // by name or alias, - or _; null: none
std::vector<std::string> all_names(const Fields& fields);  // names and aliases

// What an error says after a name that is no field's: what to write for another trainer's key, or the nearest of ours.
std::string advice_on_unknown(const std::string& name, const Fields& fields, const std::string& dashes);

bool is_all_linear(const std::string& target_modules);  // "all-linear" or "all" in any case

// Sets the members that `object` names; throws UserError "source: key: expected ..., got ...".
// `unknown_is_error`: our own files, where names may be aliases and every key must be known. Otherwise
// another program's file: names as they stand, keys that are unknown or null are left alone.
void read_fields(const nlohmann::ordered_json& object, const std::string& source, const Fields& fields,
                 bool unknown_is_error);
// A flag: the same checks as in a file. `source` ("--r") opens the error.
void set_from_text(const Field& field, const std::string& text, const std::string& source);
nlohmann::ordered_json to_json(const Fields& fields);  // all fields in order, canonical names
nlohmann::ordered_json some_to_json(const Fields& fields, const std::vector<std::string>& names);

template <class T>
[[noreturn]] void refuse_value(const char* key, const char* expected, const T& value);

// What a public entry point is given: throws UserError "key: expected ..., got ..." for the first value that a file or a
// flag could not hold.
template <HasFields Config>
void check_fields(Config config) {
  config.fields([](const char* key, auto& value, const char*, const auto& check, const char* expected, Aliases) {
    if (!check(value)) refuse_value(key, expected, value);
  });
}

// The values of the fields of which a resume makes this. A field that does not say what it makes does not compile;
// config.cpp asks all fields of a run.
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
