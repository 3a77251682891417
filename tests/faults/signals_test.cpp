// Signals at any moment of a run: the exit code that is promised, the last finished step saved, nothing half done left.
#include "checkpoint/checkpoint.h"
#include "core/check.h"
#include "faults/flags.h"
#include "faults/program.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <fstream>
#include <iostream>

namespace rankfold::faults {
namespace {

using Arguments = std::vector<std::string>;

// Where in its life a run was when the signal came, by what it had said.
const char* phase_of(const std::string& said, int64_t steps) {
  if (said.empty()) return "starting";
  if (last_step(said) == 0) return "before step 1";
  return last_step(said) < steps ? "training" : "ending";
}

class SignalInstants : public ::testing::Test {
 protected:
  struct Kind {
    std::string name;
    Arguments flags;
    int64_t steps;
    double seconds = 0;       // its life
    std::string wanted = "";  // the bytes it ends with
  };

  SignalInstants() {
    const std::string text = "--dataset=" + (job_ / "text.jsonl").string();
    kinds_ = {{"ids", {}, kSteps}, {"text", {text, "--max_steps=20"}, 20}};
    for (Kind& kind : kinds_) {
      const Outcome whole = job_.train(kind.name, kind.flags);
      EXPECT_EQ(whole.code, 0) << whole.err;
      kind.seconds = whole.seconds;
      kind.wanted = job_.result(kind.name);
    }
  }

  // One in each equal part of the life, from a little before main() on.
  double instant_of(const Kind& kind, int64_t i, int64_t count, Random& random) const {
    return start_ + (kind.seconds - start_) * (static_cast<double>(i) + random.unit()) / static_cast<double>(count);
  }

  // A run that gets `number` after `instant` seconds.
  struct Struck {
    std::string before, after;  // what it had said when the signal was sent, and right afterwards
    double seconds = 0;         // from the signal to the end
    Outcome outcome;
  };
  Struck strike(const std::string& out, const Arguments& flags, int number, double instant) const {
    Program run("lora-train", job_.arguments(out, flags));
    sleep_for(instant);
    Struck struck;
    struck.before = run.said();
    run.signal(number);
    const double sent = run.seconds();
    struck.after = run.said();
    struck.outcome = run.wait();
    struck.seconds = struck.outcome.seconds - sent;
    return struck;
  }

  // A signal that comes before main() does what signals do to any program. Nothing was written then.
  static bool before_main(const Struck& struck, int number, const fs::path& out) {
    return struck.outcome.signal == number && struck.outcome.out.empty() && !fs::exists(out);
  }

  const Job job_{20000};
  const double start_ = 0.8 * Program("lora-train", {"--version"}).wait().seconds;
  std::vector<Kind> kinds_;
  std::map<std::string, int64_t> phases_;
};

TEST_F(SignalInstants, TermAndIntSaveTheLastStep) {
  Random random(2);
  int64_t good = 0, early = 0, finished = 0;
  double longest = 0;
  const int64_t count = flags.signals * 2 / 3;
  for (int64_t i = 0; i < count; ++i) {
    const Kind& kind = kinds_[static_cast<size_t>(i % 2)];
    const int number = i / 2 % 2 ? SIGINT : SIGTERM;
    const double instant = instant_of(kind, i, count, random);
    const std::string name = "out-" + std::to_string(i);
    const fs::path out = job_ / name;
    const Struck struck = strike(name, kind.flags, number, instant);
    const Outcome& o = struck.outcome;
    const std::string where =
        join(kind.name, ", signal ", number, " after ", instant, " s of ", kind.seconds, " (",
             phase_of(struck.before, kind.steps), "): code ", o.code, ", signal ", o.signal, ": ", o.err);
    ++phases_[phase_of(struck.before, kind.steps)];
    bool fine = true;
    const auto expect = [&](bool holds, const std::string& what) {
      EXPECT_TRUE(holds) << where << ": " << what;
      fine = fine && holds;
    };
    if (before_main(struck, number, out)) {
      ++early;
    } else if (o.code == 0) {  // it came after the last save
      ++finished;
      expect(job_.result(name) == kind.wanted, "said to be done, but other bytes");
    } else {
      expect(o.code == (number == SIGINT ? 130 : 143), "another end");
      expect(o.err == join("lora-train: stopped by ", number == SIGINT ? "SIGINT" : "SIGTERM", "\n"), "another line");
      const int64_t said = last_step(o.out), saved = newest_step(out);
      expect(saved == said || saved == said + 1, join("step ", said, " was computed, ", saved, " saved"));
      longest = std::max(longest, struck.seconds);
      expect(struck.seconds < 5, join("took ", struck.seconds, " s to leave"));
    }
    const auto left = temporaries_below(out);
    expect(left.empty(), "left " + (left.empty() ? "" : left.front()));
    const Outcome resumed = job_.train(name, [&] {
      Arguments more = kind.flags;
      more.push_back("--resume_from_checkpoint=auto");
      return more;
    }());
    expect(resumed.code == 0 && job_.result(name) == kind.wanted, "resumed to other bytes: " + resumed.err);
    good += fine;
    fs::remove_all(out);
  }
  std::cout << "signals: SIGTERM and SIGINT at " << count << " instants (";
  for (const auto& [phase, times] : phases_) std::cout << phase << " " << times << ", ";
  std::cout << early << " before main, " << finished << " after the end): " << good << "/" << count
            << " as promised; the longest leave took " << longest << " s\n";
}

TEST_F(SignalInstants, Usr1SavesAndGoesOn) {
  Random random(3);
  int64_t good = 0, early = 0, late = 0;
  const int64_t count = flags.signals - flags.signals * 2 / 3;
  for (int64_t i = 0; i < count; ++i) {
    Kind kind = kinds_[static_cast<size_t>(i % 2)];
    kind.flags.push_back("--save_steps=0");
    const double instant = instant_of(kind, i, count, random);
    const std::string name = "out-" + std::to_string(i);
    const fs::path out = job_ / name;
    const Struck struck = strike(name, kind.flags, SIGUSR1, instant);
    const std::string where = join(kind.name, ", SIGUSR1 after ", instant, " s of ", kind.seconds, ": code ",
                                   struck.outcome.code, ", signal ", struck.outcome.signal, ": ", struck.outcome.err);
    bool fine = true;
    const auto expect = [&](bool holds, const std::string& what) {
      EXPECT_TRUE(holds) << where << ": " << what;
      fine = fine && holds;
    };
    if (before_main(struck, SIGUSR1, out)) {
      ++early, ++good;
      continue;
    }
    expect(struck.outcome.code == 0, "did not end");
    expect(job_.result(name) == kind.wanted, "other bytes");
    expect(temporaries_below(out).empty(), "left temporaries");
    const auto saved = list_checkpoints(out);
    const int64_t before = last_step(struck.before);
    // A step takes two milliseconds here, and on a busy machine the thread that takes signals may wait for a core.
    constexpr int64_t kWait = 16;
    if (before >= kind.steps - kWait - 2) {
      ++late;
    } else if (saved.size() != 2) {
      expect(false, join(saved.size(), " checkpoints; expected the asked one and the last"));
    } else {
      const int64_t step = saved.back().step;
      expect(damage(saved.back().path).empty(), "is damaged");
      expect(step > before && step <= last_step(struck.after) + kWait + 2,
             join("between steps ", before, " and ", last_step(struck.after), ", saved ", step));
    }
    good += fine;
    fs::remove_all(out);
  }
  std::cout << "signals: SIGUSR1 at " << count << " instants (" << early << " before main, " << late
            << " in the last steps): " << good << "/" << count << " saved and went on\n";
}

// One batch of a second or more, in which all signals of a test come.
class LongStep : public ::testing::Test {
 protected:
  LongStep() {
    std::ofstream out(job_ / "long.jsonl");
    const nlohmann::json row = {{"input_ids", std::vector<int>(512, 7)}};
    for (int i = 0; i < kRows; ++i) out << row << "\n";
  }
  Arguments arguments(const std::string& out, const Arguments& more = {}) const {
    Arguments all = {"--dataset=" + (job_ / "long.jsonl").string(), join("--per_device_train_batch_size=", kRows),
                     "--gradient_accumulation_steps=1", "--save_steps=1"};
    all.insert(all.end(), more.begin(), more.end());
    return job_.arguments(out, all);
  }

  static constexpr int kRows = 512;
  Job job_;
};

TEST_F(LongStep, ALaterInterruptEndsTheProcessAtOnce) {
  double longest = 0;
  for (const int first : {SIGTERM, SIGINT}) {
    const std::string out = "out-" + std::to_string(first);
    Program run("lora-train", arguments(out));
    ASSERT_TRUE(run.says("\nstep 2/"));
    sleep_for(0.3);  // into the third
    run.signal(first);
    sleep_for(0.4);
    run.signal(SIGINT);
    const double sent = run.seconds();
    const Outcome o = run.wait();
    EXPECT_EQ(o.signal, SIGINT) << o.code << o.err;
    EXPECT_EQ(last_step(o.out), 2);
    longest = std::max(longest, o.seconds - sent);
    EXPECT_EQ(newest_step(job_ / out), 2);
  }
  EXPECT_LT(longest, 0.5);
  std::cout << "signals: a second one ended 2/2 runs at once, the slowest in " << longest
            << " s; the last checkpoint was whole in both\n";
}

TEST_F(LongStep, OnesThatComeTogetherAreOne) {
  for (const int signal : {SIGTERM, SIGINT}) {
    const std::string out = "out-" + std::to_string(signal);
    Program run("lora-train", arguments(out));
    ASSERT_TRUE(run.says("\nstep 2/"));
    sleep_for(0.3);
    for (int i = 0; i < 3; ++i) run.signal(signal), sleep_for(0.003);
    const Outcome o = run.wait();
    EXPECT_EQ(o.code, signal == SIGINT ? 130 : 143) << o.signal;
    EXPECT_GE(newest_step(job_ / out), 2);
  }
}

// At any instruction of a step: on the thread that computes a handler's frame would break oneDNN's products.
TEST(Signals, AHailOfThemLeavesTheBytesAlone) {
  const Job job;
  const std::vector<std::string> steps = {"--max_steps=150", "--save_steps=0"};
  ASSERT_EQ(job.train("whole", steps).code, 0);
  int64_t sent = 0;
  for (int i = 0; i < 4; ++i) {
    const std::string name = "out-" + std::to_string(i);
    Program run("lora-train", job.arguments(name, steps));
    ASSERT_TRUE(run.says("\nstep 1/"));
    for (; run.runs(); ++sent) run.signal(SIGUSR1), sleep_for(0.0005);
    const Outcome o = run.wait();
    EXPECT_EQ(o.code, 0) << o.signal << " " << o.err;
    EXPECT_EQ(job.result(name), job.result("whole"));
  }
  EXPECT_GT(sent, 100);
  std::cout << "signals: " << sent << " SIGUSR1 in 4 runs of 150 steps left the bytes alone\n";
}

TEST(Signals, HangingUpIsNoReasonToStop) {
  const Job job;
  Program run("lora-train", job.arguments("out"));
  ASSERT_TRUE(run.says("\nstep 2/"));
  run.signal(SIGHUP);
  EXPECT_EQ(run.wait().code, 0);
}

TEST(Signals, StoppedAndContinued) {
  const Job job;
  ASSERT_EQ(job.train("whole").code, 0);
  Program run("lora-train", job.arguments("out"));
  ASSERT_TRUE(run.says("\nstep 5/"));
  run.signal(SIGSTOP);
  sleep_for(static_cast<double>(flags.pause));
  const int64_t at = last_step(run.said());
  sleep_for(0.2);
  EXPECT_EQ(last_step(run.said()), at);
  run.signal(SIGCONT);
  const Outcome o = run.wait();
  EXPECT_EQ(o.code, 0);
  EXPECT_EQ(o.out.find(" -"), std::string::npos) << "a negative rate or time: " << o.out;
  EXPECT_EQ(job.result("out"), job.result("whole"));
  std::cout << "signals: stopped for " << flags.pause << " s at step " << at << ", then the same bytes\n";
}

TEST(SignalsToMerge, TheOutputIsAbsentOrWhole) {
  const Job job;
  testing::write_tiny_model(job / "large", {.vocabulary = 4096, .hidden = 512, .inner = 2048, .layers = 4});
  ASSERT_EQ(job.train("adapter", {"--model_name_or_path=" + (job / "large").string(), "--max_steps=1"}).code, 0);
  const auto arguments = [&](const std::string& out) {
    return Arguments{"--model_name_or_path=" + (job / "large").string(),
                     "--adapter_name_or_path=" + (job / "adapter").string(), "--output_dir=" + (job / out).string()};
  };
  const Outcome whole = Program("lora-merge", arguments("whole")).wait();
  ASSERT_EQ(whole.code, 0) << whole.err;
  const auto wanted = files_below(job / "whole");
  const double start = 0.8 * Program("lora-merge", {"--version"}).wait().seconds;
  Random random(4);
  int64_t absent = 0, merged = 0, early = 0;
  constexpr int64_t kCount = 16;
  for (int64_t i = 0; i < kCount; ++i) {
    const int number = i % 2 ? SIGINT : SIGTERM;
    const double instant = start + (whole.seconds - start) * (static_cast<double>(i) + random.unit()) / kCount;
    Program run("lora-merge", arguments("merged"));
    sleep_for(instant);
    run.signal(number);
    const Outcome o = run.wait();
    const bool there = fs::exists(job / "merged");
    EXPECT_TRUE(!there || files_below(job / "merged") == wanted) << "half, after " << instant << " s";
    EXPECT_FALSE(fs::exists(job / "merged.tmp")) << "after " << instant << " s of " << whole.seconds;
    EXPECT_EQ(o.code == 0, there) << o.err;
    EXPECT_TRUE(o.code == 0 || o.code == (number == SIGINT ? 130 : 143) || o.signal == number) << o.code << o.err;
    early += o.signal == number, absent += !there, merged += there;
    fs::remove_all(job / "merged");
    fs::remove_all(job / "merged.tmp");
  }
  std::cout << "signals: lora-merge at " << kCount << " instants of " << whole.seconds << " s: " << merged << " whole, "
            << absent << " absent (" << early << " before main), 0 temporaries\n";
}

}  // namespace
}  // namespace rankfold::faults
