#include "core/config.h"
#include "core/json.h"

#include "core/check.h"
#include "core/foreign_keys.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <limits>
#include <set>

namespace rankfold {
namespace {

using nlohmann::json;

std::string refusal(const std::function<void()>& action) {
  try {
    action();
  } catch (const UserError& error) {
    return error.what();
  }
  return "";
}

std::string read_refusal(const json& object) {
  RunConfig config;
  return refusal([&] { read_fields(object, "run.json", config, true); });
}

std::string flag_refusal(const std::string& name, const std::string& text) {
  RunConfig config;
  const Fields fields = fields_of(config);
  return refusal([&] { set_from_text(*find_field(fields, name), text, "--" + name); });
}

RunConfig with_flag(const std::string& name, const std::string& text) {
  RunConfig config;
  const Fields fields = fields_of(config);
  set_from_text(*find_field(fields, name), text, "--" + name);
  return config;
}

TEST(Config, ReadsEveryType) {
  RunConfig config;
  read_fields(json::parse(R"({"r": 16, "lora_alpha": 32, "lora_dropout": 0.05, "target_modules": ["W_pack"],
    "use_rslora": true, "rank_pattern": {"a": 4}, "alpha_pattern": {"a": 8.5}, "layers_to_transform": [0, 3],
    "columns": {"question": "q"}, "output_dir": "out"})"),
              "run.json", config, true);
  EXPECT_EQ(config.lora.r, 16);
  EXPECT_EQ(config.lora.lora_alpha, 32);
  EXPECT_EQ(config.lora.lora_dropout, 0.05);
  EXPECT_EQ(config.lora.target_modules, ModuleNames(StringList{"W_pack"}));
  EXPECT_TRUE(config.lora.use_rslora);
  EXPECT_EQ(config.lora.rank_pattern.at("a"), 4);
  EXPECT_EQ(config.lora.alpha_pattern.at("a"), 8.5);
  EXPECT_EQ(config.lora.layers_to_transform, (std::vector<int64_t>{0, 3}));
  EXPECT_EQ(config.data.columns.at("question"), "q");
  EXPECT_EQ(config.train.output_dir, "out");
}

TEST(Config, AliasesAndHyphens) {
  RunConfig config;
  read_fields(json{{"lora_rank", 4}, {"learning-rate", 1e-4}, {"cutoff_len", 7}}, "run.json", config, true);
  EXPECT_EQ(config.lora.r, 4);
  EXPECT_EQ(config.train.learning_rate, 1e-4);
  EXPECT_EQ(config.data.max_length, 7);
}

TEST(Config, RefusalsAreOneLineThatNamesTheKey) {
  EXPECT_EQ(read_refusal({{"r", "16"}}),
            "run.json: r: expected an integer in [1, 4096], got \"16\": write 16 without quotes");
  EXPECT_EQ(read_refusal({{"r", 16.7}}), "run.json: r: expected an integer in [1, 4096], got 16.7");
  EXPECT_EQ(read_refusal({{"r", 16.0}}), "run.json: r: expected an integer in [1, 4096], got 16.0");
  EXPECT_EQ(read_refusal({{"r", true}}), "run.json: r: expected an integer in [1, 4096], got true");
  EXPECT_EQ(read_refusal({{"r", 0}}), "run.json: r: expected an integer in [1, 4096], got 0");
  EXPECT_EQ(read_refusal({{"r", nullptr}}), "run.json: r: expected an integer in [1, 4096], got null: leave it out");
  EXPECT_EQ(read_refusal({{"lora_alhpa", 1}}), "run.json: unknown key 'lora_alhpa' (did you mean 'lora_alpha'?)");
  EXPECT_EQ(read_refusal({{"zzzzzzzzzzzz", 1}}), "run.json: unknown key 'zzzzzzzzzzzz'");
  EXPECT_EQ(read_refusal({{"lora_rank", 1}, {"r", 2}}), "run.json: 'lora_rank' and 'r' are the same key: give one");
  EXPECT_EQ(read_refusal({{"max-steps", 1}, {"max_steps", 2}}),
            "run.json: 'max-steps' and 'max_steps' are the same key: give one");
  EXPECT_EQ(read_refusal(json::array({1})), "run.json: expected a JSON object, got [1]");
  EXPECT_EQ(read_refusal({{"shuffle", 1}}), "run.json: shuffle: expected true or false, got 1");
  EXPECT_EQ(read_refusal({{"seed", 18446744073709551615u}}).substr(0, 15), "run.json: seed:");
  EXPECT_EQ(read_refusal({{"rank_pattern", {{"a", 0}}}}),
            "run.json: rank_pattern: expected an object of integers in [1, 4096], got {\"a\":0}");
  EXPECT_NE(read_refusal({{"target_modules", {1}}}), "");
  const std::string cut = read_refusal({{"r", std::string(1000, 'x')}});
  EXPECT_LT(cut.size(), 250u);
}

TEST(Config, ARefusedValueLeavesTheMember) {
  RunConfig config;
  refusal([&] { read_fields(json{{"rank_pattern", {{"a", 0}}}}, "run.json", config, true); });
  EXPECT_TRUE(config.lora.rank_pattern.empty());
}

TEST(Config, AdapterConfigOfPeft) {
  LoraConfig config;
  read_fields(json::parse(
                  R"({"peft_type": "LORA", "r": 4, "rank": 9, "lora_dropout": null, "target_modules": "all-linear",
    "exclude_modules": null, "layers_to_transform": 2})"),
              "adapter_config.json", config, false);
  EXPECT_EQ(config.r, 4);
  EXPECT_EQ(config.lora_dropout, 0);
  EXPECT_EQ(config.target_modules, ModuleNames("all-linear"));
  EXPECT_EQ(config.exclude_modules, ModuleNames(StringList{}));
  EXPECT_EQ(config.layers_to_transform, (std::vector<int64_t>{2}));
  EXPECT_EQ(refusal([&] {
              read_fields(json{{"r", "4"}}, "adapter_config.json", config, false);
            }),
            "adapter_config.json: r: expected an integer in [1, 4096], got \"4\": write 4 without quotes");
}

TEST(Config, Flags) {
  EXPECT_EQ(with_flag("lora-rank", "4").lora.r, 4);
  EXPECT_EQ(with_flag("learning_rate", "1e-4").train.learning_rate, 1e-4);
  EXPECT_EQ(with_flag("max_steps", "-1").train.max_steps, -1);
  EXPECT_FALSE(with_flag("shuffle", "no").train.shuffle);
  EXPECT_TRUE(with_flag("use_rslora", "1").lora.use_rslora);
  EXPECT_EQ(with_flag("target_modules", "q_proj,v_proj").lora.target_modules,
            ModuleNames(StringList{"q_proj", "v_proj"}));
  EXPECT_EQ(with_flag("target_modules", "W_pack").lora.target_modules, ModuleNames(StringList{"W_pack"}));
  EXPECT_EQ(with_flag("target_modules", R"(["a", "b"])").lora.target_modules, ModuleNames(StringList{"a", "b"}));
  EXPECT_EQ(with_flag("target_modules", "all-linear").lora.target_modules, ModuleNames("all-linear"));
  EXPECT_EQ(with_flag("target_modules", R"(.*\.(q|v)_proj)").lora.target_modules, ModuleNames(R"(.*\.(q|v)_proj)"));
  EXPECT_EQ(with_flag("target_modules", "[qv]_proj").lora.target_modules, ModuleNames("[qv]_proj"));
  EXPECT_EQ(with_flag("rank_pattern", "a=4,b=8").lora.rank_pattern.at("b"), 8);
  EXPECT_EQ(with_flag("rank_pattern", R"({"a": 4})").lora.rank_pattern.at("a"), 4);
  EXPECT_EQ(with_flag("columns", "question=query").data.columns.at("question"), "query");
  EXPECT_EQ(with_flag("layers_to_transform", "0,2").lora.layers_to_transform, (std::vector<int64_t>{0, 2}));
  EXPECT_EQ(with_flag("prompt_template", "Q: {question}").data.prompt_template, "Q: {question}");
  EXPECT_EQ(flag_refusal("r", "x"), "--r: expected an integer in [1, 4096], got \"x\"");
  EXPECT_EQ(flag_refusal("r", "16.7"), "--r: expected an integer in [1, 4096], got \"16.7\"");
  EXPECT_EQ(flag_refusal("r", "99999999999999999999"),
            "--r: expected an integer in [1, 4096], got \"99999999999999999999\"");
  EXPECT_EQ(flag_refusal("learning_rate", "nan"), "--learning_rate: expected a number of 0 or more, got \"nan\"");
  EXPECT_EQ(flag_refusal("shuffle", "maybe"), "--shuffle: expected true or false, got \"maybe\"");
  EXPECT_EQ(flag_refusal("rank_pattern", "a"),
            "--rank_pattern: expected an object of integers in [1, 4096], got \"a\"");
  EXPECT_EQ(flag_refusal("rank_pattern", "a=4,a=8"), "--rank_pattern: \"a=4,a=8\": the key 'a' is given twice");
}

TEST(Config, ValuesAsOtherTrainersUsersWriteThem) {
  for (const char* yes : {"True", "TRUE", "true", "Yes", "1", "y", "T"})
    EXPECT_TRUE(with_flag("skip_bad_rows", yes).data.skip_bad_rows) << yes;
  for (const char* no : {"False", "FALSE", "false", "No", "0", "n", "F"})
    EXPECT_FALSE(with_flag("shuffle", no).train.shuffle) << no;
  const ModuleNames two(StringList{"q_proj", "v_proj"});
  EXPECT_EQ(with_flag("target_modules", "q_proj, v_proj").lora.target_modules, two);
  EXPECT_EQ(with_flag("lora_target", " q_proj ,v_proj ").lora.target_modules, two);
  for (const char* all : {"all", "All", "all-linear"})
    EXPECT_TRUE(is_all_linear(std::get<std::string>(with_flag("target_modules", all).lora.target_modules))) << all;
  EXPECT_EQ(with_flag("layers_to_transform", "0, 2").lora.layers_to_transform, (std::vector<int64_t>{0, 2}));
  EXPECT_EQ(with_flag("rank_pattern", "a=4, b = 8").lora.rank_pattern.at("b"), 8);
  EXPECT_EQ(with_flag("columns", "question=query, answer=reply").data.columns.at("answer"), "reply");
  RunConfig config;
  read_fields(json{{"lora_target", "q_proj, v_proj"}, {"exclude_modules", "lm_head"}}, "run.json", config, true);
  EXPECT_EQ(config.lora.target_modules, two);
  EXPECT_EQ(config.lora.exclude_modules, ModuleNames("lm_head"));
  for (const auto& [text, bytes] : std::map<std::string, uint64_t>{{"16G", 16'000'000'000},
                                                                   {"16g", 16'000'000'000},
                                                                   {"16GB", 16'000'000'000},
                                                                   {"100 KB", 100'000},
                                                                   {" 2 MiB ", 2 << 20},
                                                                   {"1.5Ki", 1536},
                                                                   {"7", 7}})
    EXPECT_EQ(parse_size(text), bytes) << text;
  for (const char* bad : {"", " ", "G", "16 G B", "-1G", "16X", "1e30", "nan"}) EXPECT_FALSE(parse_size(bad)) << bad;
}

TEST(Config, WhatIsRefusedSaysWhatToWrite) {
  EXPECT_EQ(read_refusal({{"learning_rate", "2e-5"}}),
            "run.json: learning_rate: expected a number of 0 or more, got \"2e-5\": write 2e-05 without quotes");
  EXPECT_EQ(read_refusal({{"shuffle", "False"}}),
            "run.json: shuffle: expected true or false, got \"False\": write false without quotes");
  EXPECT_EQ(read_refusal({{"save_total_limit", nullptr}}),
            "run.json: save_total_limit: expected an integer of 0 or more, got null: leave it out");
  EXPECT_EQ(read_refusal({{"bf16", true}}), "run.json: unknown key 'bf16': write --dtype bfloat16");
  EXPECT_EQ(read_refusal({{"do-eval", true}}),
            "run.json: unknown key 'do-eval': leave it out: --eval_dataset or --val_size gives rows to evaluate on");
  const std::string path = "expected auto or a path, got ";
  EXPECT_EQ(read_refusal({{"resume_from_checkpoint", true}}),
            "run.json: resume_from_checkpoint: " + path + "true: write auto");
  EXPECT_EQ(flag_refusal("resume_from_checkpoint", "True"),
            "--resume_from_checkpoint: " + path + "\"True\": write auto");
  EXPECT_EQ(flag_refusal("resume_from_checkpoint", "false"),
            "--resume_from_checkpoint: " + path + "\"false\": leave it out");
  EXPECT_EQ(flag_refusal("gradient_checkpointing", "True"),
            "--gradient_checkpointing: expected none, mlp, full or auto, got \"True\": write full, or auto for the "
            "least that fits");
  // The table is of keys that are none of ours.
  RunConfig config;
  const std::vector<std::string> ours = all_names(fields_of(config));
  for (const ForeignKey& foreign : kForeignKeys)
    EXPECT_EQ(std::count(ours.begin(), ours.end(), foreign.name), 0) << foreign.name;
  for (const ForeignValue& foreign : kForeignValues)
    EXPECT_NE(flag_refusal(std::string(foreign.name), std::string(foreign.value)), "") << foreign.value;
}

TEST(Config, ResolvedConfigReadsBack) {
  RunConfig config;
  config.lora.target_modules = "all-linear";
  config.model_name_or_path = config.train.output_dir = "x", config.dataset = "x";
  config.lora.rank_pattern = {{"a", 3}};
  const auto written = to_json(config);
  EXPECT_EQ(written.begin().key(), "model_name_or_path");
  RunConfig again;
  read_fields(json(written), "rankfold_config.json", again, true);
  EXPECT_EQ(to_json(again), written);
}

// Checkpoints hold these: one that is not the same any more makes those of before unusable.
TEST(Config, AFieldSaysWhatAResumeMakesOfIt) {
  const auto names = [](Resume wanted) {
    std::set<std::string> found;
    const auto values = values_of(RunConfig(), wanted);
    for (const auto& [key, value] : values.items()) found.insert(key);
    return found;
  };
  using Names = std::set<std::string>;
  EXPECT_EQ(names(Resume::kSame),
            (Names{"finetuning_type", "r", "lora_alpha", "lora_dropout", "use_rslora", "rank_pattern", "alpha_pattern",
                   "per_device_train_batch_size", "gradient_accumulation_steps", "seed", "shuffle"}));
  EXPECT_EQ(names(Resume::kMayChange),
            (Names{"num_train_epochs", "max_steps", "learning_rate", "lr_scheduler_type", "warmup_steps",
                   "warmup_ratio", "weight_decay", "max_grad_norm", "adam_beta1", "adam_beta2", "adam_epsilon"}));
  EXPECT_TRUE(names(Resume::kFree).contains("output_dir"));
  EXPECT_TRUE(names(Resume::kSameResult).contains("prompt_template"));
  TrainConfig config;
  config.learning_rate = 0.5;
  EXPECT_EQ(values_of(config, Resume::kMayChange).at("learning_rate"), 0.5);
}

TEST(Config, ChecksAStructByTheSameFields) {
  RunConfig config;
  config.model_name_or_path = config.train.output_dir = "x", config.dataset = "x";
  EXPECT_EQ(refusal([&] { check_fields(config); }), "");
  config.lora.r = 0;
  EXPECT_EQ(refusal([&] { check_fields(config); }), "r: expected an integer in [1, 4096], got 0");
  config.lora.r = 1;
  config.train.learning_rate = std::numeric_limits<double>::infinity();
  EXPECT_EQ(refusal([&] { check_fields(config); }), "learning_rate: expected a number of 0 or more, got inf");
}

// PEFT takes the first entry that matches, so the order is part of the setting.
TEST(Config, PatternsKeepTheirOrder) {
  const auto order = [](const LoraConfig& config) {
    std::string names;
    for (const auto& [name, value] : config.rank_pattern) names += name + " ";
    for (const auto& [name, value] : config.alpha_pattern) names += name + " ";
    return names;
  };
  const std::string text = R"({"rank_pattern": {"z": 1, "a": 2, "m": 3}, "alpha_pattern": {"y": 1.5, "b": 2}})";
  RunConfig config;
  config.model_name_or_path = "model", config.dataset = "rows", config.train.output_dir = "out";
  read_fields(parse_ordered_json(text, "run.json"), "run.json", config, true);
  EXPECT_EQ(order(config.lora), "z a m y b ");
  RunConfig again;
  read_fields(to_json(config), "rankfold_config.json", again, true);
  EXPECT_EQ(order(again.lora), "z a m y b ");
  EXPECT_EQ(order(with_flag("rank_pattern", "z=4,a=8").lora), "z a ");
  EXPECT_EQ(order(with_flag("rank_pattern", R"({"z": 4, "a": 8})").lora), "z a ");
}

// What programs do with the std::map that these settings once were.
TEST(Config, PatternsAreUsedAsMaps) {
  LoraConfig config;
  config.rank_pattern = {{"q_proj", 4}, {"k_proj", 5}};
  config.rank_pattern["a"] = 6;
  config.rank_pattern["q_proj"] += 1;
  EXPECT_EQ(config.rank_pattern, (OrderedMap<int64_t>{{"q_proj", 5}, {"k_proj", 5}, {"a", 6}}));
  EXPECT_EQ(config.rank_pattern.at("a"), 6);
  EXPECT_THROW(config.rank_pattern.at("b"), std::out_of_range);
  EXPECT_EQ(config.rank_pattern.find("b"), config.rank_pattern.end());
  config.rank_pattern.find("a")->second = 7;
  EXPECT_TRUE(config.rank_pattern.contains("a"));
  EXPECT_EQ(config.rank_pattern.count("b"), 0u);
  EXPECT_FALSE(config.rank_pattern.insert({"a", 1}).second);
  EXPECT_EQ(config.rank_pattern.erase("k_proj"), 1u);
  EXPECT_EQ(config.rank_pattern.erase("k_proj"), 0u);
  for (auto& [name, rank] : config.rank_pattern) ++rank;
  const LoraConfig copy = config;
  config.rank_pattern.clear();
  EXPECT_TRUE(config.rank_pattern.empty());
  EXPECT_EQ(copy.rank_pattern, (OrderedMap<int64_t>{{"q_proj", 6}, {"a", 8}}));
  EXPECT_EQ(copy.rank_pattern.find("a")->second, 8);
  const std::map<std::string, int64_t> sorted = copy.rank_pattern;
  config.rank_pattern = sorted;
  EXPECT_EQ(config.rank_pattern, (OrderedMap<int64_t>{{"a", 8}, {"q_proj", 6}}));
  EXPECT_FALSE(config.rank_pattern.insert_or_assign("a", 9).second);
  EXPECT_TRUE(config.rank_pattern.insert_or_assign("b", 1).second);
  EXPECT_FALSE(config.rank_pattern.try_emplace("b", 2).second);
  config.rank_pattern.insert({{"b", 3}, {"c", 4}});
  config.rank_pattern.insert(sorted.begin(), sorted.end());
  EXPECT_EQ(config.rank_pattern, (OrderedMap<int64_t>{{"a", 9}, {"q_proj", 6}, {"b", 1}, {"c", 4}}));
  EXPECT_EQ(config.rank_pattern.erase(config.rank_pattern.find("q_proj"))->first, "b");
  OrderedMap<int64_t> other{{"d", 5}};
  config.rank_pattern.swap(other);
  EXPECT_EQ(config.rank_pattern, (OrderedMap<int64_t>{{"d", 5}}));
  EXPECT_EQ(other.find("c")->second, 4);
}

TEST(Config, NoNameIsUsedTwice) {
  RunConfig config;
  std::set<std::string> names;
  for (const auto& name : all_names(fields_of(config))) EXPECT_TRUE(names.insert(name).second) << name;
}

}  // namespace
}  // namespace rankfold
