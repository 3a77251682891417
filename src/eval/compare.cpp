#include "eval/compare.h"

#include "adapter/peft_format.h"
#include "core/check.h"
#include "core/config.h"
#include "core/file.h"
#include "core/guard.h"
#include "eval/answer_metrics.h"
#include "eval/sign_test.h"
#include "eval/terms.h"
#include "io/model_folder.h"
#include "model/model.h"
#include "quant/base_storage.h"
#include "rankfold/adapter.h"
#include "rankfold/evaluate.h"
#include "rankfold/memory.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <map>
#include <utility>

namespace rankfold {
namespace fs = std::filesystem;

ModelKind kind_of_folder(const fs::path& folder) {
  const std::string there = what_stands_at(folder);
  const auto has = [&folder](const char* name) { return what_stands_at(folder / name) == "a file"; };
  const bool is_adapter = there == "a folder" && has("adapter_config.json");
  const bool is_model =
      there == "a folder" && has("config.json") && (!is_adapter || has(kWeightsName) || has(kIndexName));
  if (is_adapter && is_model && has(kAdapterName))
    fail(folder.string(), ": expected an adapter or a model, got both: move one of them into a folder of its own");
  if (!is_adapter && !is_model)
    fail(folder.string(), ": expected base, or a folder with adapter_config.json or config.json, got ",
         there == "a folder" ? "a folder with neither" : there);
  return is_adapter ? ModelKind::kAdapter : ModelKind::kWhole;
}

Overfitting overfitting_of(double gap, double base_loss) {
  if (gap <= 0 || gap < 0.1 * base_loss) return Overfitting::kLow;  // also where both are 0
  return gap < 0.3 * base_loss ? Overfitting::kMedium : Overfitting::kHigh;
}

const char* text_of(Overfitting overfitting) {
  return overfitting == Overfitting::kLow ? "low" : overfitting == Overfitting::kMedium ? "medium" : "high";
}

ScoredAnswer scored(std::string answer, const Question& question) {
  ScoredAnswer result{.is_exact = exact_match(answer, question.reference),
                      .char_f1 = char_f1(answer, question.reference),
                      .rouge_l = rouge_l(answer, question.reference)};
  if (!question.terms.empty())
    result.terms =
        static_cast<double>(terms_found(answer, question.terms).size()) / static_cast<double>(question.terms.size());
  result.text = std::move(answer);
  return result;
}

ComparedPair compare_answers(const std::vector<ComparedModel>& models, size_t a, size_t b) {
  ComparedPair pair{.a = a, .b = b};
  for (size_t i = 0; i < models[a].each.size(); ++i) {
    const double of_a = models[a].each[i].score(), of_b = models[b].each[i].score();
    ++(of_a > of_b ? pair.wins : of_a < of_b ? pair.losses : pair.ties);
  }
  pair.p = sign_test(pair.wins, pair.losses);
  return pair;
}

namespace {

AnswerMeans means_of(const std::vector<ScoredAnswer>& answers, double tokens_per_second) {
  AnswerMeans means{.tokens_per_second = tokens_per_second};
  double terms = 0;
  int64_t with_terms = 0;
  for (const ScoredAnswer& answer : answers) {
    means.exact_match += answer.is_exact;
    means.char_f1 += answer.char_f1;
    means.rouge_l += answer.rouge_l;
    terms += answer.terms.value_or(0);
    with_terms += answer.terms.has_value();
  }
  const auto count = static_cast<double>(answers.size());
  means.exact_match /= count;
  means.char_f1 /= count;
  means.rouge_l /= count;
  if (with_terms > 0) means.term_accuracy = terms / static_cast<double>(with_terms);
  return means;
}

// The files as a model reads them.
struct Rows {
  Dataset held_out = {};
  std::optional<Dataset> train = {};
  std::vector<Question> questions = {};
  GenerateConfig generate = {};  // ends where the chat template ends an answer
};

// All that decides on the text of a row, but for the tokenizer.
std::string key_of(DataConfig config) {
  return join(to_json(config).dump(), config.chat_record, config.questions_are_turns);
}

class Comparer {
 public:
  Comparer(const CompareConfig& config, const CompareEvents& events, const Stop& stop)
      : config_(config), events_(events), stop_(stop) {
    for (const Contender& contender : config.contenders)
      result_.models.push_back({.name = contender.name, .kind = contender.kind});
  }

  Comparison run() {
    for (const Contender& contender : config_.contenders)
      if (contender.kind == ModelKind::kWhole) open(contender);
    if (needs_base()) measure_base_and_adapters();
    for (size_t i = 0; i < config_.contenders.size(); ++i)
      if (config_.contenders[i].kind == ModelKind::kWhole) measure_whole(i);
    finish();
    return std::move(result_);
  }

 private:
  // Also where it is not compared: gaps are measured by its loss.
  bool needs_base() const {
    return config_.train || std::any_of(config_.contenders.begin(), config_.contenders.end(),
                                        [](const Contender& c) { return c.kind != ModelKind::kWhole; });
  }
  bool has_whole_model() const {
    return std::any_of(config_.contenders.begin(), config_.contenders.end(),
                       [](const Contender& c) { return c.kind == ModelKind::kWhole; });
  }

  // The settings of quantisation are for the base: a whole model is measured as its folder stores it.
  CausalLM open(const Contender& contender) {
    leave_if(stop_);
    const bool is_whole = contender.kind == ModelKind::kWhole;
    const LoadConfig as_stored{.device = config_.load.device, .dtype = config_.load.dtype};
    CausalLM model = CausalLM::load(is_whole ? contender.folder : config_.base, is_whole ? as_stored : config_.load);
    if (model.has_tokenizer()) model.tokenizer();
    return model;
  }

  void measure_base_and_adapters() {
    const Contender base{.name = "base", .kind = ModelKind::kBase, .folder = config_.base, .data = config_.base_data};
    const CausalLM model = open(base);
    if (events_.on_open) events_.on_open(model, base);
    if (model.has_tokenizer()) base_tokenizer_ = model.tokenizer().fingerprint();
    for (const Contender& contender : config_.contenders)
      if (contender.kind == ModelKind::kAdapter) {
        Adapter::load(model, contender.folder, /*seed=*/42, contender.name).detach();
        if (events_.on_open) events_.on_open(model, contender);
      }
    std::map<std::string, Rows> rows;
    const auto rows_of = [&](const DataConfig& data) -> const Rows& {
      const auto [entry, is_new] = rows.try_emplace(key_of(data));
      if (is_new) entry->second = read(model, data);
      return entry->second;
    };
    bool is_compared = false;
    for (size_t i = 0; i < config_.contenders.size(); ++i)
      if (config_.contenders[i].kind == ModelKind::kBase) {
        measure(model, rows_of(config_.contenders[i].data), i);
        is_compared = true;
      }
    if (!is_compared && config_.train) {
      result_.base_loss = evaluate(model, rows_of(base.data).held_out, config_.rows_per_batch, stop_).loss;
      result_.notes.push_back("gaps are measured by the loss of the base, which is not compared");
    }
    for (size_t i = 0; i < config_.contenders.size(); ++i) {
      const Contender& contender = config_.contenders[i];
      if (contender.kind != ModelKind::kAdapter) continue;
      const Rows& here = rows_of(contender.data);
      const Adapter adapter = Adapter::load(model, contender.folder, /*seed=*/42, contender.name);
      result_.models[i].trainable_parameters = adapter.parameter_count();
      measure(model, here, i);
      adapter.detach();
    }
  }

  void measure_whole(size_t i) {
    const Contender& contender = config_.contenders[i];
    const CausalLM model = open(contender);
    if (events_.on_open) events_.on_open(model, contender);
    if (base_tokenizer_ && model.has_tokenizer() && model.tokenizer().fingerprint() != *base_tokenizer_)
      result_.notes.push_back(
          contender.name + " has another tokenizer than the base: their losses and perplexities are of other tokens");
    result_.models[i].trainable_parameters = model.parameter_count();
    measure(model, read(model, contender.data), i);
  }

  Rows read(const CausalLM& model, const DataConfig& data) {
    const Tokenizer* tokenizer = model.has_tokenizer() ? &model.tokenizer() : nullptr;
    const auto open_rows = [&](const DataFiles& files) {
      Dataset rows = Dataset::open(files, tokenizer, data, model.config().vocab_size, stop_);
      if (events_.on_data) events_.on_data(rows, files, data, tokenizer);
      return rows;
    };
    Rows rows{.held_out = open_rows(config_.held_out), .generate = config_.generate};
    if (config_.train) rows.train = open_rows(*config_.train);
    if (!tokenizer && config_.terms.is_none()) return rows;  // of ready ids
    const ChatTemplate* chat = rows.held_out.chat_template();
    if (chat) {
      const std::vector<int64_t> ids = chat->stop_token_ids();
      rows.generate.stop_token_ids.insert(rows.generate.stop_token_ids.end(), ids.begin(), ids.end());
    }
    Questions questions = read_questions(config_.held_out, data, config_.terms,
                                         {model.tokenizer(), chat, model.config().vocab_size}, stop_);
    const size_t all = questions.list.size();
    std::erase_if(questions.list, [](const Question& question) { return question.reference.empty(); });
    result_.rows_without_question = questions.without;
    result_.rows_without_answer = static_cast<int64_t>(all - questions.list.size());
    rows.questions = std::move(questions.list);
    return rows;
  }

  // All models must have answered the same rows.
  void take_questions(const std::vector<Question>& questions, const std::string& name) {
    if (!has_questions_) {
      has_questions_ = true;
      result_.questions = questions;
      for (Question& question : result_.questions) question.prompt = {};
    }
    const auto same = [](const Question& a, const Question& b) { return a.place == b.place; };
    if (!std::equal(questions.begin(), questions.end(), result_.questions.begin(), result_.questions.end(), same))
      fail(name, ": expected the ", result_.questions.size(),
           " rows with a question that the models before it read, got ", questions.size(), ": leave the others out of ",
           config_.held_out.text());
  }

  void measure(const CausalLM& model, const Rows& rows, size_t i) try {
    ComparedModel& result = result_.models[i];
    take_questions(rows.questions, result.name);
    can_reset_ &= reset_peak_memory(model.device());
    const EvalResult held_out = evaluate(model, rows.held_out, config_.rows_per_batch, stop_);
    result.loss = held_out.loss;
    result.perplexity = held_out.perplexity;
    if (result.kind == ModelKind::kBase) result_.base_loss = held_out.loss;
    if (rows.train) {
      const EvalResult train = evaluate(model, *rows.train, config_.rows_per_batch, stop_);
      const double gap = held_out.loss - train.loss;
      result.train = {.loss = train.loss,
                      .perplexity = train.perplexity,
                      .gap = gap,
                      .gap_share = gap / *result_.base_loss,
                      .overfitting = overfitting_of(gap, *result_.base_loss)};
    }
    if (!rows.questions.empty()) {
      warm_up(model, rows);
      Answers answers = answer(model, rows.questions, rows.generate, stop_);
      for (size_t k = 0; k < answers.texts.size(); ++k)
        result.each.push_back(scored(std::move(answers.texts[k]), rows.questions[k]));
      result.answers = means_of(result.each, answers.tokens_per_second());
    }
    result.peak_memory_bytes = peak_memory_bytes(model.device());
    result.bytes_on_disk = bytes_of(model, config_.contenders[i]);
    if (events_.on_measured) events_.on_measured(result);
  } catch (const Error& error) {
    if (error.code() != ExitCode::kDiverged) throw;
    throw Error(error.code(), join(result_.models[i].name, ": ", error.what()));
  }

  // Products are compiled, and pages touched, when they are first met: the first model would pay for all.
  void warm_up(const CausalLM& model, const Rows& rows) const {
    const size_t few = std::min(rows.questions.size(), static_cast<size_t>(rows.generate.batch_size));
    GenerateConfig brief = rows.generate;
    brief.max_new_tokens = std::min<int64_t>(4, brief.max_new_tokens);
    answer(model, {rows.questions.begin(), rows.questions.begin() + static_cast<std::ptrdiff_t>(few)}, brief, stop_);
  }

  static int64_t bytes_of(const CausalLM& model, const Contender& contender) {
    if (contender.kind == ModelKind::kAdapter)
      return static_cast<int64_t>(fs::file_size(contender.folder / kAdapterName));
    int64_t bytes = 0;
    for (const TensorFile& file : model.shared_model()->folder.files())
      bytes += static_cast<int64_t>(fs::file_size(file.path()));
    return bytes;
  }

  void finish() {
    for (size_t a = 0; a < result_.models.size(); ++a)
      for (size_t b = a + 1; b < result_.models.size(); ++b)
        result_.pairs.push_back(compare_answers(result_.models, a, b));
    for (const Question& question : result_.questions) result_.rows_with_terms += !question.terms.empty();
    const std::string first = key_of(config_.contenders[0].data);
    for (const Contender& contender : config_.contenders)
      if (key_of(contender.data) != first)
        result_.notes.push_back(contender.name + " is asked with another template than " + config_.contenders[0].name +
                                ", its own: --prompt_template sets one for all");
    if (result_.questions.empty())
      result_.notes.push_back("no row has a question and an answer to it: losses alone are compared");
    if (const auto storage = storage_of(config_.load); storage && has_whole_model())
      result_.notes.push_back("base and adapters: linear layers in " + text_of(*storage) +
                              "; whole models: as their folders store them");
    if (!can_reset_)
      result_.notes.push_back("peak memory is the most so far: this system cannot count anew for each model");
  }

  const CompareConfig& config_;
  const CompareEvents& events_;
  const Stop stop_;
  Comparison result_;
  std::optional<uint64_t> base_tokenizer_;
  bool has_questions_ = false, can_reset_ = true;
};

}  // namespace

Comparison compare(const CompareConfig& config, const CompareEvents& events, const Stop& stop) try {
  RANKFOLD_CHECK(!config.contenders.empty(), "compare: nothing to compare");
  if (config.rows_per_batch < 1) fail("rows_per_batch: expected an integer above 0, got ", config.rows_per_batch);
  return Comparer(config, events, from_caller(stop)).run();
} catch (...) {
  rethrow_as_error();
}

}  // namespace rankfold
