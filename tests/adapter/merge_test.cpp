#include "adapter/merge.h"

#include "adapter/peft_format.h"
#include "io/model_folder.h"
#include "rankfold/adapter.h"
#include "rankfold/error.h"
#include "rankfold/rankfold.h"
#include "support/contains.h"
#include "support/temp_folder.h"
#include "support/tiny_family.h"

#include <ATen/ATen.h>
#include <nlohmann/json.hpp>

#include <functional>
#include <limits>
#include <set>

#pragma GCC diagnostic ignored "-Wmissing-field-initializers"  // LoraConfig{.r = 2, ...}: the rest has defaults

namespace rankfold {
namespace {

using nlohmann::json;
using testing::expect_error;
using testing::read_bytes;
using testing::TempFolder;
namespace fs = std::filesystem;
using Tensors = std::vector<std::pair<std::string, at::Tensor>>;

const std::string kQ0 = "model.layers.0.self_attn.q_proj", kQ1 = "model.layers.1.self_attn.q_proj";

class Merge : public ::testing::Test {
 protected:
  Merge() { at::manual_seed(1); }

  Tensors base_tensors(at::ScalarType dtype) {
    Tensors tensors;
    for (const auto& [name, shape] :
         std::vector<std::pair<std::string, std::vector<int64_t>>>{{"model.embed_tokens.weight", {20, 6}},
                                                                   {"lm_head.weight", {20, 6}},
                                                                   {"model.norm.weight", {6}},
                                                                   {kQ0 + ".weight", {8, 6}},
                                                                   {kQ1 + ".weight", {8, 6}}})
      tensors.emplace_back(name, at::randn(shape).to(dtype));
    return tensors;
  }
  void write_base(at::ScalarType dtype = at::kFloat, const json& config = {{"torch_dtype", "float32"}, {"a", 1}}) {
    folder_.write("base/config.json", config.dump());
    folder_.write("base/tokenizer.model", "tokenizer");
    folder_.write("base/modeling.py", "code");
    for (const char* left_out : {"base/.gitattributes", "base/sub/file", "base/pytorch_model.bin", "base/x.gguf",
                                 "base/pytorch_model.bin.index.json", "base/model.h5", "base/old.pt"})
      folder_.write(left_out, "x");
    base_ = base_tensors(dtype);
    write_tensor_file(folder_ / "base/model.safetensors", base_);
  }
  void write_sharded_base() {
    write_base();
    fs::remove(folder_ / "base/model.safetensors");
    json map;
    for (size_t i = 0; i < base_.size(); ++i) {
      const std::string name = "part-" + std::to_string(i % 2) + ".safetensors";
      map[base_[i].first] = name;
    }
    for (const char* name : {"part-0.safetensors", "part-1.safetensors"}) {
      Tensors tensors;
      for (const auto& entry : base_)
        if (map[entry.first] == name) tensors.push_back(entry);
      write_tensor_file(folder_ / "base" / name, tensors);
    }
    folder_.write("base/model.safetensors.index.json",
                  json{{"metadata", {{"total_size", 1}}}, {"weight_map", map}}.dump());
  }
  void write_adapter(LoraConfig config = {.r = 2, .lora_alpha = 3, .target_modules = StringList{"q_proj"}},
                     double size = 1, const Tensors& more = {}) {
    Tensors tensors = more;
    for (const std::string& module : {kQ0, kQ1}) {
      tensors.emplace_back("base_model.model." + module + ".lora_A.weight", at::randn({config.r, 6}));
      tensors.emplace_back("base_model.model." + module + ".lora_B.weight", at::randn({8, config.r}) * size);
    }
    fs::create_directories(folder_ / "adapter");
    write_adapter_folder(folder_ / "adapter", config, "base", tensors);
    adapter_ = read_adapter_folder(folder_ / "adapter");
  }
  void run(const MergeOptions& options = {}) { merge(folder_ / "base", folder_ / "adapter", folder_ / "out", options); }
  void expect(const std::string& text, const MergeOptions& options = {}) {
    expect_error<UserError>([&] { run(options); }, text);
    EXPECT_FALSE(fs::exists(folder_ / "out.rankfold.tmp"));
  }
  // base + scale B A in double, rounded once.
  at::Tensor expected(const std::string& name, const at::Tensor& base, double scale = 1.5) const {
    const auto found = adapter_.tensors.find(name.substr(0, name.size() - 7));
    if (found == adapter_.tensors.end()) return base;
    const auto& [a, b] = found->second;
    return base.to(at::kDouble) + scale * b.to(at::kDouble).mm(a.to(at::kDouble));
  }
  std::set<std::string> files() const {
    std::set<std::string> names;
    for (const auto& entry : fs::directory_iterator(folder_ / "out")) names.insert(entry.path().filename());
    return names;
  }

  TempFolder folder_;
  Tensors base_;
  AdapterFolder adapter_;
};

TEST_F(Merge, AddsTheUpdateAndKeepsTheRest) {
  write_base();
  write_adapter();
  run();
  EXPECT_EQ(files(), (std::set<std::string>{"config.json", "tokenizer.model", "modeling.py", "model.safetensors",
                                            "rankfold_merge.json"}));
  EXPECT_EQ(read_bytes(folder_ / "out/config.json"), read_bytes(folder_ / "base/config.json"));
  const ModelFolder out = ModelFolder::open(folder_ / "out");
  EXPECT_EQ(out.names().size(), base_.size());
  for (const auto& [name, tensor] : base_) {
    const at::Tensor merged = out.tensor(name);
    EXPECT_LT((merged.to(at::kDouble) - expected(name, tensor).to(at::kDouble)).abs().max().item<double>(), 1e-6)
        << name;
    EXPECT_EQ(merged.equal(tensor), name.find("q_proj") == std::string::npos) << name;
  }
}

TEST_F(Merge, RoundsOnceToTheStoredDtype) {
  for (const at::ScalarType dtype : {at::kBFloat16, at::kHalf}) {
    write_base(dtype);
    write_adapter();
    fs::remove_all(folder_ / "out");
    run();
    const ModelFolder out = ModelFolder::open(folder_ / "out");
    for (const auto& [name, tensor] : base_) {
      ASSERT_EQ(out.info(name).dtype, dtype);
      const at::Tensor exact = expected(name, tensor).to(at::kDouble);
      const double step = dtype == at::kHalf ? 0x1p-11 : 0x1p-8;  // half a unit in the last place, relative
      const at::Tensor error = (out.tensor(name).to(at::kDouble) - exact).abs() - exact.abs() * step;
      EXPECT_LT(error.max().item<double>(), 1e-6) << name;
    }
  }
}

TEST_F(Merge, ScaleFollowsTheConfig) {
  write_base();
  write_adapter({.r = 4,
                 .lora_alpha = 3,
                 .target_modules = StringList{"q_proj"},
                 .use_rslora = true,
                 .alpha_pattern = {{"q_proj", 6}}});
  run();
  const at::Tensor merged = ModelFolder::open(folder_ / "out").tensor(kQ0 + ".weight");
  EXPECT_TRUE(merged.allclose(expected(kQ0 + ".weight", base_[3].second, 6 / 2.).to(at::kFloat), 1e-5, 1e-6));
}

TEST_F(Merge, AnotherDtype) {
  write_base();
  write_adapter();
  run({.dtype = "bfloat16"});
  const TensorFile merged = TensorFile::open(folder_ / "out/model.safetensors");
  for (const TensorInfo& info : merged.tensors()) EXPECT_EQ(info.dtype, at::kBFloat16) << info.name;
  EXPECT_EQ(json::parse(read_bytes(folder_ / "out/config.json")), (json{{"torch_dtype", "bfloat16"}, {"a", 1}}));
  write_base(at::kBFloat16, {{"dtype", "bfloat16"}});
  fs::remove_all(folder_ / "out");
  run({.dtype = "float32"});
  EXPECT_EQ(json::parse(read_bytes(folder_ / "out/config.json")), (json{{"dtype", "float32"}}));
}

TEST_F(Merge, KeepsTheShards) {
  write_sharded_base();
  write_adapter();
  run();
  EXPECT_EQ(read_bytes(folder_ / "out/model.safetensors.index.json"),
            read_bytes(folder_ / "base/model.safetensors.index.json"));
  EXPECT_EQ(ModelFolder::open(folder_ / "out").files().size(), 2u);
  fs::remove_all(folder_ / "out");
  run({.dtype = "float16"});
  const json index = json::parse(read_bytes(folder_ / "out/model.safetensors.index.json"));
  EXPECT_EQ(index["metadata"]["total_size"], 2 * (20 * 6 * 2 + 6 + 8 * 6 * 2));
  EXPECT_EQ(index["weight_map"][kQ0 + ".weight"], "part-1.safetensors");
}

TEST_F(Merge, NewShards) {
  write_base();
  write_adapter();
  run({.max_shard_size = "500"});
  const ModelFolder out = ModelFolder::open(folder_ / "out");
  EXPECT_TRUE(out.is_sharded());
  EXPECT_TRUE(files().contains("model-00001-of-00003.safetensors"));
  EXPECT_TRUE(files().contains("model-00003-of-00003.safetensors"));
  EXPECT_EQ(out.names().size(), base_.size());

  write_sharded_base();
  fs::remove_all(folder_ / "out");
  run({.max_shard_size = "5GB"});
  EXPECT_TRUE(files().contains("model.safetensors"));
  EXPECT_FALSE(files().contains("model.safetensors.index.json"));
  EXPECT_EQ(ModelFolder::open(folder_ / "out").names().size(), base_.size());
  for (const char* bad : {"", "0", "-1", "5XB", "GB", "nan", "5 G B", "1e30"}) {
    if (*bad == '\0') continue;  // the base's own shards
    fs::remove_all(folder_ / "out");
    expect("max_shard_size: expected a size such as 5GB or 500MB, got \"" + std::string(bad) + "\"",
           {.max_shard_size = bad});
  }
}

TEST_F(Merge, Output) {
  write_base();
  write_adapter();
  expect_error<UserError>([&] { merge(folder_ / "base", folder_ / "adapter", folder_ / "base/../base"); },
                          "expected another folder than the base model's");
  folder_.write("out/file", "x");
  expect("out: expected nothing or an empty folder, got files in it");
  fs::remove_all(folder_ / "out");
  folder_.write("out", "x");
  expect("out: expected nothing or an empty folder, got a file");
  fs::remove(folder_ / "out");
  fs::create_directory(folder_ / "out");
  run();
  EXPECT_TRUE(files().contains("model.safetensors"));
}

TEST_F(Merge, Refusals) {
  write_base();
  write_adapter();
  expect("dtype: expected auto, float32, bfloat16 or float16, got \"int8\"", {.dtype = "int8"});
  write_adapter({.r = 2, .target_modules = StringList{"q_proj"}}, 1e6);
  expect("does not fit float16", {.dtype = "float16"});
  write_base(at::kHalf);
  expect("model.safetensors: tensor '" + kQ0 + ".weight': a value of ");
  write_base(at::kFloat, {{"quantization_config", {{"bits", 4}}}});
  expect("config.json: quantization_config.quant_method: expected bitsandbytes, gptq");
  write_base();
  write_tensor_file(folder_ / "base/model.safetensors",
                    {{kQ0 + ".weight", at::ones({8, 6})}, {kQ1 + ".weight", at::ones({8, 5})}});
  expect("module '" + kQ1 + "': expected A [2, 5] and B [8, 2], got [2, 6] and [8, 2]");
  write_tensor_file(folder_ / "base/model.safetensors", {{kQ0 + ".weight", at::ones({8, 6})}});
  expect("module '" + kQ1 + "' is not in the base model (did you mean '" + kQ0 + "'?)");
  write_tensor_file(folder_ / "adapter/adapter_model.safetensors", {});
  expect("holds no adapter");
}

TEST_F(Merge, ValuesThatAreNotFiniteAreRefusedByName) {
  write_base();
  base_[3].second[2][1] = std::numeric_limits<float>::quiet_NaN();
  write_tensor_file(folder_ / "base/model.safetensors", base_);
  write_adapter();
  expect("model.safetensors: tensor '" + base_[3].first + "': expected finite values, base and update added, got NaN");
  EXPECT_FALSE(fs::exists(folder_ / "out"));
}

TEST_F(Merge, AnAdapterThatChangesNothingIsRefused) {
  write_base();
  write_adapter({.r = 2, .target_modules = StringList{"q_proj"}}, 0);
  expect("adapter: expected an adapter that changes the model, got one whose updates are zero");
  write_base(at::kBFloat16);
  write_adapter({.r = 2, .target_modules = StringList{"q_proj"}}, 1e-9);
  expect("smaller than the steps of the stored dtype");
  EXPECT_FALSE(fs::exists(folder_ / "out"));
}

TEST_F(Merge, AnAdapterIsMergedOnce) {
  write_base();
  write_adapter();
  run();
  const std::string again = "rankfold_merge.json: expected a base without this adapter, got one that";
  expect_error<UserError>([&] { merge(folder_ / "out", folder_ / "adapter", folder_ / "twice"); }, again);
  EXPECT_FALSE(fs::exists(folder_ / "twice"));
  // Another one is no reason to refuse, and is remembered beside the first.
  fs::rename(folder_ / "adapter", folder_ / "first");
  write_adapter();
  merge(folder_ / "out", folder_ / "adapter", folder_ / "both");
  for (const char* adapter : {"first", "adapter"})
    expect_error<UserError>([&] { merge(folder_ / "both", folder_ / adapter, folder_ / "twice"); }, again);
}

TEST_F(Merge, WhatACheckRefusesIsNotWritten) {
  write_base();
  write_adapter();
  bool seen = false;
  const auto check = [&](const fs::path& folder) {
    seen = ModelFolder::open(folder).names().size() == base_.size();
    throw UserError("refused");
  };
  expect("refused", {.check = check});
  EXPECT_TRUE(seen);
  EXPECT_FALSE(fs::exists(folder_ / "out"));
}

// What check_merged() says of the merged folder; "" where it is right.
class MergeCheck : public Merge {
 protected:
  std::string complaint() {
    return testing::error_of<Error>([&] { check_merged(folder_ / "base", folder_ / "adapter", folder_ / "out"); });
  }
  void merge_again(const MergeOptions& options = {}) {
    fs::remove_all(folder_ / "out");
    run(options);
  }
  // Writes the merged file again, each tensor as `change` leaves it.
  void tamper(const std::function<void(const std::string&, at::Tensor&)>& change) {
    Tensors tensors;
    {
      const TensorFile file = TensorFile::open(folder_ / "out/model.safetensors");
      for (const TensorInfo& info : file.tensors()) {
        at::Tensor tensor = file.tensor(info.name).clone();
        change(info.name, tensor);
        if (tensor.defined()) tensors.emplace_back(info.name, tensor);
      }
    }
    write_tensor_file(folder_ / "out/model.safetensors", tensors);
  }
};

TEST_F(MergeCheck, PassesWhatIsRight) {
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16, at::kHalf})
    for (const char* stored : {"auto", "float32", "bfloat16", "float16"})
      for (const double size : {1., 1e-3}) {
        SCOPED_TRACE(std::string(at::toString(dtype)) + " " + stored);
        write_base(dtype);
        write_adapter({.r = 2, .lora_alpha = 3, .target_modules = StringList{"q_proj"}, .use_rslora = true}, size);
        merge_again({.dtype = stored});
        EXPECT_EQ(complaint(), "");
      }
  write_sharded_base();
  write_adapter();
  merge_again({.max_shard_size = "500"});
  EXPECT_EQ(complaint(), "");
}

TEST_F(MergeCheck, FindsWhatIsWrong) {
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16, at::kHalf}) {
    SCOPED_TRACE(at::toString(dtype));
    write_base(dtype);
    write_adapter();
    const auto expect = [&](const std::string& text, const auto& change) {
      merge_again();
      tamper(change);
      EXPECT_TRUE(testing::contains(complaint(), text));
    };
    const double step = dtype == at::kFloat ? 0 : dtype == at::kHalf ? 0x1p-10 : 0x1p-7;
    expect("tensor '" + kQ1 + ".weight': row 7, column 5: expected ", [&](const std::string& name, at::Tensor& tensor) {
      if (name == kQ1 + ".weight") tensor[7][5] += tensor[7][5].abs() * (1.01 * step) + 1e-5;
    });
    expect("tensor '" + kQ0 + ".weight': row 0, column 0: expected ", [&](const std::string& name, at::Tensor& tensor) {
      if (name == kQ0 + ".weight") tensor.copy_(base_[3].second);  // no update
    });
    expect("tensor '" + kQ0 + ".weight': row ", [&](const std::string& name, at::Tensor& tensor) {
      if (name == kQ0 + ".weight") tensor.add_(tensor.sub(base_[3].second));  // the update twice
    });
    expect("tensor 'model.norm.weight': expected the base's own values, got others",
           [](const std::string& name, at::Tensor& tensor) {
             if (name == "model.norm.weight") tensor[3] += 0.5;
           });
    expect("tensor 'lm_head.weight': expected the base's tensor, got none",
           [](const std::string& name, at::Tensor& tensor) {
             if (name == "lm_head.weight") tensor = at::Tensor();
           });
    expect("expected the base's shape and kind of number", [](const std::string& name, at::Tensor& tensor) {
      if (name == kQ0 + ".weight") tensor = tensor.t().contiguous();
    });

    // Another scale, by one part in a hundred.
    const json config = json::parse(read_bytes(folder_ / "adapter/adapter_config.json"));
    json other = config;
    other["lora_alpha"] = 3 * 1.01;
    folder_.write("adapter/adapter_config.json", other.dump());
    merge_again();
    EXPECT_EQ(complaint(), "");
    folder_.write("adapter/adapter_config.json", config.dump());
    EXPECT_TRUE(testing::contains(complaint(), ".weight': row "));
  }
}

TEST_F(MergeCheck, FindsValuesOfAnotherDtypeThatAreNotTheBases) {
  write_base();
  write_adapter();
  merge_again({.dtype = "bfloat16"});
  tamper([](const std::string& name, at::Tensor& tensor) {
    if (name == "lm_head.weight") tensor[1][1] += 1;
  });
  EXPECT_TRUE(testing::contains(complaint(), "tensor 'lm_head.weight': expected the base's values as BFloat16"));
}

TEST_F(Merge, TellsHowMuchOfTheUpdateIsStored) {
  MergeReport report;
  const auto share = [&](at::ScalarType dtype, double size, const std::string& stored = "auto") {
    write_base(dtype);
    write_adapter({.r = 2, .lora_alpha = 3, .target_modules = StringList{"q_proj"}}, size);
    fs::remove_all(folder_ / "out");
    run({.dtype = stored, .report = [&](const MergeReport& made) { report = made; }});
    // By its definition, in double.
    double kept = 0, all = 0;
    const ModelFolder out = ModelFolder::open(folder_ / "out");
    for (const size_t i : {3, 4}) {
      const auto& [name, tensor] = base_[i];
      const at::Tensor update = expected(name, tensor).to(at::kDouble) - tensor.to(at::kDouble);
      const at::Tensor merged = out.tensor(name);
      kept +=
          ((merged.to(at::kDouble) - tensor.to(merged.scalar_type()).to(at::kDouble)) * update).sum().item<double>();
      all += (update * update).sum().item<double>();
    }
    EXPECT_NEAR(report.share, kept / all, 1e-5);
    EXPECT_LE(report.worst_share, report.share);
    EXPECT_TRUE(report.worst_module == kQ0 || report.worst_module == kQ1);
    return report.share;
  };
  EXPECT_NEAR(share(at::kFloat, 1), 1, 1e-6);
  EXPECT_NEAR(share(at::kBFloat16, 1), 1, 0.01);
  EXPECT_LT(share(at::kBFloat16, 3e-4), 0.9);
  EXPECT_NEAR(share(at::kBFloat16, 3e-4, "float32"), 1, 1e-4);
}

TEST_F(Merge, TheBasesOwnAdapterIsLeftOutAndNamed) {
  write_base();
  write_adapter();
  for (const char* name : {"adapter_config.json", "adapter_model.safetensors"})
    fs::copy(folder_ / "adapter" / name, folder_ / "base" / name);
  for (const char* name : {"adapter_model.bin", "training_args.bin", "optimizer.pt", "trainer_state.json"})
    folder_.write(std::string("base/") + name, "x");
  MergeReport report;
  run({.report = [&](const MergeReport& made) { report = made; }});
  EXPECT_EQ(files(), (std::set<std::string>{"config.json", "tokenizer.model", "modeling.py", "model.safetensors",
                                            "rankfold_merge.json"}));
  EXPECT_EQ(report.notes, std::vector<std::string>{(folder_ / "base").string() +
                                                   ": holds an adapter too (adapter_config.json), which is not used"});
  merge(folder_ / "base", folder_ / "base", folder_ / "own",
        {.report = [&](const MergeReport& made) { report = made; }});
  EXPECT_EQ(report.notes, std::vector<std::string>{});
}

TEST_F(Merge, Head) {
  const Tensors head{{"base_model.model.lm_head.lora_A.weight", at::ones({2, 6})},
                     {"base_model.model.lm_head.lora_B.weight", at::ones({20, 2})}};
  const LoraConfig config{.r = 2, .lora_alpha = 2, .target_modules = StringList{"q_proj", "lm_head"}};
  write_base();
  Tensors with_base = head;
  with_base.emplace_back("base_model.model.lm_head.base_layer.weight", base_[1].second);  // as PEFT adds it
  write_adapter(config, 1, with_base);
  run();
  EXPECT_TRUE(ModelFolder::open(folder_ / "out").tensor("lm_head.weight").allclose(base_[1].second + 2));
  fs::remove_all(folder_ / "out");
  with_base.back().second = with_base.back().second + 1;  // or another, which stands in place of the base's
  write_adapter(config, 1, with_base);
  run();
  EXPECT_TRUE(ModelFolder::open(folder_ / "out").tensor("lm_head.weight").allclose(base_[1].second + 3));
  fs::remove_all(folder_ / "out");
  // Two different weights are not tied, whatever config.json says; the result's says so.
  write_base(at::kFloat, {{"tie_word_embeddings", true}});
  write_adapter(config, 1, head);
  run();
  EXPECT_EQ(json::parse(testing::read_bytes(folder_ / "out/config.json")).at("tie_word_embeddings"), false);
  fs::remove_all(folder_ / "out");
  base_[1].second = base_[0].second;
  write_tensor_file(folder_ / "base/model.safetensors", base_);
  expect("config.json: tie_word_embeddings: expected false");
}

const std::string kEmbedding = "model.embed_tokens.weight", kHead = "lm_head.weight";

TEST_F(MergeCheck, EmbeddingsAndWholeTensors) {
  const LoraConfig config{.r = 2,
                          .lora_alpha = 4,
                          .target_modules = StringList{"q_proj", "embed_tokens"},
                          .modules_to_save = StringList{"norm"}};
  const at::Tensor a = at::randn({2, 20}), b = at::randn({6, 2}), norm = at::randn({6}), head = at::randn({20, 6});
  const Tensors more{{"base_model.model.model.embed_tokens.lora_embedding_A", a},
                     {"base_model.model.model.embed_tokens.lora_embedding_B", b},
                     {"base_model.model.model.norm.weight", norm},
                     {"base_model.model.lm_head.weight", head}};
  for (const char* dtype : {"auto", "bfloat16"}) {
    write_base();
    write_adapter(config, 1, more);
    merge_again({.dtype = dtype});
    EXPECT_EQ(complaint(), "");
  }
  merge_again();
  const ModelFolder out = ModelFolder::open(folder_ / "out");
  EXPECT_TRUE(out.tensor("model.norm.weight").equal(norm));
  EXPECT_TRUE(out.tensor(kHead).equal(head));
  EXPECT_TRUE(out.tensor(kEmbedding).allclose(base_[0].second + 2 * a.t().mm(b.t()), 1e-5, 1e-6));
  tamper([](const std::string& name, at::Tensor& tensor) {
    if (name == kHead) tensor[3][3] += 1;
  });
  EXPECT_TRUE(testing::contains(complaint(), "tensor 'lm_head.weight': expected the base's own values, got others"));
  merge_again();
  tamper([](const std::string& name, at::Tensor& tensor) {
    if (name == kEmbedding) tensor[19][5] += 1;
  });
  EXPECT_TRUE(testing::contains(complaint(), "tensor 'model.embed_tokens.weight': row 19, column 5: expected "));
}

// Gemma's folders need not say that their head is the embedding.
TEST(MergeGemma, AHeadThatIsTiedByDefault) {
  const TempFolder folder;
  testing::write_tiny_family(folder / "base", {"GemmaForCausalLM", {{"head_dim", 12}, {"num_key_value_heads", 1}}});
  const std::vector<int32_t> ids{5, 17, 3, 44};
  const auto logits = [&](const CausalLM& model) {
    const at::NoGradGuard no_grad;
    return model.logits(make_batch({{&ids}}));
  };
  for (const char* module : {"lm_head", "embed_tokens"}) {
    const fs::path out = folder / module;
    const CausalLM model = CausalLM::load(folder / "base");
    const Adapter adapter =
        Adapter::create(model, {.r = 2, .target_modules = StringList{"q_proj"}, .modules_to_save = {module}});
    {
      const at::NoGradGuard no_grad;
      at::Tensor(adapter.flat_values()).add_(at::randn({adapter.parameter_count()}), 0.1);
    }
    adapter.save(out / "adapter");
    merge(folder / "base", out / "adapter", out / "merged");
    check_merged(folder / "base", out / "adapter", out / "merged");
    const CausalLM merged = CausalLM::load(out / "merged");
    EXPECT_TRUE(logits(merged).allclose(logits(model), 1e-4, 1e-5)) << module;
    EXPECT_FALSE(merged.config().tie_word_embeddings) << module;
  }
  const CausalLM model = CausalLM::load(folder / "base");
  Adapter::create(model, {.r = 2, .target_modules = StringList{"q_proj"}, .modules_to_save = {"lm_head"}});
  model.merge_adapters();
  expect_error<UserError>([&] { Adapter::full(model); }, "which made them two: merge() into a folder");
}

// Where one of two tied weights is replaced they are two in the result, whichever of them the base stores.
TEST_F(MergeCheck, UntiesWhatBecomesTwo) {
  const at::Tensor whole = at::randn({20, 6});
  for (const std::string& stored : {kEmbedding, kHead})
    for (const std::string& replaced : {kEmbedding, kHead}) {
      SCOPED_TRACE(stored + ", " + replaced);
      write_base(at::kFloat, {{"tie_word_embeddings", true}});
      const at::Tensor tied = base_[0].second;
      std::erase_if(base_, [&](const auto& entry) { return entry.first == (stored == kHead ? kEmbedding : kHead); });
      for (auto& [name, tensor] : base_)
        if (name == stored) tensor = tied;
      write_tensor_file(folder_ / "base/model.safetensors", base_);
      const std::string module = replaced == kHead ? "lm_head" : "embed_tokens";
      write_adapter({.r = 2, .target_modules = StringList{"q_proj"}, .modules_to_save = {module}}, 1,
                    {{"base_model.model." + replaced, whole}});
      merge_again();
      EXPECT_EQ(complaint(), "");
      const ModelFolder out = ModelFolder::open(folder_ / "out");
      EXPECT_TRUE(out.tensor(replaced).equal(whole));
      EXPECT_TRUE(out.tensor(replaced == kHead ? kEmbedding : kHead).equal(tied));
      EXPECT_EQ(out.config().at("tie_word_embeddings"), false);
      // Without modules_to_save PEFT loads it into both.
      write_adapter({.r = 2, .target_modules = StringList{"q_proj"}}, 1, {{"base_model.model." + replaced, whole}});
      merge_again();
      EXPECT_EQ(complaint(), "");
      const ModelFolder both = ModelFolder::open(folder_ / "out");
      EXPECT_TRUE(both.tensor(stored).equal(whole));
      EXPECT_EQ(both.names().size(), base_.size());
      EXPECT_EQ(both.config().at("tie_word_embeddings"), true);
    }
}

}  // namespace
}  // namespace rankfold
