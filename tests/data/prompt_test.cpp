#include "data/prompt.h"

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

std::variant<Prompted, Example> read(const std::string& row, const Columns& columns = {}) {
  return read_row(json::parse(row), "f.json:7", columns, 100);
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
  check_columns({{"question", "x"}, {"labels", "y"}});
  EXPECT_TRUE(contains(error_of<UserError>([] {
                         check_columns({{"qestion", "x"}});
                       }),
                       "'qestion' (did you mean 'question'?)"));
}

TEST(Row, RefusesWhatItDoesNotUnderstand) {
  EXPECT_EQ(error(R"({"question": "q", "anser": "a"})"),
            "f.json:7: expected question/answer, instruction/output, prompt/completion, query/response, text or "
            "input_ids, got keys [anser, question]");
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

TEST(Prompt, IsEncodedAsTrainingDoes) {
  const TempFolder folder;
  train_tokenizer(folder.path());
  const Tokenizer with = Tokenizer::open(folder.path(), true), without = Tokenizer::open(folder.path(), false);
  std::vector<int32_t> ids = without.encode("Q: the\n");
  EXPECT_EQ(encode_prompt(without, "Q: {question}\n", "the"), ids);
  ids.insert(ids.begin(), 1);
  EXPECT_EQ(encode_prompt(with, "Q: {question}\n", "the"), ids);
}

}  // namespace
}  // namespace rankfold
