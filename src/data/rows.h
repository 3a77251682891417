// Rows of a data file: a JSON array of objects, JSON Lines, or an object with one array of objects ({"data": [...]}).
// The content decides, not the file name. The file is mapped, so it does not have to fit in memory; rows are parsed one
// by one.
#pragma once

#include "core/file.h"
#include "rankfold/error.h"

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
  // Finds the boundaries of rows (24 bytes of memory for each row). Throws UserError with file:line:column for a file
  // that is not a list of rows. With keeps_bad_rows false, it also throws for a row that is not an object or not UTF-8.
  static RowFile open(const std::filesystem::path& path);
  static RowFile open(std::shared_ptr<const Mapping> file, const std::string& name, bool keeps_bad_rows = true);

  int64_t size() const { return static_cast<int64_t>(rows_.size()); }
  // Parses a row, an object; removes a byte order mark at the beginning of keys. Throws UserError with the row's
  // position. Thread safe.
  nlohmann::json operator[](int64_t index) const;
  // Parses `text`, UTF-8 that stands for the row's own text.
  nlohmann::json read_as(int64_t index, std::string_view text) const;
  std::string_view text(int64_t index) const;         // source text of the row; UTF-8 if [] has parsed it
  std::string place(int64_t index) const;             // "file:line" of the row's first line
  FilePass pass() const { return FilePass(*file_); }  // for reading all rows in order
  void forget() const {
    file_->forget(0, file_->size());
  }                                   // lets the file's pages leave memory until they are read again
  uint64_t end(int64_t index) const;  // offset of the row's end in the file, for FilePass::reached()
  // The text between the row and the one before it; before the first row and, at size(), behind the last, what is
  // there.
  std::string_view before(int64_t index) const;
  uint64_t line(int64_t index) const;  // of the row's first character, from 1
  const std::string& name() const { return name_; }
  bool is_array() const;  // an array of rows, perhaps with an object around it; else JSON Lines

 private:
  struct Span {
    uint64_t begin, line_begin;
    uint32_t size, line;  // size: UINT32_MAX for a larger row
    size_t column() const { return static_cast<size_t>(begin - line_begin) + 1; }
  };
  friend class RowScanner;
  static nlohmann::json parse(std::string_view text, const Span& row, const std::string& name);
  nlohmann::json as_row(nlohmann::json row, int64_t index) const;

  std::string name_;
  std::shared_ptr<const Mapping> file_;
  std::vector<Span> rows_;
};

// Of all bytes, to tell whether a file changes while its rows are read. Its pages leave memory as the pass goes on.
// `stop` ends it by an exception.
uint64_t checksum_of(const Mapping& file, const Stop& stop);

}  // namespace rankfold
