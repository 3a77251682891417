#include "core/config.h"

#include "core/check.h"
#include "core/foreign_keys.h"
#include "core/json.h"
#include "core/utf8.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <limits>
#include <sstream>

namespace rankfold {

using Json = nlohmann::ordered_json;

namespace {

std::string lower(std::string text) {
  for (char& c : text) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return text;
}

std::string trimmed(const std::string& text) {
  const size_t first = text.find_first_not_of(" \t"), last = text.find_last_not_of(" \t");
  return first == std::string::npos ? "" : text.substr(first, last - first + 1);
}

}  // namespace

std::optional<uint64_t> parse_size(const std::string& text) {
  static const std::map<std::string, double> kUnits{
      {"", 1},        {"b", 1},        {"k", 1e3},     {"kb", 1e3},     {"m", 1e6},     {"mb", 1e6},
      {"g", 1e9},     {"gb", 1e9},     {"t", 1e12},    {"tb", 1e12},    {"ki", 0x1p10}, {"kib", 0x1p10},
      {"mi", 0x1p20}, {"mib", 0x1p20}, {"gi", 0x1p30}, {"gib", 0x1p30}, {"ti", 0x1p40}, {"tib", 0x1p40}};
  const std::string whole = trimmed(text);
  double number = 0;
  const auto [end, error] = std::from_chars(whole.data(), whole.data() + whole.size(), number);
  const auto found = kUnits.find(lower(trimmed(std::string(end, whole.data() + whole.size()))));
  const double bytes = error == std::errc() && found != kUnits.end() ? number * found->second : 0;
  if (!(bytes >= 1 && bytes < 1e18)) return std::nullopt;
  return static_cast<uint64_t>(bytes);
}

std::optional<Date> parse_date(const std::string& text) {
  Date date;
  int* const parts[] = {&date.year, &date.month, &date.day, &date.hour, &date.minute, &date.second};
  constexpr std::string_view kPattern = "dddd-dd-dd dd:dd:dd";
  const size_t size = text.size();
  if (size != 10 && size != 16 && size != 19) return std::nullopt;
  for (size_t i = 0, part = 0; i < size; ++i) {
    const bool is_digit = text[i] >= '0' && text[i] <= '9';
    const bool fits = kPattern[i] == 'd' ? is_digit : text[i] == kPattern[i] || (kPattern[i] == ' ' && text[i] == 'T');
    if (!fits) return std::nullopt;
    if (is_digit)
      *parts[part] = *parts[part] * 10 * (i > 0 && kPattern[i - 1] == 'd') + (text[i] - '0');
    else
      ++part;
  }
  constexpr int kDays[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
  const bool is_leap = date.year % 4 == 0 && (date.year % 100 != 0 || date.year % 400 == 0);
  if (date.year < 1 || date.month < 1 || date.month > 12 || date.hour > 23 || date.minute > 59 || date.second > 59)
    return std::nullopt;
  const int days = kDays[date.month - 1] + (is_leap && date.month == 2);
  return date.day >= 1 && date.day <= days ? std::optional(date) : std::nullopt;
}

std::optional<bool> parse_bool(const std::string& text) {
  static const StringList kTrue{"true", "yes", "y", "t", "1"}, kFalse{"false", "no", "n", "f", "0"};
  const std::string word = lower(text);
  if (std::find(kTrue.begin(), kTrue.end(), word) != kTrue.end()) return true;
  if (std::find(kFalse.begin(), kFalse.end(), word) != kFalse.end()) return false;
  return std::nullopt;
}

bool is_all_linear(const std::string& text) { return lower(text) == "all-linear" || lower(text) == "all"; }

namespace {

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  std::stringstream stream(text);
  for (std::string part; std::getline(stream, part, separator);) parts.push_back(trimmed(part));
  return parts;
}

// The text as a number of this kind, or as the string it is, which no number accepts.
template <class T>
Json number_from(const std::string& text) {
  T x{};
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, x);
  const bool whole = error == std::errc() && stop == end && std::isfinite(static_cast<double>(x));
  return whole ? Json(x) : Json(text);
}

// JSON where the text opens as JSON does, within the limits of JSON files; a text that then is none stays a string and
// is refused as such.
Json parsed_or_text(const std::string& text) {
  return Json::accept(text) ? parse_ordered_json(text, "JSON") : Json(text);
}

template <class T>
Json scalar_from(const std::string& text) {
  if constexpr (std::is_same_v<T, std::string>)
    return text;
  else
    return number_from<T>(text);
}

template <class T>
Json list_from(const std::string& text) {
  if (text.starts_with('[')) return parsed_or_text(text);
  Json list = Json::array();
  for (const auto& part : split(text, ',')) list.push_back(scalar_from<T>(part));
  return list;
}

template <class T>
Json map_from(const std::string& text) {
  if (text.starts_with('{')) return parsed_or_text(text);
  Json object = Json::object();
  for (const auto& part : split(text, ',')) {
    const size_t equals = part.find('=');
    if (equals == std::string::npos) return text;
    const std::string key = trimmed(part.substr(0, equals));
    if (object.contains(key)) fail(brief(text), ": the key '", key, "' is given twice");
    object[key] = scalar_from<T>(trimmed(part.substr(equals + 1)));
  }
  return object;
}

bool is_file(const std::string& path) {
  std::error_code ignored;
  return std::filesystem::exists(path, ignored);
}

bool is_list_of_names(const std::string& text) {
  return std::all_of(text.begin(), text.end(), [](unsigned char c) {
    return std::isalnum(c) || std::string_view("_.,- ").find(static_cast<char>(c)) != std::string_view::npos;
  });
}

template <class Map>
bool assign_map(const Json& value, Map& member) {
  if (!value.is_object()) return false;
  for (const auto& [key, item] : value.items())
    if (!assign(item, member[key])) return false;
  return true;
}

template <class T>
bool assign_list(const Json& value, std::vector<T>& member) {
  if (!value.is_array()) return false;
  for (const auto& item : value)
    if (!assign(item, member.emplace_back())) return false;
  return true;
}

std::string normal(std::string name) {
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

// What to write instead of a value that was refused, or nothing.
std::string advice_on(const Field& field, const Json& value, bool is_flag) {
  if (value.is_null()) return ": leave it out";
  const std::string word = lower(value.is_string() ? value.get<std::string>() : value.dump());
  for (const ForeignValue& foreign : kForeignValues)
    if (field.name == foreign.name && word == foreign.value) return join(": ", foreign.advice);
  if (is_flag || !value.is_string()) return "";
  Json meant;
  field.from_text(value.get<std::string>(), meant);
  const bool helps = (meant.is_number() || meant.is_boolean()) && field.set(meant);
  return helps ? join(": write ", meant.dump(), " without quotes") : "";
}

[[noreturn]] void refuse(const std::string& where, const Field& field, const Json& value, bool is_flag) {
  fail(where, ": expected ", field.expected, ", got ", brief(value), advice_on(field, value, is_flag));
}

}  // namespace

DataFiles::DataFiles(const std::string& text)
    : paths(is_file(text) || text.find(',') == std::string::npos ? StringList{text} : split(text, ',')) {}

std::string DataFiles::text() const {
  std::string all;
  for (const std::string& path : paths) all += (all.empty() ? "" : ", ") + path;
  return all;
}

template <>
bool assign(const Json& value, int64_t& member) {
  if (!value.is_number_integer()) return false;
  if (value.is_number_unsigned() && value.get<uint64_t>() > uint64_t{std::numeric_limits<int64_t>::max()}) return false;
  member = value.get<int64_t>();
  return true;
}
template <>
bool assign(const Json& value, double& member) {
  if (!value.is_number()) return false;
  member = value.get<double>();
  return true;
}
template <>
bool assign(const Json& value, bool& member) {
  if (!value.is_boolean()) return false;
  member = value.get<bool>();
  return true;
}
template <>
bool assign(const Json& value, std::string& member) {
  if (!value.is_string()) return false;
  member = value.get<std::string>();
  return true;
}
template <>
bool assign(const Json& value, StringList& member) {
  return assign_list(value, member);
}
template <>
bool assign(const Json& value, std::vector<int64_t>& member) {
  if (value.is_null()) return true;
  return value.is_array() ? assign_list(value, member) : assign(value, member.emplace_back());
}
template <>
bool assign(const Json& value, std::vector<double>& member) {
  return assign_list(value, member);
}
template <>
bool assign(const Json& value, ModuleNames& member) {
  if (value.is_null()) return true;
  if (!value.is_string()) return assign(value, member.emplace<StringList>());
  const std::string text = value.get<std::string>();
  const bool is_list = is_list_of_names(text) && text.find(',') != std::string::npos;  // no regular expression of use
  return is_list ? assign(list_from<std::string>(text), member.emplace<StringList>())
                 : assign(value, member.emplace<std::string>());
}
template <>
bool assign(const Json& value, OrderedMap<int64_t>& member) {
  return assign_map(value, member);
}
template <>
bool assign(const Json& value, OrderedMap<double>& member) {
  return assign_map(value, member);
}
template <>
bool assign(const Json& value, std::map<std::string, std::string>& member) {
  return assign_map(value, member);
}
template <>
bool assign(const Json& value, DataFiles& member) {
  if (value.is_array()) return assign_list(value, member.paths);
  if (!value.is_string()) return false;
  member = DataFiles(value.get<std::string>());
  return true;
}
template <>
bool assign(const Json& value, JsonObject& member) {
  if (value.is_object()) member.text = value.dump();
  return value.is_object() || value.is_null();
}

template <class T>
void store(const T& member, Json& value) {
  value = member;
}
template <>
void store(const DataFiles& member, Json& value) {
  if (member.paths.size() == 1)
    value = member.paths[0];
  else
    value = member.paths;
}
template <>
void store(const JsonObject& member, Json& value) {
  value = member.text.empty() ? Json() : parsed_or_text(member.text);
}
template <>
void store(const ModuleNames& member, Json& value) {
  std::visit([&value](const auto& names) { value = names; }, member);
}

template <class T>
void from_text(const std::string& text, Json& value) {
  value = scalar_from<T>(text);
}
template <>
void from_text<bool>(const std::string& text, Json& value) {
  if (const auto truth = parse_bool(text))
    value = *truth;
  else
    value = text;
}
template <>
void from_text<DataFiles>(const std::string& text, Json& value) {
  value = text.starts_with('[') && !is_file(text) ? parsed_or_text(text) : Json(text);
}
template <>
void from_text<JsonObject>(const std::string& text, Json& value) {
  value = parsed_or_text(text);
}
template <>
void from_text<StringList>(const std::string& text, Json& value) {
  value = list_from<std::string>(text);
}
template <>
void from_text<std::vector<int64_t>>(const std::string& text, Json& value) {
  value = list_from<int64_t>(text);
}
template <>
void from_text<OrderedMap<int64_t>>(const std::string& text, Json& value) {
  value = map_from<int64_t>(text);
}
template <>
void from_text<OrderedMap<double>>(const std::string& text, Json& value) {
  value = map_from<double>(text);
}
template <>
void from_text<std::map<std::string, std::string>>(const std::string& text, Json& value) {
  value = map_from<std::string>(text);
}
// Names and commas are a list; what a name cannot hold makes it a regular expression.
template <>
void from_text<ModuleNames>(const std::string& text, Json& value) {
  if (text.starts_with('[') && Json::accept(text))
    value = parsed_or_text(text);
  else if (is_list_of_names(text) && !is_all_linear(text))
    value = list_from<std::string>(text);
  else
    value = text;
}

template <class T>
void refuse_value(const char* key, const char* expected, const T& value) {
  Json got;
  store(value, got);
  // JSON has no word for NaN and infinity.
  const bool is_number = got.is_number_float();
  fail(key, ": expected ", expected, ", got ", is_number ? join(got.template get<double>()) : brief(got));
}

#define RANKFOLD_MEMBER(...)                                                \
  template void store(const __VA_ARGS__&, Json&);                           \
  template void refuse_value(const char*, const char*, const __VA_ARGS__&); \
  template void from_text<__VA_ARGS__>(const std::string&, Json&)
RANKFOLD_MEMBER(int64_t);
RANKFOLD_MEMBER(double);
RANKFOLD_MEMBER(bool);
RANKFOLD_MEMBER(std::string);
RANKFOLD_MEMBER(StringList);
RANKFOLD_MEMBER(std::vector<int64_t>);
RANKFOLD_MEMBER(ModuleNames);
RANKFOLD_MEMBER(OrderedMap<int64_t>);
RANKFOLD_MEMBER(OrderedMap<double>);
RANKFOLD_MEMBER(std::map<std::string, std::string>);
RANKFOLD_MEMBER(DataFiles);
RANKFOLD_MEMBER(JsonObject);
#undef RANKFOLD_MEMBER

const Field* find_field(const Fields& fields, const std::string& name) {
  const std::string wanted = normal(name);
  for (const auto& field : fields)
    if (field.name == wanted || std::find(field.aliases.begin(), field.aliases.end(), wanted) != field.aliases.end())
      return &field;
  return nullptr;
}

std::string advice_on_unknown(const std::string& name, const Fields& fields, const std::string& dashes) {
  const std::string key = normal(name);
  for (const ForeignKey& foreign : kForeignKeys)
    if (key == foreign.name) return join(": ", foreign.advice);
  const std::string near = nearest(key, all_names(fields));
  return did_you_mean(near.empty() ? "" : dashes + near);
}

std::vector<std::string> all_names(const Fields& fields) {
  std::vector<std::string> names;
  for (const auto& field : fields) {
    names.push_back(field.name);
    names.insert(names.end(), field.aliases.begin(), field.aliases.end());
  }
  return names;
}

void read_fields(const Json& object, const std::string& source, const Fields& fields, bool unknown_is_error) {
  if (!object.is_object()) fail(source, ": expected a JSON object, got ", brief(object));
  std::map<const Field*, std::string> seen;
  for (const auto& [key, value] : object.items()) {
    const Field* field = find_field(fields, key);
    if (!unknown_is_error && (!field || key != field->name)) continue;
    if (!field) fail(source, ": unknown key '", key, "'", advice_on_unknown(key, fields, ""));
    if (const auto [other, added] = seen.emplace(field, key); !added)
      fail(source, ": '", other->second, "' and '", key, "' are the same key: give one");
    if (!field->set(value) && (unknown_is_error || !value.is_null()))
      refuse(source + ": " + key, *field, value, /*is_flag=*/false);
  }
}

void set_from_text(const Field& field, const std::string& text, const std::string& source) {
  if (!is_utf8(text)) fail(source, ": expected UTF-8, got bytes that are none");
  Json value;
  try {
    field.from_text(text, value);
  } catch (const UserError& error) {
    fail(source, ": ", error.what());
  }
  if (!field.set(value)) refuse(source, field, text, /*is_flag=*/true);
}

Json to_json(const Fields& fields) {
  Json object = Json::object();
  for (const auto& field : fields) field.get(object[field.name]);
  return object;
}

Json some_to_json(const Fields& fields, const std::vector<std::string>& names) {
  Json object = Json::object();
  for (const std::string& name : names) find_field(fields, name)->get(object[name]);
  return object;
}

template auto values_of(RunConfig, Resume);

}  // namespace rankfold
