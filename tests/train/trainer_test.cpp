// Whole runs of small models: resume to the bit, accumulation, checkpoints, stops.
#include "rankfold/rankfold.h"

#include "checkpoint/checkpoint.h"
#include "core/json.h"
#include "support/contains.h"
#include "support/sanitizers.h"
#include "support/stopwatch.h"
#include "support/temp_folder.h"
#include "support/tiny_model.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>
#include <limits>

namespace rankfold {
namespace {

namespace fs = std::filesystem;
using testing::contains;
using testing::error_of;
using testing::kVocabulary;
using testing::read_bytes;
using testing::TempFolder;

class Training : public ::testing::Test {
 protected:
  Training() {
    testing::write_tiny_model(folder_ / "model", {.vocabulary = kVocabulary});
    testing::write_tiny_rows(folder_ / "rows.jsonl", 37, kVocabulary);
  }

  struct Run {
    LoraConfig lora{.r = 4, .lora_alpha = 8, .lora_dropout = 0.1, .target_modules = StringList{"W_pack", "down_proj"}};
    TrainConfig train;
    bool full = false;
    std::string dtype = "auto";
    std::string model = "model", rows = "rows.jsonl";
    int64_t stop_after = -1;  // steps, then a stop in the middle of the next window
    std::function<void(int64_t)> on_step = {};
    std::vector<std::string> messages;
    std::vector<LogRow> log;
    at::Tensor values;
  };
  Run make_run(const std::string& name, int64_t steps) const {
    Run run;
    run.train.output_dir = (folder_ / name).string();
    run.train.per_device_train_batch_size = 2;
    run.train.gradient_accumulation_steps = 4;
    run.train.max_steps = steps;
    run.train.learning_rate = 5e-3;
    run.train.lr_scheduler_type = "cosine";
    run.train.warmup_steps = 3;
    run.train.weight_decay = 0.01;
    run.train.logging_steps = 1;
    run.train.save_steps = 0;
    return run;
  }
  void go(Run& run) const {
    const CausalLM model = CausalLM::load(folder_ / run.model, {.device = "cpu", .dtype = run.dtype});
    const Dataset data = Dataset::open(folder_ / run.rows, nullptr, {.max_length = 64}, kVocabulary);
    const Adapter adapter = run.full ? Adapter::full(model) : Adapter::create(model, run.lora, 7);
    Trainer trainer(model, adapter, data, run.train);
    int64_t steps = 0, polls = 0;
    trainer.on_progress([&](const Progress& progress) {
      ++steps;
      if (run.on_step) run.on_step(progress.step);
    });
    if (run.stop_after >= 0) trainer.stop_when([&] { return steps == run.stop_after && polls++ == 2; });
    trainer.on_message([&](const std::string& text) { run.messages.push_back(text); });
    EXPECT_EQ(trainer.run(), run.stop_after < 0);
    run.log = trainer.log();
    run.values = adapter.flat_values().clone();
  }
  static std::string said(const std::vector<std::string>& messages) {
    std::string all;
    for (const std::string& line : messages) all += line + "\n";
    return all;
  }
  static void expect_same(const Run& a, const Run& b) {
    EXPECT_TRUE(a.values.equal(b.values));
    ASSERT_EQ(a.log.size(), b.log.size());
    for (size_t i = 0; i < a.log.size(); ++i) {
      EXPECT_EQ(a.log[i].loss, b.log[i].loss) << i;
      EXPECT_EQ(a.log[i].grad_norm, b.log[i].grad_norm) << i;
      EXPECT_EQ(a.log[i].learning_rate, b.log[i].learning_rate) << i;
    }
  }
  std::string result(const Run& run) const {
    return read_bytes(fs::path(run.train.output_dir) / "adapter_model.safetensors");
  }

  TempFolder folder_;
};

TEST_F(Training, WhatIsComputedAgainGivesTheSameBytes) {
  Run kept = make_run("kept", 4);
  go(kept);
  for (const char* what : {"mlp", "full"}) {
    Run again = make_run(what, 4);
    again.train.gradient_checkpointing = what;
    go(again);
    expect_same(kept, again);
  }
}

TEST_F(Training, LossFalls) {
  Run run = make_run("out", 60);
  go(run);
  EXPECT_LT(run.log.back().loss, 0.95 * run.log.front().loss);
}

TEST_F(Training, SixtyStepsAreThirtyAndThirty) {
  Run whole = make_run("whole", 60);
  go(whole);
  Run half = make_run("half", 60);
  half.train.save_steps = 30;
  half.stop_after = 30;
  go(half);
  EXPECT_EQ(half.log.size(), 30u);
  half.stop_after = -1;
  half.train.resume_from_checkpoint = "auto";
  go(half);
  expect_same(whole, half);
  EXPECT_EQ(result(whole), result(half));
  const auto optimizer = [](const Run& run) {
    return read_bytes(fs::path(run.train.output_dir) / "checkpoint-60/optimizer.safetensors");
  };
  EXPECT_EQ(optimizer(whole), optimizer(half));
}

TEST_F(Training, EverySaveGoesOnToTheSameEnd) {
  Run whole = make_run("whole", 14);  // three epochs
  whole.train.save_steps = 1;
  go(whole);
  const auto state_of = [](const Run& run) {
    auto state = read_json(fs::path(run.train.output_dir) / "trainer_state.json");
    state.erase("save_steps");
    return state;
  };
  for (int64_t step = 1; step < 14; ++step) {
    Run rest = make_run("rest-" + std::to_string(step), 14);
    const std::string from = (folder_ / "whole/checkpoint-").string() + std::to_string(step);
    rest.train.resume_from_checkpoint = from;
    go(rest);
    EXPECT_EQ(rest.messages[0], "resumed " + from + " at step " + std::to_string(step));
    expect_same(whole, rest);
    EXPECT_EQ(state_of(whole), state_of(rest)) << step;
  }
}

// Killed right after it has gone on from an older checkpoint, or from another folder's, a run is still that one.
TEST_F(Training, AutoGoesOnFromWhatWasResumedLast) {
  Run first = make_run("out", 6);
  first.train.save_steps = 2;
  go(first);
  const auto resumed_and_killed = [&](const std::string& from, const std::string& into) {
    Run run = make_run(into, 6);
    run.train.resume_from_checkpoint = (folder_ / from).string();
    run.train.learning_rate = 1e-3;
    run.on_step = [](int64_t) { throw std::bad_alloc(); };  // nothing is saved after this
    EXPECT_THROW(go(run), std::bad_alloc);
    fs::remove_all(folder_ / into / "checkpoint-3");
    run.on_step = {};
    run.train.resume_from_checkpoint = "auto";
    run.messages.clear();
    go(run);
    EXPECT_TRUE(contains(said(run.messages), "checkpoint-2 at step 2"));
    return run;
  };
  const Run elsewhere = resumed_and_killed("out/checkpoint-2", "elsewhere");
  expect_same(elsewhere, resumed_and_killed("out/checkpoint-2", "out"));
  EXPECT_FALSE(elsewhere.values.equal(first.values));
}

TEST_F(Training, WhatBecomesOfTheBaseFolderDoesNotMatterToFullTuning) {
  fs::copy(folder_ / "model", folder_ / "base");
  folder_.write("base/tokenizer_config.json", "{\"kept\": true}");
  folder_.write("base/\xB2\xE2.txt", "a name in GBK");
  Run run = make_run("out", 4);
  run.full = true;
  run.model = "base";
  run.train.save_steps = 2;
  run.on_step = [&](int64_t step) {
    if (step == 1) fs::rename(folder_ / "base", folder_ / "moved");
  };
  go(run);
  EXPECT_EQ(read_bytes(folder_ / "out/tokenizer_config.json"), "{\"kept\": true}");
  EXPECT_EQ(damage(folder_ / "out/checkpoint-2"), "");
  EXPECT_NO_THROW(CausalLM::load(folder_ / "out", {.device = "cpu"}));
}

// Planning it must take no longer than a run with an end.
TEST_F(Training, ARunWithoutAnEndBegins) {
  for (const bool shuffle : {true, false}) {
    Run run = make_run(shuffle ? "shuffled" : "in_order", 1'000'000'000'000);
    run.train.shuffle = shuffle;
    run.stop_after = 2;
    const testing::Stopwatch watch;
    go(run);
    EXPECT_LT(watch.seconds(), 60);
    EXPECT_EQ(run.log.size(), 2u);
  }
}

TEST_F(Training, ACheckpointOfAnotherRunIsKeptUnderAnotherName) {
  for (int run_number = 0; run_number < 3; ++run_number) {
    Run run = make_run("out", 2);
    go(run);
  }
  fs::remove(folder_ / "out/checkpoint-2/manifest.json");  // whose it is nobody knows now
  Run last = make_run("out", 2);
  go(last);
  int64_t kept = 0, unknown = 0;
  for (const auto& entry : fs::directory_iterator(folder_ / "out")) {
    const std::string name = entry.path().filename();
    unknown += name == "checkpoint-2-of-unknown";
    kept += name.starts_with("checkpoint-2-of-") && damage(entry.path()).empty();
  }
  EXPECT_EQ(kept, 2);
  EXPECT_EQ(unknown, 1);
  EXPECT_EQ(damage(folder_ / "out/checkpoint-2"), "");
}

TEST_F(Training, AnotherRateGoesOnAndIsSaid) {
  Run run = make_run("out", 6);
  run.stop_after = 3;
  go(run);
  run.stop_after = -1;
  run.train.resume_from_checkpoint = "auto";
  run.train.learning_rate = 1e-3;
  run.train.max_steps = 8;
  run.messages.clear();
  go(run);
  EXPECT_EQ(run.messages[0], "max_steps: 8 from step 4 on, 6 before");
  EXPECT_EQ(run.messages[1], "learning_rate: 0.001 from step 4 on, 0.005 before");
  EXPECT_TRUE(contains(run.messages[2], "at step 3"));
  EXPECT_EQ(run.log.size(), 8u);
}

TEST_F(Training, ManyStopsInTheMiddleOfAWindowChangeNothing) {
  Run whole = make_run("whole", 23);
  whole.train.logging_steps = 5;
  go(whole);
  Run parts = make_run("parts", 23);
  parts.train.logging_steps = 5;
  parts.train.resume_from_checkpoint = "auto";
  for (int i = 0; i < 3; ++i) {
    parts.stop_after = 7;
    go(parts);
  }
  parts.stop_after = -1;
  go(parts);
  expect_same(whole, parts);
  EXPECT_EQ(result(whole), result(parts));
}

TEST_F(Training, FullTuningResumesToTheBitInBothPrecisions) {
  for (const std::string dtype : {"float32", "bfloat16"}) {
    Run whole = make_run("whole-" + dtype, 12);
    whole.full = true;
    whole.dtype = dtype;
    go(whole);
    Run parts = make_run("parts-" + dtype, 12);
    parts.full = true;
    parts.dtype = dtype;
    parts.train.resume_from_checkpoint = "auto";
    parts.stop_after = 5;
    go(parts);
    parts.stop_after = -1;
    go(parts);
    expect_same(whole, parts);
    EXPECT_LT(whole.log.back().loss, whole.log.front().loss);
    // output_dir is a model folder with what was trained.
    const CausalLM trained = CausalLM::load(whole.train.output_dir, {.device = "cpu", .dtype = "float32"});
    EXPECT_TRUE(trained.shared_decoder() != nullptr);
    const Adapter again = Adapter::full(trained);
    EXPECT_TRUE(again.flat_values().equal(whole.values));
  }
}

TEST_F(Training, TiedEmbeddingsTrainAsOne) {
  testing::write_tiny_model(folder_ / "tied", {.baichuan = false, .tied = true, .vocabulary = kVocabulary});
  for (const std::string dtype : {"float32", "bfloat16"}) {
    Run run = make_run("out-" + dtype, 12);
    run.full = true;
    run.model = "tied";
    run.dtype = dtype;
    go(run);
    EXPECT_LT(run.log.back().loss, run.log.front().loss);
    EXPECT_FALSE(TensorFile::open(fs::path(run.train.output_dir) / "model.safetensors").contains("lm_head.weight"));
  }
}

TEST_F(Training, SplitIntoMicroBatchesDoesNotMatter) {
  Run wide = make_run("wide", 8), square = make_run("square", 8), narrow = make_run("narrow", 8);
  wide.train.per_device_train_batch_size = 16, wide.train.gradient_accumulation_steps = 1;
  square.train.per_device_train_batch_size = 4, square.train.gradient_accumulation_steps = 4;
  narrow.train.per_device_train_batch_size = 1, narrow.train.gradient_accumulation_steps = 16;
  for (Run* run : {&wide, &square, &narrow}) go(*run);
  const double scale = wide.values.abs().max().item<double>();
  for (const Run* run : {&square, &narrow}) {
    EXPECT_LT((run->values - wide.values).abs().max().item<double>(), 2e-4 * scale);
    for (size_t i = 0; i < wide.log.size(); ++i) {
      EXPECT_NEAR(run->log[i].loss, wide.log[i].loss, 2e-6 * wide.log[i].loss) << i;
      EXPECT_NEAR(run->log[i].grad_norm, wide.log[i].grad_norm, 2e-5 * wide.log[i].grad_norm) << i;
    }
  }
}

TEST_F(Training, GradientOfAWindowIsThatOfOneBatch) {
  const CausalLM model = CausalLM::load(folder_ / "model", {.device = "cpu"});
  const Adapter adapter = Adapter::create(
      model, {.r = 4, .lora_alpha = 8, .lora_dropout = 0.1, .target_modules = StringList{"W_pack", "down_proj"}}, 7);
  {
    const at::NoGradGuard no_grad;
    at::manual_seed(5);
    adapter.flat_values().copy_(at::randn_like(adapter.flat_values()) * 0.1);
  }
  const Dataset data = Dataset::open(folder_ / "rows.jsonl", nullptr, {.max_length = 64}, kVocabulary);
  const Batch whole = data.batch({0, 1, 2, 3, 4, 5, 6});
  const auto gradient = [&](const std::vector<std::vector<int64_t>>& parts) {
    for (at::Tensor leaf : adapter.parameters()) leaf.mutable_grad().zero_();
    int64_t first = 0;
    for (const auto& rows : parts) {
      Batch batch = data.batch(rows);
      batch.first_row = first;
      first += static_cast<int64_t>(rows.size());
      (model.loss(batch) / static_cast<double>(whole.label_count())).backward();
    }
    std::vector<at::Tensor> all;
    for (const at::Tensor& leaf : adapter.parameters()) all.push_back(leaf.grad().flatten().clone());
    return at::cat(all);
  };
  const at::Tensor one = gradient({{0, 1, 2, 3, 4, 5, 6}}), many = gradient({{0, 1, 2}, {3, 4, 5}, {6}});
  EXPECT_LE((one - many).abs().max().item<double>(), 1e-6 * one.abs().max().item<double>());
}

TEST_F(Training, EveryEpochDrawsMasksOfItsOwn) {
  const CausalLM model = CausalLM::load(folder_ / "model", {.device = "cpu"});
  const Adapter adapter =
      Adapter::create(model, {.r = 4, .lora_alpha = 8, .lora_dropout = 0.5, .target_modules = "all-linear"}, 7);
  {
    const at::NoGradGuard no_grad;
    at::manual_seed(5);
    adapter.flat_values().copy_(at::randn_like(adapter.flat_values()) * 0.1);
  }
  const Dataset data = Dataset::open(folder_ / "rows.jsonl", nullptr, {.max_length = 64}, kVocabulary);
  const auto loss = [&](int64_t epoch) {
    return model.loss(data.batches({.rows = 8, .epoch = epoch, .shuffle = false})[0]).item<double>();
  };
  EXPECT_EQ(loss(0), loss(0));
  EXPECT_NE(loss(0), loss(1));
  EXPECT_NE(loss(1), loss(2));
}

// What Batch tells a loop of one's own to set gives the masks, and so the losses, of the Trainer.
TEST_F(Training, AccumulationByHandIsTheTrainersWindow) {
  constexpr int64_t kSteps = 3, kRows = 2, kParts = 4;
  Run run = make_run("out", kSteps);
  run.lora.lora_dropout = 0.5;
  run.train.shuffle = false;
  run.train.learning_rate = 1e-30;  // the adapter stays as it is: every loss is one of the first values
  run.train.weight_decay = 0;
  run.train.warmup_steps = 0;
  const Dataset data = Dataset::open(folder_ / run.rows, nullptr, {.max_length = 64}, kVocabulary);
  const CausalLM model = CausalLM::load(folder_ / run.model, {.device = "cpu"});
  const Adapter adapter = Adapter::create(model, run.lora, 7);
  {
    const at::NoGradGuard no_grad;
    at::manual_seed(5);
    adapter.flat_values().copy_(at::randn_like(adapter.flat_values()) * 0.1);
  }
  std::vector<double> losses, norms;
  for (int64_t step = 0; step < kSteps; ++step) {
    for (at::Tensor leaf : adapter.parameters()) leaf.mutable_grad().zero_();
    std::vector<Batch> window;
    int64_t labels = 0;
    for (int64_t part = 0; part < kParts; ++part) {
      std::vector<int64_t> rows;
      for (int64_t i = 0; i < kRows; ++i) rows.push_back((step * kParts + part) * kRows + i);
      Batch batch = data.batch(rows);
      batch.step = step;
      batch.first_row = part * kRows;
      labels += batch.label_count();
      window.push_back(std::move(batch));
    }
    double sum = 0, squares = 0;
    for (const Batch& batch : window) {
      const at::Tensor share = model.loss(batch) / static_cast<double>(labels);
      share.backward();
      sum += share.item<double>();
    }
    for (const at::Tensor& leaf : adapter.parameters())
      squares += leaf.grad().to(at::kDouble).square().sum().item<double>();
    losses.push_back(sum);
    norms.push_back(std::sqrt(squares));
  }
  Trainer trainer(model, adapter, data, run.train);
  trainer.run();
  ASSERT_EQ(trainer.log().size(), static_cast<size_t>(kSteps));
  for (size_t i = 0; i < losses.size(); ++i) {
    EXPECT_EQ(trainer.log()[i].loss, losses[i]) << "step " << i + 1;
    EXPECT_NEAR(trainer.log()[i].grad_norm, norms[i], 1e-6 * norms[i]) << "step " << i + 1;
  }
}

TEST_F(Training, FirstLossIsTheBaseLossAndTheBaseStaysAsItWas) {
  const std::string before = read_bytes(folder_ / "model/model.safetensors");
  const CausalLM base = CausalLM::load(folder_ / "model", {.device = "cpu"});
  const CausalLM adapted = CausalLM::load(folder_ / "model", {.device = "cpu"});
  Adapter::create(adapted, {.r = 4, .lora_dropout = 0.1, .target_modules = "all-linear"}, 7);
  const Dataset data = Dataset::open(folder_ / "rows.jsonl", nullptr, {.max_length = 64}, kVocabulary);
  const Batch batch = data.batch({0, 1, 2});
  EXPECT_TRUE(base.loss(batch).equal(adapted.loss(batch).detach()));
  Run run = make_run("out", testing::kSanitized ? 50 : 1000);
  run.train.gradient_accumulation_steps = 1;
  run.lora.target_modules = "all-linear";
  go(run);
  EXPECT_EQ(read_bytes(folder_ / "model/model.safetensors"), before);
}

TEST_F(Training, AnAdapterThatDoesNotFitLeavesTheModelAsItWas) {
  Run run = make_run("out", 2);
  go(run);
  testing::write_tiny_model(folder_ / "wider", {.vocabulary = kVocabulary, .hidden = 64});
  const CausalLM model = CausalLM::load(folder_ / "wider", {.device = "cpu"});
  const Batch batch = Dataset::open(folder_ / "rows.jsonl", nullptr, {.max_length = 64}, kVocabulary).batch({0, 1});
  const at::Tensor before = model.logits(batch);
  EXPECT_TRUE(contains(error_of<UserError>([&] { Adapter::load(model, folder_ / "out"); }), "expected A [4, 64]"));
  EXPECT_TRUE(model.logits(batch).equal(before));
  EXPECT_NO_THROW(Adapter::create(model, {.r = 2, .target_modules = StringList{"W_pack"}}, 1));
}

TEST_F(Training, OrderChangesWithTheEpochAndWithTheSeed) {
  EXPECT_NE(epoch_order(37, 42, 0, true), epoch_order(37, 42, 1, true));
  EXPECT_NE(epoch_order(37, 42, 0, true), epoch_order(37, 43, 0, true));
}

TEST_F(Training, DamagedCheckpointsAreSkippedAndSaid) {
  Run run = make_run("out", 9);
  run.train.save_steps = 3;
  go(run);
  const fs::path out = run.train.output_dir;
  {
    std::fstream file(out / "checkpoint-9/optimizer.safetensors", std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(-3, std::ios::end);
    file.put('x');
  }
  fs::remove(out / "checkpoint-6/training_state.json");
  fs::create_directory(out / "checkpoint-12.rankfold.tmp");
  Run again = make_run("out", 9);
  again.train.resume_from_checkpoint = "auto";
  go(again);
  ASSERT_GE(again.messages.size(), 3u);
  EXPECT_TRUE(contains(again.messages[0], "checkpoint-9: optimizer.safetensors differs")) << again.messages[0];
  EXPECT_TRUE(contains(again.messages[1], "checkpoint-6: training_state.json is missing")) << again.messages[1];
  EXPECT_TRUE(contains(again.messages[2], "checkpoint-3 at step 3")) << again.messages[2];
  expect_same(run, again);
  // Where none is whole, a fresh start would hide the loss.
  for (const Checkpoint& c : list_checkpoints(out)) fs::remove(c.path / "manifest.json");
  try {
    go(again);
    ADD_FAILURE() << "started again";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kResumeRefused);
  }
  // Named, it is refused.
  again.train.resume_from_checkpoint = (out / "checkpoint-6.old").string();
  EXPECT_TRUE(contains(error_of<UserError>([&] { go(again); }), "expected a whole checkpoint"));
}

TEST_F(Training, AutoWithoutACheckpointStartsFresh) {
  Run run = make_run("out", 2);
  run.train.resume_from_checkpoint = "auto";
  go(run);
  EXPECT_TRUE(contains(run.messages[0], "no checkpoint in"));
}

TEST_F(Training, ACheckpointOfAnotherRunIsRefusedByName) {
  Run run = make_run("out", 3);
  go(run);
  const auto refused = [&](Run other) {
    other.train.resume_from_checkpoint = "auto";
    try {
      go(other);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::kResumeRefused);
      return std::string(error.what());
    }
    ADD_FAILURE() << "not refused";
    return std::string();
  };
  const std::pair<const char*, std::function<void(Run&)>> changes[] = {
      {"lora_alpha: this run has 9.0, the checkpoint 8.0", [](Run& r) { r.lora.lora_alpha = 9; }},
      {"r: this run has 5, the checkpoint 4", [](Run& r) { r.lora.r = 5; }},
      {"lora_dropout: this run has 0.0, the checkpoint 0.1", [](Run& r) { r.lora.lora_dropout = 0; }},
      {"use_rslora: this run has true, the checkpoint false", [](Run& r) { r.lora.use_rslora = true; }},
      {"modules: ",
       [](Run& r) {
         r.lora.target_modules = StringList{"W_pack", "up_proj"};
       }},
      {"rank_pattern: ",
       [](Run& r) {
         r.lora.rank_pattern = {{"down_proj", 3}};
       }},
      {"alpha_pattern: ",
       [](Run& r) {
         r.lora.alpha_pattern = {{"down_proj", 3}};
       }},
      {"finetuning_type: this run has \"full\", the checkpoint \"lora\"", [](Run& r) { r.full = true; }},
      {"dtype: this run has \"BFloat16\", the checkpoint \"Float\"", [](Run& r) { r.dtype = "bfloat16"; }},
      {"seed: this run has 1, the checkpoint 42", [](Run& r) { r.train.seed = 1; }},
      {"shuffle: this run has false, the checkpoint true", [](Run& r) { r.train.shuffle = false; }},
      {"per_device_train_batch_size: this run has 4, the checkpoint 2",
       [](Run& r) { r.train.per_device_train_batch_size = 4; }},
      {"gradient_accumulation_steps: this run has 2, the checkpoint 4",
       [](Run& r) { r.train.gradient_accumulation_steps = 2; }}};
  for (const auto& [line, change] : changes) {
    Run other = run;
    change(other);
    EXPECT_TRUE(contains(refused(other), line));
  }
  Run other = run;
  testing::write_tiny_rows(folder_ / "other.jsonl", 37, kVocabulary, 4);
  other.rows = "other.jsonl";
  EXPECT_TRUE(contains(refused(other), "dataset"));
  testing::write_tiny_model(folder_ / "model2", {.vocabulary = kVocabulary}, 2);
  other = run;
  other.model = "model2";
  EXPECT_TRUE(contains(refused(other), "base_model"));
}

TEST_F(Training, AutoPassesOverAnEarlierRunInTheSameFolder) {
  Run first = make_run("out", 6);
  go(first);
  Run second = make_run("out", 4);
  second.train.learning_rate = 1e-4;
  second.stop_after = 2;
  go(second);
  second.stop_after = -1;
  second.train.resume_from_checkpoint = "auto";
  go(second);
  EXPECT_TRUE(contains(said(second.messages), "checkpoint-6: it is of an earlier run"));
  Run alone = make_run("alone", 4);
  alone.train.learning_rate = 1e-4;
  go(alone);
  expect_same(alone, second);
}

TEST_F(Training, FullTuningOfAFolderThatWasTrainedHereKeepsItsOwnLog) {
  Run base = make_run("base", 3);
  base.full = true;
  go(base);
  Run again = make_run("again", 5);
  again.full = true;
  again.model = "base";
  go(again);
  EXPECT_NE(read_bytes(folder_ / "base/train_log.jsonl"), read_bytes(folder_ / "again/train_log.jsonl"));
  EXPECT_EQ(read_json(folder_ / "again/trainer_state.json")["global_step"], 5);
}

TEST_F(Training, ValuesThatOverflowAreNotSaved) {
  Run run = make_run("out", 4);
  run.train.learning_rate = 1e39;
  run.train.warmup_steps = 0;
  try {
    go(run);
    ADD_FAILURE() << "saved";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kDiverged);
  }
  EXPECT_FALSE(fs::exists(folder_ / "out/adapter_model.safetensors"));
}

TEST_F(Training, ATensorThatNobodyReadsIsRefused) {
  auto weights = std::vector<std::pair<std::string, at::Tensor>>();
  const TensorFile file = TensorFile::open(folder_ / "model/model.safetensors");
  for (const TensorInfo& info : file.tensors()) weights.emplace_back(info.name, file.tensor(info.name).clone());
  weights.emplace_back("model.layers.0.self_attn.W_pack.bias", at::zeros({96}));
  write_tensor_file(folder_ / "model/model.safetensors", weights);
  const std::string error = error_of<UserError>([&] { CausalLM::load(folder_ / "model", {.device = "cpu"}); });
  EXPECT_TRUE(contains(error, "W_pack.bias' has no place in BaiChuanForCausalLM")) << error;
}

TEST_F(Training, OnlyTheNewestCheckpointsAreKept) {
  Run run = make_run("out", 11);
  fs::create_directories(folder_ / "out/checkpoint-5000");  // of another run
  run.train.save_steps = 2;
  run.train.save_total_limit = 2;
  go(run);
  std::vector<int64_t> steps;
  for (const Checkpoint& c : list_checkpoints(run.train.output_dir)) steps.push_back(c.step);
  EXPECT_EQ(steps, (std::vector<int64_t>{5000, 11, 10}));
}

TEST_F(Training, WhatIsWrittenHasTheKeysThatReadersKnow) {
  Run run = make_run("out", 7);
  run.train.logging_steps = 3;
  go(run);
  const fs::path out = run.train.output_dir;
  const nlohmann::json state = read_json(out / "trainer_state.json");
  EXPECT_EQ(state["global_step"], 7);
  EXPECT_EQ(state["max_steps"], 7);
  ASSERT_EQ(state["log_history"].size(), 2u);
  for (const char* key : {"step", "loss", "grad_norm", "learning_rate", "epoch"})
    EXPECT_TRUE(state["log_history"][1].contains(key)) << key;
  std::ifstream log(out / "train_log.jsonl");
  std::string line;
  int rows = 0;
  while (std::getline(log, line)) {
    const nlohmann::json row = nlohmann::json::parse(line);
    EXPECT_GT(row["tokens_per_second"].get<double>(), 0);
    EXPECT_GT(row["peak_memory_bytes"].get<int64_t>(), 0);
    ++rows;
  }
  EXPECT_EQ(rows, 2);
  EXPECT_TRUE(fs::exists(out / "adapter_config.json"));
  EXPECT_TRUE(fs::exists(out / "checkpoint-7/manifest.json"));
}

TEST_F(Training, AStepThatIsNotFiniteIsSkippedWithItsStateUntouched) {
  const CausalLM model = CausalLM::load(folder_ / "model", {.device = "cpu"});
  const Dataset data = Dataset::open(folder_ / "rows.jsonl", nullptr, {.max_length = 64}, kVocabulary);
  const Adapter adapter = Adapter::create(model, {.r = 4, .target_modules = "all-linear"}, 7);
  {
    at::NoGradGuard no_grad;
    adapter.flat_values()[3].fill_(std::numeric_limits<float>::infinity());
  }
  const at::Tensor before = adapter.flat_values().clone();
  Run run = make_run("out", 30);
  Trainer trainer(model, adapter, data, run.train);
  std::vector<std::string> messages;
  trainer.on_message([&](const std::string& text) { messages.push_back(text); });
  try {
    trainer.run();
    ADD_FAILURE() << "ran to its end";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kDiverged);
  }
  EXPECT_EQ(std::count_if(messages.begin(), messages.end(),
                          [](const std::string& line) { return line.find(": skipped, loss") != std::string::npos; }),
            10);
  EXPECT_TRUE(adapter.flat_values().equal(before));
  EXPECT_FALSE(fs::exists(folder_ / "out/adapter_model.safetensors"));
}

// What the programs refuse a program that calls the library cannot pass either.
TEST_F(Training, TheTrainerChecksItsConfig) {
  const CausalLM model = CausalLM::load(folder_ / "model", {.device = "cpu"});
  const Adapter adapter = Adapter::create(model, {.r = 4, .target_modules = "all-linear"});
  const Dataset data = Dataset::open(folder_ / "rows.jsonl", nullptr, {.max_length = 64}, kVocabulary);
  const auto expect = [&](const std::string& line, const std::function<void(TrainConfig&)>& change) {
    TrainConfig config = make_run("out", 3).train;
    change(config);
    testing::expect_error<UserError>([&] { Trainer(model, adapter, data, config); }, line);
  };
  const std::string count = ": expected an integer in [1, 1048576], got ";
  const int64_t large = int64_t{1} << 40;
  expect("gradient_accumulation_steps" + count + "0", [](auto& c) { c.gradient_accumulation_steps = 0; });
  expect("gradient_accumulation_steps" + count + "-1", [](auto& c) { c.gradient_accumulation_steps = -1; });
  expect("gradient_accumulation_steps" + count, [&](auto& c) { c.gradient_accumulation_steps = large; });
  expect("per_device_train_batch_size" + count + "0", [](auto& c) { c.per_device_train_batch_size = 0; });
  expect("per_device_train_batch_size" + count, [&](auto& c) { c.per_device_train_batch_size = large; });
  expect("logging_steps: expected an integer above 0, got 0", [](auto& c) { c.logging_steps = 0; });
  expect("save_steps: expected an integer of 0 or more, got -1", [](auto& c) { c.save_steps = -1; });
  expect("max_steps: ", [](auto& c) { c.max_steps = 0; });
  expect("seed: expected an integer of 0 or more, got -1", [](auto& c) { c.seed = -1; });
  expect("learning_rate: expected a number of 0 or more, got nan", [](auto& c) { c.learning_rate = std::nan(""); });
  expect("adam_beta1: expected a number in [0, 1), got 1", [](auto& c) { c.adam_beta1 = 1; });
  expect("warmup_steps: ", [](auto& c) { c.warmup_steps = 1.5; });
  expect("lr_scheduler_type: expected linear, cosine, constant or constant_with_warmup, got \"cosin\"",
         [](auto& c) { c.lr_scheduler_type = "cosin"; });
  expect("gradient_checkpointing: expected none, mlp, full or auto, got \"ful\"",
         [](auto& c) { c.gradient_checkpointing = "ful"; });
  expect("on_disk_full: ", [](auto& c) { c.on_disk_full = "stop"; });
  expect("memory_budget: expected a size", [](auto& c) { c.memory_budget = "much"; });
  expect("output_dir: expected a path, got \"\"", [](auto& c) { c.output_dir = ""; });
  EXPECT_FALSE(fs::exists(folder_ / "out"));
}

TEST_F(Training, AdapterAndModelCheckTheirConfig) {
  testing::expect_error<UserError>([&] { CausalLM::load(folder_ / "model", {.device = "cpu", .dtype = "int8"}); },
                                   "dtype: expected auto, float32, bfloat16 or float16, got \"int8\"");
  testing::expect_error<UserError>([&] { CausalLM::load(folder_ / "model", {.device = ""}); }, "device: expected auto");
  const CausalLM model = CausalLM::load(folder_ / "model", {.device = "cpu"});
  const auto expect = [&](const std::string& line, const std::function<void(LoraConfig&)>& change, int64_t seed = 1) {
    LoraConfig config{.r = 4, .target_modules = "all-linear"};
    change(config);
    testing::expect_error<UserError>([&] { Adapter::create(model, config, seed); }, line);
  };
  const std::string rank = ": expected an integer in [1, 4096], got ";
  expect("r" + rank + "0", [](auto& c) { c.r = 0; });
  expect("r" + rank + "-4", [](auto& c) { c.r = -4; });
  expect("lora_dropout: expected a number in [0, 1), got 1.5", [](auto& c) { c.lora_dropout = 1.5; });
  expect("lora_dropout: expected a number in [0, 1), got nan", [](auto& c) { c.lora_dropout = std::nan(""); });
  expect("lora_alpha: expected a number above 0", [](auto& c) { c.lora_alpha = 0; });
  expect("rank_pattern: ", [](auto& c) { c.rank_pattern = {{"W_pack", 0}}; });
  expect("alpha_pattern: ", [](auto& c) { c.alpha_pattern = {{"W_pack", -1.0}}; });
  expect("layers_to_transform: ", [](auto& c) { c.layers_to_transform = {-1}; });
  expect("bias: expected none, lora_only or all, got \"some\"", [](auto& c) { c.bias = "some"; });
  expect("bias: expected none, as no layer of this model has a bias, got all", [](auto& c) { c.bias = "all"; });
  expect("modules_to_save: ", [](auto& c) { c.modules_to_save = {"no_such"}; });
  expect(
      "seed: expected an integer of 0 or more, got -1", [](auto&) {}, -1);
  EXPECT_NO_THROW(Adapter::create(model, {.r = 4, .target_modules = "all-linear"}));  // the model is as it was
}

TEST_F(Training, ARunWithoutALearningRateIsSaid) {
  const auto warning_of = [&](const std::function<void(TrainConfig&)>& change) {
    Run run = make_run("out", 3);
    run.train.warmup_steps = 0;
    change(run.train);
    go(run);
    std::string line;
    for (const std::string& message : run.messages)
      if (message.starts_with("warning: ")) line = message;
    const bool learns =
        std::any_of(run.log.begin(), run.log.end(), [](const LogRow& row) { return row.learning_rate > 0; });
    EXPECT_EQ(line.find("is 0") == std::string::npos, learns) << line;
    return line;
  };
  EXPECT_EQ(warning_of([](auto&) {}), "");
  EXPECT_EQ(warning_of([](auto& c) { c.warmup_steps = 2; }), "");
  EXPECT_EQ(warning_of([](auto& c) { c.learning_rate = 0; }), "warning: learning_rate is 0: no step changes anything");
  EXPECT_EQ(warning_of([](auto& c) { c.warmup_steps = 10; }),
            "warning: this run of 3 steps ends inside its warm-up of 10: its learning rate comes to 0.001 of 0.005");
  EXPECT_EQ(warning_of([](auto& c) { c.max_steps = 1, c.warmup_ratio = 0.1; }),
            "warning: the one step of this run is its warm-up: its learning rate is 0");
  EXPECT_EQ(warning_of([](auto& c) { c.max_steps = 1, c.warmup_ratio = 0.1, c.lr_scheduler_type = "constant"; }), "");
}

TEST_F(Training, ANameIsTakenOnce) {
  const CausalLM model = CausalLM::load(folder_ / "model", {.device = "cpu"});
  Adapter::create(model, {.r = 4, .target_modules = "all-linear"});
  EXPECT_THROW(Adapter::create(model, {.r = 4, .target_modules = "all-linear"}), std::invalid_argument);
}

}  // namespace
}  // namespace rankfold
