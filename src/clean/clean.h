// A new file with the rows of another that stay: those that are left out and what is masked are all that differs. What
// stands between the rows and around them, the order of keys, numbers and spaces stay as they are.
#pragma once

#include "clean/check.h"

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

namespace rankfold {

// To be called by whoever has an AtomicFile of this target: another program's may have been committed just before.
void refuse_another(const std::filesystem::path& target);

class Cleaner {
 public:
  // Finds the rows of `file`. `heldout` may be empty. UserError where a file holds no list of rows.
  Cleaner(const std::filesystem::path& file, const DataFiles& heldout, const CheckConfig& config,
          const Stop& stop = {});

  // Writes `output`, whole or not at all. UserError where no row is left, and where the file has changed meanwhile.
  // Byte order marks are not written. Without `may_replace`, UserError where a file stands there once no other program
  // is writing it.
  CheckResult write(const std::filesystem::path& output, const Stop& stop = {}, bool may_replace = true);

  const Checker& checker() const { return *checker_; }
  // Of what stands around the rows of an array: {"data": [...], "contact": "..."}; masked as rows are.
  const std::vector<PersonalHit>& masked_around() const { return masked_around_; }

 private:
  std::shared_ptr<const Mapping> file_;
  uint64_t checksum_ = 0;
  RowSet rows_;
  std::unique_ptr<Checker> checker_;
  std::vector<PersonalHit> masked_around_;
};

}  // namespace rankfold
