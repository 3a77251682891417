// Which runs a checkpoint is of: a base that was edited anywhere is another, and what the environment changes is said.
#include "rankfold/rankfold.h"

#include "checkpoint/checkpoint.h"
#include "core/json.h"
#include "model/model.h"
#include "support/contains.h"
#include "support/temp_folder.h"
#include "support/tiny_model.h"
#include "train/base_checksum.h"
#include "train/run_folder.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <cstdlib>

namespace rankfold {
namespace {

namespace fs = std::filesystem;
using testing::contains;
using testing::kVocabulary;
using testing::read_bytes;
using testing::TempFolder;

class Identity : public ::testing::Test {
 protected:
  Identity() {
    testing::write_tiny_model(folder_ / "model", {.vocabulary = kVocabulary, .hidden = 64, .inner = 96});
    testing::write_tiny_rows(folder_ / "rows.jsonl", 11, kVocabulary);
  }
  void run(int64_t steps, const std::string& resume = "") {
    const CausalLM model = CausalLM::load(folder_ / "model", load_);
    const Adapter adapter = Adapter::create(model, {.r = 2, .target_modules = StringList{"W_pack"}}, 7);
    TrainConfig config = resuming(resume);
    config.per_device_train_batch_size = 2;
    config.max_steps = steps;
    Trainer trainer(model, adapter, Dataset::open(folder_ / "rows.jsonl", nullptr, {.max_length = 64}, kVocabulary),
                    config);
    trainer.describe({.parent = parent_});
    said_.clear();
    trainer.on_message([this](const std::string& line) { said_ += line + "\n"; });
    EXPECT_TRUE(trainer.run());
  }
  TrainConfig resuming(const std::string& from) const {
    TrainConfig config;
    config.output_dir = (folder_ / "out").string();
    config.resume_from_checkpoint = from;
    return config;
  }
  // The message of the refusal, empty where the run went on.
  std::string refusal() {
    try {
      run(4, "auto");
      return "";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::kResumeRefused);
      return error.what();
    }
  }
  // Changes one element of a tensor by the least that its dtype knows.
  void edit(const std::string& name, int64_t element) {
    const fs::path path = folder_ / "model/model.safetensors";
    std::vector<std::pair<std::string, at::Tensor>> tensors;
    {
      const TensorFile file = TensorFile::open(path);
      for (const TensorInfo& info : file.tensors()) tensors.emplace_back(info.name, file.tensor(info.name).clone());
    }
    for (auto& [key, tensor] : tensors)
      if (key == name) reinterpret_cast<uint32_t*>(tensor.data_ptr<float>())[element] ^= 1;
    write_tensor_file(path, tensors);
  }
  // Changes the state that checkpoint-2 holds, as if it had been saved so.
  void rewrite_state(const std::function<void(nlohmann::json&)>& change) {
    const fs::path checkpoint = folder_ / "out/checkpoint-2";
    nlohmann::json state = read_json(checkpoint / "training_state.json");
    change(state);
    std::ofstream(checkpoint / "training_state.json") << state.dump(2);
    const nlohmann::json manifest = read_manifest(checkpoint);
    fs::remove(checkpoint / "manifest.json");
    write_manifest(checkpoint,
                   {{"run_id", manifest["run_id"]}, {"step", manifest["step"]}, {"save", manifest["save"]}});
  }

  TempFolder folder_;
  LoadConfig load_{.device = "cpu"};
  std::string said_;
  fs::path parent_ = {};  // the adapter that the run began from
};

TEST_F(Identity, ABaseThatWasEditedAnywhereIsAnother) {
  run(2);
  const std::string whole = read_bytes(folder_ / "model/model.safetensors");
  const std::pair<const char*, int64_t> edits[] = {
      {"model.norm.weight", 17},  // neither among the first bytes nor in the middle
      {"model.layers.1.input_layernorm.weight", 63},
      {"model.layers.0.mlp.down_proj.weight", 64 * 96 / 2 + 40},
      {"model.layers.1.self_attn.W_pack.weight", 3 * 64 * 64 - 1},
      {"lm_head.weight", 5 * 64 + 3}};
  for (const auto& [name, element] : edits) {
    edit(name, element);
    EXPECT_TRUE(contains(refusal(), "base_model: this run has ")) << name;
    folder_.write("model/model.safetensors", whole);
  }
  EXPECT_EQ(refusal(), "");
}

TEST_F(Identity, ACheckpointWithASampledBaseGoesOnWhereTheSamplesAgree) {
  run(2);
  const auto sampled = [this] {
    return sampled_base_checksum(CausalLM::load(folder_ / "model", {.device = "cpu"}).shared_model()->folder);
  };
  const std::string before = sampled();
  EXPECT_TRUE(is_sampled_checksum(before));
  rewrite_state([&](nlohmann::json& state) { state["run"]["base_model"] = before; });
  edit("model.norm.weight", 1);
  EXPECT_NE(sampled(), before);
  EXPECT_TRUE(contains(refusal(), "base_model: this run has "));
  edit("model.norm.weight", 1);
  EXPECT_EQ(refusal(), "");
  EXPECT_TRUE(contains(said_, "checkpoint-2 at step 2\n"));
  // From then on every byte counts.
  const nlohmann::json now = read_json(folder_ / "out/checkpoint-4/training_state.json");
  EXPECT_FALSE(is_sampled_checksum(now["run"]["base_model"]));
}

TEST_F(Identity, ABaseInFewerBitsIsAnother) {
  run(2);
  const auto kind = [this](const char* checkpoint) {
    return read_json(folder_ / "out" / checkpoint / "training_state.json")["run"].value("quantization", "");
  };
  EXPECT_EQ(kind("checkpoint-2"), "");
  load_.quantization_bit = 4;
  EXPECT_TRUE(contains(refusal(), R"(quantization: this run has "nf4", the checkpoint "as stored")"));
  run(2);
  EXPECT_EQ(kind("checkpoint-2"), "nf4");
  load_.double_quantization = true;
  EXPECT_TRUE(contains(refusal(), R"(quantization: this run has "nf4, nested scales", the checkpoint "nf4")"));
  load_ = {.device = "cpu"};
  EXPECT_TRUE(contains(refusal(), R"(quantization: this run has "as stored", the checkpoint "nf4")"));
  load_.load_in_4bit = true;
  EXPECT_EQ(refusal(), "");
  EXPECT_EQ(kind("checkpoint-4"), "nf4");
}

TEST_F(Identity, TheDtypeOfARunIsThatOfItsCheckpoints) {
  const auto dtype = [this](const std::string& from) { return dtype_of_run(resuming(from)); };
  EXPECT_EQ(dtype("auto"), std::nullopt);
  run(2);
  EXPECT_EQ(dtype(""), std::nullopt);
  EXPECT_EQ(dtype("auto"), "float32");
  load_.dtype = "bfloat16";
  run(4);  // another run, which leaves the other's checkpoint there
  const std::string newest = (folder_ / "out/checkpoint-4").string();
  EXPECT_EQ(dtype("auto"), "bfloat16");
  EXPECT_EQ(dtype(newest), "bfloat16");
  EXPECT_EQ(dtype((folder_ / "out/checkpoint-2").string()), "float32");
  folder_.write("out/checkpoint-4/training_state.json", "{");
  EXPECT_EQ(dtype(newest), std::nullopt);
  EXPECT_EQ(dtype("auto"), std::nullopt);
}

// The library's side of it; the programs' is in tests/cli.
TEST_F(Identity, TheAdapterThatARunBeganFromIsCompared) {
  run(2);
  const std::string parent = (folder_ / "parent").string(), other = (folder_ / "other").string();
  fs::rename(folder_ / "out", parent);
  run(3);
  fs::rename(folder_ / "out", other);
  parent_ = parent;
  run(2);
  const nlohmann::json parents = read_manifest(folder_ / "out/checkpoint-2").at("parents");
  parent_ = other;
  EXPECT_TRUE(contains(refusal(), "checkpoint-2: its run began from " + parent + ", whose adapter_model.safetensors "));
  fs::rename(parent, parent + "-moved");
  parent_ = parent;
  EXPECT_EQ(refusal(), "") << "a folder that is gone";
  EXPECT_EQ(read_manifest(folder_ / "out/checkpoint-4").at("parents"), parents);
  parent_ = parent + "-moved";
  EXPECT_EQ(refusal(), "") << "the same file elsewhere";
  parent_.clear();
  run(2);
  parent_ = other;
  EXPECT_TRUE(contains(refusal(), "checkpoint-2: its run began from no adapter, "));
}

TEST_F(Identity, SamplesAreThoseOfCheckpointsThatHoldThem) {
  std::vector<std::pair<std::string, at::Tensor>> tensors;
  for (const int64_t rows : {1, 3, 40})
    tensors.emplace_back("t" + std::to_string(rows), at::arange(rows * 5, at::kFloat).view({rows, 5}));
  fs::create_directories(folder_ / "fixed");
  fs::copy(folder_ / "model/config.json", folder_ / "fixed/config.json");
  write_tensor_file(folder_ / "fixed/model.safetensors", tensors);
  EXPECT_EQ(sampled_base_checksum(ModelFolder::open(folder_ / "fixed")), "5f3f654229cfb17d");
}

TEST_F(Identity, SwitchesThatChangeNumbersAreKeptAndTheirChangeIsSaid) {
  const char* name = "RANKFOLD_GEMM_TF32";
  ASSERT_EQ(std::getenv(name), nullptr);
  run(2);
  EXPECT_FALSE(read_json(folder_ / "out/checkpoint-2/training_state.json").contains("environment"));
  ::setenv(name, "1", 1);
  run(4, "auto");
  EXPECT_TRUE(contains(said_, "RANKFOLD_GEMM_TF32: 1 from step 3 on, not set before\n")) << said_;
  EXPECT_EQ(read_json(folder_ / "out/checkpoint-4/training_state.json")["environment"][name], "1");
  run(6, "auto");
  EXPECT_FALSE(contains(said_, name));
  ::unsetenv(name);
  run(8, "auto");
  EXPECT_TRUE(contains(said_, "RANKFOLD_GEMM_TF32: not set from step 7 on, 1 before\n")) << said_;
}

}  // namespace
}  // namespace rankfold
