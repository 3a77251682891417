#include "clean/mask_json.h"

#include "core/check.h"
#include "core/json.h"
#include "text/unicode.h"

#include <nlohmann/json.hpp>

#include <algorithm>

namespace rankfold {
namespace {

constexpr int kDeepestText = 3;  // JSON in a text in JSON ...

int hexadecimal(std::string_view four) {
  int value = 0;
  for (const char c : four) value = 16 * value + (c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10);
  return value;
}

// A string of JSON between its quotes, without its escapes. `places`: where in `raw` each byte of it comes from, and
// the end.
std::string unescaped(std::string_view raw, std::vector<size_t>* places = nullptr) {
  std::string text;
  text.reserve(raw.size());
  const auto put_all = [&](size_t from) {
    if (places) places->resize(text.size(), from);
  };
  for (size_t i = 0; i < raw.size();) {
    const size_t from = i;
    if (raw[i] != '\\' || i + 1 >= raw.size()) {
      text.push_back(raw[i++]);
      put_all(from);
      continue;
    }
    const char escape = raw[i + 1];
    i += 2;
    if (escape == 'u' && i + 4 <= raw.size()) {
      auto character = static_cast<uint32_t>(hexadecimal(raw.substr(i, 4)));
      i += 4;
      if (character >= 0xD800 && character < 0xDC00 && raw.substr(i, 2) == "\\u" && i + 6 <= raw.size()) {
        const auto low = static_cast<uint32_t>(hexadecimal(raw.substr(i + 2, 4)));
        character = 0x10000 + ((character - 0xD800) << 10) + (low - 0xDC00);
        i += 6;
      }
      unicode::append(character, text);
    } else {
      constexpr std::string_view kNames = "bfnrt", kMeanings = "\b\f\n\r\t";
      const size_t at = kNames.find(escape);
      text.push_back(at == std::string_view::npos ? escape : kMeanings[at]);
    }
    put_all(from);
  }
  if (places) places->push_back(raw.size());
  return text;
}

std::string escaped(const std::string& text) {
  const std::string quoted = nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  return quoted.substr(1, quoted.size() - 2);
}

bool opens_json(std::string_view text) {
  const size_t first = text.find_first_not_of(" \t\r\n");
  return first != std::string_view::npos && (text[first] == '{' || text[first] == '[') && nlohmann::json::accept(text);
}

class Walk {
 public:
  Walk(std::string_view json, PersonalKinds kinds, std::string prefix, std::string label, int depth, MaskedJson& result)
      : json_(json),
        kinds_(kinds),
        prefix_(std::move(prefix)),
        label_(std::move(label)),
        depth_(depth),
        result_(result) {}

  // The JSON with placeholders; empty: as it was.
  std::string run() {
    while (at_ < json_.size()) {
      const char c = json_[at_];
      if (c == '"') {
        string();
      } else if (c == '-' || (c >= '0' && c <= '9')) {
        number();
      } else {
        if (c == '{' || c == '[') levels_.push_back({c == '[', 0, ""});
        if ((c == '}' || c == ']') && !levels_.empty()) levels_.pop_back();
        if (c == ',' && !levels_.empty()) ++levels_.back().index;
        ++at_;
      }
    }
    if (!has_changed_) return "";
    changed_ += json_.substr(copied_);
    return std::move(changed_);
  }

 private:
  struct Level {
    bool is_array;
    size_t index;
    std::string key;
  };

  void string() {
    const size_t begin = ++at_;
    bool may_hold = false;
    for (size_t digits = 0; at_ < json_.size() && json_[at_] != '"'; ++at_) {
      const char c = json_[at_];
      // Of full-width signs the first byte; escapes may be anything.
      if (c == '\\') ++at_;
      digits += (c >= '0' && c <= '9') || c == '\xEF';
      const bool is_wide_at = c == '\xA0' && json_.substr(begin, at_ + 1 - begin).ends_with("\uFF20");
      may_hold = may_hold || c == '@' || is_wide_at || c == '\\' || digits >= 11;
    }
    const std::string_view raw = json_.substr(begin, std::min(at_, json_.size()) - begin);
    ++at_;
    const size_t next = json_.find_first_not_of(" \t\r\n", at_);
    const bool is_key =
        next != std::string_view::npos && json_[next] == ':' && (levels_.empty() || !levels_.back().is_array);
    if (is_key && levels_.empty()) levels_.push_back({false, 0, ""});  // of an object that was cut in two
    if (is_key) levels_.back().key = unescaped(raw);
    if (may_hold) look_at(raw, begin, is_key);
  }

  void look_at(std::string_view raw, size_t begin, bool is_key) {
    const bool has_escapes = raw.find('\\') != std::string_view::npos;
    const std::string text = has_escapes ? unescaped(raw) : std::string(raw);
    if (is_key) {
      for (const PersonalSpan& span : find_personal_data(text, kinds_))
        result_.hits.push_back({span.kind, field(/*of_container=*/true) + "(key)", span.character, true});
      return;
    }
    if (depth_ < kDeepestText && opens_json(text)) {
      const std::string inner = Walk(text, kinds_, field() + ":", label(), depth_ + 1, result_).run();
      if (!inner.empty()) replace(begin, raw.size(), escaped(inner));
      return;
    }
    const std::vector<PersonalSpan> spans = find_personal_data(text, kinds_, label());
    if (spans.empty()) return;
    std::vector<size_t> places;
    if (has_escapes) unescaped(raw, &places);
    const auto place = [&](size_t byte) { return has_escapes ? places[byte] : byte; };
    for (const PersonalSpan& span : spans) {
      result_.hits.push_back({span.kind, field(), span.character});
      replace(begin + place(span.begin), place(span.end) - place(span.begin), word_of(span.kind).placeholder);
    }
  }

  // A whole number that is one of an ID, a mobile or a card, from end to end.
  void number() {
    const size_t begin = at_;
    while (at_ < json_.size() && std::string_view("+-.eE0123456789").find(json_[at_]) != std::string_view::npos) ++at_;
    const std::string_view digits = json_.substr(begin, at_ - begin);
    if (digits.size() < 11) return;
    const std::vector<PersonalSpan> spans = find_personal_data(digits, kinds_, label());
    if (spans.size() != 1 || spans[0].begin != 0 || spans[0].end != digits.size()) return;
    result_.hits.push_back({spans[0].kind, field(), 0});
    replace(begin, digits.size(), join('"', word_of(spans[0].kind).placeholder, '"'));
  }

  void replace(size_t begin, size_t size, std::string_view by) {
    changed_ += json_.substr(copied_, begin - copied_);
    changed_ += by;
    copied_ = begin + size;
    has_changed_ = true;
  }

  std::string field(bool of_container = false) const {
    std::string path = prefix_;
    for (size_t i = 0; i < levels_.size(); ++i) {
      const Level& level = levels_[i];
      if (of_container && i + 1 == levels_.size()) break;
      if (level.is_array)
        path += join("[", level.index, "]");
      else
        path += (path.empty() || path.ends_with(':') ? "" : ".") + shown_key(level.key);
    }
    return path;
  }
  // Without what it may hold of a person.
  std::string shown_key(const std::string& key) const {
    return masked(key, find_personal_data(key, PersonalKinds::all()));
  }
  std::string label() const {
    for (auto level = levels_.rbegin(); level != levels_.rend(); ++level)
      if (!level->is_array) return level->key;
    return label_;
  }

  std::string_view json_;
  PersonalKinds kinds_;
  std::string prefix_, label_;
  int depth_;
  MaskedJson& result_;
  size_t at_ = 0, copied_ = 0;
  std::vector<Level> levels_;
  std::string changed_;
  bool has_changed_ = false;
};

}  // namespace

MaskedJson mask_json(std::string_view json, PersonalKinds kinds) {
  MaskedJson result;
  if (!kinds.any()) return result;
  result.text = Walk(json, kinds, "", "", 0, result).run();
  return result;
}

}  // namespace rankfold
