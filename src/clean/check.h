// Looks through rows for what makes a data set worse: rows that come twice, that contradict each other or say nothing,
// broken characters, held-out rows among those that train, and personal data. Nothing is changed.
//
// Memory: about 0.5 kB a row, of which 0.3 kB are for near duplicates, and a few megabytes for each core. Rows are read
// on all cores and judged in their order: the result depends on nothing else.
#pragma once

#include "clean/near_index.h"
#include "clean/row_finding.h"
#include "clean/row_set.h"
#include "clean/row_source.h"
#include "clean/text_map.h"
#include "rankfold/error.h"

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace rankfold {

struct CheckConfig {
  std::map<std::string, std::string> columns = {};  // as of DataConfig
  double near_threshold = 0.8;                      // Jaccard similarity, above 0 and at most 1
  bool near_duplicates = true;                      // false: they are not looked for
  int64_t min_answer_length = 2;                    // characters
  // What clean changes:
  PersonalKinds mask = {};
  bool decode_gbk = false;
  RowFindings remove = {};  // rows in which one of these is found are left out, and no other row is compared with them
};

// A row in which something was found.
struct FoundRow {
  uint32_t row = 0;
  uint32_t other = TextMap::kNone;  // the row that it repeats, contradicts or resembles
  float jaccard = 0;                // of near duplicates
  RowFinding finding = RowFinding::kBadRow;
  bool is_removed = false;  // for this reason
};

struct Lengths {
  std::vector<uint32_t> all;  // characters, in the order of the rows
};

struct CheckResult {
  int64_t rows = 0;                                                // that were judged
  std::array<int64_t, kFindings> found = {};                       // rows
  std::array<int64_t, kFindings> removed = {};                     // rows, each under its first reason
  int64_t gbk_rows = 0;                                            // of wrong_encoding, or decoded
  std::array<int64_t, kPersonalKinds> masked = {}, personal = {};  // places, in rows that stay
  Lengths questions, answers;
  int64_t heldout_rows = 0;
  int64_t heldout_bad_rows = 0, heldout_empty_rows = 0;  // that cannot be read or have no answer: not compared
  uint32_t first_bad_heldout = TextMap::kNone, first_empty_heldout = TextMap::kNone;
  int64_t leaked_rows = 0;     // held-out rows of which a row that trains has text or question, or most of the text
  int64_t cut_searches = 0;    // rows that had more candidates for near duplicates than were compared
  std::vector<FoundRow> list;  // in the order of the rows

  int64_t count(RowFinding finding) const { return found[static_cast<size_t>(finding)]; }
  int64_t removed_rows() const;
};

// What becomes of a row: its text if it stays, as it is to be written.
using KeepRow = std::function<void(const RowFile& file, int64_t index, std::string_view text)>;

class Checker {
 public:
  // Rows from `training_rows` on are held out: they are compared with the others and not judged. So are those of which
  // `is_held_out` says so.
  Checker(const CheckConfig& config, const RowSet& rows, uint32_t training_rows,
          std::function<bool(uint32_t row)> is_held_out = {});

  // `keep` is called for each row that stays, in order. UserError where rows are held out and none can be compared.
  CheckResult run(const Stop& stop = {}, const KeepRow& keep = {});

  const RowSource& source() const { return source_; }
  const RowSet& rows() const { return rows_; }
  const CheckConfig& config() const { return config_; }

 private:
  struct Facts;
  struct Block;
  struct HeldOut {
    uint32_t row, first, first_asked;  // the first held-out rows with the same text, and question
  };

  void pass(bool over_held_out, const Stop& stop, const KeepRow& keep);
  bool is_held_out(uint32_t row) const;
  Facts facts_of(uint32_t row, bool wants_text) const;
  void add_held_out(uint32_t row, Facts& facts);
  void need_held_out() const;
  void judge(uint32_t row, Facts& facts, const KeepRow& keep);
  void compare_with_held_out(uint32_t row, Facts& facts, RowFindings& found);
  void compare_with_earlier(uint32_t row, Facts& facts, RowFindings& found);
  void note(uint32_t row, RowFinding finding, uint32_t other = TextMap::kNone, double jaccard = 0);
  void note_personal(uint32_t row, const Facts& facts);
  void remember(uint32_t row, const Facts& facts, RowFindings found);
  // Of the candidates those that are as similar as the threshold, in their order; one only where that is enough.
  std::vector<std::pair<uint32_t, double>> similar(const NearIndex& index, uint32_t row, Facts& facts,
                                                   bool one_is_enough);
  const std::vector<uint64_t>& shingles_of(uint32_t row);
  void count_leaks();

  const CheckConfig config_;
  const RowSet& rows_;
  const uint32_t training_rows_;
  const std::function<bool(uint32_t)> is_held_out_;
  const RowSource source_;

  TextMap texts_, asked_, heldout_texts_, heldout_asked_;
  NearIndex near_, heldout_near_;
  std::vector<HeldOut> heldout_;
  std::vector<bool> leaks_text_, leaks_asked_;  // by row: the first with a text, a question, that trains too
  struct Cached {
    uint32_t row = TextMap::kNone;
    std::vector<uint64_t> shingles;
  };
  std::vector<Cached> cache_;
  std::vector<uint64_t> large_;
  uint64_t read_again_ = 0;
  CheckResult result_;
};

}  // namespace rankfold
