// lora-data: looks through a data set before it trains (check), and writes a better one (clean).
#include "clean/clean.h"
#include "clean/report.h"
#include "cli/app.h"
#include "cli/inference.h"
#include "cli/signals.h"
#include "core/check.h"
#include "core/file.h"
#include "core/json.h"
#include "core/same_path.h"

#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <iostream>
#include <system_error>

namespace rankfold {
namespace {

namespace fs = std::filesystem;

// What both commands are told.
struct DataOptions {
  DataFiles dataset, heldout;
  std::map<std::string, std::string> columns;
  bool near_duplicates = true;
  double near_threshold = 0.8;
  int64_t min_answer_length = 2;
  int64_t examples = 5;
  std::string report;
  bool overwrite = false;

  template <class V>
  void fields(V&& v, const char* rows) {
    const auto files_or_none = [](const DataFiles& x) { return x.paths.empty() || allow::files(x); };
    section(v, "data");
    v("dataset", dataset, rows, allow::files, "a path or a list of paths", {"data_path", "data"});
    v("heldout", heldout, "held-out rows, which should not stand among the others; FILE...", files_or_none,
      "a path or a list of paths", {"eval_dataset"});
    v("columns", columns, "columns with other names in the file: question=query,answer=reply", allow::any,
      "an object of texts", {});
    section(v, "checks");
    v("near_duplicates", near_duplicates, "look for rows that have most of their text in common", allow::any,
      "true or false", {});
    v("near_threshold", near_threshold,
      "share of two texts' pieces that both have, from which they are near duplicates",
      [](double x) { return x >= 0.3 && x <= 1; }, "a number in [0.3, 1]", {});
    v("min_answer_length", min_answer_length, "answers with fewer characters are short", allow::not_negative,
      "an integer of 0 or more", {});
    section(v, "report");
    v("examples", examples, "most rows that are printed of each kind", allow::not_negative, "an integer of 0 or more",
      {});
    v("report", report, "JSON file for the counts and for all that was found", allow::any, "a path", {});
    v("overwrite", overwrite, "replace files that are there; not those that are read; an earlier report always is",
      allow::any, "true or false", {});
  }

  CheckConfig config() const {
    return {.columns = columns,
            .near_threshold = near_threshold,
            .near_duplicates = near_duplicates,
            .min_answer_length = min_answer_length};
  }
};

struct CheckOptions {
  DataOptions data;

  template <class V>
  void fields(V&& v) {
    data.fields(v, "rows to check: JSON array or JSON Lines; several files are one data set");
  }
};

std::string removable_words() {
  std::string list;
  for (const FindingWord& word : kFindingWords)
    if (word.may_be_removed) list += join(list.empty() ? "" : ", ", word.word);
  return list;
}

RowFindings removable(const StringList& words) {
  RowFindings findings;
  std::vector<std::string> names;
  for (const FindingWord& word : kFindingWords)
    if (word.may_be_removed) names.emplace_back(word.word);
  for (const std::string& wanted : words) {
    const auto word = std::find_if(kFindingWords.begin(), kFindingWords.end(),
                                   [&wanted](const FindingWord& known) { return wanted == known.word; });
    if (word == kFindingWords.end()) {
      const std::string near = nearest(wanted, names);
      fail("--remove: no kind of rows is called '", wanted, "'",
           near.empty() ? ": expected " + removable_words() : did_you_mean(near));
    }
    if (!word->may_be_removed) fail("--remove: ", wanted, " cannot be a reason: expected ", removable_words());
    findings.add(word->finding);
  }
  return findings;
}

struct CleanOptions {
  DataOptions data;
  std::string output;
  StringList mask;
  StringList remove = {"exact_duplicates", "empty_answers"};
  bool decode_gbk = false;

  template <class V>
  void fields(V&& v) {
    data.fields(v, "rows to clean: JSON array or JSON Lines, one file");
    section(v, "result");
    v("output", output, "the new file, in the form of the old one", allow::text, "a path", {});
    static const std::string about_remove =
        "rows to leave out; rows that cannot be read are always left out (" + removable_words() + ")";
    v("remove", remove, about_remove.c_str(), allow::any,
      "a list of kinds of findings, such as exact_duplicates,empty_answers,near_duplicates", {});
    v("mask", mask,
      "personal data to replace by [ID], [MOBILE], [EMAIL] and [BANKCARD]; without it nothing is replaced",
      [](const StringList& words) {
        return std::all_of(words.begin(), words.end(), [](const std::string& word) {
          return std::any_of(kPersonalWords.begin(), kPersonalWords.end(),
                             [&word](const PersonalWord& known) { return word == known.word; });
        });
      },
      "a list of id, mobile, email and bankcard", {});
    v("decode_gbk", decode_gbk, "read rows in GBK, and write them in UTF-8", allow::any, "true or false", {});
  }

  CheckConfig config() const {
    CheckConfig config = data.config();
    for (const PersonalWord& word : kPersonalWords)
      if (std::find(mask.begin(), mask.end(), word.word) != mask.end()) config.mask.add(word.kind);
    config.remove = removable(remove);
    config.decode_gbk = decode_gbk;
    return config;
  }
};

// Nothing that is read may be written to, and what stands there only where that is asked for.
void check_target(const char* flag, const std::string& path, const DataOptions& data, bool may_replace) {
  if (path.empty()) return;
  for (const DataFiles* files : {&data.dataset, &data.heldout})
    for (const std::string& file : files->paths)
      if (is_same_path(path, file)) fail(flag, ": expected another file than ", file, ", which is read");
  check_writable(flag, path);
  if (!may_replace && what_stands_at(path) != "nothing")
    fail(flag, ": ", path, " is there: expected the name of a new file, or --overwrite");
}

// An earlier report gives way to a new one. Whether a file may be replaced.
bool check_report(const DataOptions& data) {
  const bool may_replace = data.overwrite || is_report(data.report);
  check_target("--report", data.report, data, may_replace);
  return may_replace;
}

// What is made of files is read by nobody who may not read all of them. Its owner may write to it.
void keep_to_readers(const DataOptions& data) {
  constexpr auto kOthers = static_cast<mode_t>(S_IRWXG | S_IRWXO);
  mode_t kept_out = 0;
  for (const DataFiles* files : {&data.dataset, &data.heldout})
    for (const std::string& file : files->paths) {
      std::error_code ignored;  // what is not there is refused when it is opened
      kept_out |= ~static_cast<mode_t>(fs::status(file, ignored).permissions()) & kOthers;
    }
  ::umask(::umask(kOthers) | kept_out);
}

void check(CheckOptions& options, const Given&) {
  const DataOptions& data = options.data;
  const bool may_replace = check_report(data);
  keep_to_readers(data);
  RowSet rows(data.dataset);
  const uint32_t training = rows.size();
  rows.add(data.heldout);
  Checker checker(data.config(), rows, training);
  const CheckResult result = checker.run(stop_requested);
  const ReportOf report{checker, result, training};
  if (!data.report.empty()) write_report(report, data.report, stop_requested, may_replace);
  std::cout << report_text(report, data.examples);
}

void clean(CleanOptions& options, const Given&) {
  const DataOptions& data = options.data;
  if (data.dataset.paths.size() != 1)
    fail("FILE: expected one file, got ", data.dataset.paths.size(), ": ", data.dataset.text());
  check_target("--output", options.output, data, data.overwrite);
  const bool may_replace = check_report(data);
  if (!data.report.empty() && is_same_path(data.report, options.output))
    fail("--report: expected another file than --output, got ", data.report, " for both");
  keep_to_readers(data);
  Cleaner cleaner(data.dataset.paths.front(), data.heldout, options.config(), stop_requested);
  const CheckResult result = cleaner.write(options.output, stop_requested, data.overwrite);
  const ReportOf report{cleaner.checker(), result, static_cast<uint32_t>(result.rows), options.output,
                        cleaner.masked_around()};
  if (!data.report.empty()) write_report(report, data.report, stop_requested, may_replace);
  std::cout << report_text(report, data.examples);
}

constexpr const char* kAboutCheck =
    "Looks through rows for duplicates, contradictions, empty answers, broken characters, wrong encodings, held-out "
    "rows "
    "and personal data, and changes nothing.";
constexpr const char* kAboutClean =
    "Writes a new file without the rows that are not wanted and, with --mask, without personal data, and says what it "
    "left out and masked.";

}  // namespace
}  // namespace rankfold

int main(int argc, char** argv) {
  using namespace rankfold;
  const std::string command = argc > 1 ? argv[1] : "";
  AppSpec spec{.name = "lora-data", .needs_less_memory = "near_duplicates false", .stops_in_order = true};
  if (command == "check" || command == "clean") {
    spec.command = command;
    spec.files = "dataset";
    spec.required = {"dataset"};
    spec.usage = "FILE...";
    spec.description = kAboutCheck;
    if (command == "check") return run_app(spec, argc, argv, check);
    spec.required.push_back("output");
    spec.usage = "FILE";
    spec.description = kAboutClean;
    return run_app(spec, argc, argv, clean);
  }
  spec.description = "Checks and cleans a data set before it trains.";
  spec.commands = {{"check", kAboutCheck}, {"clean", kAboutClean}};
  return run_app(spec, argc, argv, Fields(), [](const Given&) {});
}
