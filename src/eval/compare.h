// Compares several models on the same rows: a base, adapters on it, whole models. This is the table of
// lora-eval --compare; docs/evaluation.md defines each column.
#pragma once

#include "eval/questions.h"
#include "rankfold/causal_lm.h"
#include "rankfold/config.h"
#include "rankfold/dataset.h"
#include "rankfold/error.h"
#include "rankfold/generate.h"

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace rankfold {

enum class ModelKind { kBase, kAdapter, kWhole };

// The kind of a folder, by its files: adapter_config.json means an adapter, config.json with weights a whole model.
// Throws UserError that begins with the folder's name for neither and for both.
ModelKind kind_of_folder(const std::filesystem::path& folder);

struct Contender {
  std::string name = {};  // in the result
  ModelKind kind = ModelKind::kBase;
  std::filesystem::path folder = {};  // for kBase: the base's folder
  DataConfig data = {};               // how rows are written for it
};

struct CompareConfig {
  std::vector<Contender> contenders = {};
  std::filesystem::path base = {};
  DataConfig base_data = {};  // how rows are written for the base
  LoadConfig load = {};
  DataFiles held_out = {};
  std::optional<DataFiles> train = {};
  TermSource terms = {};
  GenerateConfig generate = {};
  int64_t rows_per_batch = 16;
};

// Degree of overfitting, by the gap as a share of the base's held-out loss. Gap: a model's held-out loss minus its
// training loss.
enum class Overfitting { kLow, kMedium, kHigh };
// Low below 10 %, medium below 30 %, else high. Both are mean losses of a token.
Overfitting overfitting_of(double gap, double base_loss);
const char* text_of(Overfitting overfitting);  // low, medium, high

struct ScoredAnswer {
  std::string text = {};
  std::optional<double> terms = {};  // share of the row's terms in it; none where the row has no term
  bool is_exact = false;
  double char_f1 = 0, rouge_l = 0;

  double score() const { return terms.value_or(char_f1); }  // compares two models on a row
};
ScoredAnswer scored(std::string answer, const Question& question);

struct TrainFit {  // on training rows
  double loss = 0, perplexity = 0;
  double gap = 0;        // held-out loss minus this loss
  double gap_share = 0;  // of the base's held-out loss
  Overfitting overfitting = Overfitting::kLow;
};

struct AnswerMeans {                         // over the questions
  std::optional<double> term_accuracy = {};  // over those with terms; none: there are none
  double exact_match = 0, char_f1 = 0, rouge_l = 0;
  double tokens_per_second = 0;
};

struct ComparedModel {
  std::string name = {};
  ModelKind kind = ModelKind::kBase;
  double loss = 0, perplexity = 0;
  std::optional<TrainFit> train = {};       // none without training rows
  std::optional<AnswerMeans> answers = {};  // none where no row asks anything
  int64_t peak_memory_bytes = 0;
  int64_t trainable_parameters = 0;
  int64_t bytes_on_disk = 0;            // of weights
  std::vector<ScoredAnswer> each = {};  // answer to each question
};

struct ComparedPair {
  size_t a = 0, b = 0;                     // of Comparison::models
  int64_t wins = 0, losses = 0, ties = 0;  // rows on which a is better, worse, as good
  double p = 1;                            // sign_test(wins, losses)
};

struct Comparison {
  std::vector<ComparedModel> models = {};  // in the order of the contenders
  std::vector<ComparedPair> pairs = {};    // each two, in that order
  std::vector<Question> questions = {};    // without prompts
  int64_t rows_without_question = 0, rows_without_answer = 0;
  int64_t rows_with_terms = 0;
  std::optional<double> base_loss = {};  // on held-out rows; gap_share is a share of it
  std::vector<std::string> notes = {};   // what a reader of the table must know, a line each
};

ComparedPair compare_answers(const std::vector<ComparedModel>& models, size_t a, size_t b);

// Callbacks of compare(): for each model and adapter when it is opened, for each data set when it is encoded for a
// model, for each finished row of the table. The tokenizer is null for a model without one.
struct CompareEvents {
  std::function<void(const CausalLM&, const Contender&)> on_open = {};
  std::function<void(const Dataset&, const DataFiles&, const DataConfig&, const Tokenizer*)> on_data = {};
  std::function<void(const ComparedModel&)> on_measured = {};
};

// Opens every contender before it measures any, so that a wrong one fails early. The base is loaded once: it and the
// adapters are measured first, then each whole model, with nothing else loaded. Throws UserError that names a contender
// which cannot be opened, Stopped if `stop` says so, and otherwise as evaluate() and generate().
Comparison compare(const CompareConfig& config, const CompareEvents& events = {}, const Stop& stop = {});

}  // namespace rankfold
