// A run that is killed at any moment of its life goes on from its newest checkpoint to the same bytes.
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
  const Outcome whole = job.train("whole");
  ASSERT_EQ(whole.code, 0) << whole.err;
  const std::string wanted = job.result("whole");
  double life = whole.seconds;
  Random random(1);
  int64_t same = 0, killed = 0, with_checkpoint = 0, with_result = 0;
  for (int64_t i = 0; i < flags.instants; ++i) {
    const std::string out = "out-" + std::to_string(i);
    double instant = 0;
    bool met = false;
    for (int tries = 0; tries < 4 && !met; ++tries) {  // a machine that gets less busy shortens the life
      fs::remove_all(job / out);
      // One instant in each equal part of it.
      instant = life * (static_cast<double>(i) + random.unit()) / static_cast<double>(flags.instants);
      Program run("lora-train", job.arguments(out));
      sleep_for(instant);
      run.signal(SIGKILL);
      const Outcome struck = run.wait();
      met = struck.signal == SIGKILL;
      if (!met) life = std::min(life, struck.seconds);
    }
    killed += met;
    with_checkpoint += !list_checkpoints(job / out).empty();
    with_result += fs::exists(job / out / "adapter_model.safetensors");
    const Outcome resumed = job.train(out, {"--resume_from_checkpoint=auto"});
    EXPECT_EQ(resumed.code, 0) << "killed after " << instant << " s: " << resumed.err;
    EXPECT_EQ(temporaries_below(job / out), std::vector<std::string>()) << "killed after " << instant << " s";
    const bool equal = job.result(out) == wanted;
    EXPECT_TRUE(equal) << "killed after " << instant << " s: other bytes\n" << resumed.out;
    same += equal && resumed.code == 0;
    fs::remove_all(job / out);
  }
  std::cout << "kill -9: " << flags.instants << " instants over " << life << " s, " << killed
            << " met a running process, " << with_checkpoint << " left checkpoints, " << with_result
            << " a result; resumed to the same bytes " << same << "/" << flags.instants << "\n";
  EXPECT_EQ(same, flags.instants);
  EXPECT_GE(killed, flags.instants * 3 / 4);
}

TEST(Chain, TenResumesEveryThreeStepsGiveTheSameBytes) {
  const Job job;
  ASSERT_EQ(job.train("whole", {"--max_steps=33", "--lr_scheduler_type=constant"}).code, 0);
  for (int64_t steps = 3; steps <= 33; steps += 3) {
    const Outcome part = job.train("chain", {"--resume_from_checkpoint=auto", "--save_steps=0",
                                             "--lr_scheduler_type=constant", "--max_steps=" + std::to_string(steps)});
    ASSERT_EQ(part.code, 0) << part.err;
  }
  EXPECT_EQ(job.result("chain"), job.result("whole"));
  std::cout << "chain: 11 x 3 steps, resumed 10 times: the bytes of 33 steps\n";
}

}  // namespace
}  // namespace rankfold::faults
