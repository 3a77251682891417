#include "data/chat.h"

#include "core/check.h"
#include "rankfold/dataset.h"
#include "rankfold/error.h"
#include "support/contains.h"
#include "support/temp_folder.h"
#include "support/tiny_tokenizer.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace rankfold {
namespace {

using nlohmann::json;
using testing::contains;
using testing::error_of;
using testing::TempFolder;
using testing::train_tokenizer;

// A folder whose tokenizer knows every byte, its control tokens and no word: a token is a character.
class ChatTest : public ::testing::Test {
 protected:
  void SetUp() override {
    json vocabulary = json::object();
    for (int byte = 0; byte < 256; ++byte) {  // GPT-2's characters for bytes
      const bool is_plain = (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
      const int character = is_plain ? byte : 0x100 + moved_++;
      std::string text;
      if (character < 0x80)
        text = {static_cast<char>(character)};
      else
        text = {static_cast<char>(0xC0 | character >> 6), static_cast<char>(0x80 | (character & 0x3F))};
      vocabulary[text] = byte;
    }
    json added = json::array();
    for (const char* token : {"<s>", "</s>", "<|im_start|>", "<|im_end|>", "<fin>"})
      added.push_back({{"id", 256 + added.size()},
                       {"content", token},
                       {"single_word", false},
                       {"lstrip", false},
                       {"rstrip", false},
                       {"normalized", false},
                       {"special", true}});
    const json byte_level = {
        {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", true}};
    folder_.write("tokenizer.json", json{{"version", "1.0"},
                                         {"added_tokens", added},
                                         {"pre_tokenizer", byte_level},
                                         {"decoder", byte_level},
                                         {"model", {{"type", "BPE"}, {"vocab", vocabulary}, {"merges", json::array()}}}}
                                        .dump());
    set_template(
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}");
  }

  void set_template(const std::string& source) {
    folder_.write("tokenizer_config.json",
                  json{{"bos_token", "<s>"}, {"eos_token", "</s>"}, {"chat_template", source}}.dump());
  }
  Tokenizer tokenizer() const { return Tokenizer::open(folder_.path(), true); }

  // The tokens of a row as text, what is learnt of them in brackets.
  std::string learnt(const std::string& messages) const {
    const Tokenizer known = tokenizer();
    const ChatTemplate chat = ChatTemplate::open(known, config_);
    const Example row = ChatEncoder(chat, config_)(read_conversation(messages, "messages")).example;
    std::string text;
    bool inside = false;
    for (size_t i = 0; i < row.input_ids.size(); ++i) {
      const bool is_learnt = row.labels[i] != kIgnoreIndex;
      EXPECT_TRUE(!is_learnt || row.labels[i] == row.input_ids[i]);
      if (is_learnt != inside) text += is_learnt ? "[" : "]";
      inside = is_learnt;
      const std::string control = known.control_text(row.input_ids[i]);
      text += control.empty() ? known.decode({row.input_ids[i]}) : control;
    }
    return text + (inside ? "]" : "");
  }
  std::string render(const std::string& messages, bool add_generation_prompt = false) const {
    return ChatTemplate::open(folder_.path(), config_).render(messages, add_generation_prompt);
  }
  std::string error(const std::string& messages) const {
    return error_of<UserError>([&] { render(messages); });
  }

  TempFolder folder_;
  DataConfig config_;
  std::optional<Tokenizer> known_;
  int moved_ = 0;
};

const char* const kTurns = R"([{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"},
                               {"role": "user", "content": "r"}, {"role": "assistant", "content": "b"}])";

TEST_F(ChatTest, LearnsAnswersAndTheirEnds) {
  EXPECT_EQ(learnt(kTurns),
            "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n[a<|im_end|>]\n"
            "<|im_start|>user\nr<|im_end|>\n<|im_start|>assistant\n[b<|im_end|>]\n");
  // As tables that were joined write them.
  EXPECT_EQ(learnt(R"([{"from": "human", "value": "q", "role": null, "content": null},
                       {"from": "gpt", "value": "a", "role": null, "content": null}])"),
            "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n[a<|im_end|>]\n");
  config_.train_on_last_turn = true;
  EXPECT_EQ(learnt(kTurns),
            "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\na<|im_end|>\n"
            "<|im_start|>user\nr<|im_end|>\n<|im_start|>assistant\n[b<|im_end|>]\n");
  const char* const off = R"([{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"},
                              {"role": "assistant", "content": "b", "weight": 0}])";
  EXPECT_EQ(learnt(off),
            "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n[a<|im_end|>]\n"
            "<|im_start|>assistant\nb<|im_end|>\n");
  config_.train_on_last_turn = false;
  config_.train_on_prompt = true;
  EXPECT_EQ(learnt(R"([{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}])"),
            "[<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\na<|im_end|>\n]");
  EXPECT_EQ(learnt(off),
            "[<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\na<|im_end|>\n<|im_start|>assistant\n]"
            "b<|im_end|>[\n]");
}

TEST_F(ChatTest, GenerationBlocksDecide) {
  set_template(
      "{% for m in messages %}{{ m.role }}:{% if m.role == 'assistant' %}{% generation %}({{ m.content }})"
      "{% endgeneration %}{% else %}{{ m.content }}{% endif %};{% endfor %}");
  EXPECT_EQ(learnt(kTurns), "user:q;assistant:[(a)];user:r;assistant:[(b)];");
  config_.train_on_last_turn = true;
  EXPECT_EQ(learnt(kTurns), "user:q;assistant:(a);user:r;assistant:[(b)];");
}

TEST_F(ChatTest, ControlTokensAreTheTemplatesAlone) {
  const std::string text =
      learnt(R"([{"role": "user", "content": "<|im_end|></s>"}, {"role": "<|im_end|>", "content": "x"},
                                      {"role": "assistant", "content": "</s>"}])");
  EXPECT_EQ(text,
            "<|im_start|>user\n<|im_end|></s><|im_end|>\n<|im_start|><|im_end|>\nx<|im_end|>\n"
            "<|im_start|>assistant\n[</s><|im_end|>]\n");
  const ChatTemplate chat = ChatTemplate::open(tokenizer(), config_);
  const auto ids =
      chat.encode(R"([{"role": "user", "content": "<|im_end|></s>"}, {"role": "<|im_end|>", "content": "x"},
                                   {"role": "assistant", "content": "</s>"}])",
                  false);
  EXPECT_EQ(std::count(ids.begin(), ids.end(), 258), 3);
  EXPECT_EQ(std::count(ids.begin(), ids.end(), 259), 3) << "one behind each message";
  EXPECT_EQ(std::count(ids.begin(), ids.end(), 257), 0);
}

TEST_F(ChatTest, FindsAnEndOfItsOwn) {
  // A control token that no family ends its turns with, then a text.
  set_template("{% for m in messages %}{{ m.role }}: {{ m.content }}<fin>\n{% endfor %}");
  EXPECT_EQ(learnt(kTurns), "user: q<fin>\nassistant: [a<fin>]\nuser: r<fin>\nassistant: [b<fin>]\n");
  set_template("{% for m in messages %}{{ m.role }}: {{ m.content }} ##\n{% endfor %}");
  EXPECT_EQ(learnt(kTurns), "user: q ##\nassistant: [a ##]\nuser: r ##\nassistant: [b ##]\n");
  set_template("{% for m in messages %}<|im_start|>{{ m.role }} {{ m.content }}{% endfor %}");
  EXPECT_EQ(learnt(kTurns), "<|im_start|>user q<|im_start|>assistant [a]<|im_start|>user r<|im_start|>assistant [b]")
      << "the next role's tag is no end";
}

TEST_F(ChatTest, CallsOfToolsAreLearntFromTheHeader) {
  set_template(
      "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.reasoning_content %}<think>{{ m.reasoning_content }}"
      "</think>{% endif %}{{ m.content }}{% for c in m.tool_calls or [] %}<call>{{ c.function | tojson }}</call>"
      "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}");
  const std::string call = R"("tool_calls": [{"function": {"name": "f", "arguments": {"z": 1, "a": 1.0}}}])";
  const std::string asked = R"({"role": "user", "content": "q"}, )";
  EXPECT_EQ(learnt("[" + asked + R"({"role": "assistant", "content": "", )" + call + "}]"),
            "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n"
            "[<call>{\"name\": \"f\", \"arguments\": {\"z\": 1, \"a\": 1.0}}</call><|im_end|>]\n");
  EXPECT_EQ(learnt("[" + asked + R"({"role": "assistant", "content": "a", "reasoning": "r", )" + call + "}]"),
            "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n<think>"
            "[r</think>a<call>{\"name\": \"f\", \"arguments\": {\"z\": 1, \"a\": 1.0}}</call><|im_end|>]\n");
}

TEST_F(ChatTest, ACallBehindAResultIsLearntToo) {
  set_template(
      "{% for m in messages %}{% if m.role == 'user' %}<s>{{ m.content }}</ask>{% elif m.role == 'tool' %}<r>"
      "{{ m.content }}</r>{% elif m.tool_calls %}<call>{{ m.tool_calls[0].function.name }}</s>{% else %}"
      "{{ m.content }}</s>{% endif %}{% endfor %}");
  const std::string call = R"({"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f"}}]})";
  EXPECT_EQ(
      learnt(R"([{"role": "user", "content": "q"}, )" + call + R"(, {"role": "tool", "content": "5"}, )" + call + "]"),
      "<s>q</ask>[<call>f</s>]<r>5</r>[<call>f</s>]");
}

TEST_F(ChatTest, ABrokenTemplateThatIsNotUsedIsNoError) {
  folder_.write("tokenizer_config.json", R"({"chat_template": [{"name": "default", "template": "plain"},
                                             {"name": "tool_use", "template": "{% wrong %}"}]})");
  EXPECT_EQ(render(R"([{"role": "user", "content": "q"}])"), "plain");
  EXPECT_TRUE(contains(error(R"({"messages": [{"role": "user", "content": "q"}], "tools": []})"), "tool_use):1: "));
}

TEST_F(ChatTest, TokensOfBaichuanMustBeTokens) {
  config_.chat_template = "baichuan";
  EXPECT_TRUE(contains(error_of<UserError>([&] { ChatTemplate::open(tokenizer(), config_); }),
                       "that is no vocabulary of Baichuan's"));
}

TEST_F(ChatTest, SentencepieceLearnsTheFirstBlankOfAnAnswer) {
  TempFolder folder;
  train_tokenizer(folder.path(), 500, {{"add_dummy_prefix", "true"}});
  folder.write("generation_config.json", R"({"user_token_id": 300, "assistant_token_id": 301})");
  const Tokenizer known = Tokenizer::open(folder.path(), true);
  config_.chat_template = "baichuan2";
  const ChatTemplate chat = ChatTemplate::open(known, config_);
  const Conversation said =
      read_conversation(R"([{"role": "user", "content": "q"}, {"role": "assistant", "content": "zq"}])", "messages");
  const Example row = ChatEncoder(chat, config_)(said).example;
  const std::vector<int32_t> answer = known.encode("zq");
  ASSERT_EQ(known.piece(answer[0]), "\xE2\x96\x81");
  std::vector<int32_t> expected = {300};
  for (const int32_t id : known.encode("q")) expected.push_back(id);
  expected.push_back(301);
  const size_t prompt = expected.size();
  expected.insert(expected.end(), answer.begin(), answer.end());
  expected.push_back(known.eos());
  EXPECT_EQ(row.input_ids, expected);
  for (size_t i = 0; i < expected.size(); ++i) EXPECT_EQ(row.labels[i], i < prompt ? kIgnoreIndex : expected[i]) << i;
}

TEST_F(ChatTest, SaysWhatATemplateLeavesOut) {
  set_template(
      "{% for m in messages %}{% if m.role != 'system' %}{{ m.content.split('</think>')[-1] }}<|im_end|>{% endif %}{% "
      "endfor %}");
  const ChatTemplate chat = ChatTemplate::open(tokenizer(), config_);
  const Conversation said =
      read_conversation(R"([{"role": "system", "content": "s"}, {"role": "user", "content": " q "},
      {"role": "assistant", "content": "<think>t</think>a", "reasoning_content": "r"}])",
                        "messages");
  EXPECT_EQ(ChatEncoder(chat, config_)(said).left_out,
            (std::vector<std::string>{"system text", "a part of assistant text", "reasoning"}));
}

TEST_F(ChatTest, ShowsWhatTheTemplateRaises) {
  set_template("{{ raise_exception('only questions, please') }}");
  EXPECT_EQ(error(kTurns), "the chat template refuses the messages: only questions, please");
  set_template("{{ messages[0].content }}");
  EXPECT_TRUE(contains(error(R"([{"role": "user", "content": [{"type": "text", "text": "q"}]}])"),
                       "does not know content in parts (messages[0])"));
  set_template("{{ messages[0].content[0].text }}");
  EXPECT_EQ(render(R"([{"role": "user", "content": [{"type": "text", "text": "q"}]}])"), "q");
  set_template("{{ 1 + 'a' }}");
  EXPECT_TRUE(contains(error(kTurns), "the chat template cannot be rendered: "));
  set_template("{% wrong %}");
  EXPECT_TRUE(contains(error(kTurns), "(chat template):1: "));
}

TEST_F(ChatTest, ChoosesTheTemplate) {
  const std::string one = R"([{"role": "user", "content": "q"}])",
                    tools = R"({"messages": [{"role": "user", "content": "q"}], "tools": [{"name": "f"}]})";
  folder_.write("tokenizer_config.json", R"({"chat_template": [{"name": "default", "template": "plain"},
                                             {"name": "tool_use", "template": "tools"}]})");
  EXPECT_EQ(render(one), "plain");
  EXPECT_EQ(render(tools), "tools");
  config_.chat_template = "tool_use";
  EXPECT_EQ(render(one), "tools");
  config_.chat_template = folder_.write("mine.jinja", "mine {{ bos_token is defined }}\n").string();
  EXPECT_EQ(render(one), "mine False");
  config_.chat_template.clear();
  folder_.write("chat_template.jinja", "file");
  EXPECT_EQ(render(tools), "file");
  config_.chat_template = "nothing";
  EXPECT_EQ(error(one),
            "chat_template: expected a file or one of baichuan, baichuan2, llama2, chatml, alpaca, vicuna, "
            "got \"nothing\"");
  config_.chat_template.clear();
  folder_.write("chat_template.jinja", "");
  std::filesystem::remove(folder_.path() / "chat_template.jinja");
  folder_.write("tokenizer_config.json", "{}");
  EXPECT_TRUE(contains(error(one), "has no chat template, which conversations need"));
  EXPECT_TRUE(contains(error(one), "baichuan, baichuan2, llama2, chatml, alpaca, vicuna"));
}

TEST_F(ChatTest, TakesVariablesAndADate) {
  set_template("{{ strftime_now('%d %b %Y') }} {{ enable_thinking }} {{ eos_token }}");
  EXPECT_TRUE(contains(error(kTurns), "writes a date: set template_date"));
  config_.template_date = "2025-03-07 09:05:03";
  config_.chat_template_kwargs.text = R"({"enable_thinking": false, "eos_token": "x"})";
  EXPECT_EQ(render(kTurns), "07 Mar 2025 False x");
  const uint64_t fingerprint = ChatTemplate::open(folder_.path(), config_).fingerprint();
  config_.template_date = "2025-03-08";
  EXPECT_NE(ChatTemplate::open(folder_.path(), config_).fingerprint(), fingerprint);
  config_.chat_template_kwargs.text = R"({"messages": []})";
  EXPECT_TRUE(contains(error(kTurns), "chat_template_kwargs: messages is no variable of yours"));
}

TEST_F(ChatTest, ARecordDecides) {
  set_template("{{ strftime_now('%Y') }}{% if tools %} tools{% endif %} {{ x }}");
  config_.template_date = "2025-03-07";
  config_.chat_template_kwargs.text = R"({"x": 1})";
  const ChatTemplate trained = ChatTemplate::open(folder_.path(), config_);
  TempFolder adapter;
  for (const auto& [name, text] : trained.files()) adapter.write(name, text);
  adapter.write("prompt_template.json", trained.record());
  set_template("another");
  DataConfig later;
  later.chat_record = adapter.path().string();
  const ChatTemplate read = ChatTemplate::open(folder_.path(), later);
  EXPECT_EQ(read.render(kTurns), "2025 1");
  EXPECT_EQ(read.fingerprint(), trained.fingerprint());
  later.chat_template = "chatml";
  EXPECT_TRUE(contains(ChatTemplate::open(folder_.path(), later).render(kTurns), "<|im_start|>user\nq<|im_end|>\n"));
}

TEST_F(ChatTest, HasTemplatesOfItsOwn) {
  folder_.write("tokenizer_config.json", R"({"bos_token": "<s>", "eos_token": "</s>"})");
  const std::string turns =
      R"([{"role": "system", "content": "s"}, {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"},
      {"role": "user", "content": "r"}, {"role": "assistant", "content": "b"}])";
  const std::pair<const char*, const char*> cases[] = {
      {"llama2", "<s>[INST] <<SYS>>\ns\n<</SYS>>\n\nq [/INST] [a </s>]<s>[INST] r [/INST] [b </s>]"},
      {"chatml",
       "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n[a<|im_end|>]\n"
       "<|im_start|>user\nr<|im_end|>\n<|im_start|>assistant\n[b<|im_end|>]\n"},
      {"alpaca",
       "s\n\n### Instruction:\nq\n\n### Response:\n[a</s>]\n\n### Instruction:\nr\n\n### Response:\n[b</s>]\n\n"},
      {"vicuna", "s USER: q ASSISTANT: [a</s>]USER: r ASSISTANT: [b</s>]"}};
  for (const auto& [name, expected] : cases) {
    config_.chat_template = name;
    EXPECT_EQ(learnt(turns), expected) << name;
  }
  // Ids that stand for a role: those of generation_config.json, here bytes.
  folder_.write("generation_config.json", R"({"user_token_id": 258, "assistant_token_id": 260})");
  config_.chat_template = "baichuan2";
  EXPECT_EQ(learnt(turns), "s<|im_start|>q<fin>[a]<|im_start|>r<fin>[b</s>]");
  config_.chat_template = "baichuan";
  EXPECT_EQ(learnt(turns), "s<|im_start|>q<fin>[a</s>]<|im_start|>r<fin>[b</s>]");
  config_.chat_template = "alpaca";
  EXPECT_TRUE(contains(error(R"([{"role": "tool", "content": "x"}])"), "has no place for a message of the role tool"));
}

TEST_F(ChatTest, RowsOfAFileAreConversations) {
  const auto open = [&](const std::string& rows) {
    return Dataset::open(folder_.write("rows.json", rows), &known_.emplace(tokenizer()), config_, 300);
  };
  // One row is a row, not an object around its messages.
  Dataset data = open(std::string(R"({"messages": )") + kTurns + "}");
  EXPECT_EQ(data.report().conversations, 1);
  EXPECT_EQ(data.report().questions, 0);
  ASSERT_NE(data.chat_template(), nullptr);
  data = open(std::string(R"([{"question": "q", "answer": "a"}, {"messages": )") + kTurns + "}]");
  EXPECT_EQ(data.report().conversations, 1);
  EXPECT_EQ(data.report().questions, 1);
  data = open(R"([{"question": "q", "answer": "a"}])");
  EXPECT_EQ(data.chat_template(), nullptr);
  config_.questions_are_turns = true;
  EXPECT_EQ(open(R"([{"question": "q", "answer": "a"}])").report().conversations, 1);
  set_template("{{ raise_exception('no') }}");
  EXPECT_TRUE(contains(error_of<UserError>([&] { open(R"([{"question": "q", "answer": "a"}])"); }),
                       "rows.json:1: the chat template refuses the messages: no"));
  config_.skip_bad_rows = true;
  folder_.write("tokenizer_config.json", R"({"eos_token": "</s>"})");
  EXPECT_TRUE(contains(error_of<UserError>([&] { open(R"([{"question": "q", "answer": "a"}])"); }),
                       "rows.json:1: a conversation: "))
      << "that the folder has no template is not the row's fault";
}

TEST_F(ChatTest, ReadsSeveralFilesAsOne) {
  const Tokenizer known = tokenizer();
  const auto a = folder_.write("a.json", R"([{"text": "one"}, {"text": "two"}])"),
             b = folder_.write("b.jsonl", R"({"text": "three"})");
  const Dataset data = Dataset::open(DataFiles(a.string() + "," + b.string()), &known, config_, 300);
  ASSERT_EQ(data.size(), 3);
  EXPECT_EQ(data.report().rows, 3);
  EXPECT_EQ(known.decode(data[2].input_ids), "three");
  EXPECT_EQ(data.row_number(1), 2);
  EXPECT_EQ(data.row_number(2), 1);
  EXPECT_EQ(data.file(2), b.string());
  EXPECT_NE(data.fingerprint(),
            Dataset::open(DataFiles(b.string() + "," + a.string()), &known, config_, 300).fingerprint());
  EXPECT_EQ(Dataset::open(a, &known, config_, 300).file(0), "");
}

}  // namespace
}  // namespace rankfold
