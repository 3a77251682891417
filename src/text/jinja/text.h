// Text that knows where its characters come from.
#pragma once

#include "text/jinja/meter.h"

#include <concepts>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace rankfold::jinja {

inline constexpr int32_t kTemplateOrigin = -1;

// Where characters come from, and which generation block wrote them (0 for none).
struct Mark {
  int32_t origin = kTemplateOrigin;
  uint32_t generation = 0;
  bool operator==(const Mark&) const = default;
};

// Bytes with one mark, from the end of the run before.
struct Run {
  size_t end;
  Mark mark;
  bool operator==(const Run&) const = default;
};

// A value: copies share the bytes. Valid UTF-8. Positions are bytes unless it says characters.
class Text {
 public:
  Text() = default;
  Text(std::string bytes, Mark mark = {});                    // NOLINT: template code is full of literals
  Text(const char* bytes) : Text(std::string(bytes)) {}       // NOLINT
  Text(std::string_view bytes) : Text(std::string(bytes)) {}  // NOLINT
  Text(std::string bytes, std::vector<Run> runs, bool is_safe);

  std::string_view view() const { return data_ ? std::string_view(data_->bytes) : std::string_view(); }
  std::string string() const { return std::string(view()); }
  const std::vector<Run>& runs() const;
  size_t size() const { return view().size(); }
  bool empty() const { return size() == 0; }
  size_t length() const { return data_ ? data_->length : 0; }  // characters
  bool is_ascii() const { return length() == size(); }
  // Python's Markup: what is added to it with + gets HTML escapes, as in transformers after `| safe`.
  bool is_safe() const { return data_ && data_->is_safe; }
  Text as_safe(bool is_safe = true) const;

  Mark mark_at(size_t position) const;
  Text slice(size_t begin, size_t end) const;
  size_t position_of(size_t character) const;  // its first byte, size() beyond the end
  Text characters(size_t begin, size_t end) const { return slice(position_of(begin), position_of(end)); }

  bool operator==(const Text& other) const { return view() == other.view(); }

 private:
  struct Data {
    Data(std::string text, std::vector<Run> its_runs, bool safe);
    Charge charge;
    std::string bytes;
    std::vector<Run> runs;
    size_t length;
    bool is_safe;
  };
  std::shared_ptr<const Data> data_;
};

// Puts a text together.
class TextBuilder {
 public:
  template <std::convertible_to<std::string_view> Bytes>
  void append(const Bytes& bytes, Mark mark = {}) {
    append_bytes(bytes, mark);
  }
  void append(const Text& text) { append(text, 0, text.size()); }
  void append(const Text& text, size_t begin, size_t end);
  // From here on the text is of that generation block; 0 to end it.
  void mark_generation(size_t begin, uint32_t generation);

  size_t size() const { return bytes_.size(); }
  std::string_view view() const { return bytes_; }
  Text build(bool is_safe = false);  // leaves the builder empty

 private:
  void append_bytes(std::string_view bytes, Mark mark);
  void grow(size_t bytes);
  Charge charge_{0};
  size_t charged_ = 0;
  std::string bytes_;
  std::vector<Run> runs_;
};

}  // namespace rankfold::jinja
