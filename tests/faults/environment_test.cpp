// Limits, closed streams, odd places and names: the same bytes, or one line that says why not.
#include "checkpoint/checkpoint.h"
#include "core/check.h"
#include "faults/program.h"
#include "support/contains.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <iostream>

namespace rankfold::faults {
namespace {

using testing::contains;

const std::vector<std::string> kFewSteps = {"--max_steps=12"};

class Environment : public ::testing::Test {
 protected:
  Environment() {
    EXPECT_EQ(job_.train("whole", kFewSteps).code, 0);
    wanted_ = job_.result("whole");
  }
  void expect_same(const std::string& what, const Setting& setting) {
    const Outcome o = job_.train("out", kFewSteps, setting);
    EXPECT_EQ(o.code, 0) << what << ": signal " << o.signal << ", " << o.err;
    EXPECT_TRUE(job_.result("out") == wanted_) << what << ": other bytes";
    EXPECT_EQ(newest_step(job_ / "out"), 12) << what;
    EXPECT_EQ(temporaries_below(job_ / "out"), std::vector<std::string>()) << what;
    fs::remove_all(job_ / "out");
    ++passed_;
  }

  const Job job_;
  std::string wanted_;
  int64_t passed_ = 0;
};

TEST_F(Environment, GivesTheSameBytes) {
  expect_same("32 descriptors", {.in_child = [] {
                const rlimit limit = {32, 32};
                ::setrlimit(RLIMIT_NOFILE, &limit);
              }});
  expect_same("no temporary folder", {.environment = {"TMPDIR=/nonexistent/folder"}});
  expect_same("no home", {.environment = {"HOME"}});
  expect_same("nearly no environment", {.environment = {"HOME", "PATH", "TMPDIR", "USER", "LANG", "SHELL", "PWD"}});
  expect_same("umask 077", {.in_child = [] { ::umask(077); }});
  for (const char* locale : {"C", "tr_TR.UTF-8", "de_DE.UTF-8"})
    expect_same(locale, {.environment = {std::string("LC_ALL=") + locale}});
  expect_same("in another folder", {.in_child = [] { EXPECT_EQ(::chdir("/"), 0); }});
  // A file that the program opens must not become its standard output.
  for (const std::vector<int>& streams : {std::vector<int>{0}, {1}, {2}, {0, 1, 2}})
    expect_same(join(streams.size(), " closed streams from ", streams[0]), {.in_child = [streams] {
                  for (const int fd : streams) ::close(fd);
                }});
  const auto put_out_to = [](const char* path) {
    return Setting{.in_child = [path] { ::dup2(::open(path, O_WRONLY), STDOUT_FILENO); }};
  };
  expect_same("a full device as standard output", put_out_to("/dev/full"));
  std::cout << "environment: " << passed_ << " of " << passed_ << " gave the same bytes\n";
}

TEST_F(Environment, APipeThatNobodyReads) {
  for (const bool closed : {false, true}) {
    int ends[2];
    ASSERT_EQ(::pipe(ends), 0);
    // Full before the program starts.
    ::fcntl(ends[1], F_SETFL, O_NONBLOCK);
    const std::string page(4096, 'x');
    while (::write(ends[1], page.data(), page.size()) > 0) {
    }
    ::fcntl(ends[1], F_SETFL, 0);
    expect_same(closed ? "a pipe whose reader has gone" : "a pipe that is stalled", {.in_child = [&] {
                  ::dup2(ends[1], STDOUT_FILENO);
                  ::dup2(ends[1], STDERR_FILENO);
                  ::close(ends[1]);
                  if (closed) ::close(ends[0]);
                }});
    ::close(ends[0]), ::close(ends[1]);
  }
}

TEST_F(Environment, PathsWithSpacesAndChinese) {
  const fs::path place = job_ / "a place with 'quotes' and\ttabs/医疗 问答";
  fs::create_directories(place);
  fs::copy(job_ / "model", place / "模型 folder", fs::copy_options::recursive);
  fs::copy(job_ / "ids.jsonl", place / "数据 rows.jsonl");
  const std::string model = (place / "模型 folder").string(), out = (place / "结果 out").string();
  const Outcome o = job_.train("unused", {"--max_steps=12", "--model_name_or_path=" + model,
                                          "--dataset=" + (place / "数据 rows.jsonl").string(), "--output_dir=" + out});
  EXPECT_EQ(o.code, 0) << o.err;
  EXPECT_EQ(read_bytes(fs::path(out) / "adapter_model.safetensors"), wanted_);
  const Outcome merged = Program("lora-merge", {"--model_name_or_path=" + model, "--adapter_name_or_path=" + out,
                                                "--output_dir=" + (place / "合并").string()})
                             .wait();
  EXPECT_EQ(merged.code, 0) << merged.err;
}

std::vector<std::string> evaluation(const Job& job) {
  return {"--model_name_or_path=" + (job / "model").string(), "--adapter_name_or_path=" + (job / "whole").string(),
          "--dataset=" + (job / "ids.jsonl").string(), "--device=cpu"};
}
std::vector<std::string> merging(const Job& job, const std::string& out) {
  return {"--model_name_or_path=" + (job / "model").string(), "--adapter_name_or_path=" + (job / "whole").string(),
          "--output_dir=" + (job / out).string()};
}

TEST_F(Environment, FilesThatCannotBeMapped) {
  const Setting unmapped = {
      .environment = {"LD_PRELOAD=" FAULTS_SHIM, "FAULTS_ROOT=" + job_.path().string(), join("FAULTS_MMAP=", ENODEV)}};
  expect_same("no mapping", unmapped);
  const auto loss = [](const Outcome& o) {
    EXPECT_EQ(o.code, 0) << o.err;
    return o.code == 0 ? nlohmann::json::parse(o.out).at("loss").get<double>() : -1;
  };
  EXPECT_EQ(loss(Program("lora-eval", evaluation(job_), unmapped).wait()),
            loss(Program("lora-eval", evaluation(job_)).wait()));
  EXPECT_EQ(Program("lora-merge", merging(job_, "merged"), unmapped).wait().code, 0);
  EXPECT_EQ(Program("lora-merge", merging(job_, "merged2")).wait().code, 0);
  EXPECT_EQ(files_below(job_ / "merged"), files_below(job_ / "merged2"));
}

TEST_F(Environment, NoProgramOpensASocket) {
  const Setting watched = {.environment = {"LD_PRELOAD=" FAULTS_SHIM, "FAULTS_ROOT=" + job_.path().string(),
                                           "FAULTS_REPORT=" + (job_ / "report").string()}};
  EXPECT_EQ(job_.train("out", kFewSteps, watched).code, 0);
  EXPECT_EQ(Program("lora-eval", evaluation(job_), watched).wait().code, 0);
  EXPECT_EQ(Program("lora-merge", merging(job_, "merged"), watched).wait().code, 0);
  const std::string report = read_bytes(job_ / "report");
  EXPECT_EQ(report.find("socket"), std::string::npos) << report;
  size_t programs = 0;
  for (size_t at = 0; (at = report.find("calls ", at)) != std::string::npos; ++at) ++programs;
  EXPECT_EQ(programs, 3u) << report;  // they were watched to their ends
  std::cout << "environment: lora-train, lora-eval, lora-merge: 0 sockets\n";
}

TEST_F(Environment, AModelThatShrinksWhileItIsMapped) {
  const std::string weights = job_ / "model/model.safetensors", whole = read_bytes(weights);
  Program run("lora-train", job_.arguments("out"));
  ASSERT_TRUE(run.says("\nstep 3/"));
  ASSERT_EQ(::truncate(weights.c_str(), 4096), 0);
  const Outcome o = run.wait();
  EXPECT_EQ(o.code, 5) << "signal " << o.signal << ": " << o.err;
  EXPECT_TRUE(o.err.starts_with("lora-train: ")) << o.err;
  EXPECT_TRUE(contains(o.err, "model.safetensors"));
  EXPECT_EQ(std::count(o.err.begin(), o.err.end(), '\n'), 1) << o.err;
  // Put back, the run goes on from its last checkpoint.
  std::ofstream(weights, std::ios::binary) << whole;
  EXPECT_EQ(job_.train("out", {"--resume_from_checkpoint=auto", "--max_steps=" + std::to_string(kSteps)}).code, 0);
}

TEST_F(Environment, AFileThatCannotBeRead) {
  for (const std::string name : {"config.json", "tokenizer.model"}) {
    const Outcome o =
        job_.train("out", kFewSteps,
                   {.environment = {"LD_PRELOAD=" FAULTS_SHIM, "FAULTS_ROOT=" + job_.path().string(),
                                    "FAULTS_ONLY=" + name, join("FAULTS_READ=", EIO), join("FAULTS_MMAP=", ENODEV)}});
    EXPECT_EQ(o.code, 5) << name << o.err;
    EXPECT_TRUE(contains(o.err, name + ": reading failed: Input/output error"));
    EXPECT_FALSE(fs::exists(job_ / "out")) << name;
  }
}

}  // namespace
}  // namespace rankfold::faults
