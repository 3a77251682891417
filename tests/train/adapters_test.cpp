// Which adapter of a model a Trainer trains, and what switching adapters under it does.
#include "rankfold/rankfold.h"

#include "support/temp_folder.h"
#include "support/tiny_model.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

namespace rankfold {
namespace {

using testing::kVocabulary;
using testing::TempFolder;

class TrainerOfAdapters : public ::testing::Test {
 protected:
  TrainerOfAdapters() {
    testing::write_tiny_model(folder_ / "model", {.vocabulary = kVocabulary});
    testing::write_tiny_rows(folder_ / "rows.jsonl", 9, kVocabulary);
  }
  CausalLM load() const { return CausalLM::load(folder_ / "model", {.device = "cpu"}); }
  static Adapter make(const CausalLM& model, const std::string& name) {
    return Adapter::create(model, {.r = 4, .lora_alpha = 8, .lora_dropout = 0.1, .target_modules = "all-linear"}, 7,
                           name);
  }
  Trainer trainer(const CausalLM& model, const Adapter& adapter, const std::string& output) const {
    const Dataset data = Dataset::open(folder_ / "rows.jsonl", nullptr, {.max_length = 64}, kVocabulary);
    return Trainer(model, adapter, data,
                   {.output_dir = (folder_ / output).string(), .per_device_train_batch_size = 2, .max_steps = 4});
  }

  const TempFolder folder_;
};

TEST_F(TrainerOfAdapters, TrainsTheOneThatIsActiveAlone) {
  const CausalLM model = load(), other = load();
  const Adapter first = make(model, "first"), second = make(model, "second"), others = make(other, "second");
  EXPECT_THROW(trainer(model, first, "out").run(), std::invalid_argument);
  EXPECT_THROW(trainer(model, others, "out").run(), std::invalid_argument);
  model.set_active_adapters({"first", "second"});
  EXPECT_THROW(trainer(model, first, "out").run(), std::invalid_argument);
  model.set_active_adapters({"first"});
  const at::Tensor idle = second.flat_values().clone(), before = first.flat_values().clone();
  EXPECT_TRUE(trainer(model, first, "out").run());
  EXPECT_TRUE(second.flat_values().equal(idle));
  EXPECT_FALSE(first.flat_values().equal(before));
}

// What would be trained there could not be saved: said before the first step.
TEST_F(TrainerOfAdapters, RefusesWeightsThatAnAdapterWasMergedInto) {
  const CausalLM model = load();
  make(model, "first");
  model.merge_adapters();
  const Adapter second = make(model, "second");
  testing::expect_error<UserError>([&] { trainer(model, second, "out").run(); },
                                   "another adapter was merged into in memory");
}

TEST_F(TrainerOfAdapters, StopsWhereACallbackLeavesAnotherActive) {
  for (const std::vector<std::string>& left : {std::vector<std::string>{"other"}, {}}) {
    const CausalLM model = load();
    make(model, "other");
    const Adapter adapter = make(model, "a");
    Trainer t = trainer(model, adapter, "left" + std::to_string(left.size()));
    t.after_step([&](StepView&) { model.set_active_adapters(left); });
    EXPECT_THROW(t.run(), std::invalid_argument);
    EXPECT_EQ(t.log().size(), 0u);  // logging_steps is 10
  }
}

// A callback that looks at the base for a moment.
TEST_F(TrainerOfAdapters, SwitchingBetweenStepsChangesNothing) {
  const auto values = [&](bool switches) {
    const CausalLM model = load();
    const Adapter adapter = make(model, "a");
    Trainer t = trainer(model, adapter, switches ? "switched" : "plain");
    if (switches)
      t.on_progress([&](const Progress&) {
        model.set_active_adapters({});
        const Adapter visitor = make(model, "visitor");
        visitor.detach();
        model.set_active_adapters({"a"});
      });
    EXPECT_TRUE(t.run());
    return adapter.flat_values().clone();
  };
  EXPECT_TRUE(values(true).equal(values(false)));
}

TEST_F(TrainerOfAdapters, LeavesTheHeadOfATiedModelAlone) {
  testing::write_tiny_model(folder_ / "tied", {.tied = true, .vocabulary = kVocabulary});
  const CausalLM untied = load(), tied = CausalLM::load(folder_ / "tied", {.device = "cpu"});
  Adapter::create(untied, {.r = 4, .target_modules = StringList{"lm_head"}}).save(folder_ / "head");
  const Adapter on_head = Adapter::load(tied, folder_ / "head");  // computes, as PEFT does
  testing::expect_error<UserError>([&] { trainer(tied, on_head, "out").run(); },
                                   "shares its weight with the embedding");
  testing::expect_error<UserError>([&] { tied.merge_adapters(); }, "shares its weight with the embedding");
}

}  // namespace
}  // namespace rankfold
