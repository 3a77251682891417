// Rows of a data file: a JSON array of objects, JSON Lines, or an object with one array of objects
// ({"data": [...]}). What the file holds decides, not its name. It stays mapped, though not in memory; rows are parsed
// one by one.
#pragma once

#include "core/file.h"

#include <nlohmann/json_fwd.hpp>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace rankfold {

class RowFile {
 public:
  // Finds where rows begin and end (24 bytes of memory a row). Throws UserError with file:line:column for what is no list
  // of rows; without `keeps_bad_rows` already for a row that is no object or no UTF-8.
  static RowFile open(const std::filesystem::path& path);
  static RowFile open(std::shared_ptr<const Mapping> file, const std::string& name, bool keeps_bad_rows = true);

  int64_t size() const { return static_cast<int64_t>(rows_.size()); }
  // An object; keys without a byte order mark at their beginning. Throws UserError with its place. Thread safe.
  nlohmann::json operator[](int64_t index) const;
  nlohmann::json read_as(int64_t index, std::string_view text) const;  // of UTF-8 that stands for the row's own text
  std::string_view text(int64_t index) const;               // of the row, as it stands; what [] has parsed is UTF-8
  std::string place(int64_t index) const;                   // "file:line" of the row's first line
  FilePass pass() const { return FilePass(*file_); }        // over the rows, in order
  void forget() const { file_->forget(0, file_->size()); }  // its pages leave memory until they are read again
  uint64_t end(int64_t index) const;  // of the row, in the file: what such a pass has reached after it
  // What stands between the row and the one before it; before the first row and, at size(), behind the last too.
  std::string_view before(int64_t index) const;
  uint64_t line(int64_t index) const;  // of the row's first character, from 1
  const std::string& name() const { return name_; }
  bool is_array() const;  // an array of rows, perhaps with an object around it; else JSON Lines

 private:
  struct Span {
    uint64_t begin, line_begin;
    uint32_t size, line;  // size: of a row larger than that, the largest there is
    size_t column() const { return static_cast<size_t>(begin - line_begin) + 1; }
  };
  friend class RowScanner;
  static nlohmann::json parse(std::string_view text, const Span& row, const std::string& name);
  nlohmann::json as_row(nlohmann::json row, int64_t index) const;

  std::string name_;
  std::shared_ptr<const Mapping> file_;
  std::vector<Span> rows_;
};

}  // namespace rankfold
