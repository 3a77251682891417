// lora-eval: loss and perplexity on a data set; with --terms also how many of each row's terms a generated
// answer holds.
#include "cli/console.h"
#include "cli/inference.h"
#include "cli/signals.h"
#include "core/check.h"
#include "core/file.h"
#include "core/write.h"
#include "data/prompt.h"
#include "data/rows.h"
#include "data/template.h"
#include "eval/terms.h"
#include "rankfold/evaluate.h"
#include "rankfold/generate.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <iostream>

namespace rankfold {
namespace {

struct EvalOptions {
  ModelOptions model;
  DataFiles dataset;
  std::string output, terms, predictions;
  int64_t per_device_eval_batch_size = 16;
  DataConfig data;
  GenerateConfig generate;

  template <class V>
  void fields(V&& v) {
    model.fields(v);
    section(v, "data");
    v("dataset", dataset, "JSON array or JSON Lines; several with commas between", allow::files,
      "a path or a list of paths", {"data_path", "eval_dataset", "data"});
    section(v, "evaluation");
    v("output", output, "file for the result, besides standard output", allow::any, "a path", {});
    v("terms", terms, "the rows' field of terms that a generated answer should hold", allow::any, "a name", {});
    v("predictions", predictions, "JSON Lines file for the generated answers (with --terms)", allow::any, "a path", {});
    v("per_device_eval_batch_size", per_device_eval_batch_size, "rows in a batch", allow::count,
      "an integer in [1, 1048576]", {"batch_size"});
    data.fields(v);
    generate.fields(v);
  }
};

struct Question {
  std::string text;  // of a conversation, its last message
  std::vector<int32_t> prompt;
  std::vector<std::string> terms;
};

// Conversations end before their last answer.
Question question_of(const std::variant<Prompted, Example, Conversation>& row, const Tokenizer& tokenizer,
                     const DataConfig& data, const ChatTemplate* chat_template) {
  if (const Prompted* prompted = std::get_if<Prompted>(&row); prompted && prompted->has_prompt)
    return {prompted->prompt_question, encode_prompt(tokenizer, data.prompt_template, prompted->prompt_question), {}};
  const Conversation* chat = std::get_if<Conversation>(&row);
  if (!chat || !chat_template) fail("--terms needs rows with a question");
  const Conversation before = chat->prompt();
  if (before.messages.empty()) fail("--terms needs a message before the answer");
  const jinja::Value* content = before.messages.back().value.find("content");
  return {content && content->is_text() ? content->text().string() : "", chat_template->encode(before, true), {}};
}

std::vector<Question> read_questions(const EvalOptions& options, const Tokenizer& tokenizer, const Dataset& dataset,
                                     int64_t vocab_size) {
  const RowReader reader(options.data.columns, vocab_size, options.data.questions_are_turns);
  std::vector<Question> questions;
  for (const std::string& file : options.dataset.paths) {
    const RowFile rows = RowFile::open(file);
    for (int64_t i = 0; i < rows.size(); ++i) try {
        leave_if(stop_requested);
        const nlohmann::json row = rows[i];
        const auto read = reader.read(row, rows.text(i), rows.place(i));
        std::vector<std::string> terms = row_terms(row, options.terms, rows.place(i));
        try {
          questions.push_back(question_of(read, tokenizer, options.data, dataset.chat_template()));
        } catch (const UserError& error) {
          fail(rows.place(i), ": ", error.what());
        }
        questions.back().terms = std::move(terms);
      } catch (const UserError&) {
        if (!options.data.skip_bad_rows) throw;
      }
  }
  if (questions.empty()) fail(options.dataset.text(), ": --terms: no row is left");
  return questions;
}

// Answers every question; the score of a row is the share of its terms in the answer, the accuracy their
// mean.
void score_terms(const CausalLM& model, const EvalOptions& options, const std::vector<Question>& questions,
                 nlohmann::ordered_json& result) {
  const size_t step = static_cast<size_t>(options.per_device_eval_batch_size);
  double score = 0, seconds = 0;
  int64_t tokens = 0;
  std::string lines;
  for (size_t begin = 0; begin < questions.size(); begin += step) {
    const size_t end = std::min(begin + step, questions.size());
    std::vector<std::vector<int32_t>> prompts;
    for (size_t i = begin; i < end; ++i) prompts.push_back(questions[i].prompt);
    const auto start = std::chrono::steady_clock::now();
    const std::vector<Completion> completions = complete(model, prompts, options.generate, {}, stop_requested);
    seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    for (size_t i = begin; i < end; ++i) {
      const std::string& answer = completions[i - begin].text;
      tokens += static_cast<int64_t>(completions[i - begin].ids.size());
      const auto found = terms_found(answer, questions[i].terms);
      score += static_cast<double>(found.size()) / static_cast<double>(questions[i].terms.size());
      const nlohmann::ordered_json line = {
          {"question", questions[i].text}, {"answer", answer}, {"terms", questions[i].terms}, {"found", found}};
      lines += line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
    }
  }
  result["term_accuracy"] = score / static_cast<double>(questions.size());
  result["generate_tokens_per_second"] = seconds > 0 ? static_cast<double>(tokens) / seconds : 0;
  if (!options.predictions.empty()) write_text(options.predictions, lines);
}

void run(EvalOptions& options, const Given& given) {
  if (!options.predictions.empty() && options.terms.empty()) fail("--predictions: expected --terms with it, got none");
  check_writable("--output", options.output);
  check_writable("--predictions", options.predictions);
  choose_templates(options.model, given, options.data);
  choose_date(options.model.model_name_or_path, options.data);
  check_data(options.dataset, options.data, given);
  const LoadedModel loaded = load_model(options.model);
  leave_if(stop_requested);
  const CausalLM& model = loaded.model;
  const int64_t vocab_size = model.config().vocab_size;
  const Tokenizer* tokenizer = model.has_tokenizer() ? &model.tokenizer() : nullptr;
  const Dataset dataset = Dataset::open(options.dataset, tokenizer, options.data, vocab_size, stop_requested);
  print_report(std::cerr, options.dataset, dataset, options.data, tokenizer, options.terms);
  std::vector<Question> questions;
  if (!options.terms.empty()) {
    questions = read_questions(options, model.tokenizer(), dataset, vocab_size);
    if (const ChatTemplate* chat = dataset.chat_template()) stop_at(chat->stop_token_ids(), options.generate);
  }

  const EvalResult measured = evaluate(model, dataset, options.per_device_eval_batch_size, stop_requested);
  nlohmann::ordered_json result = {{"loss", measured.loss},
                                   {"perplexity", measured.perplexity},
                                   {"tokens", measured.tokens},
                                   {"tokens_per_second", measured.tokens_per_second}};
  if (!questions.empty()) score_terms(model, options, questions, result);
  result["peak_memory_bytes"] = peak_memory_bytes(model.device());
  const std::string text = result.dump(2) + "\n";
  if (!options.output.empty()) write_text(options.output, text);
  std::cout << text;
}

}  // namespace
}  // namespace rankfold

int main(int argc, char** argv) {
  return rankfold::run_app({.name = "lora-eval",
                            .description = "Measures a model, or a model and an adapter, on a data set.",
                            .required = {"model_name_or_path", "dataset"},
                            .needs_less_memory = "a smaller per_device_eval_batch_size",
                            .stops_in_order = true},
                           argc, argv, rankfold::run);
}
