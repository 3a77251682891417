// The programs as a person runs them: exit code, standard output, standard error, what is left on the
// disk.
#include "rankfold/tensor_file.h"

#include "checkpoint/checkpoint.h"
#include "cli/run_program.h"
#include "core/check.h"
#include "support/contains.h"
#include "support/temp_folder.h"
#include "support/tiny_family.h"
#include "support/tiny_model.h"
#include "support/tiny_tokenizer.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <regex>
#include <set>
#include <sstream>

namespace rankfold {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::contains;
using testing::Outcome;
using testing::read_bytes;
using testing::run_program;
using testing::signal_program;

constexpr int64_t kVocab = 512, kHidden = 32, kInner = 48, kLayers = 2;

// A random Baichuan-style folder.
void write_model(const fs::path& folder) {
  fs::create_directories(folder);
  const json config = {{"architectures", {"BaiChuanForCausalLM"}},
                       {"model_type", "baichuan"},
                       {"vocab_size", kVocab},
                       {"hidden_size", kHidden},
                       {"intermediate_size", kInner},
                       {"num_hidden_layers", kLayers},
                       {"num_attention_heads", 4},
                       {"max_position_embeddings", 256},
                       {"rms_norm_eps", 1e-6},
                       {"eos_token_id", 2},
                       {"torch_dtype", "float32"}};
  std::ofstream(folder / "config.json") << config.dump(2);
  at::manual_seed(1);
  std::vector<std::pair<std::string, at::Tensor>> tensors;
  const auto add = [&](const std::string& name, std::vector<int64_t> shape) {
    tensors.emplace_back(name, shape.size() == 1 ? at::ones(shape) : at::randn(shape) * 0.1);
  };
  add("model.embed_tokens.weight", {kVocab, kHidden});
  for (int64_t i = 0; i < kLayers; ++i) {
    const std::string layer = "model.layers." + std::to_string(i) + ".";
    add(layer + "self_attn.W_pack.weight", {3 * kHidden, kHidden});
    add(layer + "self_attn.o_proj.weight", {kHidden, kHidden});
    add(layer + "mlp.gate_proj.weight", {kInner, kHidden});
    add(layer + "mlp.up_proj.weight", {kInner, kHidden});
    add(layer + "mlp.down_proj.weight", {kHidden, kInner});
    add(layer + "input_layernorm.weight", {kHidden});
    add(layer + "post_attention_layernorm.weight", {kHidden});
  }
  add("model.norm.weight", {kHidden});
  add("lm_head.weight", {kVocab, kHidden});
  write_tensor_file(folder / "model.safetensors", tensors);
  testing::train_tokenizer(folder);
}

class Programs : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    base_ = new testing::TempFolder;
    write_model(*base_ / "model");
  }
  static void TearDownTestSuite() { delete base_; }

  void SetUp() override {
    fs::copy(base_->path(), folder_.path(), fs::copy_options::recursive);
    std::string rows;
    for (int i = 0; i < 12; ++i)
      rows += json{{"question", "What is " + std::to_string(i) + "?"},
                   {"answer", "answer " + std::to_string(i)},
                   {"terms", {"answer"}}}
                  .dump() +
              "\n";
    folder_.write("data.json", rows);
    settings_ = {{"model_name_or_path", "model"},
                 {"dataset", "data.json"},
                 {"output_dir", "out"},
                 {"r", 4},
                 {"lora_alpha", 8},
                 {"target_modules", {"W_pack"}},
                 {"max_steps", 3},
                 {"logging_steps", 1},
                 {"learning_rate", 0.01},
                 {"per_device_train_batch_size", 2}};
  }

  // Runs in the folder; `arguments` is shell text.
  Outcome run(const std::string& arguments, const std::string& under = "") const {
    return run_program(folder_, arguments, under);
  }
  Outcome train(const std::string& flags = "") {
    folder_.write("run.json", settings_.dump(2));
    return run("lora-train run.json " + flags);
  }

  // Exit 2 and one line that holds `part`; the output folder is as it was.
  void expect_refused(const std::string& part, const std::string& flags = "") {
    for (const bool existed : {false, true}) {
      fs::remove_all(folder_ / "out");
      if (existed) folder_.write("out/kept.txt", "mine");
      const Outcome outcome = train(flags);
      EXPECT_EQ(outcome.code, 2) << outcome.err;
      EXPECT_TRUE(contains(outcome.err, part));
      EXPECT_TRUE(outcome.err.starts_with("lora-train: ")) << outcome.err;
      EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << outcome.err;
      EXPECT_EQ(fs::exists(folder_ / "out"), existed) << part;
      EXPECT_TRUE(!existed || std::distance(fs::directory_iterator(folder_ / "out"), {}) == 1) << part;
    }
  }

  static testing::TempFolder* base_;
  testing::TempFolder folder_;
  json settings_;
};
testing::TempFolder* Programs::base_ = nullptr;

TEST_F(Programs, TrainEvaluateMergeGenerate) {
  const Outcome trained = train("--lora_dropout=0.05 --prompt_template='Q: {question} A:'");
  ASSERT_EQ(trained.code, 0) << trained.err;
  EXPECT_EQ(trained.err, "");
  EXPECT_TRUE(contains(trained.out, "LoRA on 2 modules: model.layers.*.self_attn.W_pack (2)"));
  // (32 + 96) x 4 x 2; the base holds 512 x 32 x 2 + 2 x (4 x 32 x 32 + 3 x 32 x 48 + 64) + 32
  EXPECT_TRUE(contains(trained.out, "trainable params: 1,024 || all params: 51,360 || trainable%: 1.9938\n"));
  EXPECT_TRUE(contains(trained.out, "data.json: 12 of 12 rows"));
  EXPECT_TRUE(contains(trained.out, "Q: What is 0? A:[[answer 0</s>]]"));
  EXPECT_TRUE(contains(trained.out, "step 3/3  epoch "));
  EXPECT_EQ(json::parse(read_bytes(folder_ / "out/prompt_template.json")).at("prompt_template"), "Q: {question} A:");
  const json resolved = json::parse(read_bytes(folder_ / "out/rankfold_config.json"));
  EXPECT_EQ(resolved.at("lora_dropout"), 0.05);
  EXPECT_EQ(resolved.at("r"), 4);

  const Outcome measured =
      run("lora-eval --model_name_or_path model --adapter_name_or_path out --dataset data.json "
          "--output eval.json --terms terms --max_new_tokens 4 --predictions answers.jsonl");
  ASSERT_EQ(measured.code, 0) << measured.err;
  const json result = json::parse(read_bytes(folder_ / "eval.json"));
  EXPECT_EQ(json::parse(measured.out), result);
  EXPECT_TRUE(contains(measured.err, "data.json: 12 of 12 rows"));
  for (const char* key : {"loss", "perplexity", "tokens", "tokens_per_second", "peak_memory_bytes", "term_accuracy",
                          "generate_tokens_per_second"})
    EXPECT_TRUE(result.contains(key)) << key;

  const Outcome merged =
      run("lora-merge --model_name_or_path model --adapter_name_or_path out --output_dir merged --verify");
  ASSERT_EQ(merged.code, 0) << merged.err;
  EXPECT_TRUE(contains(merged.out, "verify: largest difference "));
  EXPECT_TRUE(fs::exists(folder_ / "merged/model.safetensors"));
  EXPECT_FALSE(fs::exists(folder_ / "merged.rankfold.tmp"));
  EXPECT_EQ(run("lora-merge --model_name_or_path model --adapter_name_or_path out --output_dir merged").code, 2);

  const std::string prompt = " --prompt='What is 3?' --max_new_tokens 4";
  const Outcome apart = run("lora-generate --model_name_or_path model --adapter_name_or_path out" + prompt);
  const Outcome whole = run("lora-generate --model_name_or_path merged --prompt_template='Q: {question} A:'" + prompt);
  EXPECT_EQ(apart.code, 0) << apart.err;
  EXPECT_EQ(apart.err, "");
  EXPECT_EQ(apart.out, whole.out);  // the adapter's own template was used
  EXPECT_EQ(run("lora-generate --model_name_or_path model --prompt= --raw").code, 2);
  EXPECT_EQ(run("lora-generate --model_name_or_path model --prompt ''").err,
            "lora-generate: --prompt: expected a text, got \"\"\n");
}

TEST_F(Programs, TokenisedRowsAreKept) {
  const auto files = [&](const char* folder) { return std::distance(fs::directory_iterator(folder_ / folder), {}); };
  EXPECT_TRUE(contains(train().out, "\ntokens kept in out/cache/data.json-"));
  EXPECT_EQ(files("out/cache"), 1);
  EXPECT_TRUE(contains(train().out, "\ntokens read from out/cache/data.json-"));
  EXPECT_TRUE(contains(train("--max_length 9").out, ": of other data or settings; written anew\n"));
  EXPECT_EQ(files("out/cache"), 1);
  EXPECT_EQ(json::parse(read_bytes(folder_ / "out/rankfold_config.json")).at("cache_dir"), "");

  // Elsewhere where it is said; what lora-train has kept lora-eval reads, and by itself it writes nothing.
  EXPECT_TRUE(contains(train("--output_dir other --cache_dir shared").out, "\ntokens kept in shared/"));
  EXPECT_FALSE(fs::exists(folder_ / "other/cache"));
  const std::string eval = "lora-eval --model_name_or_path model --dataset data.json";
  EXPECT_TRUE(contains(run(eval + " --cache_dir shared").err, "tokens read from shared/"));
  EXPECT_EQ(run(eval).err.find("tokens kept"), std::string::npos);
  EXPECT_EQ(files("shared"), 1);

  // A file that breaks later is refused, cache or not.
  folder_.write("data.json", "{\"question\": ");
  const Outcome broken = train();
  EXPECT_EQ(broken.code, 2);
  EXPECT_TRUE(contains(broken.err, "lora-train: data.json:1:"));
}

constexpr std::pair<int, const char*> kSignals[] = {{SIGINT, "SIGINT"}, {SIGTERM, "SIGTERM"}};

TEST_F(Programs, ASignalEndsTheRunWithItsStateSaved) {
  for (const auto& [signal, name] : kSignals) {
    const std::string out = join("out-", name);
    settings_["output_dir"] = out;
    settings_["max_steps"] = 1000000;
    folder_.write("run.json", settings_.dump());
    const Outcome stopped = signal_program(folder_, "lora-train run.json", signal, [this](pid_t) {
      return read_bytes(folder_ / ".out").find("\nstep 1/") != std::string::npos;
    });
    EXPECT_EQ(stopped.code, 128 + signal) << stopped.err;
    EXPECT_EQ(stopped.err, join("lora-train: stopped by ", name, "\n"));
    const auto saved = list_checkpoints(folder_ / out);
    ASSERT_FALSE(saved.empty());
    EXPECT_EQ(damage(saved[0].path), "");
    const Outcome resumed = train(join("--resume_from_checkpoint auto --max_steps ", saved[0].step + 2));
    EXPECT_EQ(resumed.code, 0) << resumed.err;
    EXPECT_TRUE(contains(resumed.out, join("at step ", saved[0].step)));
    EXPECT_TRUE(fs::exists(folder_ / out / "adapter_model.safetensors"));
  }
}

TEST_F(Programs, ASignalEndsMeasuringAndGeneratingWithoutAResult) {
  std::string rows;
  for (int i = 0; i < 100000; ++i) rows += "{\"question\": \"What is this?\", \"answer\": \"an answer\"}\n";
  folder_.write("long.jsonl", rows);
  const std::pair<const char*, std::string> jobs[] = {
      {"lora-eval",
       " --model_name_or_path model --dataset long.jsonl --output eval.json --per_device_eval_batch_size 1"},
      {"lora-generate", " --model_name_or_path model --prompt 'What is 3?' --max_new_tokens 1000000"}};
  for (const auto& [program, flags] : jobs)
    for (const auto& [signal, name] : kSignals) {
      const Outcome stopped =
          signal_program(folder_, program + flags, signal, [](pid_t pid) { return testing::has_computed(pid, 1); });
      EXPECT_EQ(stopped.code, 128 + signal) << program << ": " << stopped.err;
      EXPECT_TRUE(stopped.err.ends_with(join(program, ": stopped by ", name, "\n"))) << stopped.err;
      EXPECT_EQ(stopped.out, "");
      EXPECT_FALSE(fs::exists(folder_ / "eval.json"));
    }
}

TEST_F(Programs, FullTrainingWritesAModelFolder) {
  const Outcome trained = train("--finetuning_type full");
  ASSERT_EQ(trained.code, 0) << trained.err;
  EXPECT_TRUE(contains(trained.out, "trainable params: 50,336 || all params: 50,336 || trainable%: 100.0000\n"));
  EXPECT_EQ(run("lora-eval --model_name_or_path out --dataset data.json").code, 0);
}

TEST_F(Programs, BadSettingsAreRefusedBeforeAnyWork) {
  settings_["lora_alhpa"] = 1;
  expect_refused("run.json: unknown key 'lora_alhpa' (did you mean 'lora_alpha'?)");
  settings_.erase("lora_alhpa");
  settings_["r"] = "16";
  expect_refused("run.json: r: expected an integer in [1, 4096], got \"16\": write 16 without quotes");
  settings_["r"] = 0;
  expect_refused("run.json: r: expected an integer in [1, 4096], got 0");
  settings_["r"] = 4;
  settings_["target_modules"] = {"no_such_proj"};
  expect_refused("W_pack");  // lists the model's linear names
  settings_["target_modules"] = {"W_pack"};
  expect_refused("unknown flag --learning_rat (did you mean '--learning_rate'?)", "--learning_rat 1");
  expect_refused("output_dir", "--output_dir model/../model");
  expect_refused("--output_dir: expected a folder, got the file data.json", "--output_dir data.json/sub/deeper");
  expect_refused("--output_dir: expected a folder, got the device /dev/null", "--output_dir /dev/null");
  expect_refused("--resume_from_checkpoint: no such folder: nowhere", "--resume_from_checkpoint nowhere");
  expect_refused("layers_to_transform: expected indices of layers, the last of which is 1, got 2",
                 "--layers_to_transform 0,2");
  expect_refused("such as model.layers.0.self_attn.W_pack, model.layers.0.self_attn.o_proj",
                 "--target_modules '.*W_pac'");
  expect_refused("device: expected auto, cpu, cuda or cuda:N, got \"tpu\"", "--device=tpu");
  settings_.erase("dataset");
  expect_refused("--dataset is missing");
  // As a copy of a run's rankfold_config.json asks for no list and no plan.
  folder_.write("run.json", R"({"model_name_or_path": "model", "dataset": "data.json", "list": "", "plan": false,
                                "plan_output": ""})");
  EXPECT_TRUE(contains(run("lora-train run.json").err, "--output_dir is missing"));
}

TEST_F(Programs, BadDataIsRefused) {
  expect_refused("nowhere.json", "--dataset nowhere.json");
  folder_.write("data.json", "{\"question\": \"a\", \"answer\": \"b\"}\n{\"question\": \"a\", \"answer\": }\n");
  expect_refused("data.json:2:");
  folder_.write("data.json", "[{\"input_ids\": [5, 6, 512]}]");
  expect_refused("512");
  folder_.write("data.json", "[]");
  expect_refused("data.json");
  folder_.write("run2.json", "{\n\"r\": 4,\n}");
  const Outcome broken = run("lora-train run2.json");
  EXPECT_EQ(broken.code, 2);
  EXPECT_TRUE(contains(broken.err, "run2.json:3:"));
}

TEST_F(Programs, WhatIsNotUsedOfTheDataIsSaidOnce) {
  Outcome trained = train();
  EXPECT_TRUE(contains(trained.out, "\ncolumns that are not used: terms (12 rows)\n"))
      << "no advice to put them in the prompt";
  const std::string eval = "lora-eval --model_name_or_path model --dataset data.json --max_new_tokens 2";
  EXPECT_EQ(run(eval + " --terms terms").err.find("not used"), std::string::npos);
  EXPECT_TRUE(contains(run(eval).err, "\ncolumns that are not used: terms (12 rows)"));

  folder_.write("data.json", R"([{"question": "a", "answer": "says </s>", "\u200bid": 1, "context": "long"},
                                 {"question": "What is the dose of it?", "answer": "b", "context": ""}])");
  trained = train("--max_length 12 --prompt_template 'Q: {question} <s>:'");
  ASSERT_EQ(trained.code, 0) << trained.err;
  EXPECT_TRUE(contains(trained.out, " cut to 12 tokens ("));
  EXPECT_TRUE(contains(trained.out, " tokens thrown away)"));
  EXPECT_TRUE(contains(trained.out,
                       "\ncolumns that are not used: context (1 row), \\xe2\\x80\\x8bid (1 row); only if "
                       "one is meant to be part of the prompt: --columns input=NAME\n"));
  EXPECT_TRUE(contains(trained.out, "\nwarning: 1 row spells </s>, which is trained on as text\n"));
  EXPECT_TRUE(contains(trained.out, "\nwarning: the prompt template spells <s>, which is taken as text, "));
  EXPECT_EQ(trained.out.find("columns that"), trained.out.rfind("columns that"));

  const std::string columns = "--columns '{\"input\": \"context\"}' ";
  EXPECT_TRUE(contains(train(columns + "--max_length 99").out, "a\nlong\n[[says </s></s>]]"));
  expect_refused("columns: answer, instruction: no layout uses all of these",
                 "--columns '{\"instruction\": \"question\", \"answer\": \"answer\"}'");
  folder_.write("data.json", R"([{"instruction": "a", "output": "b", "history": [["c", "d"]]}])");
  expect_refused("data.json:1: a conversation: model: has no chat template");
  folder_.write("data.json", R"([{"messages": [{"role": "user", "content": "b"}]}])");
  expect_refused("give --chat_template a file or one of baichuan, baichuan2, llama2, chatml, alpaca, vicuna");
}

const char* const kConversations = R"({"messages": [{"role": "user", "content": "What is 1?"},
 {"role": "assistant", "content": "answer 1"}], "terms": ["answer"]})";

TEST_F(Programs, ConversationsAreWrittenByTheFoldersTemplate) {
  // The date of the first start is kept: a resumed run sees the same rows.
  folder_.write(
      "model/chat_template.jinja",
      "{{ strftime_now('%Y-%m-%d %H:%M:%S') }} {% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}\n"
      "{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}");
  folder_.write("model/tokenizer_config.json", R"({"eos_token": "</s>"})");
  std::string line = kConversations;
  std::replace(line.begin(), line.end(), '\n', ' ');
  folder_.write("data.json", line + "\n" + line + "\n");
  folder_.write("more.json", R"([{"question": "What is 2?", "answer": "answer 2"}])");
  folder_.write("chat.json", R"([{"role": "user", "content": "What is 1?"}])");

  const Outcome tried =
      train("--dataset data.json,more.json --dry_run --dump_rows rows.jsonl --template_date 2025-03-07");
  ASSERT_EQ(tried.code, 0) << tried.err;
  EXPECT_FALSE(fs::exists(folder_ / "out"));
  EXPECT_TRUE(contains(tried.out, "tokenizer: model/tokenizer.model\n"));
  EXPECT_TRUE(contains(tried.out, "\nmemory:\n"));
  EXPECT_TRUE(contains(tried.out, "3 steps; dry_run: nothing is trained\n"));
  EXPECT_TRUE(contains(tried.out, "data.json, more.json: 3 of 3 rows"));
  EXPECT_TRUE(
      contains(tried.out, "2 rows written by the chat template, 1 row by the prompt template, dated 2025-03-07"));
  EXPECT_TRUE(contains(tried.out, "2025-03-07 00:00:00 user: What is 1?</s>\nassistant:[[ answer 1</s>]]\n"));
  const std::string rows = read_bytes(folder_ / "rows.jsonl");
  ASSERT_EQ(std::count(rows.begin(), rows.end(), '\n'), 3);
  const json first = json::parse(rows.substr(0, rows.find('\n')));
  EXPECT_EQ(first.at("input_ids").size(), first.at("labels").size());
  EXPECT_EQ(first.at("labels").at(0), -100);

  ASSERT_EQ(train("--max_steps 2 --save_steps 1 --template_date '2020-02-29 01:02:03'").code, 0);
  const json record = json::parse(read_bytes(folder_ / "out/prompt_template.json"));
  EXPECT_FALSE(record.contains("prompt_template")) << "no row was written by it";
  EXPECT_EQ(record.at("chat_template"), "chat_template.jinja");
  const std::string date = "2020-02-29 01:02:03";
  EXPECT_EQ(record.at("template_date"), date);
  EXPECT_EQ(read_bytes(folder_ / "out/chat_template.jinja"), read_bytes(folder_ / "model/chat_template.jinja"));
  // Also where the folder has another template since: the checkpoint's record counts.
  const std::string own = read_bytes(folder_ / "model/chat_template.jinja");
  folder_.write("model/chat_template.jinja", "{{ messages[0].content }}");
  const Outcome resumed = train("--max_steps 3 --resume_from_checkpoint auto");
  EXPECT_EQ(resumed.code, 0) << resumed.err;
  folder_.write("model/chat_template.jinja", own);
  EXPECT_EQ(json::parse(read_bytes(folder_ / "out/prompt_template.json")).at("template_date"), date);

  // The record decides, also for a bare prompt, and when the folder has another template since.
  folder_.write("model/chat_template.jinja", "another {{ messages[0].content }}");
  const std::string generate = "lora-generate --model_name_or_path model --adapter_name_or_path out ";
  const std::string expected = date + " user: What is 1?</s>\nassistant: ";
  EXPECT_EQ(run(generate + "--messages chat.json --print_prompt").out, expected);
  EXPECT_EQ(run(generate + "--prompt 'What is 1?' --print_prompt").out, expected);
  EXPECT_EQ(run(generate + "--messages chat.json --print_prompt --add_generation_prompt false").out,
            date + " user: What is 1?</s>\n");
  EXPECT_EQ(run(generate + "--messages chat.json --print_prompt --chat_template chatml").out,
            "<|im_start|>user\nWhat is 1?<|im_end|>\n<|im_start|>assistant\n");
  const Outcome said = run(generate + "--messages chat.json --max_new_tokens 3");
  EXPECT_EQ(said.code, 0) << said.err;
  EXPECT_EQ(said.out, run(generate + "--prompt 'What is 1?' --max_new_tokens 3").out);
  const Outcome measured =
      run("lora-eval --model_name_or_path model --adapter_name_or_path out --dataset data.json "
          "--terms terms --max_new_tokens 3");
  EXPECT_EQ(measured.code, 0) << measured.err;
  int64_t learnt = 0;
  for (const json& label : first.at("labels")) learnt += label != -100;
  EXPECT_EQ(json::parse(measured.out).at("tokens"), 2 * learnt);
  folder_.write("model/additional_chat_templates/brief.jinja", "brief");
  ASSERT_EQ(run("lora-merge --model_name_or_path model --adapter_name_or_path out --output_dir merged").code, 0);
  EXPECT_EQ(read_bytes(folder_ / "merged/additional_chat_templates/brief.jinja"), "brief");
  EXPECT_EQ(run("lora-generate --model_name_or_path merged --messages chat.json --print_prompt").out, expected);
}

TEST_F(Programs, AWrittenConfigRepeatsItsRun) {
  ASSERT_EQ(train("--chat_template chatml --max_steps 1 --dump_rows first.jsonl").code, 0);
  ASSERT_EQ(run("lora-train out/rankfold_config.json --output_dir again --dry_run --dump_rows second.jsonl").code, 0);
  EXPECT_EQ(read_bytes(folder_ / "first.jsonl"), read_bytes(folder_ / "second.jsonl"));
  ASSERT_EQ(train("--chat_template '' --dry_run --dump_rows third.jsonl").code, 0);
  EXPECT_NE(read_bytes(folder_ / "first.jsonl"), read_bytes(folder_ / "third.jsonl"));
}

TEST_F(Programs, ARunThatReplacesAnotherSaysSo) {
  const std::string one_step = "--max_steps 1 --save_steps 1", said = "warning: out holds an earlier run";
  EXPECT_FALSE(contains(train(one_step).out, said));
  const std::string again = train(one_step).out;
  EXPECT_TRUE(contains(again, said + ", whose result this one replaces; --resume_from_checkpoint auto would go on from "
                                     "checkpoint-1"))
      << again;
  EXPECT_FALSE(contains(train("--dry_run").out, said));
  EXPECT_FALSE(contains(train("--max_steps 2 --resume_from_checkpoint auto").out, said));
}

TEST_F(Programs, WrongConversationsAreNamed) {
  folder_.write("model/chat_template.jinja",
                "{% if messages|length > 1 %}{{ raise_exception('one message, please') }}{% endif %}");
  folder_.write("data.json", R"([{"question": "a", "answer": "b"}, {"messages": [{"role": "user", "content": "a"},
                                 {"role": "assistant", "content": "b"}]}])");
  expect_refused("data.json:1: the chat template refuses the messages: one message, please");
  const std::string print = "lora-generate --print_prompt --model_name_or_path model ";
  const auto refused = [&](const std::string& flags, const std::string& part) {
    const Outcome outcome = run(print + flags);
    EXPECT_EQ(outcome.code, 2);
    EXPECT_TRUE(contains(outcome.err, part));
  };
  refused("", "--prompt is missing: the question; or --messages: a conversation");
  refused("--prompt a --messages b", "--prompt: expected this or --messages, got both");
  refused("--messages nowhere.json", "nowhere.json: ");
  folder_.write("chat.json", R"({"messages": [{"role": "user", "content": "a"}], "tols": []})");
  refused("--messages chat.json", "chat.json: unknown key 'tols'; expected messages, tools, documents");
  refused("--prompt a --chat_template nowhere", "chat_template: expected a file or one of baichuan, ");
  refused("--prompt a --template_date tomorrow", "--template_date: expected a date such as 2025-03-07");
  refused(R"(--prompt a --chat_template_kwargs '{"a": 1, "a": 2}')", "--chat_template_kwargs: JSON:1:");
  const std::string deep = std::string(1000, '[') + std::string(1000, ']');
  refused(join("--prompt a --chat_template_kwargs '{\"a\": ", deep, "}'"), "--chat_template_kwargs: JSON:1:");
  refused("--prompt a --chat_template_kwargs 5", "--chat_template_kwargs: expected a JSON object, got \"5\"");
}

TEST_F(Programs, ATemplateHoldsNothingThatStaysUnfilled) {
  expect_refused("--prompt_template: holds a backslash and the letter n", "--prompt_template 'Q: {question}\\nA:'");
  expect_refused("--prompt_template: holds doubled braces", "--prompt_template '<human>{{question}}<bot>'");
  expect_refused("--prompt_template: nothing fills {input}", "--template 'Q: {question} {input}'");
  settings_["prompt_template"] = "Q: {question} A: {answer}";
  expect_refused("run.json: prompt_template: nothing fills {answer}");
  settings_.erase("prompt_template");
  for (const std::string program : {"lora-eval --dataset data.json", "lora-generate --prompt x"}) {
    const Outcome refused = run(program + " --model_name_or_path model --prompt_template '{question}\\n'");
    EXPECT_EQ(refused.code, 2);
    EXPECT_TRUE(contains(refused.err, ": --prompt_template: holds a backslash and the letter n"));
  }

  // The default is named, unless another was given or saved; one that was trained with is used as it stands.
  const std::string line = "prompt template \"{question}\\n\", the default: ";
  const std::string eval = "lora-eval --model_name_or_path model --dataset data.json ";
  const std::string generate = "lora-generate --model_name_or_path model --prompt x --max_new_tokens 2 ";
  for (const std::string& program : {eval, generate}) {
    EXPECT_TRUE(contains(run(program).err, line));
    EXPECT_EQ(run(program + "--prompt_template '{question}:'").err.find(line), std::string::npos);
    folder_.write("model/prompt_template.json", R"({"prompt_template": "{question}\\n{input}"})");
    const Outcome saved = run(program);
    EXPECT_EQ(saved.code, 0) << saved.err;
    EXPECT_TRUE(
        contains(saved.err, "warning: model/prompt_template.json: prompt_template: holds a backslash and the "));
    EXPECT_TRUE(contains(saved.err, "; it is used as it was trained with\n"));
    EXPECT_EQ(saved.err.find(line), std::string::npos);
    fs::remove(folder_ / "model/prompt_template.json");
  }
  EXPECT_EQ(run(generate + "--raw").err, "");
}

// Rows end in the tokenizer's eos, as Hugging Face trains; a line says where files name another.
TEST_F(Programs, TheEndOfATextIsTheTokenizers) {
  json config = json::parse(read_bytes(folder_ / "model/config.json"));
  const auto expect_eos = [&](const json& ids, const std::string& said) {
    config["eos_token_id"] = ids;
    folder_.write("model/config.json", config.dump());
    const Outcome trained = train("--max_steps 1");
    ASSERT_EQ(trained.code, 0) << trained.err;
    EXPECT_TRUE(contains(trained.out, "[[answer 0</s>]]"));
    const std::string warning = "warning: model: rows end in 2 (</s>), but eos_token_id of config.json or ";
    EXPECT_EQ(trained.out.find(warning) != std::string::npos, !said.empty());
    const Outcome made = run(
        "lora-generate --model_name_or_path model --adapter_name_or_path out --max_new_tokens 4 --prompt 'What is 3?'");
    ASSERT_EQ(made.code, 0) << made.err;
    EXPECT_TRUE(contains(said.empty() ? made.out : made.err, said));
  };
  for (const json& ids : {json(nullptr), json(2), json::array({2, 7}), json::array()}) expect_eos(ids, "");
  expect_eos(1, "is 1 (<s>)");
  expect_eos(0, "is 0 (<unk>)");
  expect_eos(json::array({511, 2}), "is 511 (not in tokenizer.model)");
}

TEST_F(Programs, BadModelFoldersAreRefused) {
  const fs::path weights = folder_ / "model/model.safetensors";
  const std::string whole = read_bytes(weights);
  folder_.write("model/model.safetensors", whole.substr(0, whole.size() / 2));
  expect_refused("model.safetensors");
  folder_.write("model/model.safetensors",
                "version https://git-lfs.github.com/spec/v1\noid sha256:0123456789abcdef\nsize 12345\n");
  expect_refused("lfs");
  fs::remove(weights);
  expect_refused("model");
  expect_refused("nowhere", "--model_name_or_path nowhere");
}

TEST_F(Programs, OutputFilesAreCheckedBeforeAnyWork) {
  for (const auto& [flags, line] : {std::pair{"--output no/eval.json", "--output: no: expected a folder, got nothing"},
                                    std::pair{"--output model", "--output: model: expected a file name, got a folder"},
                                    std::pair{"--terms terms --predictions /dev/null",
                                              "--predictions: /dev/null: expected a file name, got a device"}}) {
    const Outcome outcome = run(std::string("lora-eval --model_name_or_path nowhere --dataset data.json ") + flags);
    EXPECT_EQ(outcome.code, 2);
    EXPECT_EQ(outcome.err, std::string("lora-eval: ") + line + "\n");
  }
}

TEST_F(Programs, AdapterToStartFrom) {
  ASSERT_EQ(train("--output_dir first").code, 0);
  expect_refused("holds checkpoint-3: give that or auto", "--resume_from_checkpoint first");
  expect_refused("--target_modules: expected the modules of first, [\"W_pack\"], got \"all-linear\"",
                 "--adapter_name_or_path first --target_modules all-linear");
  settings_.erase("lora_alpha");
  expect_refused("--r: expected 4 as in first/adapter_config.json, got 8", "--adapter_name_or_path first --r 8");
  expect_refused("finetuning_type", "--adapter_name_or_path first --finetuning_type full");
  const Outcome again = train("--adapter_name_or_path first --target_modules '.*\\.W_pack'");
  EXPECT_EQ(again.code, 0) << again.err;
  EXPECT_EQ(json::parse(read_bytes(folder_ / "out/rankfold_config.json")).at("lora_alpha"), 8);
}

// Runs that begin from the adapter `first`. Their command names none of what the adapter decides.
class RunsFromAnAdapter : public Programs {
 protected:
  void SetUp() override {
    Programs::SetUp();
    settings_["lr_scheduler_type"] = "constant";  // so that a run's steps do not depend on their number
    settings_["save_steps"] = 1;
    ASSERT_EQ(train("--output_dir first --lora_dropout 0.1 --prompt_template 'Q: {question} A:'").code, 0);
    for (const char* key : {"r", "lora_alpha", "target_modules"}) settings_.erase(key);
  }
  // The same command, as a job scheduler gives it again and again.
  Outcome go_on(const std::string& flags = "") {
    return train("--adapter_name_or_path first --resume_from_checkpoint auto " + flags);
  }
  void expect_resume_refused(const std::string& part, const std::string& flags) {
    const std::set<std::string> before = contents("out");
    for (const char* dry_run : {"", " --dry_run"}) {
      const Outcome refused = train("--resume_from_checkpoint auto " + flags + dry_run);
      EXPECT_EQ(refused.code, 7) << flags << dry_run << refused.out << refused.err;
      EXPECT_TRUE(contains(refused.err, part));
      EXPECT_EQ(std::count(refused.err.begin(), refused.err.end(), '\n'), 1) << refused.err;
      EXPECT_EQ(contents("out"), before) << flags;
    }
  }
  // Every file with its bytes, but for the token cache.
  std::set<std::string> contents(const std::string& folder) const {
    std::set<std::string> found;
    for (const auto& entry : fs::recursive_directory_iterator(folder_ / folder))
      if (entry.is_regular_file() && entry.path().parent_path().filename() != "cache")
        found.insert(entry.path().string() + "\n" + read_bytes(entry.path()));
    return found;
  }
};

TEST_F(RunsFromAnAdapter, AreResumedByTheSameCommand) {
  const Outcome whole = go_on("--output_dir whole --max_steps 4");
  ASSERT_EQ(whole.code, 0) << whole.err;
  EXPECT_TRUE(contains(whole.out, "no checkpoint in whole: starting at step 0\n"));
  ASSERT_EQ(go_on("--max_steps 2").code, 0);

  fs::rename(folder_ / "first", folder_ / "moved");
  const Outcome rest = go_on("--max_steps 4");
  ASSERT_EQ(rest.code, 0) << rest.err;
  EXPECT_TRUE(contains(rest.out,
                       "resuming from out/checkpoint-2; adapter_name_or_path first is where the run began, "
                       "and is gone\n"));
  EXPECT_TRUE(contains(rest.out, "resumed out/checkpoint-2 at step 2\n"));
  for (const char* name : {"adapter_model.safetensors", "adapter_config.json", "prompt_template.json",
                           "checkpoint-3/optimizer.safetensors", "trainer_state.json", "README.md"})
    EXPECT_EQ(read_bytes(folder_ / "out" / name), read_bytes(folder_ / "whole" / name)) << name;
  const json resolved = json::parse(read_bytes(folder_ / "out/rankfold_config.json"));
  EXPECT_EQ(resolved.at("lora_dropout"), 0.1);
  EXPECT_EQ(resolved.at("adapter_name_or_path"), "first");
  EXPECT_EQ(resolved.at("resume_from_checkpoint"), "auto");
  EXPECT_EQ(json::parse(read_bytes(folder_ / "out/manifest.json")).at("parents"),
            json::parse(read_bytes(folder_ / "whole/manifest.json")).at("parents"));

  fs::rename(folder_ / "moved", folder_ / "first");
  const Outcome again = go_on("--max_steps 4");  // a finished run
  ASSERT_EQ(again.code, 0) << again.err;
  EXPECT_TRUE(
      contains(again.out, "resuming from out/checkpoint-4; adapter_name_or_path first is where the run began\n"));
  const Outcome given =
      train("--adapter_name_or_path first --resume_from_checkpoint out/checkpoint-3 --output_dir other --max_steps 4");
  ASSERT_EQ(given.code, 0) << given.err;
  EXPECT_TRUE(contains(given.out, "resuming from out/checkpoint-3; adapter_name_or_path first"));
  EXPECT_EQ(read_bytes(folder_ / "other/adapter_model.safetensors"),
            read_bytes(folder_ / "whole/adapter_model.safetensors"));
  // The settings that a checkpoint holds are a command, too.
  EXPECT_EQ(run("lora-train out/checkpoint-4/rankfold_config.json --max_steps 5").code, 0);
}

TEST_F(RunsFromAnAdapter, MayReplaceThatAdapter) {
  fs::create_directory(folder_ / "out");
  for (const char* name : {"adapter_config.json", "adapter_model.safetensors"})
    fs::copy(folder_ / "first" / name, folder_ / "out");
  const std::string command = "--adapter_name_or_path out --resume_from_checkpoint auto ";
  ASSERT_EQ(train(command + "--max_steps 2").code, 0);
  EXPECT_NE(read_bytes(folder_ / "first/adapter_model.safetensors"),
            read_bytes(folder_ / "out/adapter_model.safetensors"));
  const Outcome rest = train(command + "--max_steps 3");
  EXPECT_EQ(rest.code, 0) << rest.err;
  EXPECT_TRUE(contains(rest.out, "resuming from out/checkpoint-2; adapter_name_or_path out "));
}

TEST_F(RunsFromAnAdapter, AreNotResumedAsRunsFromAnotherOne) {
  ASSERT_EQ(go_on().code, 0);
  ASSERT_EQ(train("--output_dir second --seed 3 --r 4 --target_modules W_pack").code, 0);
  fs::copy(folder_ / "first", folder_ / "moved", fs::copy_options::recursive);
  EXPECT_EQ(train("--resume_from_checkpoint auto --adapter_name_or_path moved").code, 0) << "the same values";
  const std::string before = "checkpoint-3: its run began from first";
  expect_resume_refused(before + ", whose adapter_model.safetensors had the checksum ",
                        "--adapter_name_or_path second");
  expect_resume_refused(before + ", this one from adapter_name_or_path nowhere, which is not there to compare",
                        "--adapter_name_or_path nowhere");
  expect_resume_refused("--r: expected 4 as in out/checkpoint-3/adapter_config.json, got 8: leave it out",
                        "--adapter_name_or_path first --r 8");
  expect_resume_refused("--target_modules: expected the modules of out/checkpoint-3, [\"W_pack\"], got \"all-linear\"",
                        "--adapter_name_or_path first --target_modules all-linear");
  fs::copy(folder_ / "second/adapter_model.safetensors", folder_ / "first/adapter_model.safetensors",
           fs::copy_options::overwrite_existing);
  expect_resume_refused(before + ", whose adapter_model.safetensors had the checksum ", "--adapter_name_or_path first");

  fs::remove_all(folder_ / "out");
  ASSERT_EQ(train("--r 4 --target_modules W_pack").code, 0);
  expect_resume_refused(
      "out/checkpoint-3: its run began from no adapter, this one from adapter_name_or_path first: "
      "leave that out, or begin a new run in another output_dir",
      "--adapter_name_or_path first");
  const Outcome given = train("--adapter_name_or_path first --resume_from_checkpoint out/checkpoint-2");
  EXPECT_EQ(given.code, 7) << given.err;
  EXPECT_TRUE(contains(given.err, "its run began from no adapter"));
}

TEST_F(RunsFromAnAdapter, AreWrittenWithItsPromptTemplate) {
  const std::string taken = "prompt template \"Q: {question} A:\", from first/prompt_template.json\n";
  const Outcome plain = train("--adapter_name_or_path first --dry_run");
  ASSERT_EQ(plain.code, 0) << plain.err;
  EXPECT_TRUE(contains(plain.out, taken));
  EXPECT_TRUE(contains(plain.out, "Q: What is 0? A:[[answer 0</s>]]"));

  const Outcome same = train("--adapter_name_or_path first --dry_run --prompt_template 'Q: {question} A:'");
  EXPECT_FALSE(contains(same.out, "prompt template \""));
  EXPECT_FALSE(contains(same.out, "warning"));
  EXPECT_TRUE(contains(same.out, "Q: What is 0? A:[["));

  const Outcome other = train("--adapter_name_or_path first --prompt_template 'Ask {question}:'");
  ASSERT_EQ(other.code, 0) << other.err;
  EXPECT_TRUE(contains(other.out,
                       "warning: --prompt_template is \"Ask {question}:\", which is kept; first was trained "
                       "with \"Q: {question} A:\"\n"));
  EXPECT_TRUE(contains(other.out, "Ask What is 0?:[[answer 0</s>]]"));
  EXPECT_EQ(json::parse(read_bytes(folder_ / "out/prompt_template.json")).at("prompt_template"), "Ask {question}:");

  const Outcome chat = train("--adapter_name_or_path first --dry_run --chat_template chatml");
  ASSERT_EQ(chat.code, 0) << chat.err;
  EXPECT_TRUE(contains(chat.out,
                       "warning: --chat_template writes the questions; first was trained with the prompt "
                       "template \"Q: {question} A:\"\n"));
  EXPECT_TRUE(contains(chat.out, "<|im_start|>user\nWhat is 0?"));

  folder_.write("first/prompt_template.json", R"({"prompt_template": "no place"})");
  expect_refused("first/prompt_template.json: prompt_template: expected a text that holds {question}, got \"no place\"",
                 "--adapter_name_or_path first");
  fs::remove(folder_ / "first/prompt_template.json");
  const Outcome unknown = train("--adapter_name_or_path first --dry_run");
  EXPECT_EQ(unknown.code, 0) << unknown.err;
  EXPECT_FALSE(contains(unknown.out, "Q: What is 0?"));
}

TEST_F(RunsFromAnAdapter, ADryRunChecksAResume) {
  const Outcome none = go_on("--dry_run");
  ASSERT_EQ(none.code, 0) << none.err;
  EXPECT_TRUE(contains(none.out, "no checkpoint in out: starting at step 0\n"));
  EXPECT_FALSE(fs::exists(folder_ / "out"));

  settings_.update({{"r", 4}, {"target_modules", {"W_pack"}}});
  ASSERT_EQ(train().code, 0);
  const std::set<std::string> before = contents("out");
  const Outcome more = train("--resume_from_checkpoint auto --dry_run --max_steps 5 --learning_rate 0.02");
  ASSERT_EQ(more.code, 0) << more.err;
  EXPECT_TRUE(contains(more.out, "learning_rate: 0.02 from step 4 on, 0.01 before\n"));
  EXPECT_TRUE(contains(more.out, "dry_run: would resume out/checkpoint-3 at step 3 and go on with step 4 of 5\n"));
  EXPECT_TRUE(contains(more.out, "5 steps; dry_run: nothing is trained\n"));
  const Outcome earlier = train("--resume_from_checkpoint out/checkpoint-1 --dry_run");
  EXPECT_TRUE(contains(earlier.out, "dry_run: would resume out/checkpoint-1 at step 1 and go on with step 2 of 3\n"));
  const Outcome done = train("--resume_from_checkpoint auto --dry_run");
  EXPECT_EQ(done.code, 0) << done.err;
  EXPECT_TRUE(contains(done.out, "would resume out/checkpoint-3 at step 3, the last: no step is left to train\n"));
  EXPECT_EQ(contents("out"), before);

  expect_resume_refused("training_state.json: r: this run has 8, the checkpoint 4", "--r 8");
  expect_resume_refused("training_state.json: seed: this run has 1, the checkpoint 42", "--seed 1");
  expect_resume_refused("training_state.json: dataset: this run has ", "--prompt_template 'Q: {question}'");
  expect_resume_refused("out/checkpoint-3: it is at step 3, beyond the 2 steps of this run", "--max_steps 2");
  folder_.write("out/checkpoint-3/optimizer.safetensors", "cut");
  const Outcome older = train("--resume_from_checkpoint auto --dry_run");
  EXPECT_EQ(older.code, 0) << older.err;
  EXPECT_TRUE(contains(older.out, "skipped out/checkpoint-3: "));
  EXPECT_TRUE(contains(older.out, "would resume out/checkpoint-2 at step 2 and go on with step 3 of 3\n"));
  for (const char* name : {"1", "2"})
    folder_.write(std::string("out/checkpoint-") + name + "/optimizer.safetensors", "cut");
  expect_resume_refused("out: no checkpoint is whole (", "");
}

// An adapter of q_proj for write_tiny_model's LLaMA.
void write_adapter(const fs::path& folder, double size, const json& changes = json::object()) {
  fs::create_directories(folder);
  std::vector<std::pair<std::string, at::Tensor>> tensors;
  for (const char* layer : {"0", "1"}) {
    const std::string module = std::string("base_model.model.model.layers.") + layer + ".self_attn.q_proj.lora_";
    tensors.emplace_back(module + "A.weight", at::randn({4, kHidden}));
    tensors.emplace_back(module + "B.weight", at::randn({kHidden, 4}) * size);
  }
  write_tensor_file(folder / "adapter_model.safetensors", tensors);
  json config = {{"peft_type", "LORA"}, {"r", 4}, {"lora_alpha", 4}, {"target_modules", {"q_proj"}}};
  config.update(changes);
  std::ofstream(folder / "adapter_config.json") << config.dump();
}

TEST_F(Programs, AutoGoesOnInTheDtypeThatTheRunBeganWith) {
  testing::write_tiny_model(folder_ / "half", {.vocabulary = kVocab, .dtype = "bfloat16"});
  folder_.write("ids.json", R"([{"input_ids": [1, 5, 7, 9]}, {"input_ids": [3, 4, 2]}])");
  settings_["model_name_or_path"] = "half";
  settings_["dataset"] = "ids.json";
  settings_["max_steps"] = 2;
  for (const auto& [dtype, stored, other] :
       {std::tuple("float32", "Float", "bfloat16"), std::tuple("bfloat16", "BFloat16", "float32")}) {
    const std::string output = std::string(" --output_dir ") + dtype;
    const Outcome first = train("--dtype " + std::string(dtype) + output);
    ASSERT_EQ(first.code, 0) << first.err;
    EXPECT_FALSE(contains(first.out, "dtype auto: "));
    const Outcome rest = train("--resume_from_checkpoint auto --max_steps 4" + output);
    ASSERT_EQ(rest.code, 0) << rest.err;
    const bool is_said = rest.out.find("dtype auto: computes in float32, as the run did so far\n") != std::string::npos;
    EXPECT_EQ(is_said, dtype == std::string("float32")) << rest.out;
    EXPECT_FALSE(contains(rest.out, "GFLOP/s"));
    EXPECT_TRUE(contains(rest.out, "at step 2\n"));
    const json state = json::parse(read_bytes(folder_ / dtype / "checkpoint-4/training_state.json"));
    EXPECT_EQ(state.at("run").at("dtype"), stored);
    // The settings stay as they were given.
    EXPECT_EQ(json::parse(read_bytes(folder_ / dtype / "rankfold_config.json")).at("dtype"), "auto");
    const Outcome refused = train("--resume_from_checkpoint auto --max_steps 6 --dtype " + std::string(other) + output);
    EXPECT_EQ(refused.code, 7);
    EXPECT_TRUE(contains(refused.err, "dtype: this run has "));
  }
}

TEST_F(Programs, MergingTellsWhatRoundingTakes) {
  testing::write_tiny_model(folder_ / "half", {.baichuan = false, .dtype = "bfloat16"});
  const auto merge = [&](const std::string& adapter, const std::string& flags) {
    fs::remove_all(folder_ / "merged");
    return run("lora-merge --model_name_or_path half --adapter_name_or_path " + adapter +
               " --output_dir merged --device cpu " + flags);
  };
  write_adapter(folder_ / "large", 0.02);
  const Outcome right = merge("large", "--verify");
  EXPECT_EQ(right.code, 0) << right.err;
  EXPECT_TRUE(contains(right.out, "verify: every tensor is base + adapter, rounded once; "));
  EXPECT_TRUE(contains(right.out, " % of the update is in the stored weights (least in model.layers."));
  EXPECT_FALSE(contains(merge("large", "").out, "--dtype float32"));

  write_adapter(folder_ / "small", 5e-5);
  const Outcome lost = merge("small", "--verify");
  EXPECT_EQ(lost.code, 2) << lost.out << lost.err;
  EXPECT_TRUE(contains(lost.err, " % of the update is in the stored weights (least in model.layers."));
  EXPECT_TRUE(contains(lost.err, "expected at least half; rounding takes the rest; --dtype float32 keeps it"));
  EXPECT_FALSE(fs::exists(folder_ / "merged"));
  const Outcome unverified = merge("small", "");
  EXPECT_EQ(unverified.code, 0) << unverified.err;
  EXPECT_TRUE(contains(unverified.out, "rounding takes the rest; --dtype float32 keeps it\n"));
  const Outcome wide = merge("small", "--dtype float32 --verify");
  EXPECT_EQ(wide.code, 0) << wide.err;
  EXPECT_TRUE(contains(wide.out, "rounded once; 100.0 % of the update"));
}

// Layers of large weights magnify what rounding to 16 bits does, though every weight is the nearest there is.
TEST_F(Programs, AMergeThatIsRightPassesWhateverItsModelMakesOfRounding) {
  testing::write_tiny_model(folder_ / "steep", {.baichuan = false, .dtype = "bfloat16"});
  std::vector<std::pair<std::string, at::Tensor>> tensors;
  {
    const TensorFile file = TensorFile::open(folder_ / "steep/model.safetensors");
    for (const TensorInfo& info : file.tensors())
      tensors.emplace_back(info.name, file.tensor(info.name) * (info.name.find("_proj") == std::string::npos ? 1 : 4));
  }
  write_tensor_file(folder_ / "steep/model.safetensors", tensors);
  write_adapter(folder_ / "adapter", 0.5);
  const std::string merge =
      "lora-merge --model_name_or_path steep --adapter_name_or_path adapter --device cpu --verify ";
  const Outcome half = run(merge + "--output_dir half");
  EXPECT_EQ(half.code, 0) << half.err;
  EXPECT_TRUE(contains(half.out, "x the largest logit (limit 0.5)"));
  const Outcome wide = run(merge + "--output_dir wide --dtype float32");
  EXPECT_EQ(wide.code, 0) << wide.err;
  EXPECT_TRUE(contains(wide.out, "x the largest logit (limit 2e-05)"));
}

TEST_F(Programs, WhatIsPassedOverIsSaid) {
  testing::write_tiny_model(folder_ / "base", {.baichuan = false});
  folder_.write("ids.json", R"([{"input_ids": [1, 5, 7, 9]}, {"input_ids": [3, 4, 2]}])");
  write_adapter(folder_ / "plain", 0.1);
  const std::string eval = "lora-eval --model_name_or_path base --dataset ids.json --device cpu";
  const Outcome plain = run(eval + " --adapter_name_or_path plain");
  ASSERT_EQ(plain.code, 0) << plain.err;

  write_adapter(folder_ / "wide", 0, {{"target_modules", {"q_proj", "c_attn"}}, {"fan_in_fan_out", true}});
  fs::copy(folder_ / "plain/adapter_model.safetensors", folder_ / "wide/adapter_model.safetensors",
           fs::copy_options::overwrite_existing);
  fs::copy(folder_ / "plain/adapter_config.json", folder_ / "base/adapter_config.json");
  const std::string names = R"(wide/adapter_config.json: target_modules: ["c_attn"] match no linear layer)";
  const std::string own = "base: holds an adapter too (adapter_config.json), which is not used\n";
  const Outcome wide = run(eval + " --adapter_name_or_path wide");
  ASSERT_EQ(wide.code, 0) << wide.err;
  EXPECT_EQ(json::parse(wide.out).at("loss"), json::parse(plain.out).at("loss"));
  for (const std::string& line : {names, std::string("wide/adapter_config.json: fan_in_fan_out: true"), own})
    EXPECT_TRUE(contains(wide.err, line));

  const Outcome merged = run("lora-merge --model_name_or_path base --adapter_name_or_path wide --output_dir merged");
  ASSERT_EQ(merged.code, 0) << merged.err;
  for (const std::string& line : {names, own}) EXPECT_TRUE(contains(merged.out, line));
  EXPECT_FALSE(fs::exists(folder_ / "merged/adapter_config.json"));
  settings_.update({{"model_name_or_path", "base"}, {"dataset", "ids.json"}, {"max_steps", 1}});
  for (const char* key : {"r", "lora_alpha", "target_modules"}) settings_.erase(key);
  const Outcome trained = train("--adapter_name_or_path wide --device cpu");
  ASSERT_EQ(trained.code, 0) << trained.err;
  for (const std::string& line : {names, own}) EXPECT_TRUE(contains(trained.out, line));
}

TEST_F(Programs, AnotherTrainersCheckpoints) {
  testing::write_tiny_model(folder_ / "base", {.baichuan = false});
  for (const char* name : {"theirs/checkpoint-1", "theirs/checkpoint-2"}) {
    write_adapter(folder_ / name, 0.1);
    folder_.write(std::string(name) + "/optimizer.pt", "x");
    folder_.write(std::string(name) + "/trainer_state.json", "{}");
  }
  const Outcome above = run("lora-merge --model_name_or_path base --adapter_name_or_path theirs --output_dir merged");
  EXPECT_EQ(above.code, 2);
  EXPECT_TRUE(contains(above.err,
                       "theirs: expected an adapter folder, got one without adapter_config.json; there is one "
                       "in checkpoint-1, checkpoint-2: give that folder"));
  settings_.update({{"model_name_or_path", "base"}, {"target_modules", {"q_proj"}}});
  folder_.write("ids.json", R"([{"input_ids": [1, 5, 7, 9]}, {"input_ids": [3, 4, 2]}])");
  settings_["dataset"] = "ids.json";
  expect_refused(
      "--resume_from_checkpoint: expected a checkpoint of lora-train, got theirs/checkpoint-2: another trainer "
      "wrote it, whose state cannot be gone on from; start from its adapter with adapter_name_or_path",
      "--resume_from_checkpoint theirs/checkpoint-2");
  settings_["output_dir"] = "theirs";
  const Outcome resumed = train("--resume_from_checkpoint auto --device cpu");
  EXPECT_EQ(resumed.code, 7) << resumed.out << resumed.err;
  EXPECT_TRUE(contains(resumed.err, "checkpoint-2: another trainer wrote it"));
  EXPECT_EQ(
      run("lora-merge --model_name_or_path base --adapter_name_or_path theirs/checkpoint-2 --output_dir merged").code,
      0);
}

// Where the machine has one, too: drivers that have none are in tests/faults.
TEST_F(Programs, NoSuchDevice) {
  const std::string none = "CUDA_VISIBLE_DEVICES=";
  folder_.write("run.json", settings_.dump());
  const Outcome asked = run("lora-train run.json --device cuda", none);
  EXPECT_EQ(asked.code, 3);
  EXPECT_TRUE(contains(asked.err, "lora-train: device: cuda was asked for, but "));
  EXPECT_EQ(std::count(asked.err.begin(), asked.err.end(), '\n'), 1) << asked.err;
  EXPECT_FALSE(fs::exists(folder_ / "out"));
  const Outcome found = run("lora-train run.json --device auto", none);
  EXPECT_EQ(found.code, 0) << found.err;
  EXPECT_TRUE(found.out.starts_with("device: cpu\n")) << found.out;  // no GPU, nothing to explain
}

TEST_F(Programs, AnOutputFolderBehindALink) {
  fs::create_symlink("data.json", folder_ / "to_file");
  expect_refused("--output_dir: expected a folder, got the file to_file", "--output_dir to_file");
  fs::create_symlink("nowhere", folder_ / "to_nothing");
  expect_refused("--output_dir: expected a folder, got ", "--output_dir to_nothing");
  expect_refused("--output_dir: expected a folder, got ", "--output_dir to_nothing/deeper");
  fs::create_symlink("to_itself", folder_ / "to_itself");
  expect_refused("to_itself", "--output_dir to_itself");
  EXPECT_FALSE(fs::exists(folder_ / "nowhere"));
  // One to a folder is what it leads to.
  fs::create_directory(folder_ / "place");
  fs::create_symlink("place", folder_ / "to_folder");
  const Outcome outcome = train("--output_dir to_folder");
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_TRUE(fs::is_symlink(folder_ / "to_folder"));
  EXPECT_TRUE(fs::exists(folder_ / "place/adapter_model.safetensors"));
}

TEST_F(Programs, WhatIsNoConfigurationFileIsNamed) {
  const auto expect = [&](const std::string& kind) {
    const Outcome outcome = run("lora-train odd.json --output_dir out", "timeout 300");
    EXPECT_EQ(outcome.code, 2) << kind << ": " << outcome.err;
    EXPECT_TRUE(outcome.err.starts_with("lora-train: odd.json: ")) << outcome.err;
    EXPECT_TRUE(contains(outcome.err, "got " + kind));
    EXPECT_EQ(std::count(outcome.err.begin(), outcome.err.end(), '\n'), 1) << outcome.err;
    fs::remove(folder_ / "odd.json");
  };
  ASSERT_EQ(::mkfifo((folder_ / "odd.json").c_str(), 0600), 0);
  expect("a FIFO");
  fs::create_symlink("/dev/zero", folder_ / "odd.json");
  expect("a device");
  fs::create_directory(folder_ / "odd.json");
  expect("a folder");
  fs::create_symlink("nowhere", folder_ / "odd.json");
  expect("nothing");
  folder_.write("odd.json", "version https://git-lfs.github.com/spec/v1\noid sha256:4665\nsize 9\n");
  expect("a git-lfs pointer");
  EXPECT_FALSE(fs::exists(folder_ / "out"));
}

TEST_F(Programs, HelpFitsTheScreenAndIsInSections) {
  const std::map<std::string, std::vector<std::string>> sections{
      {"lora-train", {"model", "data", "LoRA", "training", "saving", "memory"}},
      {"lora-merge", {"model", "result", "verification"}},
      {"lora-eval", {"model", "data", "evaluation", "decoding"}},
      {"lora-generate", {"model", "prompt", "decoding"}},
      {"lora-data check", {"data", "checks", "report"}},
      {"lora-data clean", {"data", "checks", "report", "result"}}};
  for (const auto& [program, titles] : sections) {
    const Outcome help = run(program + " --help");
    EXPECT_EQ(help.code, 0);
    for (const std::string& title : titles) EXPECT_TRUE(contains(help.out, "\n\n" + title + ":\n  --"));
    std::istringstream lines(help.out);
    for (std::string line; std::getline(lines, line);) EXPECT_LE(line.size(), 100u) << line;
    std::istringstream narrow(run(program + " --help", "COLUMNS=72").out);
    for (std::string line; std::getline(narrow, line);) EXPECT_LE(line.size(), 72u) << line;
  }
  const std::string help = std::regex_replace(run("lora-train --help").out, std::regex("\\s+"), " ");
  for (const char* part :
       {"[5e-05]; also --lr --lr_scheduler_type", "(none, mlp, full or auto) [auto]", "[CONFIG.json]"})
    EXPECT_TRUE(contains(help, part));
}

TEST_F(Programs, HelpAndDocumentsStateTheSameExitCodes) {
  const auto plain = [](std::string text) {  // where lines break does not matter
    std::replace(text.begin(), text.end(), '\n', ' ');
    return text;
  };
  const std::string texts[] = {plain(run("lora-merge --help").out), plain(read_bytes(RANKFOLD_DOCS "/design.md")),
                               plain(read_bytes(RANKFOLD_DOCS "/reliability.md"))};
  for (const auto& [code, meaning] : kExitMeanings)
    for (const std::string& text : texts)
      EXPECT_TRUE(contains(text, " " + std::to_string(static_cast<int>(code)) + " " + meaning));
}

// Cases of other trainers' users; the kinds are in tests/core.
TEST_F(Programs, ValuesAsOtherTrainersUsersWriteThem) {
  settings_.erase("target_modules");
  const Outcome taken =
      train("--skip_bad_rows True --shuffle False --memory_budget 16G --lora_target 'o_proj, W_pack'");
  EXPECT_EQ(taken.code, 0) << taken.err;
  EXPECT_TRUE(contains(taken.out, "LoRA on 4 modules"));
  const Outcome all = train("--lora_target all");
  EXPECT_EQ(all.code, 0) << all.err;
  EXPECT_TRUE(contains(all.out, "LoRA on 10 modules"));
  settings_["target_modules"] = {"W_pack"};
  expect_refused("--resume_from_checkpoint: expected auto or a path, got \"True\": write auto",
                 "--resume_from_checkpoint True");
  expect_refused("unknown flag --fp16: write --dtype float16 on a GPU", "--fp16");
  settings_["bf16"] = true;
  expect_refused("run.json: unknown key 'bf16': write --dtype bfloat16");
  settings_.erase("bf16");
  settings_["learning_rate"] = "2e-5";
  expect_refused("run.json: learning_rate: expected a number of 0 or more, got \"2e-5\": write 2e-05 without quotes");
  folder_.write("run.yaml", "model_name_or_path: model\nlearning_rate: 2e-5\n");
  const Outcome yaml = run("lora-train run.yaml");
  EXPECT_EQ(yaml.code, 2);
  EXPECT_TRUE(contains(yaml.err, "lora-train: run.yaml:1:1: "));
  EXPECT_TRUE(contains(yaml.err, "; a configuration file is JSON, such as {\"learning_rate\": 2e-5, \"r\": 16}\n"));
}

TEST_F(Programs, HelpNeedsNothing) {
  for (const std::string program : {"lora-train", "lora-merge", "lora-eval", "lora-generate"}) {
    EXPECT_EQ(run(program + " --help").code, 0);
    EXPECT_EQ(run(program + " --version").code, 0);
    const Outcome bare = run(program);
    EXPECT_EQ(bare.code, 2);
    EXPECT_TRUE(contains(bare.err, program + ": --model_name_or_path is missing"));
  }
}

TEST_F(Programs, AFullDiskIsAnError) {
  const Outcome outcome =
      run("lora-generate --model_name_or_path model --prompt hello --max_new_tokens 2 >/dev/full #");
  EXPECT_EQ(outcome.code, 5);
}

// Bytes of "peak memory 612 MiB, planned 1.25 GiB": {peak, planned}.
std::pair<double, double> memory_of(const Outcome& outcome) {
  const size_t begin = outcome.out.find("peak memory ");
  double peak = 0, planned = 0;
  char peak_unit[4] = {}, planned_unit[4] = {};
  EXPECT_EQ(begin == std::string::npos
                ? 0
                : std::sscanf(outcome.out.c_str() + begin, "peak memory %lf %3s, planned %lf %3s", &peak, peak_unit,
                              &planned, planned_unit),
            4)
      << outcome.out;
  const auto bytes = [](double x, const char* unit) { return x * (unit[0] == 'G' ? 1 << 30 : 1 << 20); };
  return {bytes(peak, peak_unit), bytes(planned, planned_unit)};
}

bool has_bfloat16_products() {
#if defined(__x86_64__)
  return __builtin_cpu_supports("avx512bf16");
#else
  return false;
#endif
}

TEST_F(Programs, ThePlannedMemoryIsWithinATenthOfWhatIsUsed) {
  testing::write_tiny_model(folder_ / "wide",
                            {.vocabulary = 4000, .hidden = 384, .inner = 1024, .layers = 4, .heads = 6});
  std::string rows;
  for (int i = 0; i < 16; ++i) rows += json{{"input_ids", std::vector<int>(512, 100 + i)}}.dump() + "\n";
  folder_.write("long.jsonl", rows);
  settings_["model_name_or_path"] = "wide";
  settings_["dataset"] = "long.jsonl";
  settings_["target_modules"] = "all-linear";
  settings_["lora_dropout"] = 0.05;
  settings_["max_steps"] = 1;
  settings_["per_device_train_batch_size"] = 8;
  std::map<std::string, double> peaks;
  for (const std::string dtype : {"float32", "bfloat16"})
    for (const std::string level : {"none", "mlp", "full"}) {
      // Where the processor does not multiply bfloat16, a product takes 20 times as long, and less code is compiled for it
      // than the plan allows for.
      const bool is_emulated = dtype == "bfloat16" && !has_bfloat16_products();
      if (is_emulated && level != "none") continue;
      const Outcome outcome = train("--dtype " + dtype + " --gradient_checkpointing " + level +
                                    (is_emulated ? " --per_device_train_batch_size 2" : ""));
      ASSERT_EQ(outcome.code, 0) << outcome.err;
      const auto [peak, planned] = memory_of(outcome);
      EXPECT_NEAR(planned / peak, 1, is_emulated ? 0.15 : 0.1) << dtype << ", " << level << "\n" << outcome.out;
      peaks[dtype + level] = peak;
    }
  const Outcome full = train("--finetuning_type full --dtype float32");
  ASSERT_EQ(full.code, 0) << full.err;
  const auto [full_peak, full_planned] = memory_of(full);
  EXPECT_NEAR(full_planned / full_peak, 1, 0.1) << "full tuning\n" << full.out;
  // Norms of what sub-layers give, and scores and logits that are bent.
  testing::write_tiny_family(folder_ / "gemma", {"Gemma2ForCausalLM",
                                                 {{"vocab_size", 4000},
                                                  {"hidden_size", 384},
                                                  {"intermediate_size", 1024},
                                                  {"num_hidden_layers", 4},
                                                  {"num_attention_heads", 6},
                                                  {"head_dim", 64}}});
  const Outcome gemma = train("--model_name_or_path gemma --dtype float32 --gradient_checkpointing none");
  ASSERT_EQ(gemma.code, 0) << gemma.err;
  const auto [gemma_peak, gemma_planned] = memory_of(gemma);
  EXPECT_NEAR(gemma_planned / gemma_peak, 1, 0.1) << "Gemma 2\n" << gemma.out;
  EXPECT_LT(peaks["float32mlp"], 0.85 * peaks["float32none"]);
  EXPECT_LT(peaks["float32full"], 0.85 * peaks["float32mlp"]);

  // auto takes what fits; what does not is refused with the numbers.
  const auto budget = [](double bytes) { return " --memory_budget " + std::to_string(static_cast<int64_t>(bytes)); };
  const Outcome fits = train("--dtype float32" + budget(peaks["float32none"] * 0.85));
  EXPECT_TRUE(contains(fits.out, "gradient_checkpointing mlp")) << fits.err;
  for (const auto& [flags, part] :
       std::map<std::string, std::string>{{budget(peaks["float32none"] * 0.3), "memory_budget: "},
                                          {" --gradient_checkpointing none" + budget(peaks["float32none"] * 0.85),
                                           "gradient_checkpointing full takes"}}) {
    fs::remove_all(folder_ / "out");
    const Outcome refused = train("--dtype float32" + flags);
    EXPECT_EQ(refused.code, 2);
    EXPECT_TRUE(contains(refused.err, part));
    EXPECT_EQ(std::count(refused.err.begin(), refused.err.end(), '\n'), 1) << refused.err;
    EXPECT_FALSE(fs::exists(folder_ / "out/run.json"));
  }
  expect_refused("memory_budget: expected a size", "--memory_budget much");
}

}  // namespace
}  // namespace rankfold
