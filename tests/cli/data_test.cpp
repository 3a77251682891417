// lora-data as a person runs it, and lora-train --dataset_checks: exit codes, what is printed, what is left on the
// disk.
#include "cli/run_program.h"
#include "core/check.h"
#include "support/contains.h"
#include "support/temp_folder.h"
#include "support/tiny_model.h"
#include "support/tiny_tokenizer.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <filesystem>
#include <string>

namespace rankfold {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::contains;
using testing::Outcome;
using testing::read_bytes;
using testing::run_program;

class LoraData : public ::testing::Test {
 protected:
  LoraData() {
    folder_.write("data.jsonl", row("高血压怎么治？", "限盐减重，服用降压药。") +
                                    row("高血压怎么治?", "限盐减重,服用降压药。") +
                                    row("手机13912345678", "身份证11010519491231002X，a@b.com，卡6222021234567890128") +
                                    row("感冒怎么办", ""));
    folder_.write("heldout.json", "[" + row("高血压怎么治？", "多休息，多锻炼。") + "]");
  }
  static std::string row(const std::string& question, const std::string& answer) {
    return json{{"question", question}, {"answer", answer}}.dump() + "\n";
  }
  Outcome run(const std::string& arguments, const std::string& under = "") const {
    return run_program(folder_, arguments, under);
  }
  void expect_refused(const std::string& arguments, const std::string& part) const {
    const Outcome outcome = run(arguments);
    EXPECT_EQ(outcome.code, 2) << outcome.err;
    EXPECT_TRUE(contains(outcome.err, part));
    EXPECT_TRUE(outcome.err.starts_with("lora-data: ")) << outcome.err;
    EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << outcome.err;
    EXPECT_EQ(outcome.out, "");
  }

  testing::TempFolder folder_;
};

TEST_F(LoraData, ChecksAndChangesNothing) {
  const std::string before = read_bytes(folder_ / "data.jsonl");
  const Outcome checked = run("lora-data check data.jsonl --heldout heldout.json --report report.json");
  EXPECT_EQ(checked.code, 0) << checked.err;
  EXPECT_EQ(checked.err, "");
  for (const char* part :
       {"data.jsonl: 4 rows of JSON Lines", "heldout.json: 1 row of an array, held out", "exact_duplicates",
        "data.jsonl:2 repeats data.jsonl:1: 高血压怎么治?", "empty_answers", "heldout_questions",
        "1 id, 1 mobile, 1 email, 1 bankcard", "mobile in question at character 2"})
    EXPECT_TRUE(contains(checked.out, part));
  for (const char* secret : {"13912345678", "11010519491231002X", "a@b.com", "6222021234567890128"}) {
    EXPECT_EQ(checked.out.find(secret), std::string::npos);
    EXPECT_EQ(read_bytes(folder_ / "report.json").find(secret), std::string::npos);
  }
  const json report = json::parse(read_bytes(folder_ / "report.json"));
  EXPECT_EQ(report.at("rows"), 4);
  EXPECT_EQ(report.at("exact_duplicates"), 1);
  EXPECT_EQ(report.at("empty_answers"), 1);
  EXPECT_EQ(report.at("masked"), (json{{"id", 0}, {"mobile", 0}, {"email", 0}, {"bankcard", 0}}));
  EXPECT_EQ(read_bytes(folder_ / "data.jsonl"), before);
  EXPECT_EQ(run("lora-data check data.jsonl data.jsonl --examples 0").code, 0);
  EXPECT_TRUE(contains(run("lora-data check data.jsonl heldout.json").out, "5 rows:"));
  // What follows --heldout is held out.
  EXPECT_TRUE(contains(run("lora-data check --heldout heldout.json data.jsonl").err, "FILE... is missing"));
}

TEST_F(LoraData, CleansIntoANewFile) {
  const std::string before = read_bytes(folder_ / "data.jsonl");
  const Outcome cleaned =
      run("lora-data clean data.jsonl --output out.jsonl --mask id,mobile,email,bankcard --report report.json");
  EXPECT_EQ(cleaned.code, 0) << cleaned.err;
  EXPECT_EQ(cleaned.err, "");
  EXPECT_TRUE(contains(cleaned.out, "out.jsonl: 2 rows written, 2 left out (1 empty_answers, 1 exact_duplicates)"));
  EXPECT_TRUE(contains(cleaned.out, "masked: 1 id, 1 mobile, 1 email, 1 bankcard"));
  EXPECT_EQ(read_bytes(folder_ / "out.jsonl"),
            row("高血压怎么治？", "限盐减重，服用降压药。") + row("手机[MOBILE]", "身份证[ID]，[EMAIL]，卡[BANKCARD]"));
  EXPECT_EQ(read_bytes(folder_ / "data.jsonl"), before);
  const json report = json::parse(read_bytes(folder_ / "report.json"));
  EXPECT_EQ(report.at("masked"), (json{{"id", 1}, {"mobile", 1}, {"email", 1}, {"bankcard", 1}}));
  EXPECT_EQ(report.at("kept"), 2);

  EXPECT_EQ(run("lora-data clean --output plain.jsonl --remove '' data.jsonl").code, 0);
  EXPECT_EQ(read_bytes(folder_ / "plain.jsonl"), before);
  EXPECT_EQ(run("lora-data clean --mask mobile data.jsonl --output some.jsonl").code, 0);
  EXPECT_TRUE(contains(read_bytes(folder_ / "some.jsonl"), "手机[MOBILE]"));
  EXPECT_TRUE(contains(read_bytes(folder_ / "some.jsonl"), "a@b.com"));
}

TEST_F(LoraData, NothingIsWrittenOver) {
  const std::string before = read_bytes(folder_ / "data.jsonl");
  folder_.write("out.jsonl", "mine");
  expect_refused("lora-data clean data.jsonl --output out.jsonl", "--output: out.jsonl is there");
  EXPECT_EQ(read_bytes(folder_ / "out.jsonl"), "mine");
  EXPECT_EQ(run("lora-data clean --overwrite data.jsonl --output out.jsonl").code, 0);
  for (const char* same : {"data.jsonl", "./data.jsonl", "link.jsonl"}) {
    if (std::string(same) == "link.jsonl") fs::create_symlink("data.jsonl", folder_ / "link.jsonl");
    expect_refused(join("lora-data clean data.jsonl --overwrite --output ", same),
                   "expected another file than data.jsonl");
    expect_refused(join("lora-data check data.jsonl --report ", same),
                   "--report: expected another file than data.jsonl");
  }
  expect_refused("lora-data clean data.jsonl --output new.jsonl --report new.jsonl",
                 "--report: expected another file than");
  expect_refused("lora-data clean data.jsonl --output new.jsonl --heldout heldout.json --report heldout.json",
                 "expected another file than heldout.json");
  EXPECT_EQ(read_bytes(folder_ / "data.jsonl"), before);
  EXPECT_FALSE(fs::exists(folder_ / "new.jsonl"));
}

TEST_F(LoraData, WhatIsWrongIsOneLine) {
  expect_refused("lora-data", "expected a command, check or clean, got none");
  expect_refused("lora-data scan data.jsonl", "expected a command, check or clean, got \"scan\"");
  expect_refused("lora-data check", "FILE... is missing");
  expect_refused("lora-data check nowhere.jsonl", "nowhere.jsonl");
  expect_refused("lora-data check data.jsonl --dataset heldout.json", "expected this or FILE..., got both");
  expect_refused("lora-data clean data.jsonl", "--output is missing");
  expect_refused("lora-data clean data.jsonl heldout.json --output out.jsonl", "FILE: expected one file, got 2");
  expect_refused("lora-data clean data.jsonl --output out.jsonl --mask name",
                 "--mask: expected a list of id, mobile, email");
  expect_refused("lora-data clean data.jsonl --output out.jsonl --remove personal_data",
                 "--remove: expected a list of kinds");
  expect_refused("lora-data clean data.jsonl --output nowhere/out.jsonl", "--output: nowhere: expected a folder");
  expect_refused("lora-data check data.jsonl --near_threshold 2", "--near_threshold: expected a number in [0.3, 1]");
  expect_refused("lora-data check data.jsonl --columns what=x", "columns: no column is called 'what'");
  expect_refused("lora-data clean data.jsonl --output out.jsonl --columns question=ask,answer=reply",
                 "nothing is left of 4 rows");
  EXPECT_FALSE(fs::exists(folder_ / "out.jsonl"));
}

TEST_F(LoraData, Help) {
  const Outcome help = run("lora-data --help");
  EXPECT_EQ(help.code, 0);
  EXPECT_TRUE(contains(help.out, "\n  check  "));
  EXPECT_TRUE(contains(help.out, "\n  clean  "));
  EXPECT_TRUE(contains(run("lora-data check --help").out, "usage: lora-data check FILE... [--KEY VALUE ...]"));
  EXPECT_TRUE(contains(run("lora-data clean --help").out, "usage: lora-data clean FILE [--KEY VALUE ...]"));
  EXPECT_TRUE(run("lora-data --version").out.starts_with("lora-data "));
  EXPECT_TRUE(run("lora-data check --version").out.starts_with("lora-data "));
}

TEST_F(LoraData, AFullDiskIsAnError) { EXPECT_EQ(run("lora-data check data.jsonl >/dev/full #").code, 5); }

TEST_F(LoraData, LoraTrainSaysTheSameBeforeItTrains) {
  testing::write_tiny_model(folder_ / "model", {.vocabulary = 512});
  testing::train_tokenizer(folder_ / "model");
  const std::string text =
      row("What is 1?", "answer one") + row("What is 1?", "answer one") + row("What is 2?", "answer two");
  folder_.write("train.jsonl", text);
  folder_.write("eval.jsonl", row("What is 1?", "answer one"));
  const std::string train =
      "lora-train --model_name_or_path model --dataset train.jsonl --target_modules W_pack --max_steps 1 --output_dir ";
  const Outcome plain = run(train + "plain");
  ASSERT_EQ(plain.code, 0) << plain.err;
  EXPECT_EQ(plain.out.find("dataset_checks"), std::string::npos);
  const Outcome checked = run(train + "out --dataset_checks --eval_dataset eval.jsonl");
  ASSERT_EQ(checked.code, 0) << checked.err;
  EXPECT_TRUE(contains(checked.out,
                       "dataset_checks: exact_duplicates: 1 of 3 rows repeat an earlier row, but for width and white "
                       "space; train.jsonl:2 repeats train.jsonl:1: What is 1? => answer one\n"));
  EXPECT_TRUE(contains(checked.out, "dataset_checks: heldout_exact: 2 of 3 rows stand among the held-out rows too; "));
  EXPECT_TRUE(contains(checked.out, "dataset_checks: leakage: 1 of 1 held-out rows are known from rows that train\n"));
  EXPECT_TRUE(contains(checked.out, "train.jsonl: 3 of 3 rows")) << "no row is changed";
  EXPECT_EQ(read_bytes(folder_ / "train.jsonl"), text);
  EXPECT_EQ(json::parse(read_bytes(folder_ / "out/rankfold_config.json")).at("dataset_checks"), true);

  // Of val_size: the rows that were held out are known from the others.
  std::string equal;
  for (int i = 0; i < 10; ++i) equal += row("What is 3?", "answer three");
  folder_.write("train.jsonl", equal + row("What is 4?", "answer four"));
  const Outcome split = run(train + "split --dataset_checks --val_size 3");
  ASSERT_EQ(split.code, 0) << split.err;
  EXPECT_TRUE(contains(split.out, " of 8 rows stand among the held-out rows too; "));
  folder_.write("train.jsonl", row("What is 5?", "answer five"));
  EXPECT_TRUE(contains(run(train + "one --dataset_checks").out, "dataset_checks: nothing found in 1 row\n"));
}

}  // namespace
}  // namespace rankfold
