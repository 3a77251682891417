#include "clean/row_set.h"

#include "core/check.h"

#include <algorithm>
#include <utility>

namespace rankfold {

RowSet::RowSet(const DataFiles& files) { add(files); }

void RowSet::add(const DataFiles& files) {
  for (const std::string& path : files.paths) add(RowFile::open(path));
}

void RowSet::add(RowFile file) {
  if (file.size() >= int64_t{UINT32_MAX} - size()) fail(file.name(), ": more than ", UINT32_MAX, " rows together");
  begins_.push_back(size() + static_cast<uint32_t>(file.size()));
  files_.push_back(std::move(file));
}

RowSet::Place RowSet::at(uint32_t row) const {
  const auto after = std::upper_bound(begins_.begin(), begins_.end(), row);
  const auto file = static_cast<size_t>(after - begins_.begin()) - 1;
  RANKFOLD_ASSERT(file < files_.size());
  return {&files_[file], row - begins_[file]};
}

}  // namespace rankfold
