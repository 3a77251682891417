// Rows of several files under one numbering.
#pragma once

#include "data/rows.h"
#include "rankfold/config.h"

#include <cstdint>
#include <string>
#include <vector>

namespace rankfold {

class RowSet {
 public:
  RowSet() = default;
  // UserError where a file holds no list of rows; broken rows are no error.
  explicit RowSet(const DataFiles& files);
  void add(const DataFiles& files);
  void add(RowFile file);

  struct Place {
    const RowFile* file;
    int64_t index;
    std::string text() const { return file->place(index); }  // "file:line"
  };
  uint32_t size() const { return begins_.back(); }
  Place at(uint32_t row) const;
  const std::vector<RowFile>& files() const { return files_; }
  uint32_t begin(size_t file) const { return begins_[file]; }  // number of its first row

 private:
  std::vector<RowFile> files_;
  std::vector<uint32_t> begins_ = {0};  // and the number of all rows
};

}  // namespace rankfold
