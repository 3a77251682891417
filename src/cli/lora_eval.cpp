// lora-eval: loss and perplexity on a data set; with --terms also how many of each row's terms a generated answer holds;
// with --compare several models side by side.
#include "cli/console.h"
#include "cli/eval_options.h"
#include "cli/inference.h"
#include "cli/signals.h"
#include "core/check.h"
#include "core/write.h"
#include "eval/questions.h"
#include "eval/terms.h"
#include "rankfold/evaluate.h"

#include <nlohmann/json.hpp>

#include <iostream>

namespace rankfold {
namespace {

// Answers every question that has terms; the score of a row is the share of its terms in the answer, the accuracy their
// mean.
void score_terms(const CausalLM& model, const EvalOptions& options, const std::vector<Question>& questions,
                 nlohmann::ordered_json& result) {
  const Answers answers = answer(model, questions, options.generate, stop_requested);
  double score = 0;
  std::string lines;
  for (size_t i = 0; i < questions.size(); ++i) {
    const auto found = terms_found(answers.texts[i], questions[i].terms);
    score += static_cast<double>(found.size()) / static_cast<double>(questions[i].terms.size());
    const nlohmann::ordered_json line = {
        {"question", questions[i].text}, {"answer", answers.texts[i]}, {"terms", questions[i].terms}, {"found", found}};
    lines += line.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
  }
  result["term_accuracy"] = score / static_cast<double>(questions.size());
  result["generate_tokens_per_second"] = answers.tokens_per_second();
  if (!options.predictions.empty()) write_text(options.predictions, lines);
}

// Those with terms, of a data set whose rows all ask something.
std::vector<Question> questions_with_terms(const EvalOptions& options, const TermSource& terms, const AskedOf& of) {
  Questions questions = read_questions(options.dataset, options.data, terms, of, stop_requested);
  if (questions.without > 0 && !options.data.skip_bad_rows)
    fail(questions.first_without, ": --terms needs rows with a question");
  std::erase_if(questions.list, [](const Question& question) { return question.terms.empty(); });
  if (questions.list.empty()) fail(options.dataset.text(), ": --terms: no row is left");
  return std::move(questions.list);
}

void check_options(const EvalOptions& options) {
  if (options.compare.empty()) {
    if (!options.predictions.empty() && options.terms.empty())
      fail("--predictions: expected --terms with it, got none");
    if (!options.report.empty()) fail("--report: expected --compare with it, got none");
    if (!options.train_dataset.paths.empty()) fail("--train_dataset: expected --compare with it, got none");
  }
  check_writable("--output", options.output);
  check_writable("--predictions", options.predictions);
}

void run(EvalOptions& options, const Given& given) {
  check_options(options);
  check_quantization(options.model.load, given);
  check_folders(options.model);
  if (!options.compare.empty()) return run_comparison(options, given);
  choose_templates(options.model, given, options.data);
  choose_date(options.model.model_name_or_path, options.data);
  check_data(options.dataset, options.data, given);
  const TermSource terms =
      term_source(options.terms, options.dataset, {}, options.base_text, options.data, stop_requested);
  print_terms(terms);
  const LoadedModel loaded = load_model(options.model);
  leave_if(stop_requested);
  const CausalLM& model = loaded.model;
  const int64_t vocab_size = model.config().vocab_size;
  const Tokenizer* tokenizer = model.has_tokenizer() ? &model.tokenizer() : nullptr;
  const Dataset dataset = Dataset::open(options.dataset, tokenizer, options.data, vocab_size, stop_requested);
  print_report(std::cerr, options.dataset, dataset, options.data, tokenizer, terms.field);
  std::vector<Question> questions;
  if (!terms.is_none()) {
    const ChatTemplate* chat = dataset.chat_template();
    questions = questions_with_terms(options, terms, {model.tokenizer(), chat, vocab_size});
    if (chat) stop_at(chat->stop_token_ids(), options.generate);
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
                            .description = "Measures one model on a data set, or compares several models side by side.",
                            .required = {"model_name_or_path", "dataset"},
                            .needs_less_memory = "a smaller per_device_eval_batch_size",
                            .stops_in_order = true},
                           argc, argv, rankfold::run);
}
