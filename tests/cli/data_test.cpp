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
#include <sstream>
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
  for (const char* command : {"check data.jsonl", "clean data.jsonl --output new.jsonl"}) {
    folder_.write("notes.json", "mine");
    expect_refused(join("lora-data ", command, " --report notes.json"),
                   "--report: notes.json is there: expected the name of a new file, or --overwrite");
    EXPECT_EQ(read_bytes(folder_ / "notes.json"), "mine");
    EXPECT_EQ(run(join("lora-data ", command, " --report notes.json --overwrite")).code, 0);
    EXPECT_TRUE(read_bytes(folder_ / "notes.json").starts_with("{"));
    fs::remove(folder_ / "new.jsonl");
    EXPECT_EQ(run(join("lora-data ", command, " --report notes.json")).code, 0) << "an earlier report";
  }
  fs::remove(folder_ / "new.jsonl");
  folder_.write("empty.json", "");
  expect_refused("lora-data check data.jsonl --report empty.json", "--report: empty.json is there");
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
                 "--remove: personal_data cannot be a reason: expected bad_rows, wrong_encoding, ");
  expect_refused("lora-data clean data.jsonl --output out.jsonl --remove exact_duplicates,near_duplicate",
                 "--remove: no kind of rows is called 'near_duplicate' (did you mean 'near_duplicates'?)");
  expect_refused("lora-data clean data.jsonl --output out.jsonl --remove zzz",
                 "--remove: no kind of rows is called 'zzz': expected bad_rows, wrong_encoding, ");
  folder_.write("broken.jsonl", "{\"question\": 5}\n");
  expect_refused("lora-data check data.jsonl --heldout broken.jsonl", "none of 1 held-out rows can be compared");
  expect_refused("lora-data clean data.jsonl --output nowhere/out.jsonl", "--output: nowhere: expected a folder");
  expect_refused("lora-data check data.jsonl --near_threshold 2", "--near_threshold: expected a number in [0.3, 1]");
  expect_refused("lora-data check data.jsonl --columns what=x", "columns: no column is called 'what'");
  expect_refused("lora-data clean data.jsonl --output out.jsonl --columns question=ask,answer=reply",
                 "nothing is left of 4 rows");
  EXPECT_FALSE(fs::exists(folder_ / "out.jsonl"));
}

// Whoever may not read the rows must not read them in what is made of them.
TEST_F(LoraData, WhatIsWrittenIsReadByNoMoreThanWhatIsRead) {
  const auto mode = [this](const char* name) { return fs::status(folder_ / name).permissions(); };
  const auto with = [this](const char* name, unsigned bits) {
    fs::permissions(folder_ / name, static_cast<fs::perms>(bits));
  };
  run("lora-data clean data.jsonl --output plain.jsonl");
  with("data.jsonl", 0600);
  ASSERT_EQ(run("lora-data clean data.jsonl --output own.jsonl --report own.json").code, 0);
  EXPECT_EQ(mode("own.jsonl"), static_cast<fs::perms>(0600));
  EXPECT_EQ(mode("own.json"), static_cast<fs::perms>(0600));
  with("data.jsonl", 0444);  // its owner may write to a new file all the same
  ASSERT_EQ(run("lora-data clean data.jsonl --output all.jsonl").code, 0);
  EXPECT_EQ(mode("all.jsonl"), mode("plain.jsonl") & ~static_cast<fs::perms>(022));
  with("heldout.json", 0640);
  ASSERT_EQ(run("lora-data check data.jsonl --heldout heldout.json --report group.json").code, 0);
  EXPECT_EQ(mode("group.json"), mode("plain.jsonl") & static_cast<fs::perms>(0640));
}

// The example of the page: its rows, its commands and what they print.
TEST_F(LoraData, ThePagePrintsWhatTheProgramDoes) {
  const std::string page = read_bytes(fs::path(RANKFOLD_DOCS) / "data-cleaning.md");
  const auto indented = [](const std::string& text) {
    std::string block;
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);) block += (line.empty() ? "" : "    ") + line + "\n";
    return block;
  };
  const std::string opens = "    cat > rows.jsonl <<'END'\n";
  const size_t begin = page.find(opens) + opens.size(), end = page.find("    END\n", begin);
  ASSERT_NE(end, std::string::npos);
  std::istringstream lines(page.substr(begin, end - begin));
  std::string rows;
  for (std::string line; std::getline(lines, line);) rows += line.substr(4) + "\n";
  folder_.write("rows.jsonl", rows);
  const auto output = [&](const std::string& command) {
    EXPECT_TRUE(contains(page, indented(command)));
    const Outcome outcome = run(command);
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    return outcome.out;
  };
  EXPECT_TRUE(contains(page, "\n\n" + indented(output("lora-data check rows.jsonl --examples 0")) + "\n"));
  output("lora-data clean rows.jsonl --output clean.jsonl --mask id,mobile,email,bankcard --report report.json");
  EXPECT_TRUE(contains(page, "\n\n" + indented(read_bytes(folder_ / "clean.jsonl")) + "\n"));
}

TEST_F(LoraData, Help) {
  const Outcome help = run("lora-data --help");
  EXPECT_EQ(help.code, 0);
  EXPECT_TRUE(contains(help.out, "\n  check  "));
  EXPECT_TRUE(contains(help.out, "\n  clean  "));
  EXPECT_TRUE(contains(run("lora-data check --help").out, "usage: lora-data check FILE... [--KEY VALUE ...]"));
  const Outcome clean = run("lora-data clean --help");
  EXPECT_TRUE(contains(clean.out, "usage: lora-data clean FILE [--KEY VALUE ...]"));
  for (const char* word : {"bad_rows", "conflicts", "mojibake", "heldout_near"}) EXPECT_TRUE(contains(clean.out, word));
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
