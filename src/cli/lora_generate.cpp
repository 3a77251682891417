// lora-generate: one prompt in, its completion out.
#include "cli/console.h"
#include "cli/inference.h"
#include "cli/signals.h"
#include "core/check.h"
#include "data/template.h"
#include "rankfold/generate.h"

#include <unistd.h>

#include <iostream>

namespace rankfold {
namespace {

struct GenerateOptions {
  ModelOptions model;
  std::string prompt;
  bool raw = false;
  std::string prompt_template = DataConfig{}.prompt_template;
  GenerateConfig generate;

  template <class V>
  void fields(V&& v) {
    model.fields(v);
    section(v, "prompt");
    v("prompt", prompt, "the question", allow::any, "a text", {});
    v("raw", raw, "no template: the prompt is continued as it stands", allow::any, "true or false", {});
    v("prompt_template", prompt_template, "text around the question; else the one saved beside adapter or model",
      [](const std::string& x) { return x.find("{question}") != std::string::npos; }, "a text that holds {question}",
      {"template"});
    generate.fields(v);
  }
};

void run(GenerateOptions& options, const Given& given) {
  if (options.prompt.empty() && !options.raw) fail("--prompt: expected a text, got \"\"");
  if (options.raw)
    options.prompt_template = "{question}";
  else
    choose_template(options.model, given, options.prompt_template);
  const LoadedModel loaded = load_model(options.model);
  leave_if(stop_requested);
  const Tokenizer& tokenizer = loaded.model.tokenizer();
  if (!tokenizer.note().empty()) std::cerr << "warning: " << tokenizer.note() << "\n";
  print_spelled_tokens(std::cerr, tokenizer, "the prompt template", options.prompt_template);
  print_spelled_tokens(std::cerr, tokenizer, "the prompt", options.prompt);
  const auto ids = encode_prompt(tokenizer, options.prompt_template, options.prompt);
  if (ids.empty()) fail("--prompt: expected a text of at least one token, got \"\"");
  const auto completion = generate(loaded.model, {ids}, options.generate, {}, stop_requested);
  const std::string text = tokenizer.decode(completion.at(0));
  std::cout << (::isatty(STDOUT_FILENO) ? harmless(text) : text) << std::endl;
}

}  // namespace
}  // namespace rankfold

int main(int argc, char** argv) {
  return rankfold::run_app({.name = "lora-generate",
                            .description = "Continues a prompt with a model, or a model and an adapter.",
                            .required = {"model_name_or_path", "prompt"},
                            .needs_less_memory = "a shorter prompt or a smaller max_new_tokens",
                            .stops_in_order = true},
                           argc, argv, rankfold::run);
}
