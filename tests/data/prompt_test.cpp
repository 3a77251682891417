#include "data/prompt.h"

#include "core/check.h"
#include "data/template.h"

#include "rankfold/error.h"
#include "rankfold/generate.h"
#include "support/contains.h"
#include "support/temp_folder.h"
#include "support/tiny_tokenizer.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace rankfold {
namespace {

using testing::contains;
using testing::error_of;
using testing::TempFolder;
using testing::train_tokenizer;

using nlohmann::json;

std::variant<Prompted, Example, Conversation> read(const std::string& row, const Columns& columns = {}) {
  return RowReader(columns, 100).read(json::parse(row), row, "f.json:7");
}
std::string said(const std::string& row, const Columns& columns = {}) {
  const auto content = read(row, columns);
  const Prompted& prompted = std::get<Prompted>(content);
  return prompted.has_prompt ? prompted.prompt_question + " -> " + prompted.answer : prompted.answer;
}
Example ready(const std::string& row, const Columns& columns = {}) { return std::get<Example>(read(row, columns)); }
std::string error(const std::string& row, const Columns& columns = {}) {
  return error_of<UserError>([&] { read(row, columns); });
}

std::string columns_error(const Columns& columns) {
  return error_of<UserError>([&] { RowReader(columns, 100); });
}

TEST(Row, UnderstandsEachLayout) {
  EXPECT_EQ(said(R"({"question": "q", "answer": "a", "id": 5, "note": null})"), "q -> a");
  EXPECT_EQ(said(R"({"instruction": "q", "output": "a"})"), "q -> a");
  EXPECT_EQ(said(R"({"instruction": "q", "input": "", "output": "a"})"), "q -> a");
  EXPECT_EQ(said(R"({"instruction": "q", "input": null, "output": "a"})"), "q -> a");
  EXPECT_EQ(said(R"({"instruction": "q", "input": "more", "output": "a"})"), "q\nmore -> a");
  EXPECT_EQ(said(R"({"instruction": "", "input": "more", "output": "a"})"), "more -> a");
  EXPECT_EQ(said(R"({"prompt": "q", "completion": "a"})"), "q -> a");
  EXPECT_EQ(said(R"({"query": "q", "response": "a", "history": []})"), "q -> a");
  EXPECT_EQ(said(R"({"text": "t"})"), "t");
  EXPECT_EQ(said(R"({"text": "t", "question": "q", "answer": "a"})"), "q -> a");
}

TEST(Row, TakesReadyIds) {
  EXPECT_EQ(ready(R"({"input_ids": [1, 99, 0]})").labels, (std::vector<int32_t>{1, 99, 0}));
  const Example example = ready(R"({"input_ids": [1, 5], "labels": [-100, 5], "text": "t"})");
  EXPECT_EQ(example.input_ids, (std::vector<int32_t>{1, 5}));
  EXPECT_EQ(example.labels, (std::vector<int32_t>{-100, 5}));
  EXPECT_TRUE(contains(error(R"({"input_ids": []})"), "f.json:7: input_ids: expected a list of ids, got []"));
  EXPECT_TRUE(contains(error(R"({"input_ids": "1 2"})"), "input_ids: expected a list of ids"));
  EXPECT_TRUE(
      contains(error(R"({"input_ids": [1, 100]})"), "f.json:7: input_ids: entry 1: expected an id in [0, 100)"));
  for (const char* bad : {"1.0", "-1", "-100", "true", "null", "\"1\"", "4294967297", "18446744073709551615"})
    EXPECT_TRUE(contains(error(std::string(R"({"input_ids": [)") + bad + "]}"), std::string("got ") + bad));
  EXPECT_TRUE(
      contains(error(R"({"input_ids": [1, 2], "labels": [1]})"), "labels: expected 2 entries as in input_ids, got 1"));
  EXPECT_TRUE(contains(error(R"({"input_ids": [1], "labels": [-99]})"), "labels: entry 0: expected -100 or an id"));
}

TEST(Row, RenamesColumns) {
  EXPECT_EQ(said(R"({"ask": "q", "reply": "a"})", {{"question", "ask"}, {"answer", "reply"}}), "q -> a");
  EXPECT_EQ(said(R"({"question": "q", "reply": "a"})", {{"answer", "reply"}}), "q -> a");
  EXPECT_EQ(said(R"({"question": "no", "answer": "no", "input_ids": [1], "body": "t"})", {{"text", "body"}}), "t");
  EXPECT_EQ(ready(R"({"ids": [1]})", {{"input_ids", "ids"}}).input_ids, std::vector<int32_t>{1});
  EXPECT_TRUE(
      contains(error(R"({"question": "q", "reply": 5})", {{"answer", "reply"}}), "f.json:7: reply: expected a text"));
  EXPECT_TRUE(contains(error(R"({"question": "q", "answer": "a"})", {{"answer", "reply"}}),
                       "f.json:7: no 'reply' (columns: answer), got keys [answer, question]"));
  RowReader({{"input_ids", "x"}, {"labels", "y"}}, 100);
  EXPECT_TRUE(contains(columns_error({{"qestion", "x"}}), "'qestion' (did you mean 'question'?)"));
}

TEST(Row, UsesEveryMappedColumn) {
  // An input after any question, where it is mapped.
  const std::string row = R"({"q": "q", "context": "more", "a": "a"})";
  EXPECT_EQ(said(row, {{"question", "q"}, {"input", "context"}, {"answer", "a"}}), "q\nmore -> a");
  EXPECT_EQ(said(row, {{"prompt", "q"}, {"input", "context"}, {"completion", "a"}}), "q\nmore -> a");
  EXPECT_EQ(said(row, {{"query", "q"}, {"input", "context"}, {"response", "a"}}), "q\nmore -> a");
  EXPECT_EQ(said(R"({"question": "q", "context": null, "answer": "a"})", {{"input", "context"}}), "q -> a");
  // LLaMA-Factory's names of the alpaca format.
  const std::string alpaca = R"({"instruction": "q", "input": "more", "output": "a"})";
  EXPECT_EQ(said(alpaca, {{"prompt", "instruction"}, {"query", "input"}, {"response", "output"}}), "q\nmore -> a");
  EXPECT_EQ(said(alpaca, {{"prompt", "instruction"}, {"response", "output"}}), "q -> a");
  // A column that is mapped to one name does not count under another.
  EXPECT_EQ(said(alpaca, {{"instruction", "input"}, {"output", "output"}}), "more -> a");
  EXPECT_TRUE(contains(error(R"({"question": "more", "answer": "a"})", {{"input", "question"}}), "expected "));

  for (const Columns& columns : {Columns{{"instruction", "x"}, {"answer", "y"}}, Columns{{"text", "x"}, {"input", "y"}},
                                 Columns{{"labels", "x"}, {"answer", "y"}}}) {
    const std::string line = columns_error(columns);
    for (const auto& [ours, theirs] : columns) EXPECT_TRUE(contains(line, ours));
    EXPECT_TRUE(contains(line, ": no layout uses all of these; expected names of one of them: input_ids, labels, "));
  }
  EXPECT_EQ(error(R"({"input_ids": [1], "x": "q"})", {{"question", "x"}}),
            "f.json:7: expected question/answer (columns: question), got keys [input_ids, x]");
}

TEST(Row, NamesWhatItDoesNotUse) {
  const auto unused = [](const std::string& row, const Columns& columns = {}) {
    NameCounts counts;
    RowReader(columns, 100).read(json::parse(row), row, "f.json:7", &counts);
    std::string names;
    for (const auto& [name, rows] : counts.list()) names += name + " ";
    return names;
  };
  EXPECT_EQ(unused(R"({"question": "q", "answer": "a", "context": "c", "id": 5, "note": null, "tags": []})"),
            "context id ");
  EXPECT_EQ(unused(R"({"instruction": "q", "input": "i", "output": "a", "history": [], "system": ""})"), "");
  EXPECT_EQ(unused(R"({"question": "q", "answer": "a", "input": "i"})"), "input ");
  EXPECT_EQ(unused(R"({"question": "q", "answer": "a", "input": "i"})", {{"input", "input"}}), "");
  EXPECT_EQ(unused(R"({"input_ids": [1], "labels": [1], "attention_mask": [1], "system": "s", "": 1})"),
            ""
            " system ");
  EXPECT_EQ(unused(R"({"text": "t", "labels": [1]})"), "labels ");

  NameCounts many;
  for (int i = 0; i < 100; ++i) many.add("column " + std::to_string(i), 2);
  ASSERT_EQ(many.list().size(), NameCounts::kMostNames + 1);
  EXPECT_EQ(many.list().back().name, "");
  EXPECT_EQ(many.list().back().rows, 2 * (100 - static_cast<int64_t>(NameCounts::kMostNames)));
  NameCounts together;
  together.add("column 99");
  together.add(many);
  EXPECT_EQ(together.list().size(), NameCounts::kMostNames + 1);
  EXPECT_EQ(together.list().back().rows, 2 * (101 - static_cast<int64_t>(NameCounts::kMostNames)));
}

// The messages as "role: content", an answer that is not learnt in parentheses.
std::string turns(const std::string& row, const Columns& columns = {}, bool questions_are_turns = false) {
  const auto content = RowReader(columns, 100, questions_are_turns).read(json::parse(row), row, "f.json:7");
  std::string text;
  for (const Message& message : std::get<Conversation>(content).messages) {
    const jinja::Value* said = message.value.find("content");
    const std::string line = message.role + ": " + (said ? said->text().string() : "");
    const bool is_off = message.is_assistant && !message.is_learnt;
    text += (text.empty() ? "" : " | ") + (is_off ? "(" + line + ")" : line);
  }
  return text;
}

TEST(Row, UnderstandsConversations) {
  const std::string expected = "system: s | user: q | assistant: a";
  EXPECT_EQ(turns(R"({"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "q"},
                      {"role": "assistant", "content": "a"}]})"),
            expected);
  EXPECT_EQ(turns(R"({"conversations": [{"from": "system", "value": "s"}, {"from": "human", "value": "q"},
                      {"from": "gpt", "value": "a"}]})"),
            expected);
  EXPECT_EQ(turns(R"({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}],
                      "system": "s"})"),
            expected);
  EXPECT_EQ(turns(R"({"instruction": "q", "output": "a", "system": "s", "history": []})"), expected);
  EXPECT_EQ(turns(R"({"instruction": "i", "input": "j", "output": "a", "history": [["q", "b"]]})"),
            "user: q | assistant: b | user: i\nj | assistant: a");
  EXPECT_EQ(turns(R"({"prompt": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "b"},
                      {"role": "user", "content": "r"}], "completion": [{"role": "assistant", "content": "a"}]})"),
            "user: q | (assistant: b) | user: r | assistant: a");
  EXPECT_EQ(turns(R"({"question": "q", "answer": "a"})", {}, true), "user: q | assistant: a");
  EXPECT_EQ(turns(R"({"chat": [{"role": "user", "content": "q"}], "about": "s"})",
                  {{"messages", "chat"}, {"system", "about"}}),
            "system: s | user: q");
  EXPECT_EQ(turns(R"({"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "weight": 0},
                      {"role": "assistant", "content": "b", "train": true}]})"),
            "user: q | (assistant: a) | assistant: b");
  // Today's layouts come first, and stay what they are.
  EXPECT_EQ(said(R"({"question": "q", "answer": "a", "messages": [], "system": "", "history": null})"), "q -> a");
  EXPECT_EQ(said(R"({"system": "s", "answer": "a"})", {{"question", "system"}}), "s -> a");
}

TEST(Row, TakesToolsAndCalls) {
  const auto value_of = [](const std::string& row, const char* key) {
    const auto content = read(row);
    const Conversation& chat = std::get<Conversation>(content);
    return std::pair(chat.tools, chat.messages.back().value.find(key) != nullptr);
  };
  for (const char* tools : {R"([{"name": "f"}])", R"("[{\"name\": \"f\"}]")"}) {
    const auto [list, has_calls] = value_of(join(R"({"conversations": [{"from": "human", "value": "q"},
        {"from": "function_call", "value": "{\"name\": \"f\", \"arguments\": {\"b\": 1, \"a\": 2}}"}], "tools": )",
                                                 tools, "}"),
                                            "tool_calls");
    ASSERT_TRUE(list.is_list());
    EXPECT_EQ(list.items().size(), 1u);
    EXPECT_TRUE(has_calls);
  }
  EXPECT_TRUE(value_of(R"({"messages": [{"role": "user", "content": "q"}], "tools": null})", "role").first.is_none());
  // Thinking has two names.
  EXPECT_TRUE(
      value_of(R"({"messages": [{"role": "assistant", "content": "q", "reasoning": "r"}]})", "thinking").second);
  EXPECT_FALSE(value_of(R"({"messages": [{"role": "assistant", "content": null, "name": "r"}]})", "content").second);
}

TEST(Row, NamesWhatIsWrongWithAConversation) {
  const auto of = [](const std::string& message) { return error(R"({"messages": [)" + message + "]}"); };
  EXPECT_EQ(of(""), "f.json:7: messages: expected a list of messages, {\"role\": ..., \"content\": ...}");
  EXPECT_EQ(of("5"), "f.json:7: messages[0]: expected an object with role and content");
  EXPECT_EQ(of(R"({"content": "q"})"), "f.json:7: messages[0]: expected role (or from), got keys [content]");
  EXPECT_EQ(of(R"({"role": "user", "content": 5})"),
            "f.json:7: messages[0].content: expected a text or a list of parts");
  EXPECT_EQ(of(R"({"role": "assistant", "content": "a", "weight": 2})"),
            "f.json:7: messages[0].weight: expected 0 or 1; other weights are not supported");
  EXPECT_EQ(error(R"({"instruction": "q", "output": "a", "history": [["q"]]})"),
            "f.json:7: history: entry 0: expected [question, answer], got [\"q\"]");
  EXPECT_EQ(error(R"({"messages": [{"role": "system", "content": "s"}], "system": "t"})"),
            "f.json:7: system: is given, and the messages begin with a system text of their own: leave one out");
  EXPECT_EQ(error(R"({"text": "t", "system": "s"})"),
            "f.json:7: system: a text has no place for it: write it into the text, or leave the column out");
  EXPECT_EQ(error(R"({"messages": [{"role": "user", "content": "q"}], "tools": 5})"),
            "f.json:7: tools: expected a list of tools");
}

TEST(Row, LeavesPaddingOut) {
  const std::vector<int32_t> ids = {1, 5, 6};
  for (const char* row :
       {R"({"input_ids": [1, 5, 6], "attention_mask": [1, 1, 1]})",
        R"({"input_ids": [1, 5, 6], "attention_mask": null})",
        R"({"input_ids": [0, 1, 5, 6], "attention_mask": [false, true, true, true]})",
        R"({"input_ids": [0, 0, 1, 5, 6], "attention_mask": [0, 0, 1, 1, 1], "position_ids": [1, 1, 0, 1, 2]})",
        R"({"input_ids": [1, 5, 6, 2], "attention_mask": [1, 1, 1, 0], "token_type_ids": [0, 0, 0, 0]})",
        R"({"input_ids": [9, 1, 5, 6, 9], "attention_mask": [0, 1, 1, 1, 0], "labels": [-100, 1, 5, 6, -100]})"}) {
    EXPECT_EQ(ready(row).input_ids, ids) << row;
    EXPECT_EQ(ready(row).labels, ids) << row;
  }
  EXPECT_EQ(
      ready(R"({"ids": [1, 5, 0], "mask": [1, 1, 0]})", {{"input_ids", "ids"}, {"attention_mask", "mask"}}).labels,
      (std::vector<int32_t>{1, 5}));
  const auto refused = [](const std::string& columns, const std::string& part) {
    EXPECT_TRUE(contains(error(R"({"input_ids": [1, 5, 6], )" + columns + "}"), "f.json:7: " + part));
  };
  refused(R"("attention_mask": [1, 0, 1])", "attention_mask: entry 1: got 0 between tokens");
  refused(R"("attention_mask": [0, 0, 0])", "attention_mask: is 0 everywhere");
  refused(R"("attention_mask": [1, 1])", "attention_mask: expected a list of 3 numbers, one for each id, got 2");
  refused(R"("attention_mask": [1, 2, 1])", "attention_mask: entry 1: expected an integer in [0, 1], got 2");
  refused(R"("attention_mask": [1, false, true])", "attention_mask: entry 1: got 0 between tokens");
  refused(R"("position_ids": [0, true, 2])", "position_ids: entry 1: expected an integer in ");
  refused(R"("attention_mask": 1)", "attention_mask: expected a list of 3 numbers, one for each id, got 1");
  refused(R"("attention_mask": [1, 1, 0], "labels": [-100, 5, 6])", "labels: entry 2: expected -100 where");
  refused(R"("position_ids": [0, 2, 3])", "position_ids: entry 1: expected 1 ");
  refused(R"("attention_mask": [0, 1, 1], "position_ids": [0, 1, 2])", "position_ids: entry 1: expected 0 ");
  refused(R"("position_ids": [0, 1, 18446744073709551615])", "position_ids: entry 2: expected an integer in ");
  refused(R"("token_type_ids": [0, 1, 1])", "token_type_ids: entry 1: expected 0 ");
}

TEST(Row, RefusesWhatItDoesNotUnderstand) {
  EXPECT_EQ(error(R"({"question": "q", "anser": "a"})"),
            "f.json:7: expected input_ids, question/answer, instruction/output, prompt/completion, query/response, "
            "messages, conversations or text, got keys [anser, question]");
  EXPECT_TRUE(contains(error("{}"), "got keys []"));
  EXPECT_EQ(error(R"({"question": "q", "answer": 5})"), "f.json:7: answer: expected a text, got 5");
  EXPECT_EQ(error(R"({"question": null, "answer": "a"})"), "f.json:7: question: expected a text, got null");
  EXPECT_EQ(error(R"({"instruction": "q", "input": ["x"], "output": "a"})"),
            "f.json:7: input: expected a text, got [\"x\"]");
  EXPECT_EQ(error(R"({"question": "q", "answer": ""})"), "f.json:7: answer: is empty");
  EXPECT_EQ(error(R"({"question": "", "answer": "a"})"), "f.json:7: question: is empty");
  EXPECT_EQ(error(R"({"instruction": "", "input": "", "output": "a"})"), "f.json:7: instruction: is empty");
  EXPECT_EQ(error(R"({"text": ""})"), "f.json:7: text: is empty");
}

TEST(Prompt, ReplacesEveryPlaceOnce) {
  EXPECT_EQ(render_prompt("{question}\n", "q"), "q\n");
  EXPECT_EQ(render_prompt("Q: {question} ({question}) A:", "q"), "Q: q (q) A:");
  EXPECT_EQ(render_prompt("<{question}>", "a {question} b"), "<a {question} b>");
  EXPECT_EQ(render_prompt("no place", "q"), "no place");
}

TEST(Prompt, HasNoPlaceThatNothingFills) {
  for (const std::string fine :
       {"{question}", "{question}\n", "Q: {question} ({question})\nA:", "{\"a\": 1, \"q\": \"{question}\"}",
        "{ } {} {\"a\": {\"b\": 2}} {see above, please} {question}",
        "{question} in \\boxed{answer}, \\frac{a}{b}, x_{i}^{n}", "{question}\n[0-9]{1,3} {'k': 1} { {",
        "line\n{question} \\n stays beside a line end",
        "Find \\nabla f of {question}, where a \\neq b:", "{question} as \\d{3}-\\d{4}"})
    EXPECT_EQ(template_defect(fine), "") << fine;
  const auto refused = [](const std::string& text, const std::string& part) {
    EXPECT_TRUE(contains(template_defect(text), part)) << text;
    EXPECT_TRUE(contains(error_of<UserError>([&] { check_template(text); }), "prompt_template: "));
  };
  refused("### Instruction:\\n{question}\\n", "holds a backslash and the letter n (byte 17), and no line end");
  refused("{question}\\nabc:", "holds a backslash and the letter n (byte 11)");
  refused("\\nabla of {question}\\nAnswer:", "holds a backslash and the letter n (byte 21)");
  refused("a\n{question}\\n{3}", "nothing fills {3} (byte 15)");
  refused("<human>{{question}}<bot>", "doubled braces (byte 8)");
  refused("{question}\n{{\"a\": 1}}", "doubled braces");
  for (const std::string name :
       {"input", "answer", "instruction", "query", "Question", "0", "messages[0].content", "问题"}) {
    refused("{question}\n{" + name + "}", "nothing fills {" + name + "}");
    refused("{question}\n{ " + name + " }", "nothing fills {" + name + "}");
  }
}

TEST(Prompt, IsEncodedAsTrainingDoes) {
  const TempFolder folder;
  train_tokenizer(folder.path());
  const Tokenizer with = Tokenizer::open(folder.path(), true), without = Tokenizer::open(folder.path(), false);
  std::vector<int32_t> ids = without.encode("Q: the\n");
  EXPECT_EQ(encode_prompt(without, "Q: {question}\n", "the"), ids);
  ids.insert(ids.begin(), 1);
  EXPECT_EQ(encode_prompt(with, "Q: {question}\n", "the"), ids);
  // A model may have been trained with a template that is refused today.
  EXPECT_EQ(encode_prompt(without, "Q: {question}{input}", "the"), without.encode("Q: the{input}"));
}

}  // namespace
}  // namespace rankfold
