// The model card beside checkpoints and results, and what a run records of those before it.
#include "rankfold/rankfold.h"

#include "checkpoint/checkpoint.h"
#include "core/card_file.h"
#include "core/checksum.h"
#include "core/file.h"
#include "core/json.h"
#include "support/contains.h"
#include "support/temp_folder.h"
#include "support/tiny_model.h"
#include "train/lineage.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <fstream>

namespace rankfold {
namespace {

namespace fs = std::filesystem;
using testing::contains;
using testing::kVocabulary;
using testing::read_bytes;
using testing::TempFolder;

class ModelCard : public ::testing::Test {
 protected:
  ModelCard() {
    testing::write_tiny_model(folder_ / "model", {.vocabulary = kVocabulary});
    testing::write_tiny_rows(folder_ / "rows.jsonl", 12, kVocabulary);
  }

  struct Job {
    std::string output;
    std::string parent = {};
    std::string base = "model";
    std::string resume = {};
    bool full = false;
    int64_t stop_after = -1;
    int64_t steps = 4;
  };
  void run(const Job& job) {
    const CausalLM model = CausalLM::load(folder_ / job.base, {.device = "cpu"});
    const Dataset data = Dataset::open(folder_ / "rows.jsonl", nullptr, {.max_length = 64}, kVocabulary);
    const Adapter adapter = job.full             ? Adapter::full(model)
                            : job.parent.empty() ? Adapter::create(model, {.r = 2, .target_modules = "all-linear"}, 7)
                                                 : Adapter::load(model, folder_ / job.parent);
    TrainConfig config{.output_dir = (folder_ / job.output).string(),
                       .per_device_train_batch_size = 2,
                       .max_steps = job.steps,
                       .logging_steps = 1,
                       .save_steps = 2};
    config.resume_from_checkpoint = job.resume;
    Trainer trainer(model, adapter, data, config);
    trainer.describe({.command = "lora-train --output_dir OUT --r 2",
                      .data = "rows.jsonl",
                      .parent = job.parent.empty() ? fs::path() : folder_ / job.parent});
    said_.clear();
    trainer.on_message([&](const std::string& line) { said_ += line + "\n"; });
    // Evaluated as whoever adds rows to the log does it.
    trainer.after_step([](StepView& step) {
      step.log({{"eval_loss", 5.0 - static_cast<double>(step.progress().step % 3)}});
    });
    if (job.stop_after >= 0)
      trainer.after_step([&](StepView& step) {
        if (step.progress().step == job.stop_after) step.stop();
      });
    EXPECT_EQ(trainer.run(), job.stop_after < 0);
  }
  std::string card(const std::string& folder) const { return read_bytes(folder_ / folder / "README.md"); }
  nlohmann::json manifest(const std::string& folder) const { return read_json(folder_ / folder / "manifest.json"); }

  TempFolder folder_;
  std::string said_;
};

TEST_F(ModelCard, IsFilledAndTheSameForEqualRuns) {
  run({"a"});
  run({"b"});
  run({.output = "c", .stop_after = 3});
  run({.output = "c", .resume = "auto"});
  const std::string text = card("a");
  for (const char* other : {"b", "c"}) EXPECT_EQ(card(other), text) << other;
  for (const char* step : {"2", "4"})
    for (const char* other : {"b", "c"})
      EXPECT_EQ(card(std::string(other) + "/checkpoint-" + step), card(std::string("a/checkpoint-") + step))
          << other << " " << step;
  EXPECT_NE(card("a/checkpoint-2"), text);
  EXPECT_TRUE(is_our_card(text));

  const std::string base = (folder_ / "model").string();
  EXPECT_TRUE(
      text.starts_with("---\nbase_model: \"" + base + "\"\nlibrary_name: peft\npipeline_tag: text-generation\n" +
                       "tags:\n- \"base_model:adapter:" + base + "\"\n- lora\n- rankfold\n- transformers\n---\n"))
      << text;
  const nlohmann::json identity = read_json(folder_ / "a/checkpoint-4/training_state.json")["run"];
  for (const std::string& part :
       {std::string("for 4 of 4 steps"), identity["base_model"].get<std::string>(),
        identity["dataset"].get<std::string>(), std::string("\nr: 2\n"), std::string("\nlearning_rate: "),
        std::string("was 3, at step 2"), std::string("| 2 | "), std::string("PeftModel.from_pretrained"),
        std::string("lora-generate --model_name_or_path "), std::string("\nlora-train --output_dir OUT --r 2\n"),
        std::string("- Rankfold "), std::string("**Parent:** none"), std::string("rows.jsonl")})
    EXPECT_TRUE(contains(text, part));
  for (const char* part : {"More Information Needed", "tokens_per_second", "peak_memory"})
    EXPECT_EQ(text.find(part), std::string::npos) << part;
}

TEST_F(ModelCard, OfAWholeModel) {
  folder_.write("model/README.md", "# The base's own\n");
  run({.output = "out", .full = true});
  const std::string text = card("out");
  EXPECT_TRUE(contains(text, "\nlibrary_name: transformers\n"));
  EXPECT_TRUE(contains(text, "base_model:finetune:"));
  EXPECT_TRUE(contains(text, "AutoModelForCausalLM.from_pretrained(\"THIS_FOLDER\""));
  EXPECT_EQ(damage(folder_ / "out"), "");
}

// A folder of another class than Baichuan, with the tensors of LLaMA under that class's names.
void write_model_of(const std::string& name, const fs::path& folder) {
  testing::write_tiny_model(folder, {.baichuan = name == "BaichuanForCausalLM"});
  nlohmann::json config = read_json(folder / "config.json");
  config["architectures"] = {name};
  config.erase("model_type");
  if (name == "BaichuanForCausalLM") config.update({{"norm_head", false}, {"position_embedding_type", "rope"}});
  std::ofstream(folder / "config.json") << config.dump();
  if (name != "InternLM2ForCausalLM") return;
  const std::pair<const char*, const char*> renamed[] = {
      {"embed_tokens", "tok_embeddings"},       {"lm_head", "output"},
      {"self_attn.o_proj", "attention.wo"},     {"input_layernorm", "attention_norm"},
      {"post_attention_layernorm", "ffn_norm"}, {"mlp.gate_proj", "feed_forward.w1"},
      {"mlp.up_proj", "feed_forward.w3"},       {"mlp.down_proj", "feed_forward.w2"},
      {"self_attn.q_proj", "attention.wqkv"}};
  std::vector<std::pair<std::string, at::Tensor>> weights;
  const TensorFile file = TensorFile::open(folder / "model.safetensors");
  for (const TensorInfo& tensor : file.tensors()) {
    std::string other = tensor.name;
    at::Tensor values = file.tensor(tensor.name).clone();
    if (const size_t q = other.find("q_proj"); q != std::string::npos) values = at::cat({values, values}, 0);
    if (other.find("k_proj") != std::string::npos || other.find("v_proj") != std::string::npos) continue;
    for (const auto& [from, to] : renamed)
      if (const size_t at = other.find(from); at != std::string::npos)
        other.replace(at, std::string_view(from).size(), to);
    weights.emplace_back(other, values);
  }
  write_tensor_file(folder / "model.safetensors", weights);
}

TEST_F(ModelCard, ShowsPythonThatFindsTheClass) {
  const auto expect = [&](const std::string& base, const std::string& flag, const std::string& next) {
    run({.output = "of_" + base, .base = base, .steps = 1});
    const std::string from = ".from_pretrained(\"" + (folder_ / base).string() + "\"" + flag + ")\n";
    EXPECT_TRUE(contains(card("of_" + base),
                         "In Python, with PEFT:\n\n```python\nfrom peft import PeftModel\n"
                         "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
                         "base = AutoModelForCausalLM" +
                             from + "model = PeftModel.from_pretrained(base, \"THIS_FOLDER\")\n" +
                             "tokenizer = AutoTokenizer" + from + "```\n\n" + next));
  };
  for (const char* name : {"LlamaForCausalLM", "MistralForCausalLM"}) {
    write_model_of(name, folder_ / name);
    expect(name, "", "Prompts are to be written ");
  }
  for (const char* name : {"BaichuanForCausalLM", "InternLM2ForCausalLM"}) {
    write_model_of(name, folder_ / name);
    expect(
        name, ", trust_remote_code=True",
        std::string("transformers has no class for ") + name + ". The base's folder needs the model's own .py files, ");
  }
  expect("model", ", trust_remote_code=True", "transformers has no class for BaiChuanForCausalLM. The base's folder ");
  run({.output = "full", .full = true, .steps = 1});
  EXPECT_TRUE(contains(card("full"), "AutoTokenizer.from_pretrained(\"THIS_FOLDER\", trust_remote_code=True)\n"));
  EXPECT_TRUE(contains(card("full"), "BaiChuanForCausalLM. This folder needs the model's own .py files"));
  run({.output = "full_llama", .base = "LlamaForCausalLM", .full = true, .steps = 1});
  EXPECT_TRUE(contains(card("full_llama"), "AutoTokenizer.from_pretrained(\"THIS_FOLDER\")\n```\n\nPrompts are"));
}

TEST_F(ModelCard, APersonsReadmeStays) {
  folder_.write("out/README.md", "# Notes of mine\n");
  run({"out"});
  EXPECT_EQ(card("out"), "# Notes of mine\n");
  EXPECT_TRUE(contains(said_, "out/README.md is not Rankfold's and stays; the model card is MODEL_CARD.md"));
  EXPECT_TRUE(is_our_card(read_bytes(folder_ / "out/MODEL_CARD.md")));
  EXPECT_TRUE(is_our_card(card("out/checkpoint-4")));
  EXPECT_EQ(damage(folder_ / "out"), "");
  run({.output = "out", .resume = "auto", .steps = 5});
  EXPECT_EQ(card("out"), "# Notes of mine\n") << "also after a second result";

  folder_.write("out/README.md", card("out/checkpoint-4") + "A line of mine.\n");
  run({.output = "out", .resume = "auto", .steps = 6});
  EXPECT_TRUE(card("out").ends_with("A line of mine.\n"));
}

TEST_F(ModelCard, ARunRecordsItsParents) {
  run({"first"});
  run({.output = "second", .parent = "first"});
  run({.output = "third", .parent = "second/checkpoint-2", .stop_after = 3});
  run({.output = "third", .resume = "auto"});  // the parent is not said again

  EXPECT_FALSE(manifest("first").contains("parents"));
  const nlohmann::json parents = manifest("third").at("parents");
  ASSERT_EQ(parents.size(), 2u);
  EXPECT_EQ(parents[0].at("path"), (folder_ / "second/checkpoint-2").string());
  EXPECT_EQ(parents[0].at("run_id"), run_of(folder_ / "second"));
  EXPECT_EQ(parents[0].at("step"), 2);
  const auto weights = File::open(folder_ / "second/checkpoint-2/adapter_model.safetensors");
  EXPECT_EQ(parents[0].at("adapter_checksum"), checksum_text(checksum_of(*weights, weights->size())));
  EXPECT_EQ(parents[1].at("run_id"), run_of(folder_ / "first"));
  EXPECT_EQ(parents[1].at("step"), 4);
  for (const char* place : {"third/checkpoint-2", "third/checkpoint-4"})
    EXPECT_EQ(manifest(place).at("parents"), parents) << place;
  EXPECT_EQ(read_json(folder_ / "third/run.json").at("parents"), parents);
  const std::string text = card("third");
  EXPECT_TRUE(contains(text, "second/checkpoint-2`, run `" + run_of(folder_ / "second") + "` at step 2"));
  EXPECT_TRUE(contains(text, "first`, run `" + run_of(folder_ / "first") + "` at step 4"));
}

TEST_F(ModelCard, TheRunThatMadeTheBaseIsRecorded) {
  run({.output = "base", .full = true});
  run({.output = "out", .base = "base"});
  EXPECT_EQ(manifest("out").at("base_run").at("run_id"), run_of(folder_ / "base"));
  EXPECT_TRUE(contains(card("out"), "**Base made by:** run `" + run_of(folder_ / "base") + "` at step 4"));
}

TEST_F(ModelCard, AnAdapterOfAnotherToolIsAParentWithoutARun) {
  run({"first"});
  fs::remove(folder_ / "first/manifest.json");
  fs::remove(folder_ / "first/run.json");
  run({.output = "second", .parent = "first"});
  const Lineage lineage = read_lineage(manifest("second"));
  ASSERT_EQ(lineage.parents.size(), 1u);
  EXPECT_EQ(lineage.parents[0].run_id, "");
  EXPECT_FALSE(lineage.parents[0].step);
  EXPECT_NE(lineage.parents[0].checksum, "");
  EXPECT_TRUE(contains(card("second"), "of another tool"));
}

TEST(Lineage, WhatIsNotAsWeWriteItCountsAsNotThere) {
  for (const char* text :
       {"[]", "{}", R"({"parents": 1})", R"({"parents": [1, {"path": 2}]})", R"({"base_run": []})"}) {
    const Lineage lineage = read_lineage(nlohmann::json::parse(text));
    EXPECT_TRUE(lineage.parents.empty()) << text;
    EXPECT_FALSE(lineage.base) << text;
  }
}

}  // namespace
}  // namespace rankfold
