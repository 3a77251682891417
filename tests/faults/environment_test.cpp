// Limits, closed streams, odd places and names: the same bytes, or one line that says why not.
#include "checkpoint/checkpoint.h"
#include "core/check.h"
#include "faults/program.h"
#include "faults/shim.h"
#include "support/contains.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <langinfo.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <locale.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <iostream>
#include <nlohmann/json.hpp>
#include <utility>

namespace rankfold::faults {
namespace {

using testing::contains;

const std::vector<std::string> kFewSteps = {"--max_steps=12"};

class Environment : public ::testing::Test {
 protected:
  Environment() {
    static const WholeRun run(kFewSteps);
    wanted_ = run.put_into(job_);
  }
  // Gives what it has said.
  std::string expect_same(const std::string& what, const Setting& setting, const std::vector<std::string>& more = {}) {
    std::vector<std::string> all = kFewSteps;
    all.insert(all.end(), more.begin(), more.end());
    const Outcome o = job_.train("out", all, setting);
    EXPECT_EQ(o.code, 0) << what << ": signal " << o.signal << ", " << o.err;
    const bool same = job_.result("out") == wanted_, saved = newest_step(job_ / "out") == 12,
               clean = temporaries_below(job_ / "out").empty();
    EXPECT_TRUE(same) << what << ": other bytes";
    EXPECT_TRUE(saved && clean) << what;
    fs::remove_all(job_ / "out");
    ++settings_, good_ += o.code == 0 && same && saved && clean;
    return o.out;
  }
  // One line, which holds `part`, before any step.
  void expect_refused(const std::string& what, int code, const std::string& part, const Outcome& o) {
    EXPECT_EQ(o.code, code) << what << ": signal " << o.signal << ", " << o.err;
    EXPECT_TRUE(contains(o.err, part)) << what;
    EXPECT_EQ(std::count(o.err.begin(), o.err.end(), '\n'), 1) << what << ": " << o.err;
    EXPECT_EQ(steps_said(o.out), std::vector<int64_t>()) << what;
    refused_ += o.code == code && contains(o.err, part) && steps_said(o.out).empty();
  }

  const Job job_;
  std::string wanted_;
  int64_t settings_ = 0, good_ = 0, refused_ = 0;
};

// Makes a locale in a folder for LOCPATH; false where this machine has neither localedef(1) nor libc's sources for it.
bool make_locale(const fs::path& folder, const std::string& language) {
  const std::string name = language + ".UTF-8";
  const std::string line =
      "localedef -c -i " + language + " -f UTF-8 '" + (folder / name).string() + "' >/dev/null 2>&1 </dev/null";
  if (std::system(line.c_str()) != 0) return false;
  ::setenv("LOCPATH", folder.c_str(), 1);
  const locale_t locale = ::newlocale(LC_ALL_MASK, name.c_str(), nullptr);
  ::unsetenv("LOCPATH");
  const bool works = locale != nullptr && std::string(::nl_langinfo_l(RADIXCHAR, locale)) == ",";
  if (locale != nullptr) ::freelocale(locale);
  EXPECT_TRUE(works) << name << " was made, but has no decimal comma";
  return works;
}

TEST_F(Environment, GivesTheSameBytes) {
  expect_same("32 descriptors", {.in_child = [] {
                const rlimit limit = {32, 32};
                ::setrlimit(RLIMIT_NOFILE, &limit);
              }});
  expect_same("no temporary folder", {.environment = {"TMPDIR=/nonexistent/folder"}});
  expect_same("no home", {.environment = {"HOME"}});
  expect_same("nearly no environment", {.environment = {"HOME", "PATH", "TMPDIR", "USER", "LANG", "SHELL", "PWD"}});
  expect_same("umask 077", {.in_child = [] { ::umask(077); }});
  const TempFolder made;
  std::vector<std::string> locales = {"C"}, missing;
  for (const std::string language : {"tr_TR", "de_DE"})
    (make_locale(made.path(), language) ? locales : missing).push_back(language + ".UTF-8");
  for (const std::string& locale : locales)
    expect_same(locale, {.environment = {"LC_ALL=" + locale, "LOCPATH=" + made.path().string()}});
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
  std::cout << "environment: " << good_ << " of " << settings_ << " gave the same bytes, among them the locales";
  for (const std::string& locale : locales) std::cout << " " << locale;
  for (const std::string& locale : missing) std::cout << "; not tested, as it cannot be made here: " << locale;
  std::cout << "\n";
  EXPECT_EQ(good_, settings_);
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
  EXPECT_EQ(good_, settings_);
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

// From here on the kernel ends the process at its first socket, whoever opens it, libc itself included.
void forbid_sockets() {
  sock_filter code[] = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
                        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_socket, 0, 1),
                        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
                        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
  const sock_fprog filter = {.len = std::size(code), .filter = code};
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) != 0)
    ::_exit(126);
}

// What becomes of a process that opens one then.
int end_of_a_socket() {
  const pid_t child = ::fork();
  if (child == 0) {
    forbid_sockets();
    ::_exit(::socket(AF_UNIX, SOCK_STREAM, 0) < 0 ? 1 : 0);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return status;
}

TEST_F(Environment, NoProgramOpensASocket) {
  const int end = end_of_a_socket();
  const bool kernel_watches = !(WIFEXITED(end) && WEXITSTATUS(end) == 126);
  EXPECT_TRUE(!kernel_watches || (WIFSIGNALED(end) && WTERMSIG(end) == SIGSYS)) << end;
  const Setting watched = {.environment = {"LD_PRELOAD=" FAULTS_SHIM, "FAULTS_ROOT=" + job_.path().string(),
                                           "FAULTS_REPORT=" + (job_ / "report").string()},
                           .in_child = kernel_watches ? forbid_sockets : std::function<void()>()};
  const std::string model = "--model_name_or_path=" + (job_ / "model").string();
  const std::pair<const char*, std::vector<std::string>> programs[] = {
      {"lora-train", job_.arguments("out", kFewSteps)},
      {"lora-eval", evaluation(job_)},
      {"lora-merge", merging(job_, "merged")},
      {"lora-generate", {model, "--prompt=What is it?", "--max_new_tokens=4", "--device=cpu"}}};
  for (const auto& [name, arguments] : programs) {
    const Outcome o = Program(name, arguments, watched).wait();
    EXPECT_EQ(o.code, 0) << name << ", signal " << o.signal << ": " << o.err;
  }
  const std::string report = read_bytes(job_ / "report");
  const auto count = [&report](const std::string& line) {
    size_t times = 0;
    for (size_t at = 0; (at = report.find(line, at)) != std::string::npos; ++at) ++times;
    return times;
  };
  EXPECT_EQ(count("socket"), 0u) << report;
  EXPECT_EQ(count("calls "), std::size(programs)) << report;  // they were watched to their ends
  std::cout << "environment: " << count("calls ") << " programs opened " << count("socket") << " sockets"
            << (kernel_watches ? ", where the kernel would have ended them at the first" : "") << "\n";
}

// The drivers are of driver.cpp: what the machine has, if it has any, is not asked.
TEST_F(Environment, DriversWithoutADevice) {
  const bool has_kernels = fs::exists(fs::path(flags.programs).parent_path() / "lib/librankfold_cuda.so");
  const std::string others = std::getenv("LD_LIBRARY_PATH") ? std::string(":") + std::getenv("LD_LIBRARY_PATH") : "";
  struct Driver {
    std::string name, what;
    bool has_gpu;  // as far as it can be told: why it is not used is said then
  };
  const Driver drivers[] = {{"no_device", "cuInit gives 100", false},
                            {"of_another_version", "cuInit gives 803", true},
                            {"without_devices", "the NVIDIA driver finds no device", false},
                            {"too_old", "driver version is insufficient", true},
                            {"without_functions", "lacks cuInit", true}};
  for (const auto& [driver, what, has_gpu] : drivers) {
    const Setting setting = {.environment = {"LD_LIBRARY_PATH=" FAULTS_DRIVERS "/" + driver + others}};
    const std::string why = has_kernels ? what : "computes on the CPU only";
    expect_refused(driver, 3, why, job_.train("out", {"--device=cuda"}, setting));
    EXPECT_FALSE(fs::exists(job_ / "out")) << driver;
    const std::string said = expect_same(driver, setting, {"--device=auto"});
    EXPECT_TRUE(contains(said, has_gpu ? "device: cpu (" : "device: cpu\n")) << driver;
    EXPECT_EQ(said.find(why) != std::string::npos, has_gpu) << driver << ": " << said;
  }
  // The machine's own, told to show none.
  const Setting hidden = {.environment = {"CUDA_VISIBLE_DEVICES="}};
  expect_refused("no visible device", 3, "device: cuda was asked for", job_.train("out", {"--device=cuda"}, hidden));
  EXPECT_TRUE(contains(expect_same("no visible device", hidden, {"--device=auto"}), "device: cpu\n"));
  std::cout << "environment: " << std::size(drivers) << " drivers"
            << " and no visible device: " << refused_ << " refusals with exit 3, " << good_ << " of " << settings_
            << " went on on the CPU\n";
  EXPECT_EQ(good_, settings_);
  EXPECT_EQ(refused_, settings_);
}

TEST_F(Environment, AModelThatShrinksWhileItIsMapped) {
  const std::string weights = job_ / "model/model.safetensors", whole = read_bytes(weights);
  Program run("lora-train", job_.arguments("out"));
  ASSERT_TRUE(run.says("\nstep 3/") && run.hold());
  ASSERT_EQ(::truncate(weights.c_str(), 4096), 0);
  run.go_on();
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

// The lock, the log and every checkpoint go with it: what comes later is written into a new folder of that name. Which
// rows of the log those are depends on what comes first there, a row or a checkpoint.
TEST_F(Environment, AnOutputFolderThatGoesAway) {
  ASSERT_EQ(job_.train("long").code, 0);
  const fs::path out = job_ / "out", away = job_ / "away";
  int64_t times = 0, same = 0, whole_logs = 0;
  for (const bool moved : {true, false})
    for (const int64_t step : {5, 60}) {
      ++times;
      SCOPED_TRACE((moved ? "moved at step " : "removed at step ") + std::to_string(step));
      Program run("lora-train", job_.arguments("out"));
      ASSERT_TRUE(run.says(join("\nstep ", step, "/")) && run.hold());
      ASSERT_LT(last_step(run.said()), kSteps) << "too late";
      if (moved)
        fs::rename(out, away);
      else
        fs::remove_all(out);
      run.go_on();
      const Outcome o = run.wait();
      EXPECT_EQ(o.code, 0) << "signal " << o.signal << ": " << o.err;
      EXPECT_EQ(o.err, "");
      const std::string log = read_bytes(out / "train_log.jsonl");
      const bool good = o.code == 0 && job_.result("out") == job_.result("long") && newest_step(out) == kSteps &&
                        contains(log, join("{\"step\":", kSteps, ",")) && temporaries_below(out).empty();
      whole_logs += std::count(log.begin(), log.end(), '\n') == kSteps;
      EXPECT_TRUE(good) << o.out;
      same += good;
      fs::remove_all(out), fs::remove_all(away);
    }
  std::cout << "environment: output_dir moved or removed in " << times << " runs: " << same
            << " went on to the same bytes, " << whole_logs << " with the whole log\n";
  EXPECT_EQ(whole_logs, times);
}

TEST_F(Environment, AnOutputFolderThatCannotBeWrittenToIsFoundBeforeAnyStep) {
  int64_t cases = 0;
  for (const bool exists : {false, true}) {
    const auto setting = [&](int error) {
      return Setting{.environment = {"LD_PRELOAD=" FAULTS_SHIM, "FAULTS_ROOT=" + (job_ / "out").string(),
                                     "FAULTS_FIRST=1", "FAULTS_COUNT=-1", join("FAULTS_ERROR=", error)}};
    };
    if (exists) fs::create_directory(job_ / "out");
    for (const int error : {EROFS, EACCES, EDQUOT}) {
      expect_refused(std::strerror(error), 5, std::strerror(error), job_.train("out", kFewSteps, setting(error)));
      ++cases;
      EXPECT_EQ(fs::exists(job_ / "out"), exists);
      EXPECT_EQ(files_below(job_ / "out").size(), 0u);
    }
  }
  // Its permissions, which root passes over unless that right is taken away.
  const Setting without_rights = {.in_child = [] { ::prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE, 0, 0, 0); }};
  fs::permissions(job_ / "out", fs::perms::owner_read | fs::perms::owner_exec);
  for (const std::string out : {"out", "out/deeper/still"}) {
    expect_refused(out, 2, "expected a folder that can be written to", job_.train(out, kFewSteps, without_rights));
    ++cases;
  }
  fs::permissions(job_ / "out", fs::perms::owner_all);
  EXPECT_EQ(files_below(job_ / "out").size(), 0u);
  EXPECT_EQ(refused_, cases);
  std::cout << "environment: an output folder that cannot be written to: " << refused_ << " of " << cases
            << " runs ended before their first step\n";
}

// All times a run shows or decides by are of a clock that nobody sets.
TEST_F(Environment, AClockThatIsSetBackAnHour) {
  constexpr int64_t kHour = 3600;
  int64_t rows = 0, questions = 0;
  for (const int64_t later : {-kHour, kHour}) {
    const TempFolder folder;
    start({.root = folder.path().string(), .first = 1, .clock = later});
    const time_t before = ::time(nullptr);
    std::ofstream(folder / "file") << "x";  // the call at which it is set
    fs::rename(folder / "file", folder / "other");
    const time_t after = ::time(nullptr);
    stop();
    EXPECT_NEAR(static_cast<double>(after - before), static_cast<double>(later), 60) << "the shim sets no clock";

    const fs::path report = job_ / join("report", later);
    const Outcome o = job_.train(
        "out", kFewSteps,
        {.environment = {"LD_PRELOAD=" FAULTS_SHIM, "FAULTS_ROOT=" + (job_ / "out").string(), "FAULTS_FIRST=150",
                         join("FAULTS_CLOCK=", later), "FAULTS_REPORT=" + report.string()}});
    EXPECT_EQ(o.code, 0) << o.signal << o.err;
    EXPECT_TRUE(job_.result("out") == wanted_);
    EXPECT_EQ(o.out.find(" -"), std::string::npos) << "a negative rate or time: " << o.out;
    std::istringstream log(read_bytes(job_ / "out/train_log.jsonl"));
    for (std::string line; std::getline(log, line); ++rows)
      EXPECT_GT(nlohmann::json::parse(line).at("tokens_per_second").get<double>(), 0) << line;
    std::istringstream told(read_bytes(report));
    std::string name;
    int64_t calls = 0, times = 0;
    for (int64_t number; told >> name >> number;) (name == "calls" ? calls : times) = number;
    EXPECT_GT(calls, 150) << "not set in the middle of the run";
    EXPECT_EQ(name, "times");
    questions += times;
    fs::remove_all(job_ / "out");
  }
  EXPECT_GT(rows, 0);
  std::cout << "environment: the clock set back and forth by " << kHour << " s in the middle of a run, which asked it "
            << questions << " times: the same bytes, " << rows << " rates above 0\n";
}

}  // namespace
}  // namespace rankfold::faults
