// The real programs as processes of their own, and a folder with a job for them.
#pragma once

#include "faults/flags.h"
#include "faults/world.h"

#include <sys/types.h>

#include <csignal>
#include <functional>
#include <string>
#include <vector>

namespace rankfold::faults {

constexpr int64_t kMiB = 1 << 20, kGiB = 1 << 30;

struct Outcome {
  int code = -1;   // exit code; -1 where a signal ended it
  int signal = 0;  // which
  double seconds = 0;
  int64_t peak_bytes = 0;  // resident, as last seen by wait()
  std::string out, err;
};

struct Setting {
  std::vector<std::string> environment = {};  // "KEY=value"; "KEY" alone takes it away
  std::function<void()> in_child = {};        // before the program starts: limits, descriptors
};
// From its very begin, with the second start that a program makes by itself.
inline const Setting kWholeLife = {.environment = {"RANKFOLD_SET_UP"}};

class Program {
 public:
  Program(const std::string& name, std::vector<std::string> arguments, const Setting& setting = {});
  ~Program();  // killed if it still runs
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  pid_t pid() const { return pid_; }
  double seconds() const;  // since its start
  bool runs();
  void signal(int number) const { ::kill(pid_, number); }
  std::string said() const { return read_bytes(folder_ / "out"); }  // on standard output, so far
  // Stops it, all its threads, until go_on(); false where it has ended. Until then nothing depends on how soon this
  // test gets a core.
  bool hold();
  void go_on() const { signal(SIGCONT); }
  // True once it has said this on standard output; false where it has ended, or after five minutes.
  bool says(const std::string& text);
  // Bytes that /proc/<pid>/status has under this key, such as "VmHWM"; 0 where it has none.
  int64_t memory(const std::string& key) const;
  bool is_in_main() const;                  // where it takes signals as it wants to
  bool has_pending_signals() const;         // sent, and not yet taken
  Outcome wait(double most_seconds = 600);  // longer: killed, and the test fails

 private:
  TempFolder folder_;
  pid_t pid_ = -1;
  double started_ = 0, ended_ = 0;
  int64_t peak_ = 0;
  int status_ = 0;
};

void sleep_for(double seconds);

// When something happens to a run: so long after its start, or after it has got so far.
struct Instant {
  enum class After { kStart, kMain, kWords, kStep };
  double seconds = 0;
  After after = After::kStart;
  int64_t step = 0;
  std::string text() const;
};
// The i-th of `count`. Of eight, two come in equal parts of a life of so many seconds, and the others where time alone
// would miss them on a machine that gets more or less busy meanwhile: early in main(), after its first words, three after
// a step and one after the last step.
Instant instant_of(int64_t i, int64_t count, double life, int64_t steps, Random& random);
void await(Program& run, const Instant& instant);

constexpr int64_t kSteps = 160;  // of a job: about half a second
constexpr int64_t kSaveSteps = 2;

// A run that went on from what lay in its folder, to its end.
struct Resumed {
  Outcome outcome;
  int64_t from = 0;      // the newest checkpoint before it; 0: there was none
  bool is_good = false;  // it said so, and its first step was the next one
};

// model/ (with a tokenizer), ids.jsonl, text.jsonl and what lora-train is told.
class Job {
 public:
  explicit Job(int64_t text_rows = 0);
  fs::path operator/(const std::string& name) const { return folder_ / name; }
  const fs::path& path() const { return folder_.path(); }
  // Arguments of a run into output_dir; later flags win.
  std::vector<std::string> arguments(const std::string& output_dir, std::vector<std::string> more = {}) const;
  Outcome train(const std::string& output_dir, const std::vector<std::string>& more = {},
                const Setting& setting = {}) const {
    return Program("lora-train", arguments(output_dir, more), setting).wait();
  }
  Resumed resume(const std::string& output_dir,
                 std::vector<std::string> more = {}) const;  // fails the test unless good
  std::string result(const std::string& output_dir) const {
    return read_bytes(folder_ / output_dir / "adapter_model.safetensors");
  }

 private:
  TempFolder folder_;
};

// A run that all tests of a suite compare with, made once.
class WholeRun {
 public:
  explicit WholeRun(const std::vector<std::string>& more) { EXPECT_EQ(job_.train("whole", more).code, 0); }
  // Its output folder as whole/ of another job. Returns its result.
  std::string put_into(const Job& job) const {
    fs::copy(job_ / "whole", job / "whole", fs::copy_options::recursive);
    return job_.result("whole");
  }

 private:
  const Job job_;
};

// The numbers in lines of `text` that open "step N/".
std::vector<int64_t> steps_said(const std::string& text);
inline int64_t last_step(const std::string& text) {
  const std::vector<int64_t> steps = steps_said(text);
  return steps.empty() ? 0 : steps.back();
}
// The newest checkpoint that is whole; 0 where there is none. A folder where some are but none is whole fails the test.
int64_t newest_step(const fs::path& output_dir);

}  // namespace rankfold::faults
