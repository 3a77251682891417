// lora-generate: a prompt, many of them from a file, or the messages of a conversation in, what the model says to it
// out; or a conversation that goes on.
#include "cli/chat_session.h"
#include "cli/console.h"
#include "cli/inference.h"
#include "cli/prompt_file.h"
#include "cli/signals.h"
#include "core/check.h"
#include "core/file.h"
#include "core/utf8.h"
#include "core/write.h"
#include "data/chat.h"
#include "data/template.h"
#include "rankfold/generate.h"
#include "text/vocabulary.h"

#include <nlohmann/json.hpp>

#include <unistd.h>

#include <iostream>

namespace rankfold {
namespace {

struct GenerateOptions {
  ModelOptions model;
  std::string prompt, messages, prompts, output;
  bool chat = false, raw = false, add_generation_prompt = true, print_prompt = false;
  DataConfig data;  // its templates
  GenerateConfig generate;

  template <class V>
  void fields(V&& v) {
    model.fields(v);
    section(v, "prompt");
    v("prompt", prompt, "question to answer", allow::any, "a text", {});
    v("messages", messages,
      "JSON file of a conversation: a list of messages, or an object with messages, tools and documents", allow::any,
      "a path", {});
    v("prompts", prompts,
      "file of several prompts: one on each line, or JSON Lines of {\"prompt\": ...} or {\"messages\": ...}; the "
      "answers are written as JSON Lines",
      allow::any, "a path", {});
    v("chat", chat, "hold a conversation: each line of standard input is a turn; --messages holds earlier turns",
      allow::any, "true or false", {});
    v("output", output, "file for the answers to --prompts, instead of standard output", allow::any, "a path", {});
    v("raw", raw, "continue the prompt as it stands, without a template", allow::any, "true or false", {});
    v("print_prompt", print_prompt, "only print the text that the model would be given", allow::any, "true or false",
      {});
    v("add_generation_prompt", add_generation_prompt, "end a conversation with the text that opens an answer",
      allow::any, "true or false", {});
    v("prompt_template", data.prompt_template,
      "text with {question} in it; without it the one saved beside the adapter or the model",
      [](const std::string& x) { return x.find("{question}") != std::string::npos; }, "a text that holds {question}",
      {"template"});
    v("chat_template", data.chat_template,
      "template for conversations: a Jinja file, or baichuan, baichuan2, llama2, chatml, alpaca, vicuna; without it "
      "the one saved beside the adapter, else the model's",
      allow::any, "a file or a name", {});
    v("chat_template_kwargs", data.chat_template_kwargs,
      "variables for the chat template, such as {\"enable_thinking\": false}", allow::any, "a JSON object", {});
    v("template_date", data.template_date,
      "date that the chat template writes; without it that of training, else today's", allow::date,
      "a date such as 2025-03-07 or \"2025-03-07 09:05:03\"", {});
    generate.fields(v);
    v("num_return_sequences", generate.num_return_sequences,
      "answers to each prompt of --prompts; more than 1 needs a temperature above 0", allow::count,
      "an integer in [1, 1048576]", {});
    v("log_probabilities", generate.log_probabilities,
      "with --prompts: also write ids, pieces and log-probabilities of the tokens", allow::any, "true or false", {});
  }

  // Of --prompt and --messages.
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

// Exactly one of --prompt, --messages, --prompts and --chat; --chat may come with --messages.
void check_source(const GenerateOptions& options, const Given& given) {
  std::string first;
  for (const char* key : {"prompt", "messages", "prompts", "chat"}) {
    if (!given.contains(key) || (key == std::string("chat") && !options.chat)) continue;
    const bool is_opening = key == std::string("chat") && first == "messages";
    if (!first.empty() && !is_opening) fail("--", first, ": expected this or --", key, ", got both");
    first = key;
  }
  if (first.empty())
    fail(
        "--prompt is missing: the question; or --messages: a conversation; or --prompts: a file of questions; or "
        "--chat");
  if (first == "prompt" && options.prompt.empty() && !options.raw) fail("--prompt: expected a text, got \"\"");
  if (given.contains("messages") && options.messages.empty()) fail("--messages: expected a path, got \"\"");
  if (first == "prompts" && options.prompts.empty()) fail("--prompts: expected a path, got \"\"");
  if (!options.messages.empty() && options.raw) fail("--raw: expected --prompt with it, got --messages");
}

void check_companions(const GenerateOptions& options) {
  const GenerateConfig& generate = options.generate;
  const bool is_many = !options.prompts.empty();
  if (!options.output.empty() && !is_many) fail("--output: expected --prompts with it, got none");
  if (options.print_prompt && (is_many || options.chat))
    fail("--print_prompt: expected --prompt or --messages with it, got ", options.chat ? "--chat" : "--prompts");
  if (!options.add_generation_prompt && options.chat)
    fail("--add_generation_prompt: expected true with --chat, got false");
  if (generate.num_return_sequences > 1 && !is_many)
    fail("--num_return_sequences: expected --prompts with it, got none");
  if (generate.log_probabilities && !is_many) fail("--log_probabilities: expected --prompts with it, got none");
  check_writable("--output", options.output);
}

void check(GenerateOptions& options, const Given& given) {
  check_source(options, given);
  check_companions(options);
  check_quantization(options.model.load, given);
  check_folders(options.model, !options.print_prompt);
  if (options.raw) {
    options.data.prompt_template = "{question}";
    return;
  }
  // A conversation is written by the chat template where nothing speaks for the prompt template.
  const bool is_chat_first = options.chat && options.messages.empty() && !given.contains("prompt_template") &&
                             !is_trained_with_prompt_template(options.model);
  if (options.messages.empty() && !is_chat_first)
    choose_templates(options.model, given, options.data);
  else
    choose_chat_template(options.model, options.data);
  choose_date(options.model.model_name_or_path, options.data);
  if (is_chat_first) options.data.questions_are_turns = true;
}

std::string rendered(const GenerateOptions& options) {
  const DataConfig& data = options.data;
  if (!options.is_chat()) return render_prompt(data.prompt_template, options.prompt);
  const ChatTemplate chat = ChatTemplate::open(options.model.model_name_or_path, data);
  return chat.render(options.conversation(), options.add_generation_prompt).text;
}

void print_tokenizer(const Tokenizer& tokenizer) {
  const auto other = tokenizer.path().parent_path() / kTokenizerModel;
  if (tokenizer.path() != other && what_stands_at(other) != "nothing")
    std::cerr << "tokenizer: " << one_line(tokenizer.path().string()) << "\n";
  if (!tokenizer.note().empty()) std::cerr << "warning: " << tokenizer.note() << "\n";
}

void answer_one(GenerateOptions& options, const CausalLM& model) {
  const DataConfig& data = options.data;
  const Tokenizer& tokenizer = model.tokenizer();
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
    fail(options.messages.empty() ? "--prompt" : "--messages", ": expected a text of at least one token, got \"\"");
  const std::string text = complete(model, {ids}, options.generate, {}, stop_requested).at(0).text;
  std::cout << (::isatty(STDOUT_FILENO) ? harmless(text) : text) << std::endl;
}

void answer_file(GenerateOptions& options, const std::vector<GivenPrompt>& prompts, const CausalLM& model) {
  const Tokenizer& tokenizer = model.tokenizer();
  std::optional<ChatTemplate> chat_template;
  std::vector<std::vector<int32_t>> ids;
  for (const GivenPrompt& prompt : prompts) try {
      const auto* question = std::get_if<std::string>(&prompt.said);
      if (question && !options.is_chat()) {
        ids.push_back(encode_prompt(tokenizer, options.data.prompt_template, *question));
      } else {
        if (!chat_template) chat_template = ChatTemplate::open(tokenizer, options.data);
        Conversation chat;
        if (question)
          chat.say("user", *question);
        else
          chat = std::get<Conversation>(prompt.said);
        ids.push_back(chat_template->encode(chat, options.add_generation_prompt));
      }
      if (ids.back().empty()) fail("expected a text of at least one token, got \"\"");
    } catch (const UserError& error) {
      const std::string line = error.what();
      fail(line.starts_with(prompt.place) ? "" : prompt.place + ": ", line);
    }
  if (chat_template) stop_at(chat_template->stop_token_ids(), options.generate);
  const std::string lines = completion_lines(prompts, complete(model, ids, options.generate, {}, stop_requested),
                                             options.generate, tokenizer);
  if (options.output.empty())
    std::cout << lines << std::flush;
  else
    write_text(options.output, lines);
}

void talk(GenerateOptions& options, const CausalLM& model) {
  ChatSession session{model, {}, options.data.prompt_template, {}, {}};
  const bool must_be_chat = !options.messages.empty() || !options.data.chat_template.empty();
  if (options.is_chat()) try {
      session.chat_template = ChatTemplate::open(model.tokenizer(), options.data);
      stop_at(session.chat_template->stop_token_ids(), options.generate);
    } catch (const UserError& error) {
      if (must_be_chat) throw;
      std::cerr << error.what() << "\n";
    }
  if (!options.messages.empty()) session.opening = options.conversation();
  session.generate = options.generate;
  converse(session);
}

void run(GenerateOptions& options, const Given& given) {
  check(options, given);
  if (options.print_prompt) {
    std::cout << rendered(options) << std::flush;
    return;
  }
  std::vector<GivenPrompt> prompts;
  if (!options.prompts.empty()) prompts = read_prompts(options.prompts);
  const LoadedModel loaded = load_model(options.model);
  const CausalLM& model = loaded.model;
  leave_if(stop_requested);
  print_tokenizer(model.tokenizer());
  if (options.chat)
    talk(options, model);
  else if (!options.prompts.empty())
    answer_file(options, prompts, model);
  else
    answer_one(options, model);
}

}  // namespace
}  // namespace rankfold

int main(int argc, char** argv) {
  return rankfold::run_app(
      {.name = "lora-generate",
       .description = "Continues a prompt or a conversation with a model, or a model and an adapter.",
       .required = {"model_name_or_path"},
       .needs_less_memory = "a shorter prompt, a smaller max_new_tokens or a smaller generation_batch_size",
       .stops_in_order = true},
      argc, argv, rankfold::run);
}
