#include "data/rows.h"

#include "core/check.h"
#include "core/checksum.h"
#include "core/json.h"
#include "core/utf8.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <optional>

namespace rankfold {
namespace {

constexpr uint64_t kLongestRow = 16 << 20;  // bytes; parsed it takes up to 20 times as many

std::string_view text_of(const Mapping& file) {
  return {reinterpret_cast<const char*>(file.data()), static_cast<size_t>(file.size())};
}

// The beginning of what stands there, without line ends.
std::string shortened(std::string_view text) {
  constexpr size_t kLongest = 40;
  text = text.substr(0, text.find_first_of("\r\n"));
  return join(text.substr(0, utf8_floor(text, kLongest)), text.size() > kLongest ? "..." : "");
}

// check_utf8 in one pass.
void check_text(const Mapping& file, const std::string& name) {
  const std::string_view text = text_of(file);
  FilePass pass(file);
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = utf8_floor(text, begin + FilePass::kStep);
    if (end <= begin || !is_utf8(text.substr(begin, end - begin))) return check_utf8(text, name);  // says where
    pass.reached(begin = end);
  }
}

// As the first column of a table is called that was saved with a byte order mark.
void drop_byte_order_marks(nlohmann::json::object_t& row, const std::string& place) {
  for (auto at = row.lower_bound(std::string(kByteOrderMark));
       at != row.end() && at->first.starts_with(kByteOrderMark);) {
    auto column = row.extract(at++);
    const std::string key = column.key().substr(kByteOrderMark.size());
    column.key() = key;
    if (!row.insert(std::move(column)).inserted)
      fail(place, ": ", key, ": is given twice, once behind a byte order mark");
  }
}

}  // namespace

// Follows strings, escapes, brackets and line ends, no more: what stands in a row is parse_json's matter.
class RowScanner {
 public:
  using Span = RowFile::Span;

  RowScanner(const Mapping& file, const std::string& name, bool keeps_bad_rows)
      : text_(text_of(file)), name_(name), keeps_bad_rows_(keeps_bad_rows), pass_(file) {
    if (text_.starts_with(kByteOrderMark)) pos_ = line_begin_ = kByteOrderMark.size();
  }

  std::vector<Span> rows() {
    skip_space();
    if (at_end()) fail(name_, ": no rows");
    if (peek() == '[') return array(/*closes_file=*/true);
    if (peek() != '{') fail_here("expected a JSON array or JSON Lines, got ", shortened(text_.substr(pos_)));
    RowScanner probe = *this;
    const Span first = probe.open_span();
    if (probe.skip_value()) {
      const uint64_t end = probe.pos_;
      probe.skip_space();
      if (probe.at_end()) {  // one object: around the rows, or the only row
        if (auto inner = only_array_of_objects()) {
          const uint64_t inner_begin = inner->pos_;
          std::vector<Span> rows = inner->array(/*closes_file=*/false);
          check_around(first, inner_begin, inner->pos_, end);
          return rows;
        }
        return {until(first, end)};
      }
    }
    return lines();
  }

 private:
  bool at_end() const { return pos_ >= text_.size(); }
  char peek() const { return at_end() ? '\0' : text_[pos_]; }
  Span open_span() const {
    if (line_ > UINT32_MAX) fail(name_, ": has more than ", UINT32_MAX, " lines");
    return {pos_, line_begin_, 0, static_cast<uint32_t>(line_)};
  }
  static Span until(Span row, uint64_t end) {
    row.size = static_cast<uint32_t>(std::min<uint64_t>(end - row.begin, UINT32_MAX));
    return row;
  }

  template <class... Parts>
  [[noreturn]] void fail_here(const Parts&... parts) const {
    fail(name_, ":", line_, ":", pos_ - line_begin_ + 1, ": ", parts...);
  }

  // Byte order marks too, which stand within a file that was put together of several.
  void skip_space() {
    for (; !at_end(); ++pos_) {
      const char c = text_[pos_];
      if (c == '\n')
        new_line();
      else if (text_.substr(pos_, kByteOrderMark.size()) == kByteOrderMark)
        pos_ += kByteOrderMark.size() - 1;
      else if (c != ' ' && c != '\t' && c != '\r')
        break;
    }
  }
  void new_line() { ++line_, line_begin_ = pos_ + 1; }

  // To the quote's partner; false at the end of the file or of the line. Other control characters that no string may hold
  // are of this row alone, which parse() refuses.
  bool skip_string() {
    for (++pos_; !at_end(); ++pos_) {
      const char c = text_[pos_];
      if (c == '"') return pass_.reached(++pos_), true;
      if (c == '\n') return false;
      if (c == '\\') ++pos_;
    }
    return false;
  }

  // Past the value that begins here; false, standing at the trouble, when it has no end.
  bool skip_value() {
    const uint64_t begin = pos_;
    int64_t depth = 0;
    while (!at_end()) {
      const char c = text_[pos_];
      if (c == '"') {
        if (!skip_string()) return false;
        if (depth == 0) return true;
        continue;
      }
      if (depth == 0 && std::string_view(",:]} \t\r\n").find(c) != std::string_view::npos) return pos_ > begin;
      if (c == '\n') new_line();
      if (c == '{' || c == '[') ++depth;
      ++pos_;
      if ((c == '}' || c == ']') && --depth == 0) return true;
    }
    return depth == 0 && pos_ > begin;
  }

  // A place takes twelve times the memory of the shortest row, "1,": where such are refused they do not pile up first.
  void keep(std::vector<Span>& rows, const Span& row) const {
    if (!keeps_bad_rows_ && text_[row.begin] != '{')
      fail(name_, ":", row.line, ": expected an object, got ", shortened(text_.substr(row.begin, row.size)));
    rows.push_back(row);
  }

  std::vector<Span> array(bool closes_file) {
    std::vector<Span> rows;
    ++pos_;
    skip_space();
    for (bool first = true; peek() != ']'; first = false) {
      if (!first) {
        if (peek() == '{') fail_here("expected ',' or ']' after a row, got the next row: a comma is missing before it");
        if (peek() != ',') fail_here("expected ',' or ']' after a row", at_end() ? " (the file ends too early)" : "");
        ++pos_;
        skip_space();
        if (peek() == ']') fail_here("expected a row, got ']': a comma too many before it");
      }
      if (peek() == ',') fail_here("expected a row, got ',': a comma too many");
      const Span row = open_span();
      if (!skip_value()) {
        if (pos_ > row.begin)  // says what is wrong, and where
          RowFile::parse(text_, until(row, std::min<uint64_t>(pos_ + 1, text_.size())), name_);
        fail_here("expected a row", at_end() ? " (the file ends too early)" : "");
      }
      keep(rows, until(row, pos_));
      skip_space();
    }
    ++pos_;
    skip_space();
    if (closes_file && !at_end())
      fail_here("expected the end of the file after the array, got ", shortened(text_.substr(pos_)));
    if (rows.empty()) fail(name_, ": no rows");
    return rows;
  }

  // Whether the array that begins here holds what a single row has such arrays for: messages.
  bool is_of_messages() const {
    RowScanner at = *this;
    ++at.pos_;
    at.skip_space();
    const uint64_t begin = at.pos_;
    if (!at.skip_value()) return false;
    const auto first = nlohmann::json::parse(text_.substr(begin, at.pos_ - begin), nullptr, /*allow_exceptions=*/false);
    return first.is_object() && (first.contains("role") || first.contains("from"));
  }

  // Of the object that begins here, which is whole: a scanner at the one array of rows among its members.
  std::optional<RowScanner> only_array_of_objects() const {
    RowScanner at = *this;
    std::optional<RowScanner> found;
    for (++at.pos_;;) {
      at.skip_space();
      const uint64_t key_begin = at.pos_;
      if (at.peek() != '"' || !at.skip_string()) return found;
      const std::string_view key = text_.substr(key_begin, at.pos_ - key_begin);
      at.skip_space();
      if (at.peek() != ':') return found;
      ++at.pos_;
      at.skip_space();
      RowScanner inside = at;
      ++inside.pos_;
      inside.skip_space();
      if (at.peek() == '[' && inside.peek() == '{') {
        if (found || key == "\"tools\"" || key == "\"documents\"" || at.is_of_messages()) return std::nullopt;
        found.emplace(at);
      }
      if (!at.skip_value()) return found;
      at.skip_space();
      if (at.peek() != ',') return found;
      ++at.pos_;
    }
  }

  // Parses the object that ends at `end` with an empty array for the one of the rows: what stands around them must be
  // JSON as well. The lines of the rows stay, so that an error names the right one.
  void check_around(const Span& object, uint64_t array_begin, uint64_t array_end, uint64_t end) const {
    const std::string_view rows = text_.substr(array_begin, array_end - array_begin);
    if (const uint64_t size = end - object.begin - rows.size(); size > kLongestRow)
      fail(name_, ": ", size, " bytes stand around the rows; at most ", kLongestRow, " are read");
    std::string around(text_.substr(object.begin, array_begin - object.begin));
    around += '[';
    around.append(static_cast<size_t>(std::count(rows.begin(), rows.end(), '\n')), '\n');
    around += ']';
    around += text_.substr(array_end, end - array_end);
    check_utf8(around, name_, object.line);
    parse_json(around, name_, object.line);
  }

  std::vector<Span> lines() {
    std::vector<Span> rows;
    for (skip_space(); !at_end(); skip_space()) {
      const uint64_t end = std::min<uint64_t>(text_.find('\n', pos_), text_.size());
      keep(rows, until(open_span(), end));
      pass_.reached(pos_ = end);
    }
    return rows;
  }

  std::string_view text_;
  const std::string& name_;
  bool keeps_bad_rows_;
  FilePass pass_;
  uint64_t pos_ = 0, line_ = 1, line_begin_ = 0;
};

RowFile RowFile::open(const std::filesystem::path& path) { return open(Mapping::open(path), path.string()); }

RowFile RowFile::open(std::shared_ptr<const Mapping> file, const std::string& name, bool keeps_bad_rows) {
  if (const std::string kind = foreign_kind(text_of(*file)); !kind.empty())
    fail(name, ": expected a JSON array or JSON Lines, got ", kind);
  refuse_utf16(text_of(*file), name);
  if (!keeps_bad_rows) check_text(*file, name);  // else each row by itself
  RowFile result;
  result.name_ = name;
  result.rows_ = RowScanner(*file, name, keeps_bad_rows).rows();
  result.file_ = std::move(file);
  return result;
}

nlohmann::json RowFile::parse(std::string_view text, const Span& row, const std::string& name) {
  if (row.size > kLongestRow)
    fail(name, ":", row.line, ": a row of ", row.size, " bytes; at most ", kLongestRow, " are read");
  text = text.substr(row.begin, row.size);
  check_utf8(text, name, row.line, row.column());
  return parse_json(text, name, row.line, kDeepestJson, row.column());
}

nlohmann::json RowFile::operator[](int64_t index) const {
  return as_row(parse(text_of(*file_), rows_.at(static_cast<size_t>(index)), name_), index);
}

nlohmann::json RowFile::read_as(int64_t index, std::string_view text) const {
  const Span& row = rows_.at(static_cast<size_t>(index));
  return as_row(parse_json(text, name_, row.line, kDeepestJson, row.column()), index);
}

nlohmann::json RowFile::as_row(nlohmann::json row, int64_t index) const {
  if (!row.is_object()) fail(place(index), ": expected an object, got ", brief(row));
  drop_byte_order_marks(row.get_ref<nlohmann::json::object_t&>(), place(index));
  return row;
}

std::string_view RowFile::text(int64_t index) const {
  const Span& row = rows_.at(static_cast<size_t>(index));
  return text_of(*file_).substr(row.begin, row.size);
}

std::string RowFile::place(int64_t index) const { return join(name_, ":", line(index)); }

uint64_t RowFile::end(int64_t index) const {
  const Span& row = rows_.at(static_cast<size_t>(index));
  return row.begin + row.size;
}

std::string_view RowFile::before(int64_t index) const {
  const uint64_t begin = index == 0 ? 0 : end(index - 1);
  const uint64_t next = index == size() ? file_->size() : rows_.at(static_cast<size_t>(index)).begin;
  return text_of(*file_).substr(begin, next - begin);
}

uint64_t RowFile::line(int64_t index) const { return rows_.at(static_cast<size_t>(index)).line; }

bool RowFile::is_array() const { return before(0).find('[') != std::string_view::npos; }

uint64_t checksum_of(const Mapping& file, const Stop& stop) {
  FilePass pass(file);
  uint64_t sum = kChecksumSeed;
  for (uint64_t begin = 0; begin < file.size(); begin += FilePass::kStep) {
    leave_if(stop);
    sum = checksum64(file.bytes().subspan(begin, std::min(FilePass::kStep, file.size() - begin)), sum);
    pass.reached(begin);
  }
  return sum;
}

}  // namespace rankfold
