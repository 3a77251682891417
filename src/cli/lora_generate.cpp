// lora-generate: a prompt or the messages of a conversation in, what the model says to it out.
#include "cli/console.h"
#include "cli/inference.h"
#include "cli/signals.h"
#include "core/check.h"
#include "core/file.h"
#include "core/utf8.h"
#include "data/chat.h"
#include "data/template.h"
#include "rankfold/generate.h"
#include "text/vocabulary.h"

#include <unistd.h>

#include <iostream>

namespace rankfold {
namespace {

struct GenerateOptions {
  ModelOptions model;
  std::string prompt, messages;
  bool raw = false, add_generation_prompt = true, print_prompt = false;
  DataConfig data;  // its templates
  GenerateConfig generate;

  template <class V>
  void fields(V&& v) {
    model.fields(v);
    section(v, "prompt");
    v("prompt", prompt, "the question", allow::any, "a text", {});
    v("messages", messages,
      "JSON file of a conversation: a list of messages, or {\"messages\", \"tools\", \"documents\"}", allow::any,
      "a path", {});
    v("raw", raw, "no template: the prompt is continued as it stands", allow::any, "true or false", {});
    v("print_prompt", print_prompt, "print the text that the model would be given, and nothing else", allow::any,
      "true or false", {});
    v("add_generation_prompt", add_generation_prompt, "end a conversation with what opens an answer", allow::any,
      "true or false", {});
    v("prompt_template", data.prompt_template, "text around the question; else the one saved beside adapter or model",
      [](const std::string& x) { return x.find("{question}") != std::string::npos; }, "a text that holds {question}",
      {"template"});
    v("chat_template", data.chat_template,
      "of conversations: a Jinja file, or baichuan, baichuan2, llama2, chatml, alpaca, vicuna; else the one saved "
      "beside "
      "the adapter, else the model's",
      allow::any, "a file or a name", {});
    v("chat_template_kwargs", data.chat_template_kwargs,
      "variables for the chat template: {\"enable_thinking\": false}", allow::any, "a JSON object", {});
    v("template_date", data.template_date, "the date that a chat template writes; else that of training, else today's",
      allow::date, "a date such as 2025-03-07 or \"2025-03-07 09:05:03\"", {});
    generate.fields(v);
  }

  bool is_chat() const { return !messages.empty() || (data.questions_are_turns && !raw); }
  Conversation conversation() const {
    constexpr uint64_t kLargest = 16 << 20;
    if (!messages.empty()) return read_conversation(read_text(messages, kLargest), messages);
    check_utf8(prompt, "--prompt");
    Conversation chat;
    chat.say("user", prompt);
    return chat;
  }
};

void check(GenerateOptions& options, const Given& given) {
  if (given.contains("prompt") == given.contains("messages"))
    fail(given.contains("prompt") ? "--prompt: expected this or --messages, got both"
                                  : "--prompt is missing: the question; or --messages: a conversation");
  if (given.contains("prompt") && options.prompt.empty() && !options.raw) fail("--prompt: expected a text, got \"\"");
  if (given.contains("messages") && options.messages.empty()) fail("--messages: expected a path, got \"\"");
  if (!options.messages.empty() && options.raw) fail("--raw: expected --prompt with it, got --messages");
  if (options.raw) {
    options.data.prompt_template = "{question}";
  } else {
    if (options.messages.empty())
      choose_templates(options.model, given, options.data);
    else
      choose_chat_template(options.model, options.data);
    choose_date(options.model.model_name_or_path, options.data);
  }
}

void run(GenerateOptions& options, const Given& given) {
  check(options, given);
  const DataConfig& data = options.data;
  if (options.print_prompt) {
    if (options.is_chat()) {
      const ChatTemplate chat = ChatTemplate::open(options.model.model_name_or_path, data);
      std::cout << chat.render(options.conversation(), options.add_generation_prompt).text << std::flush;
    } else {
      std::cout << render_prompt(data.prompt_template, options.prompt) << std::flush;
    }
    return;
  }
  const LoadedModel loaded = load_model(options.model);
  leave_if(stop_requested);
  const Tokenizer& tokenizer = loaded.model.tokenizer();
  const auto other = tokenizer.path().parent_path() / kTokenizerModel;
  if (tokenizer.path() != other && what_stands_at(other) != "nothing")
    std::cerr << "tokenizer: " << one_line(tokenizer.path().string()) << "\n";
  if (!tokenizer.note().empty()) std::cerr << "warning: " << tokenizer.note() << "\n";
  std::vector<int32_t> ids;
  if (options.is_chat()) {
    const Conversation chat = options.conversation();
    const ChatTemplate chat_template = ChatTemplate::open(tokenizer, data);
    ids = chat_template.encode(chat, options.add_generation_prompt);
    stop_at(chat_template.stop_token_ids(), options.generate);
  } else {
    print_spelled_tokens(std::cerr, tokenizer, "the prompt template", data.prompt_template);
    print_spelled_tokens(std::cerr, tokenizer, "the prompt", options.prompt);
    ids = encode_prompt(tokenizer, data.prompt_template, options.prompt);
  }
  if (ids.empty())
    fail(given.contains("prompt") ? "--prompt" : "--messages", ": expected a text of at least one token, got \"\"");
  const auto completion = generate(loaded.model, {ids}, options.generate, {}, stop_requested);
  const std::string text = tokenizer.decode(completion.at(0));
  std::cout << (::isatty(STDOUT_FILENO) ? harmless(text) : text) << std::endl;
}

}  // namespace
}  // namespace rankfold

int main(int argc, char** argv) {
  return rankfold::run_app(
      {.name = "lora-generate",
       .description = "Continues a prompt or a conversation with a model, or a model and an adapter.",
       .required = {"model_name_or_path"},
       .needs_less_memory = "a shorter prompt or a smaller max_new_tokens",
       .stops_in_order = true},
      argc, argv, rankfold::run);
}
