#include "core/json.h"

#include "core/check.h"
#include "core/file.h"

#include <nlohmann/json.hpp>

#include <iterator>
#include <set>
#include <type_traits>
#include <vector>

namespace rankfold {
namespace {

using nlohmann::json;

// Shares how far the parser has read: nlohmann says it for broken JSON only, not for a key.
class Reader {
 public:
  using iterator_category = std::forward_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  Reader(const char* at, const char** read) : at_(at), read_(read) {}
  reference operator*() const { return *at_; }
  Reader& operator++() {
    *read_ = ++at_;
    return *this;
  }
  Reader operator++(int) {
    Reader old = *this;
    ++*this;
    return old;
  }
  bool operator==(const Reader& other) const { return at_ == other.at_; }
  bool operator!=(const Reader& other) const { return at_ != other.at_; }

 private:
  const char* at_;
  const char** read_;
};

// "[json.exception.parse_error.101] parse error at line 1, column 5: syntax error ..." -> "syntax error ..."
std::string without_prefix(std::string what) {
  const size_t column = what.find("column ");
  const size_t colon = column == std::string::npos ? what.find("] ") : what.find(": ", column);
  if (colon != std::string::npos) what.erase(0, colon + 2);
  constexpr size_t kLongest = 200;  // it quotes the last token, which may be a whole file
  if (what.size() > kLongest) what.replace(kLongest, std::string::npos, "...");
  return what;
}

// Builds the value as nlohmann's own handler does, with the two refusals that it lacks.
template <class Json>
class Builder : public nlohmann::json_sax<Json> {
 public:
  Builder(std::string_view text, const std::string& source, size_t first_line, size_t deepest, size_t first_column)
      : text_(text),
        source_(source),
        first_line_(first_line),
        first_column_(first_column),
        deepest_(deepest),
        read_(text.data()) {}

  Json build() {
    // nlohmann takes a NUL byte for the end of the text.
    if (const size_t nul = text_.find('\0'); nul != std::string_view::npos) fail_at(nul, "a NUL byte is not JSON");
    Json::sax_parse(Reader(text_.data(), &read_), Reader(text_.data() + text_.size(), &read_), this);
    return std::move(root_);
  }

  bool null() override { return add(nullptr); }
  bool boolean(bool value) override { return add(value); }
  bool number_integer(int64_t value) override { return add(value); }
  bool number_unsigned(uint64_t value) override { return add(value); }
  bool number_float(double value, const std::string&) override { return add(value); }
  bool string(std::string& value) override { return add(std::move(value)); }
  bool binary(typename Json::binary_t&) override { return false; }
  bool start_object(size_t) override { return open(Json::object()); }
  bool start_array(size_t) override { return open(Json::array()); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }
  bool key(std::string& name) override {
    auto& object = stack_.back()->template get_ref<typename Json::object_t&>();
    if constexpr (std::is_same_v<Json, json>) {
      const auto [entry, is_new] = object.try_emplace(name);
      if (!is_new) fail_twice(name);
      slot_ = &entry->second;
    } else {  // its own emplace() looks through all of them
      if (!names_.back().insert(name).second) fail_twice(name);
      slot_ = &static_cast<typename Json::object_t::Container&>(object).emplace_back(name, nullptr).second;
    }
    return true;
  }
  bool parse_error(size_t position, const std::string&, const nlohmann::detail::exception& error) override {
    const size_t at = position == 0 ? 0 : position - 1;
    if (const std::string comma = extra_comma(at); !comma.empty()) fail_at(at, comma);
    fail_at(at, without_prefix(error.what()));
    return false;  // not reached
  }

 private:
  size_t last() const { return read_ == text_.data() ? 0 : static_cast<size_t>(read_ - text_.data()) - 1; }

  // Where the parser stopped for a comma that JSON does not have: nlohmann speaks of what would have to follow it.
  std::string extra_comma(size_t at) const {
    if (at >= text_.size()) return "";
    const char c = text_[at];
    if (c == ',' && stack_.empty() && !root_.is_null())
      return "a comma too many after the value: values on lines of their own have none between them, those in [ ] have";
    const size_t before = at == 0 ? std::string_view::npos : text_.find_last_not_of(" \t\r\n", at - 1);
    if (before == std::string_view::npos || text_[before] != ',' || stack_.empty()) return "";
    if (c == ',') return "a comma too many";
    return c == (stack_.back()->is_object() ? '}' : ']') ? join("a comma too many before '", c, "'") : "";
  }

  template <class... Parts>
  [[noreturn]] void fail_at(size_t position, const Parts&... what) const {
    const std::string_view before = text_.substr(0, position);
    const size_t line = first_line_ + static_cast<size_t>(std::count(before.begin(), before.end(), '\n'));
    const size_t line_begin = before.rfind('\n') + 1;  // npos + 1 is 0
    const size_t column = before.size() - line_begin + (line_begin == 0 ? first_column_ : 1);
    fail(source_, ":", line, ":", column, ": ", what...);
  }

  [[noreturn]] void fail_twice(const std::string& name) const {
    fail_at(last(), "key ", brief(name), " is given twice");
  }

  Json* put(Json value) {
    if (stack_.empty()) return &(root_ = std::move(value));
    if (stack_.back()->is_object()) return &(*slot_ = std::move(value));
    return &stack_.back()->template get_ref<typename Json::array_t&>().emplace_back(std::move(value));
  }
  bool add(Json value) {
    put(std::move(value));
    return true;
  }
  bool open(Json value) {
    if (stack_.size() >= deepest_) fail_at(last(), "nested deeper than ", deepest_, " levels");
    stack_.push_back(put(std::move(value)));
    if constexpr (!std::is_same_v<Json, json>) names_.emplace_back();
    return true;
  }
  bool close() {
    stack_.pop_back();
    if constexpr (!std::is_same_v<Json, json>) names_.pop_back();
    return true;
  }

  std::string_view text_;
  const std::string& source_;
  size_t first_line_, first_column_, deepest_;
  const char* read_;
  Json root_;
  std::vector<Json*> stack_;                  // the open objects and arrays
  std::vector<std::set<std::string>> names_;  // of each, where JSON keeps its order
  Json* slot_ = nullptr;                      // where the value of the last key belongs
};

}  // namespace

json parse_json(std::string_view text, const std::string& source, size_t first_line, size_t deepest,
                size_t first_column) {
  return Builder<json>(text, source, first_line, deepest, first_column).build();
}

nlohmann::ordered_json parse_ordered_json(std::string_view text, const std::string& source) {
  return Builder<nlohmann::ordered_json>(text, source, 1, kDeepestJson, 1).build();
}

namespace {

std::string read_json_text(const std::filesystem::path& path, uint64_t largest_bytes) {
  std::string text = read_text(path, largest_bytes);
  if (const std::string kind = foreign_kind(text); !kind.empty()) fail(path.string(), ": expected JSON, got ", kind);
  return text;
}

}  // namespace

json read_json(const std::filesystem::path& path, uint64_t largest_bytes) {
  return parse_json(read_json_text(path, largest_bytes), path.string());
}

nlohmann::ordered_json read_ordered_json(const std::filesystem::path& path, uint64_t largest_bytes) {
  return parse_ordered_json(read_json_text(path, largest_bytes), path.string());
}

std::string brief(const json& value) {
  constexpr size_t kLongest = 80;
  std::string text = value.dump(-1, ' ', true, json::error_handler_t::replace);
  if (text.size() > kLongest) text.replace(kLongest, std::string::npos, "...");
  return text;
}

size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = std::exchange(row[0], i);
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t change = diagonal + (a[i - 1] != b[j - 1]);
      diagonal = row[j];
      row[j] = std::min({change, row[j] + 1, row[j - 1] + 1});
    }
  }
  return row[b.size()];
}

std::string did_you_mean(const std::string& nearest_name) {
  return nearest_name.empty() ? "" : " (did you mean '" + nearest_name + "'?)";
}

}  // namespace rankfold
