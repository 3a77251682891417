// The real programs as processes of their own, and a folder with a job for them.
#pragma once

#include "faults/world.h"

#include <sys/types.h>

#include <csignal>
#include <functional>
#include <string>
#include <vector>

namespace rankfold::faults {

struct Outcome {
  int code = -1;   // exit code; -1 where a signal ended it
  int signal = 0;  // which
  double seconds = 0;
  std::string out, err;
};

struct Setting {
  std::vector<std::string> environment = {};  // "KEY=value"; "KEY" alone takes it away
  std::function<void()> in_child = {};        // before the program starts: limits, descriptors
};

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
  // True once it has said this on standard output; false where it has ended, or after a minute.
  bool says(const std::string& text);
  Outcome wait(double most_seconds = 120);  // longer: killed, and the test fails

 private:
  TempFolder folder_;
  pid_t pid_ = -1;
  double started_ = 0, ended_ = 0;
  int status_ = 0;
};

void sleep_for(double seconds);

constexpr int64_t kSteps = 400;  // of a job: between one and two seconds

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
  std::string result(const std::string& output_dir) const {
    return read_bytes(folder_ / output_dir / "adapter_model.safetensors");
  }

 private:
  TempFolder folder_;
};

// The number in the last line of `text` that opens "step N/".
int64_t last_step(const std::string& text);
// The newest checkpoint that is whole; 0 where there is none. A folder where some are but none is whole fails the test.
int64_t newest_step(const fs::path& output_dir);

}  // namespace rankfold::faults
