// The settings of lora-eval, and its comparison of several models.
#pragma once

#include "cli/inference.h"
#include "eval/questions.h"
#include "rankfold/config.h"
#include "rankfold/generate.h"

#include <algorithm>
#include <string>

namespace rankfold {

struct EvalOptions {
  ModelOptions model;
  DataFiles dataset, train_dataset, base_text;
  StringList compare;
  std::string output, terms, predictions, report;
  int64_t per_device_eval_batch_size = 16;
  DataConfig data;
  GenerateConfig generate;

  template <class V>
  void fields(V&& v) {
    const auto files_or_none = [](const DataFiles& x) { return x.paths.empty() || allow::files(x); };
    model.fields(v);
    section(v, "data");
    v("dataset", dataset, "rows to measure on: JSON array or JSON Lines; several files with commas between",
      allow::files, "a path or a list of paths", {"data_path", "eval_dataset", "data"});
    section(v, "evaluation");
    v("output", output, "also write the result to this file", allow::any, "a path", {});
    v("terms", terms,
      "terms that answers should contain: a field of the rows, or mined (found in the rows' answers), or a file with "
      "one term per line",
      allow::any, "a name or a path", {});
    v("base_text", base_text,
      "general text, rows or plain, in which mined terms are rare; without it the rows' questions", files_or_none,
      "a path or a list of paths", {});
    v("predictions", predictions, "write the generated answers to this JSON Lines file (with --terms or --compare)",
      allow::any, "a path", {});
    v("per_device_eval_batch_size", per_device_eval_batch_size, "rows measured at the same time", allow::count,
      "an integer in [1, 1048576]", {"batch_size"});
    section(v, "comparison");
    v("compare", compare,
      "models to compare: base (the model itself), folders of adapters and of models; a folder called base is ./base",
      [](const StringList& names) {
        return std::none_of(names.begin(), names.end(), [](const std::string& name) { return name.empty(); });
      },
      "base or folders: base out/lora", {});
    v("train_dataset", train_dataset, "rows that the models were trained on, to measure overfitting", files_or_none,
      "a path or a list of paths", {});
    v("report", report, "write the comparison to two files: this name with .json, and with .html", allow::any, "a path",
      {});
    data.fields(v);
    generate.fields(v);
  }
};

// Measures the models of options.compare on the same rows. Writes a table to standard output, and the report's two
// files.
void run_comparison(EvalOptions& options, const Given& given);

// Prints the number of terms and the first ten to standard error, if they are a list.
void print_terms(const TermSource& terms);

}  // namespace rankfold
