// Signals at any moment of a run: the exit code that is promised, the last finished step saved, nothing half done left.
#include "checkpoint/checkpoint.h"
#include "core/check.h"
#include "faults/flags.h"
#include "faults/program.h"

#include <gtest/gtest.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <fstream>
#include <iostream>

namespace rankfold::faults {
namespace {

using Arguments = std::vector<std::string>;

constexpr const char *kStarting = "starting", *kBefore = "before step 1", *kTraining = "training", *kEnding = "ending",
                     *kOver = "over";

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
    kinds_ = {{"ids", {}, kSteps}, {"text", {text, join("--max_steps=", kTextSteps)}, kTextSteps}};
    for (Kind& kind : kinds_) {
      const Outcome whole = job_.train(kind.name, kind.flags, kWholeLife);
      EXPECT_EQ(whole.code, 0) << whole.err;
      kind.seconds = whole.seconds;
      kind.wanted = job_.result(kind.name);
    }
  }

  // Each kind has every kind of instant.
  const Kind& kind_of(int64_t i) const { return kinds_[static_cast<size_t>(i / 8 % 2)]; }
  Instant instant_in(const Kind& kind, int64_t i, int64_t count, Random& random) const {
    return instant_of(i, count, kind.seconds, kind.steps, random);
  }

  // A run that gets a signal.
  struct Struck {
    std::string before;      // what it had said when the signal was sent
    const char* phase = "";  // of its life, by that
    double seconds = 0;      // from the signal to the end
    Outcome outcome;
  };
  Struck strike(const std::string& out, const Kind& kind, int number, const Instant& instant) const {
    Program run("lora-train", job_.arguments(out, kind.flags), kWholeLife);
    await(run, instant);
    Struck struck;
    const bool runs = run.hold();
    struck.before = run.said();
    const int64_t step = last_step(struck.before);
    struck.phase = !runs                   ? kOver
                   : struck.before.empty() ? kStarting
                   : step == 0             ? kBefore
                   : step < kind.steps     ? kTraining
                                           : kEnding;
    run.signal(number);
    const double sent = run.seconds();
    run.go_on();
    struck.outcome = run.wait();
    struck.seconds = struck.outcome.seconds - sent;
    return struck;
  }

  // A signal that comes before main() does what signals do to any program. Nothing was written then.
  static bool before_main(const Struck& struck, int number, const fs::path& out) {
    return struck.outcome.signal == number && struck.outcome.out.empty() && !fs::exists(out);
  }

  // A step takes two milliseconds here. On a busy machine the program's thread that takes signals may wait for a core
  // during so many steps.
  static constexpr int64_t kWait = 24;
  static constexpr int64_t kTextSteps = 60;
  const Job job_{10000};
  std::vector<Kind> kinds_;
  std::map<std::string, int64_t> phases_;
};

TEST_F(SignalInstants, TermAndIntSaveTheLastStep) {
  Random random(2);
  int64_t good = 0, early = 0, finished = 0, from_checkpoints = 0;
  double longest = 0;
  for (int64_t i = 0; i < flags.signals; ++i) {
    const Kind& kind = kind_of(i);
    const int number = i % 3 == 2 ? SIGINT : SIGTERM;
    const Instant instant = instant_in(kind, i, flags.signals, random);
    const std::string name = "out-" + std::to_string(i);
    const fs::path out = job_ / name;
    const Struck struck = strike(name, kind, number, instant);
    const Outcome& o = struck.outcome;
    const std::string where = join(kind.name, ", signal ", number, " ", instant.text(), " of ", kind.seconds, " s (",
                                   struck.phase, "): code ", o.code, ", signal ", o.signal, ": ", o.err);
    ++phases_[struck.phase];
    bool fine = true;
    const auto expect = [&](bool holds, const std::string& what) {
      EXPECT_TRUE(holds) << where << ": " << what;
      fine = fine && holds;
    };
    if (before_main(struck, number, out)) {
      ++early;
    } else if (o.code == 0) {  // it came after the last save
      ++finished;
      expect(struck.phase == kOver || last_step(struck.before) + kWait >= kind.steps, "went on to its end");
      expect(job_.result(name) == kind.wanted, "said to be done, but other bytes");
    } else {
      expect(o.code == (number == SIGINT ? 130 : 143), "another end");
      expect(o.err == join("lora-train: stopped by ", number == SIGINT ? "SIGINT" : "SIGTERM", "\n"), "another line");
      const int64_t said = last_step(o.out), saved = newest_step(out);
      expect(saved == said || saved == said + 1, join("step ", said, " was computed, ", saved, " saved"));
      longest = std::max(longest, struck.seconds);
      expect(struck.seconds < 60, join("took ", struck.seconds, " s to leave"));
    }
    const auto left = temporaries_below(out);
    expect(left.empty(), "left " + (left.empty() ? "" : left.front()));
    const Resumed resumed = job_.resume(name, kind.flags);
    expect(resumed.is_good && job_.result(name) == kind.wanted, "resumed to other bytes");
    from_checkpoints += resumed.from > 0;
    good += fine;
    fs::remove_all(out);
  }
  std::cout << "signals: SIGTERM and SIGINT at " << flags.signals << " instants (";
  for (const auto& [phase, times] : phases_) std::cout << phase << " " << times << ", ";
  std::cout << early << " before main, " << finished << " after the last save): " << good << "/" << flags.signals
            << " as promised, " << from_checkpoints << " resumed from a checkpoint; the longest leave took " << longest
            << " s\n";
  EXPECT_EQ(good, flags.signals);
  if (flags.signals < 24) return;  // too few to meet these for certain
  // Each by itself is as short as what this test may wait for a core.
  EXPECT_GT(phases_[kStarting] + phases_[kBefore], early);
  EXPECT_GT(phases_[kTraining], 0);
}

TEST_F(SignalInstants, Usr1SavesAndGoesOn) {
  Random random(3);
  int64_t good = 0, early = 0, late = 0, saves = 0;
  const int64_t count = flags.signals / 2;
  for (int64_t i = 0; i < count; ++i) {
    Kind kind = kind_of(i);
    kind.flags.push_back("--save_steps=0");
    const Instant instant = instant_in(kind, i, count, random);
    const std::string name = "out-" + std::to_string(i);
    const fs::path out = job_ / name;
    const Struck struck = strike(name, kind, SIGUSR1, instant);
    const std::string where = join(kind.name, ", SIGUSR1 ", instant.text(), " of ", kind.seconds, " s: code ",
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
    if (before >= kind.steps - kWait - 2) {
      ++late;
    } else if (saved.size() != 2) {
      expect(false, join(saved.size(), " checkpoints; expected the asked one and the last"));
    } else {
      const int64_t step = saved.back().step;
      expect(damage(saved.back().path).empty(), "is damaged");
      expect(step >= before && step <= before + kWait + 2, join("asked for after step ", before, ", saved ", step));
      ++saves;
    }
    good += fine;
    fs::remove_all(out);
  }
  std::cout << "signals: SIGUSR1 at " << count << " instants (" << early << " before main, " << late
            << " in the last steps): " << good << "/" << count << " as promised, " << saves << " saved and went on\n";
  EXPECT_EQ(good, count);
  EXPECT_GE(3 * saves, count);
}

// At each call that one save makes to the file layer, through the shim; at every fourth where few signals are asked for.
TEST(SaveInstants, TermAtEveryCallOfASave) {
  const Job job;
  const Arguments settings = {"--max_steps=12", "--save_total_limit=0"};
  ASSERT_EQ(job.train("whole", settings).code, 0);
  constexpr int64_t kStep = 6;
  const int64_t stride = flags.signals < 100 ? 4 : 1;
  int64_t calls = 0, struck = 0, good = 0, temporaries = 0;
  for (bool met = true; met; calls += stride) {
    const std::string name = "out-" + std::to_string(calls + 1);
    const Outcome o = job.train(name, settings,
                                {.environment = {"LD_PRELOAD=" FAULTS_SHIM, "FAULTS_ROOT=" + (job / name).string(),
                                                 join("FAULTS_ONLY=/checkpoint-", kStep),
                                                 join("FAULTS_FIRST=", calls + 1), join("FAULTS_SIGNAL=", SIGTERM)}});
    met = o.code != 0;
    if (!met) break;
    ++struck;
    SCOPED_TRACE(join("call ", calls + 1, ": code ", o.code, ", signal ", o.signal, ": ", o.err));
    const fs::path saved = job / name / join("checkpoint-", kStep);
    const int64_t said = last_step(o.out), newest = newest_step(job / name);
    const auto left = temporaries_below(job / name);
    const bool stopped = o.code == 143, whole = damage(saved).empty(),
               last = newest >= kStep && (newest == said || newest == said + 1);
    EXPECT_TRUE(stopped);
    EXPECT_TRUE(whole) << damage(saved);
    EXPECT_TRUE(last) << "step " << said << " was computed, " << newest << " saved";
    EXPECT_TRUE(left.empty()) << left.front();
    temporaries += static_cast<int64_t>(left.size());
    const bool same = job.resume(name, settings).is_good && job.result(name) == job.result("whole");
    EXPECT_TRUE(same);
    good += stopped && whole && last && left.empty() && same;
    fs::remove_all(job / name);
  }
  std::cout << "signals: SIGTERM at each of " << struck << " calls of a save: " << good << "/" << struck
            << " ended with 143 and that save whole, " << temporaries << " temporaries, resumed to the same bytes\n";
  EXPECT_EQ(good, struck);
  EXPECT_GT(calls, 40);
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

  static constexpr int kRows = 256;
  Job job_;
};

TEST_F(LongStep, ALaterInterruptEndsTheProcessAtOnce) {
  double longest = 0;
  int64_t runs = 0, ended = 0;
  for (const int first : {SIGTERM, SIGINT}) {
    ++runs;
    const std::string out = "out-" + std::to_string(first);
    Program run("lora-train", arguments(out));
    ASSERT_TRUE(run.says("\nstep 2/"));
    while (run.runs() && !fs::exists(job_ / out / "checkpoint-2")) sleep_for(0.001);
    run.signal(first);
    while (run.runs() && run.has_pending_signals()) sleep_for(0.001);
    sleep_for(0.02);  // until the program has noted when it was taken
    ASSERT_TRUE(run.hold());
    sleep_for(0.4);  // a later one, not one that comes together with the first
    run.signal(SIGINT);
    const double sent = run.seconds();
    run.go_on();
    const Outcome o = run.wait();
    EXPECT_EQ(o.signal, SIGINT) << o.code << o.err;
    EXPECT_EQ(last_step(o.out), 2);
    longest = std::max(longest, o.seconds - sent);
    const int64_t newest = newest_step(job_ / out);
    EXPECT_EQ(newest, 2);
    ended += o.signal == SIGINT && newest == 2;
  }
  std::cout << "signals: a second one ended " << ended << "/" << runs << " runs at once, the slowest in " << longest
            << " s, with the last checkpoint whole\n";
}

// The process's own and that of its thread which waits for them are taken one right after the other. Of two that are
// both the process's the kernel would keep one.
TEST_F(LongStep, OnesThatComeTogetherAreOne) {
  for (const int signal : {SIGTERM, SIGINT}) {
    const std::string out = "out-" + std::to_string(signal);
    Program run("lora-train", arguments(out));
    ASSERT_TRUE(run.says("\nstep 2/") && run.hold());
    for (const auto& thread : fs::directory_iterator(join("/proc/", run.pid(), "/task")))
      ASSERT_EQ(::syscall(SYS_tgkill, run.pid(), std::stoi(thread.path().filename()), signal), 0);
    run.signal(signal);
    run.go_on();
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
  constexpr int64_t kRuns = 4;
  int64_t sent = 0, same = 0;
  for (int64_t i = 0; i < kRuns; ++i) {
    const std::string name = "out-" + std::to_string(i);
    Program run("lora-train", job.arguments(name, steps));
    ASSERT_TRUE(run.says("\nstep 1/"));
    for (; run.runs(); ++sent) run.signal(SIGUSR1), sleep_for(0.0005);
    const Outcome o = run.wait();
    EXPECT_EQ(o.code, 0) << o.signal << " " << o.err;
    same += o.code == 0 && job.result(name) == job.result("whole");
  }
  EXPECT_EQ(same, kRuns);
  EXPECT_GT(sent, 100);
  std::cout << "signals: " << sent << " SIGUSR1 left the bytes alone in " << same << "/" << kRuns << " runs\n";
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
  ASSERT_TRUE(run.says("\nstep 5/") && run.hold());
  const int64_t at = last_step(run.said());
  ASSERT_LT(at, kSteps) << "stopped too late";
  sleep_for(static_cast<double>(flags.pause));
  EXPECT_EQ(last_step(run.said()), at);
  run.go_on();
  const Outcome o = run.wait();
  EXPECT_EQ(o.code, 0);
  EXPECT_EQ(o.out.find(" -"), std::string::npos) << "a negative rate or time: " << o.out;
  EXPECT_TRUE(job.result("out") == job.result("whole"));
  std::cout << "signals: stopped for " << flags.pause << " s at step " << at << ", then the same bytes\n";
}

}  // namespace
}  // namespace rankfold::faults
