// Bases that are kept in other numbers than they are computed in.
#include "rankfold/rankfold.h"

#include "io/model_folder.h"
#include "model/model.h"
#include "support/temp_folder.h"
#include "support/tiny_model.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

namespace rankfold {
namespace {

using testing::expect_error;
using testing::TempFolder;
using testing::write_tiny_model;

Batch small_batch() {
  static const std::vector<int32_t> ids{5, 17, 3, 44, 61, 8, 90}, others{7, 7, 30};
  return make_batch({{&ids, &ids}, {&others, &others}});
}

LoadConfig kept_as(const std::string& type, bool is_nested = false) {
  LoadConfig load{.device = "cpu", .dtype = "float32"};
  load.quantization_bit = type == "nf4" || type == "fp4" ? 4 : 8;
  load.quantization_type = type;
  load.double_quantization = is_nested;
  return load;
}

class Stored : public ::testing::Test {
 protected:
  double loss(const CausalLM& model) const {
    const at::NoGradGuard no_grad;
    return model.loss(small_batch()).item<double>();
  }
  CausalLM open(const std::string& name, const LoadConfig& load = {.device = "cpu", .dtype = "float32"}) const {
    return CausalLM::load(folder_ / name, load);
  }
  // The folder `from` with `value` in place of every weight.
  void copy(const std::string& from, const std::string& to,
            const std::function<at::Tensor(const std::string&, const at::Tensor&)>& value) const {
    std::filesystem::create_directories(folder_ / to);
    std::filesystem::copy_file(folder_ / from / "config.json", folder_ / to / "config.json");
    const TensorFile file = TensorFile::open(folder_ / from / kWeightsName);
    std::vector<std::pair<std::string, at::Tensor>> weights;
    for (const TensorInfo& info : file.tensors())
      weights.emplace_back(info.name, value(info.name, file.tensor(info.name)));
    write_tensor_file(folder_ / to / kWeightsName, weights);
  }
  // The folder `name` with the weights that a model computes with.
  void write_as_computed(const CausalLM& model, const std::string& from, const std::string& to) const {
    copy(from, to, [&](const std::string& tensor, const at::Tensor& stored) {
      for (Projection* p : model.shared_model()->network().projections())
        for (const Module& m : p->modules)
          if (m.name + ".weight" == tensor) return p->frozen->copy().narrow(0, m.begin, m.end - m.begin).contiguous();
      return stored.to(at::kFloat);
    });
  }

  const TempFolder folder_;
};

// In 16 bits, and computed with in 32: the numbers of the 32-bit folder to the bit, in half its memory.
TEST_F(Stored, SixteenBitsComputeAsThirtyTwo) {
  for (const bool tied : {false, true})
    for (const std::string dtype : {"bfloat16", "float16"}) {
      const std::string name = dtype + (tied ? "-tied" : "");
      write_tiny_model(folder_ / name, {.baichuan = false, .tied = tied, .dtype = dtype});
      copy(name, name + "-wide", [](const std::string&, const at::Tensor& x) { return x.to(at::kFloat); });
      const CausalLM narrow = open(name), wide = open(name + "-wide");
      EXPECT_EQ(loss(narrow), loss(wide)) << name;
      EXPECT_TRUE(narrow.config().notes.empty());
      Model& model = *narrow.shared_model();
      EXPECT_EQ(model.network().embedding->tensors()[0].const_data_ptr(),
                model.folder.tensor("model.embed_tokens.weight").const_data_ptr());
      for (Projection* p : model.network().projections()) {
        EXPECT_FALSE(p->frozen->is_quantized());
        EXPECT_EQ(p->frozen->stored(), dtype);
        const std::string stored = (tied && p == &model.network().head ? "model.embed_tokens" : p->modules[0].name);
        EXPECT_EQ(p->frozen->tensors()[0].const_data_ptr(), model.folder.tensor(stored + ".weight").const_data_ptr())
            << "mapped, not copied";
      }
      // All of it trains likewise.
      const Adapter of_narrow = Adapter::full(narrow), of_wide = Adapter::full(wide);
      EXPECT_TRUE(of_narrow.flat_values().equal(of_wide.flat_values()));
      EXPECT_EQ(loss(narrow), loss(wide)) << name;
    }
}

struct Kind {
  std::string type;
  bool is_nested = false;
};

class QuantisedAtLoad : public Stored, public ::testing::WithParamInterface<Kind> {};

TEST_P(QuantisedAtLoad, ComputesWithTheDecodedWeights) {
  for (const bool baichuan : {false, true}) {
    const std::string name = baichuan ? "baichuan" : "llama";
    write_tiny_model(folder_ / name, {.baichuan = baichuan, .dtype = "bfloat16"});
    LoadConfig load = kept_as(GetParam().type, GetParam().is_nested);
    load.quantize_lm_head = baichuan;
    const CausalLM model = open(name, load);
    write_as_computed(model, name, name + "-decoded");
    EXPECT_EQ(loss(model), loss(open(name + "-decoded")));
    EXPECT_NE(loss(model), loss(open(name)));
    EXPECT_NEAR(loss(model), loss(open(name)), 0.05 * loss(open(name)));
    for (Projection* p : model.shared_model()->network().projections())
      EXPECT_EQ(p->frozen->is_quantized(), baichuan || p != &model.shared_model()->network().head)
          << p->modules[0].name;
    ASSERT_FALSE(model.config().notes.empty());
    EXPECT_NE(model.config().notes[0].find("linear layers as " + GetParam().type), std::string::npos);
  }
}

// Merging in memory leaves the loss where it was; a module that trains as a whole begins at the decoded weight.
TEST_P(QuantisedAtLoad, MergesAndTrainsModulesAsAWhole) {
  write_tiny_model(folder_ / "model", {.baichuan = false, .dtype = "bfloat16"});
  const CausalLM model = open("model", kept_as(GetParam().type, GetParam().is_nested));
  const double base = loss(model);
  {
    const Adapter whole = Adapter::create(
        model, {.target_modules = StringList{"q_proj"}, .modules_to_save = StringList{"down_proj", "k_proj"}});
    EXPECT_NEAR(loss(model), base, 1e-5 * base);
    whole.detach();
  }
  const Adapter adapter = Adapter::create(model, {.r = 4, .lora_alpha = 8, .target_modules = "all-linear"});
  {
    const at::NoGradGuard no_grad;
    for (at::Tensor leaf : adapter.parameters()) leaf.add_(0.02);
  }
  const double adapted = loss(model);
  EXPECT_NE(adapted, base);
  model.merge_adapters();
  EXPECT_NEAR(loss(model), adapted, 1e-5 * adapted);
}

INSTANTIATE_TEST_SUITE_P(Kinds, QuantisedAtLoad,
                         ::testing::Values(Kind{"nf4"}, Kind{"nf4", true}, Kind{"fp4"}, Kind{"int8"}, Kind{"fp8"}),
                         [](const auto& info) { return info.param.type + (info.param.is_nested ? "_nested" : ""); });

TEST_F(Stored, RefusalsOfQuantisedBases) {
  write_tiny_model(folder_ / "model", {.baichuan = false, .dtype = "bfloat16"});
  const CausalLM model = open("model", kept_as("nf4"));
  expect_error<UserError>([&] { Adapter::full(model); },
                          "finetuning_type: full: expected weights in 16 or 32 bits, got "
                          "model.layers.0.self_attn.q_proj in nf4");
  copy("model", "nan", [](const std::string& name, const at::Tensor& x) {
    at::Tensor value = x.clone();
    if (name == "model.layers.1.mlp.up_proj.weight") value.narrow(0, 3, 1).fill_(NAN);
    return value;
  });
  expect_error<UserError>([&] { open("nan", kept_as("nf4")); },
                          "model.safetensors: tensor 'model.layers.1.mlp.up_proj.weight': ");
  LoadConfig load = kept_as("nf4");
  load.quantization_bit = 8;
  expect_error<UserError>([&] { open("model", load); }, "quantization_type: expected int8 or fp8 for 8 bits");
  write_tiny_model(folder_ / "tied", {.baichuan = false, .tied = true, .dtype = "bfloat16"});
  load = kept_as("nf4");
  load.quantize_lm_head = true;
  expect_error<UserError>([&] { open("tied", load); }, "quantize_lm_head: expected false, as the head of " +
                                                           (folder_ / "tied").string() +
                                                           " is its embedding (tie_word_embeddings), got true");
}

}  // namespace
}  // namespace rankfold
