// lora-eval --compare as a person runs it: the contract of its report, what it refuses, how it reads its names.
#include "cli/compare_report.h"
#include "cli/run_program.h"
#include "support/contains.h"
#include "support/temp_folder.h"
#include "support/tiny_model.h"
#include "support/tiny_tokenizer.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <filesystem>

namespace rankfold {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::contains;
using testing::Outcome;
using testing::read_bytes;
using testing::run_program;

// A base, an adapter and a whole model that a few steps have made of it.
class Comparisons : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = new testing::TempFolder;
    testing::write_tiny_model(*folder_ / "model", {.vocabulary = 512});
    testing::train_tokenizer(*folder_ / "model");
    folder_->write("train.json", rows(0, 12));
    folder_->write("data.json", rows(12, 20));
    const std::string train =
        "lora-train --model_name_or_path model --dataset train.json --max_steps 4 --learning_rate 0.01 "
        "--per_device_train_batch_size 4 ";
    for (const char* flags :
         {"--target_modules W_pack --r 4 --output_dir lora", "--finetuning_type full --output_dir full",
          "--target_modules W_pack --output_dir 'base'"}) {
      const Outcome trained = run(train + flags);
      ASSERT_EQ(trained.code, 0) << trained.err;
    }
  }
  static void TearDownTestSuite() { delete folder_; }

  static std::string rows(int begin, int end) {
    std::string text;
    for (int i = begin; i < end; ++i)
      text += json{{"question", "What is " + std::to_string(i) + "?"},
                   {"answer", "the answer " + std::to_string(i)},
                   {"terms", {"answer", std::to_string(i)}}}
                  .dump() +
              "\n";
    return text;
  }

  static Outcome run(const std::string& arguments) { return run_program(*folder_, arguments); }
  static Outcome eval(const std::string& arguments) {
    return run("lora-eval --model_name_or_path model --dataset data.json --max_new_tokens 6 " + arguments);
  }
  static json report(const std::string& name = "r") { return json::parse(read_bytes(*folder_ / (name + ".json"))); }

  static void expect_refused(const std::string& arguments, const std::string& line) {
    const Outcome refused = eval(arguments);
    EXPECT_EQ(refused.code, 2) << refused.err;
    EXPECT_EQ(refused.err, "lora-eval: " + line + "\n");
    EXPECT_EQ(refused.out, "");
  }

  static testing::TempFolder* folder_;
};
testing::TempFolder* Comparisons::folder_ = nullptr;

TEST_F(Comparisons, AWholeModelIsNotQuantised) {
  const std::string bits = "--quantization_bit 4 ";
  const Outcome compared = eval("--compare base lora full --report r " + bits);
  ASSERT_EQ(compared.code, 0) << compared.err;
  EXPECT_TRUE(contains(compared.out, "note: base and adapters: linear layers in nf4; whole models: as their folders"));
  const json models = report().at("models");
  const auto expect_loss = [&](size_t i, const std::string& flags) {
    const Outcome alone = eval(flags);
    ASSERT_EQ(alone.code, 0) << alone.err;
    EXPECT_EQ(models.at(i).at("loss"), json::parse(alone.out).at("loss")) << flags;
  };
  expect_loss(0, bits);
  expect_loss(1, bits + "--adapter_name_or_path lora");
  expect_loss(2, "--model_name_or_path full");
}

TEST_F(Comparisons, ATypeDoesNotTurnOnTheBitsThatAreTurnedOff) {
  const std::string beside = " beside --quantization_type nf4, got ", end = ": leave one of the two out";
  expect_refused("--load_in_4bit false --quantization_type nf4",
                 "--load_in_4bit: expected true" + beside + "false" + end);
  expect_refused("--quantization_bit 0 --quantization_type nf4",
                 "--quantization_bit: expected 4 or 8" + beside + "0" + end);
  expect_refused("--quantization_bit 0 --load_in_4bit true",
                 "--quantization_bit: expected 4 or 8 beside load_in_4bit, got 0" + end);
  EXPECT_EQ(eval("--load_in_8bit false --quantization_type nf4").code, 0);
}

TEST_F(Comparisons, TheReportIsAsPromisedAndAsEachModelAlone) {
  const Outcome compared = eval("--compare base lora full --train_dataset train.json --terms terms --report r");
  ASSERT_EQ(compared.code, 0) << compared.err;
  const json r = report();
  const std::vector<std::pair<std::string, std::string>> alone{
      {"base", ""}, {"lora", "--adapter_name_or_path lora"}, {"full", "--model_name_or_path full"}};
  ASSERT_EQ(r.at("models").size(), alone.size());
  for (size_t i = 0; i < alone.size(); ++i) {
    const json& m = r.at("models")[i];
    EXPECT_EQ(m.at("name"), alone[i].first);
    for (const char* key : {"loss", "perplexity", "perplexity_train", "gap", "term_accuracy", "exact_match", "char_f1",
                            "rouge_l", "generate_tokens_per_second"})
      EXPECT_TRUE(m.at(key).is_number()) << key;
    EXPECT_GT(m.at("peak_memory_bytes"), 1000000);
    const Outcome single = eval("--terms terms --output one.json " + alone[i].second);
    ASSERT_EQ(single.code, 0) << single.err;
    const json one = report("one");
    EXPECT_EQ(m.at("loss"), one.at("loss"));
    EXPECT_EQ(m.at("term_accuracy"), one.at("term_accuracy"));
    const Outcome on_train = eval("--dataset train.json --output one.json " + alone[i].second);
    ASSERT_EQ(on_train.code, 0) << on_train.err;
    EXPECT_EQ(m.at("perplexity_train"), report("one").at("perplexity"));
    const double gap = m.at("loss").get<double>() - report("one").at("loss").get<double>();
    EXPECT_NEAR(m.at("gap").get<double>(), gap, 1e-12);
    const double share = gap / r.at("models")[0].at("loss").get<double>();
    EXPECT_EQ(m.at("overfitting"), share < 0.1 ? "low" : share < 0.3 ? "medium" : "high");
    EXPECT_TRUE(contains(compared.out, m.at("overfitting").get<std::string>() + " ("));
  }
  EXPECT_EQ(r["models"][0]["trainable_parameters"], 0);
  EXPECT_EQ(r["models"][1]["trainable_parameters"], 2 * 4 * (32 + 96));  // layers, r, in and out of W_pack
  EXPECT_EQ(r["models"][0]["bytes_on_disk"], fs::file_size(*folder_ / "model/model.safetensors"));
  EXPECT_EQ(r["models"][1]["bytes_on_disk"], fs::file_size(*folder_ / "lora/adapter_model.safetensors"));
  EXPECT_EQ(r["models"][2]["bytes_on_disk"], fs::file_size(*folder_ / "full/model.safetensors"));
  ASSERT_EQ(r.at("pairs").size(), 3u);
  for (const json& pair : r["pairs"]) {
    EXPECT_EQ(pair.at("wins").get<int>() + pair.at("losses").get<int>() + pair.at("ties").get<int>(), 8);
    EXPECT_GT(pair.at("p"), 0);
    EXPECT_LE(pair.at("p"), 1);
  }
  EXPECT_EQ(r["pairs"][1]["a"], "base");
  EXPECT_EQ(r["pairs"][1]["b"], "full");
}

TEST_F(Comparisons, ThePageNeedsNothingFromElsewhere) {
  folder_->write("markup.json", json{{"question", "<script>alert(1)</script>"}, {"answer", "<b>&amp;"}}.dump() + "\n");
  const Outcome compared = eval("--dataset markup.json --compare base --report page.html");
  ASSERT_EQ(compared.code, 0) << compared.err;
  const std::string page = read_bytes(*folder_ / "page.html");
  EXPECT_TRUE(fs::exists(*folder_ / "page.json"));
  EXPECT_TRUE(contains(page, "&lt;script&gt;alert(1)&lt;/script&gt;"));
  EXPECT_TRUE(contains(page, "&lt;b&gt;&amp;amp;"));
  EXPECT_TRUE(contains(page, "<svg"));
  for (const char* part : {"<script", " src=", "<link", "@import", "url("})
    EXPECT_EQ(page.find(part), std::string::npos) << part;
  std::istringstream lines(compared.out);
  for (std::string line; std::getline(lines, line);) EXPECT_LE(line.size(), 100u) << line;
}

TEST_F(Comparisons, NamesWithCommasOrWithout) {
  for (const char* names :
       {"--compare base lora", "--compare base,lora", "--compare base, lora", "--compare='[\"base\", \"lora\"]'"}) {
    ASSERT_EQ(eval(std::string("--report r ") + names + " --max_new_tokens 2").code, 0) << names;
    const json models = report().at("models");
    ASSERT_EQ(models.size(), 2u) << names;
    EXPECT_EQ(models[0].at("name"), "base");
    EXPECT_EQ(models[1].at("name"), "lora");
    EXPECT_TRUE(models[1].at("perplexity_train").is_null());
    EXPECT_TRUE(models[1].at("overfitting").is_null());
    EXPECT_TRUE(models[1].at("term_accuracy").is_null());
  }
}

TEST_F(Comparisons, BaseIsTheModelAndAFolderOfThatNameIsWrittenAsOne) {
  ASSERT_EQ(eval("--compare base ./base --train_dataset train.json --report r").code, 0);
  json models = report().at("models");
  EXPECT_EQ(models[0].at("kind"), "base");
  EXPECT_EQ(models[1].at("kind"), "adapter");
  EXPECT_EQ(models[1].at("name"), "./base");
  EXPECT_EQ(models[1].at("bytes_on_disk"), fs::file_size(*folder_ / "base/adapter_model.safetensors"));
  const double loss = models[0].at("loss");
  // Gaps are by the base's loss, compared or not.
  const Outcome without = eval("--compare full ./base --train_dataset train.json --report r");
  ASSERT_EQ(without.code, 0) << without.err;
  EXPECT_EQ(report().at("base_loss"), loss);
  EXPECT_TRUE(contains(without.out, "note: gaps are measured by the loss of the base"));
  models = report().at("models");
  EXPECT_NEAR(models[1].at("gap_share").get<double>(), models[1].at("gap").get<double>() / loss, 1e-12);
}

TEST_F(Comparisons, WrongNamesAreRefusedBeforeAnyWork) {
  folder_->write("empty/x", "");
  folder_->write("narrow/adapter_config.json", read_bytes(*folder_ / "lora/adapter_config.json"));
  const std::string expected = "expected base, or a folder with adapter_config.json or config.json, got ";
  expect_refused("--compare base nowhere", "--compare: nowhere: " + expected + "nothing");
  expect_refused("--compare base empty", "--compare: empty: " + expected + "a folder with neither");
  expect_refused("--compare data.json", "--compare: data.json: " + expected + "a file");
  expect_refused("--compare lora ./lora", "--compare: ./lora: expected each model once, got it twice");
  expect_refused("--compare base base", "--compare: base: expected each model once, got it twice");
  expect_refused("--compare base --adapter_name_or_path lora",
                 "--adapter_name_or_path: expected none beside --compare, got lora: name it in --compare");
  expect_refused("--compare base --output o.json", "--output: expected --report with --compare, got o.json");
  expect_refused("--compare base --report lora/",
                 "--report: expected a name, such as lora/comparison, got the folder lora/");
  expect_refused("--compare base --report no/r", "--report: no: expected a folder, got nothing");
  expect_refused("--compare", "--compare: expected base or folders: base out/lora, got nothing");
  expect_refused("--report r", "--report: expected --compare with it, got none");
  expect_refused("--train_dataset train.json", "--train_dataset: expected --compare with it, got none");
  EXPECT_EQ(eval("--compare base narrow").code, 2);  // an adapter without its weights
}

TEST_F(Comparisons, RowsThatAskNothingAreCounted) {
  folder_->write("mixed.json", rows(0, 3) + json{{"text", "a text"}}.dump() + "\n");
  const Outcome compared = eval("--dataset mixed.json --compare base lora --report r --predictions p.jsonl");
  ASSERT_EQ(compared.code, 0) << compared.err;
  EXPECT_TRUE(contains(compared.out, "note: 1 row without a question: counted in the losses alone"));
  EXPECT_EQ(report().at("rows_asked"), 3);
  EXPECT_EQ(report().at("rows_without_question"), 1);
  std::istringstream lines(read_bytes(*folder_ / "p.jsonl"));
  int count = 0;
  for (std::string line; std::getline(lines, line); ++count) {
    const json row = json::parse(line);
    EXPECT_EQ(row.at("question"), "What is " + std::to_string(count) + "?");
    EXPECT_EQ(row.at("reference"), "the answer " + std::to_string(count));
    EXPECT_TRUE(row.at("answers").contains("base") && row.at("answers").contains("lora"));
  }
  EXPECT_EQ(count, 3);
}

TEST_F(Comparisons, TermsOfAFileAndMined) {
  folder_->write("terms.txt", "answer\n13\n");
  ASSERT_EQ(eval("--compare base --terms terms.txt --report r").code, 0);
  EXPECT_EQ(report().at("rows_with_terms"), 8);  // "13" is in its row's question, "answer" in no question
  EXPECT_EQ(report().at("terms"), "terms.txt");
  folder_->write("general.txt", "the\nWhat is it?\n");
  const Outcome mined = eval("--compare base --terms mined --base_text general.txt --report r");
  EXPECT_EQ(mined.code, 0) << mined.err;
  EXPECT_TRUE(contains(mined.err, " terms mined: "));
  EXPECT_EQ(report().at("rows_with_terms"), 8);
  folder_->write("general.txt", "the answer\n" + std::string(300, '\n'));  // blank lines are no texts
  const Outcome common = eval("--compare base --terms mined --base_text general.txt");
  EXPECT_EQ(common.code, 2);
  EXPECT_TRUE(contains(common.err, "lora-eval: --terms mined: expected phrases"));
  const Outcome wrong = eval("--compare base --terms term");
  EXPECT_EQ(wrong.code, 2);
  EXPECT_TRUE(contains(wrong.err,
                       "--terms: expected a field of the rows, mined, or a file with one term per line, got term (did "
                       "you mean 'terms'?)"));
  EXPECT_EQ(eval("--compare base --terms terms --base_text general.txt").code, 2);
}

// A model with answers to one question, as compare() would give it.
ComparedModel answering(const std::string& name, const std::string& answer, const Question& question) {
  ComparedModel model{.name = name, .loss = 1, .perplexity = std::exp(1.0)};
  model.each.push_back(scored(answer, question));
  model.answers = AnswerMeans{.char_f1 = model.each[0].char_f1};
  return model;
}

TEST(CompareReport, SaysNumbersWithTheirUnits) {
  const Question question{.text = "q", .reference = "ab"};
  Comparison comparison{.models = {answering("base", "ab", question), answering("lora", "", question)},
                        .questions = {question}};
  comparison.models[0].peak_memory_bytes = int64_t{3} << 30;
  comparison.models[1].trainable_parameters = 73728;
  comparison.models[1].bytes_on_disk = 295720;
  comparison.models[1].train = TrainFit{.loss = 0.5, .perplexity = 1.6, .gap = 0.5, .gap_share = 0.25};
  comparison.models[1].train->overfitting = overfitting_of(0.5, 2);
  comparison.pairs = {{.a = 0, .b = 1, .wins = 1}};
  comparison.pairs[0].p = 0;  // too small for a double
  const ComparedOn on{.base = "m", .held_out = "d.json"};
  for (const std::string& text : {comparison_text(comparison), comparison_page(comparison, on)})
    for (const char* part :
         {"3.00 GiB", "73,728", "296 kB", "medium (25.0 %)", "100.0 %", "1e-300", "judged by char F1"})
      EXPECT_TRUE(contains(text, part)) << part;
  const std::string page = comparison_page(comparison, on);
  EXPECT_TRUE(contains(page, "(nothing)"));  // an empty answer
  EXPECT_TRUE(contains(page, "<td class=\"best\">ab</td>"));
  EXPECT_TRUE(contains(page, "1 question of d.json"));
}

TEST(CompareReport, NamesOfModelsAreTextOnThePage) {
  const Question question{.text = "q", .reference = "ab"};
  const std::string hostile = "<img src=x onerror='1'>&\"";
  Comparison comparison{.models = {answering(hostile, "ab", question)}, .questions = {question}};
  comparison.notes = {hostile};
  const std::string page = comparison_page(comparison, {.base = hostile, .held_out = hostile, .what_terms = hostile});
  EXPECT_FALSE(contains(page, "<img"));
  EXPECT_TRUE(contains(page, "&lt;img src=x onerror=&#39;1&#39;&gt;&amp;&quot;"));
}

TEST(CompareReport, NamesAreShortWhereThatIsEnough) {
  const auto names = [](const std::vector<std::string>& list) {
    std::vector<ComparedModel> models;
    for (const std::string& name : list) models.push_back({.name = name});
    return short_names(models);
  };
  using Names = std::vector<std::string>;
  EXPECT_EQ(names({"base", "out/a/", "out/b"}), (Names{"base", "a", "b"}));
  EXPECT_EQ(names({"base", "./base"}), (Names{"base", "./base"}));
  EXPECT_EQ(names({"x/out", "y/out"}), (Names{"x/out", "y/out"}));
}

}  // namespace
}  // namespace rankfold
