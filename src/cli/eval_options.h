// What lora-eval is told, and its work on several models.
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
    v("dataset", dataset, "JSON array or JSON Lines; several with commas between", allow::files,
      "a path or a list of paths", {"data_path", "eval_dataset", "data"});
    section(v, "evaluation");
    v("output", output, "file for the result, besides standard output", allow::any, "a path", {});
    v("terms", terms,
      "terms that a generated answer should hold: the rows' field of this name, else mined (from the answers), else "
      "a file with a term a line",
      allow::any, "a name or a path", {});
    v("base_text", base_text, "general text that terms are mined against: rows, or plain text; else the questions",
      files_or_none, "a path or a list of paths", {});
    v("predictions", predictions, "JSON Lines file for the generated answers (with --terms or --compare)", allow::any,
      "a path", {});
    v("per_device_eval_batch_size", per_device_eval_batch_size, "rows in a batch", allow::count,
      "an integer in [1, 1048576]", {"batch_size"});
    section(v, "comparison");
    v("compare", compare,
      "models to compare: base (the model itself; a folder of that name is ./base), adapter folders, model folders",
      [](const StringList& names) {
        return std::none_of(names.begin(), names.end(), [](const std::string& name) { return name.empty(); });
      },
      "base or folders: base out/lora", {});
    v("train_dataset", train_dataset, "rows that were trained on, for perplexity_train and overfitting", files_or_none,
      "a path or a list of paths", {});
    v("report", report, "writes the comparison to this name with .json and .html", allow::any, "a path", {});
    data.fields(v);
    generate.fields(v);
  }
};

// Measures the models of options.compare on the same rows: a table on standard output, the report's two files.
void run_comparison(EvalOptions& options, const Given& given);

// Says on standard error what the terms are, where they are a list.
void print_terms(const TermSource& terms);

}  // namespace rankfold
