// One row after the other as a check sees it, from any thread.
#pragma once

#include "clean/mask_json.h"
#include "clean/row_text.h"
#include "data/rows.h"

#include <map>
#include <string>
#include <vector>

namespace rankfold {

enum class Encoding : uint8_t { kUtf8, kGbk, kUnknown };

struct ReadRow {
  Encoding encoding = Encoding::kUtf8;
  std::string complaint = {};  // "file:line: ...": why it is no row that could be trained on; empty
  RowText said = {};           // where there is no complaint, or an empty answer is all that is wrong
  std::string text = {};       // as it is to be written; empty: as it stands
  std::vector<PersonalHit> masked = {}, personal = {};  // what `text` has placeholders for; what it still holds

  bool is_usable() const { return complaint.empty() || said.has_empty_answer; }
};

class RowSource {
 public:
  // `mask`: is masked before anything else is done with a row, so that rows are compared as they will be written.
  // `decode_gbk`: rows in GBK are read, and become UTF-8.
  RowSource(const std::map<std::string, std::string>& columns, PersonalKinds mask, bool decode_gbk);

  ReadRow read(const RowFile& file, int64_t index) const;

  // The beginning of a row for a person to know it by, on one line, without what a terminal would act on and with
  // placeholders for personal data of every kind. Of a row that cannot be read, of its bytes.
  static std::string excerpt(const ReadRow& row, const RowFile& file, int64_t index);

 private:
  RowReader reader_;
  PersonalKinds mask_, others_;
  bool decode_gbk_;
};

}  // namespace rankfold
