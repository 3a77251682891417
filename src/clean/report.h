// What a check has found, for a person and for a program. No text in it holds personal data of the kinds that are
// known.
#pragma once

#include "clean/check.h"

#include <nlohmann/json_fwd.hpp>

#include <filesystem>
#include <string>
#include <vector>

namespace rankfold {

struct ReportOf {
  const Checker& checker;
  const CheckResult& result;
  uint32_t training_rows = 0;
  // Of a file that was cleaned:
  std::string output = {};
  std::vector<PersonalHit> masked_around = {};
};

// Counts, each with its meaning, and of each kind the first `examples` rows.
std::string report_text(const ReportOf& of, int64_t examples);

// Counts under the names of docs/data-cleaning.md.
nlohmann::ordered_json summary_json(const ReportOf& of);

// The same and, under "findings", a line for each row in which something was found, and for each place that was masked
// or holds personal data. Whole or not at all. `may_replace`: as of Cleaner::write.
void write_report(const ReportOf& of, const std::filesystem::path& path, const Stop& stop = {},
                  bool may_replace = true);

// Whether the file is one that write_report has made, which a later one may replace.
bool is_report(const std::filesystem::path& path);

// A line for each kind that was found, with the first row; one that says so where nothing was.
std::vector<std::string> finding_lines(const ReportOf& of);

}  // namespace rankfold
