// A run that is killed at any moment of its life goes on from its newest checkpoint to the same bytes, those of its best
// step.
#include "checkpoint/checkpoint.h"
#include "faults/flags.h"
#include "faults/program.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <iostream>

namespace rankfold::faults {
namespace {

TEST(KillInstants, EveryOneIsResumedToTheSameBytes) {
  const Job job;
  const std::vector<std::string> evaluation = {"--val_size=0.1", "--eval_steps=23", "--eval_max_new_tokens=4",
                                               "--load_best_model_at_end=true"};
  const Outcome whole = job.train("whole", evaluation, kWholeLife);
  ASSERT_EQ(whole.code, 0) << whole.err;
  const std::string wanted = job.result("whole");
  double life = whole.seconds;
  Random random(1);
  int64_t good = 0, killed = 0, with_checkpoint = 0, with_result = 0;
  for (int64_t i = 0; i < flags.instants; ++i) {
    const std::string out = "out-" + std::to_string(i);
    Instant instant;
    Outcome struck;
    bool met = false;
    for (int tries = 0; tries < 4 && !met; ++tries) {  // a machine that gets less busy shortens the life
      fs::remove_all(job / out);
      instant = instant_of(i, flags.instants, life, kSteps, random);
      Program run("lora-train", job.arguments(out, evaluation), kWholeLife);
      await(run, instant);
      run.signal(SIGKILL);
      struck = run.wait();
      met = struck.signal == SIGKILL;
      if (!met) life = std::min(life, struck.seconds);
    }
    SCOPED_TRACE("killed " + instant.text());
    killed += met;
    with_result += fs::exists(job / out / "adapter_model.safetensors");
    const Resumed resumed = job.resume(out, evaluation);
    with_checkpoint += resumed.from > 0;
    // It said a step before it saved that.
    const bool keeps_all = resumed.from >= last_step(struck.out) - kSaveSteps;
    EXPECT_TRUE(keeps_all) << "at step " << last_step(struck.out) << ", resumed at " << resumed.from;
    EXPECT_EQ(temporaries_below(job / out), std::vector<std::string>());
    const bool equal = job.result(out) == wanted;
    EXPECT_TRUE(equal) << "other bytes\n" << resumed.outcome.out;
    good += equal && resumed.is_good && keeps_all;
    fs::remove_all(job / out);
  }
  std::cout << "kill -9: " << flags.instants << " instants over " << life << " s, " << killed
            << " met a running process, " << with_checkpoint << " left checkpoints, " << with_result
            << " a result; resumed from the newest one to the same bytes " << good << "/" << flags.instants << "\n";
  EXPECT_EQ(good, flags.instants);
  EXPECT_GE(killed, flags.instants * 3 / 4);
  EXPECT_GE(3 * with_checkpoint, flags.instants);
}

TEST(Chain, TenResumesEveryThreeStepsGiveTheSameBytes) {
  const Job job;
  const std::vector<std::string> settings = {"--save_steps=0", "--lr_scheduler_type=constant"};
  const auto up_to = [&](int64_t steps) {
    std::vector<std::string> all = settings;
    all.push_back("--max_steps=" + std::to_string(steps));
    return all;
  };
  constexpr int64_t kLink = 3, kAll = 33;
  ASSERT_EQ(job.train("whole", up_to(kAll)).code, 0);
  int64_t links = 0, from_checkpoints = 0;
  for (int64_t steps = kLink; steps <= kAll; steps += kLink, ++links) {
    const Resumed part = job.resume("chain", up_to(steps));
    ASSERT_TRUE(part.is_good);
    EXPECT_EQ(part.from, steps - kLink);
    EXPECT_EQ(last_step(part.outcome.out), steps);
    from_checkpoints += part.from > 0;
  }
  EXPECT_TRUE(job.result("chain") == job.result("whole"));
  std::cout << "chain: " << links << " x " << kLink << " steps, " << from_checkpoints
            << " of them resumed from the last one's: the bytes of " << kAll << " steps\n";
}

}  // namespace
}  // namespace rankfold::faults
