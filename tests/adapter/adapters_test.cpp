// Several adapters on one model: by name, switched, detached, merged in memory; and graphs that outlive what made them.
#include "rankfold/adapter.h"

#include "model/model.h"
#include "ops/project.h"
#include "rankfold/tensor_file.h"
#include "support/temp_folder.h"
#include "support/tiny_model.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

#include <map>
#include <optional>

namespace rankfold {
namespace {

using testing::TempFolder;
using testing::TinyModel;
using testing::write_tiny_model;

class Adapters : public ::testing::Test {
 protected:
  CausalLM load(const TinyModel& shape = {}) {
    write_tiny_model(folder_ / "model", shape);
    return CausalLM::load(folder_ / "model", {.device = "cpu", .dtype = shape.dtype});
  }
  static LoraConfig config(double dropout = 0) {
    return {.r = 4, .lora_alpha = 8, .lora_dropout = dropout, .target_modules = "all-linear"};
  }
  // With updates that are not zero.
  static Adapter make(const CausalLM& model, const std::string& name, int64_t seed, double dropout = 0) {
    const Adapter adapter = Adapter::create(model, config(dropout), seed, name);
    const at::NoGradGuard no_grad;
    at::manual_seed(seed);
    at::Tensor(adapter.flat_values()).add_(at::randn({adapter.parameter_count()}) * 0.1);
    return adapter;
  }
  Batch batch() const { return make_batch({{&ids_, &ids_}, {&more_, &more_}}); }
  at::Tensor logits(const CausalLM& model) const {
    const at::NoGradGuard no_grad;
    return model.logits(batch()).clone();
  }

  const TempFolder folder_;
  const std::vector<int32_t> ids_{5, 17, 3, 44, 61, 8}, more_{9, 2, 71, 30};
};

TEST_F(Adapters, AFullCopySaysItsFormatWhereTheBaseDoesNot) {
  load();
  const std::filesystem::path file = folder_ / "model/model.safetensors";
  std::vector<std::pair<std::string, at::Tensor>> tensors;
  {
    const TensorFile stored = TensorFile::open(file);
    for (const TensorInfo& info : stored.tensors()) tensors.emplace_back(info.name, stored.tensor(info.name).clone());
  }
  write_tensor_file(file, tensors, {{"made_by", "a test"}});
  const CausalLM model = CausalLM::load(folder_ / "model", {.device = "cpu"});
  Adapter::full(model).save(folder_ / "copy");
  EXPECT_EQ(TensorFile::open(folder_ / "copy/model.safetensors").metadata(),
            (std::map<std::string, std::string>{{"made_by", "a test"}, {"format", "pt"}}));
}

TEST_F(Adapters, AreSwitchedByName) {
  const CausalLM model = load();
  const at::Tensor base = logits(model);
  const Adapter first = make(model, "first", 1);
  const at::Tensor with_first = logits(model);
  EXPECT_FALSE(with_first.equal(base));
  const Adapter second = make(model, "second", 2);
  EXPECT_EQ(model.adapter_names(), (std::vector<std::string>{"first", "second"}));
  EXPECT_EQ(model.active_adapters(), std::vector<std::string>{"second"});
  EXPECT_FALSE(first.is_active());
  const at::Tensor with_second = logits(model);
  EXPECT_FALSE(with_second.equal(with_first));

  model.set_active_adapters({"first"});
  EXPECT_TRUE(first.is_active() && !second.is_active());
  EXPECT_TRUE(logits(model).equal(with_first));
  model.set_active_adapters({});
  EXPECT_TRUE(logits(model).equal(base));
  model.set_active_adapters({"second"});
  EXPECT_TRUE(logits(model).equal(with_second));

  second.detach();
  EXPECT_EQ(model.adapter_names(), std::vector<std::string>{"first"});
  EXPECT_TRUE(logits(model).equal(base));
  second.attach();
  EXPECT_TRUE(logits(model).equal(with_second));
  EXPECT_THROW(second.attach(), std::invalid_argument);
  EXPECT_THROW(model.set_active_adapters({"third"}), std::invalid_argument);
  EXPECT_THROW(Adapter::create(model, config(), 3, "first"), std::invalid_argument);
  EXPECT_THROW(Adapter::full(model), std::invalid_argument);
}

// Of two adapters of ranks r1 and r2 the sum is one of rank r1 + r2 with both side by side.
TEST_F(Adapters, SeveralAddUp) {
  const CausalLM model = load();
  const Adapter first = make(model, "first", 1), second = make(model, "second", 2);
  model.set_active_adapters({"second", "first"});
  EXPECT_EQ(model.active_adapters(), (std::vector<std::string>{"first", "second"}));
  const at::Tensor both = logits(model);

  LoraConfig wide = config();
  wide.r = 8, wide.lora_alpha = 16;
  const Adapter sum = Adapter::create(model, wide, 5, "sum");
  {
    const at::NoGradGuard no_grad;
    for (size_t i = 0; i < sum.named_parameters().size(); ++i) {
      const bool is_a = sum.named_parameters()[i].name.find("lora_A") != std::string::npos;
      at::Tensor(sum.named_parameters()[i].value)
          .copy_(at::cat({first.named_parameters()[i].value, second.named_parameters()[i].value}, is_a ? 0 : 1));
    }
  }
  EXPECT_TRUE(sum.is_active());
  EXPECT_TRUE(logits(model).allclose(both, 1e-5, 1e-5));

  // Each gets its part of the wide one's gradient.
  model.loss(batch()).backward();
  model.set_active_adapters({"first", "second"});
  model.loss(batch()).backward();
  for (size_t i = 0; i < sum.named_parameters().size(); ++i) {
    const bool is_a = sum.named_parameters()[i].name.find("lora_A") != std::string::npos;
    const auto gradient = [i](const Adapter& adapter) { return adapter.named_parameters()[i].value.grad(); };
    const at::Tensor parts = at::cat({gradient(first), gradient(second)}, is_a ? 0 : 1), whole = gradient(sum);
    EXPECT_LT((parts - whole).abs().max().item<double>(), 1e-4 * whole.abs().max().item<double>()) << i;
  }
}

TEST_F(Adapters, SeveralWithDropoutDoNotTrain) {
  const CausalLM model = load();
  const Adapter first = make(model, "first", 1, 0.5), second = make(model, "second", 2);
  model.set_active_adapters({"first", "second"});
  EXPECT_THROW(model.loss(batch()), std::invalid_argument);
  logits(model);
  model.set_active_adapters({"first"});
  model.loss(batch()).backward();
}

TEST_F(Adapters, MergeInMemory) {
  for (const char* dtype : {"float32", "bfloat16"}) {
    const CausalLM model = load({.dtype = dtype});
    const at::Tensor base = logits(model);
    const Adapter first = make(model, "first", 1), second = make(model, "second", 2);
    model.set_active_adapters({"first", "second"});
    const at::Tensor both = logits(model);
    model.merge_adapters();
    EXPECT_TRUE(model.adapter_names().empty());
    const at::Tensor merged = logits(model);
    const double far = (both - base).abs().max().item<double>(), near = (merged - both).abs().max().item<double>();
    EXPECT_LT(near, far * (model.dtype() == at::kFloat ? 1e-4 : 0.2)) << dtype;
    EXPECT_FALSE(first.is_active());
    first.attach();  // its values are still there
    EXPECT_FALSE(logits(model).equal(merged));
  }
}

TEST_F(Adapters, HeadOfATiedModelIsRefused) {
  const CausalLM model = load({.tied = true});
  LoraConfig on_head = config();
  on_head.target_modules = StringList{"W_pack", "lm_head"};
  testing::expect_error<UserError>([&] { Adapter::create(model, on_head); },
                                   "target_modules: lm_head shares its weight with the embedding");
  Adapter::create(model, config());  // all-linear leaves the head out
}

// What is merged in memory does not belong to the folder any more.
TEST_F(Adapters, AfterAMergeInMemoryNothingIsSaved) {
  const CausalLM model = load({.baichuan = false});
  const Adapter first = make(model, "first", 1), idle = make(model, "idle", 2);
  model.set_active_adapters({"first"});
  model.merge_adapters();
  EXPECT_EQ(model.adapter_names(), std::vector<std::string>{"idle"});
  testing::expect_error<UserError>([&] { idle.save(folder_ / "saved"); }, "another adapter was merged into in memory");
  EXPECT_FALSE(std::filesystem::exists(folder_ / "saved" / "adapter_model.safetensors"));
  EXPECT_FALSE(idle.is_of_folder());
  EXPECT_FALSE(make(model, "later", 3).is_of_folder());
  // The one that was merged was trained on the folder's weights.
  EXPECT_TRUE(first.is_of_folder());
  first.save(folder_ / "first");
  const CausalLM again = load({.baichuan = false});
  EXPECT_TRUE(Adapter::load(again, folder_ / "first").flat_values().equal(first.flat_values()));
}

TEST_F(Adapters, GraphsKeepTheWeightsOfTheirTime) {
  const auto gradient = [&](const std::function<void(const CausalLM&, const Adapter&)>& change) {
    const CausalLM model = load();
    const Adapter adapter = make(model, "a", 1);
    const at::Tensor loss = model.loss(batch());
    change(model, adapter);
    loss.backward();
    return adapter.flat_gradient().clone();
  };
  const at::Tensor expected = gradient([](const CausalLM&, const Adapter&) {});
  EXPECT_TRUE(gradient([](const CausalLM& model, const Adapter&) { model.merge_adapters(); }).equal(expected));
  EXPECT_TRUE(gradient([](const CausalLM& model, const Adapter& adapter) {
                adapter.detach();
                const Adapter all = Adapter::full(model);
                EXPECT_THROW(model.set_active_adapters({}), std::invalid_argument);
                EXPECT_THROW(adapter.attach(), std::invalid_argument);
                const at::NoGradGuard no_grad;
                all.flat_values().mul_(3);
              }).equal(expected));
}

// The graph owns what it needs: the model and its adapter may be gone, or changed, before backward.
TEST_F(Adapters, BackwardAfterTheModelHasGone) {
  for (const bool tied : {false, true})
    for (const double dropout : {0.0, 0.25}) {
      const auto gradient = [&](bool keeps, bool detaches) {
        std::optional<CausalLM> model = load({.tied = tied});
        std::optional<Adapter> adapter = make(*model, "a", 1, dropout);
        const at::Tensor values = adapter->flat_gradient();
        const at::Tensor loss = model->loss(batch());
        if (detaches) {
          adapter->detach();
          make(*model, "b", 7);
        }
        if (!keeps) adapter.reset(), model.reset();
        loss.backward();
        return values.clone();
      };
      const at::Tensor kept = gradient(true, false);
      EXPECT_GT(kept.abs().max().item<double>(), 0);
      EXPECT_TRUE(gradient(false, false).equal(kept));
      EXPECT_TRUE(gradient(true, true).equal(kept));
      EXPECT_TRUE(gradient(false, true).equal(kept));
    }
}

// Whole layers computed again in a backward pass that comes after.
TEST_F(Adapters, RecomputedAfterTheModelHasGone) {
  for (const Checkpointing level : {Checkpointing::mlp, Checkpointing::full}) {
    std::optional<CausalLM> model = load();
    std::optional<Adapter> adapter = make(*model, "a", 1, 0.1);
    const at::Tensor gradient = adapter->flat_gradient();
    model->loss(batch()).backward();
    const at::Tensor expected = gradient.clone();
    gradient.zero_();
    const at::Tensor loss = model->shared_model()->decoder.loss(batch(), level);
    adapter.reset(), model.reset();
    loss.backward();
    EXPECT_TRUE(gradient.equal(expected));
  }
}

LoraConfig whole(StringList modules) {
  return {.r = 4, .lora_alpha = 8, .target_modules = StringList{"o_proj"}, .modules_to_save = std::move(modules)};
}

// Of what one brings no other can be active; what both add, can.
TEST_F(Adapters, ATensorIsOfOneActiveAdapter) {
  const CausalLM model = load();
  const Adapter head = Adapter::create(model, whole({"lm_head"}), 1, "head");
  const Adapter other = Adapter::create(model, whole({"lm_head", "embed_tokens"}), 2, "other");
  const Adapter embedding = Adapter::create(model, whole({"embed_tokens"}), 3, "embedding");
  const auto expect = [&](const std::vector<std::string>& names, const std::string& text) {
    testing::expect_error<std::invalid_argument>([&] { model.set_active_adapters(names); }, text);
    EXPECT_EQ(model.active_adapters(), std::vector<std::string>{"embedding"});
  };
  expect({"head", "other"}, "two active adapters bring lm_head.weight, the second is 'other'");
  expect({"other", "embedding"}, "two active adapters bring model.embed_tokens.weight, the second is 'embedding'");
  EXPECT_NO_THROW(model.set_active_adapters({"head", "embedding"}));
}

TEST_F(Adapters, WholeTensorsAreTheAdaptersAlone) {
  for (const bool tied : {false, true})
    for (const char* dtype : {"float32", "bfloat16"}) {
      SCOPED_TRACE(std::string(dtype) + (tied ? ", tied" : ""));
      const CausalLM model = load({.tied = tied, .dtype = dtype});
      const int64_t count = model.parameter_count();
      const at::Tensor base = logits(model);
      LoraConfig config = whole({"lm_head", "norm", "W_pack"});
      if (!tied) std::get<StringList>(config.target_modules).push_back("embed_tokens");
      const Adapter adapter = Adapter::create(model, config, 1);
      EXPECT_TRUE(logits(model).equal(base));  // it begins as the base
      EXPECT_EQ(model.parameter_count(), count);
      {
        const at::NoGradGuard no_grad;
        at::Tensor(adapter.flat_values()).add_(at::randn({adapter.parameter_count()}) * 0.1);
      }
      const at::Tensor with = logits(model);
      EXPECT_FALSE(with.equal(base));
      adapter.save(folder_ / "saved");
      adapter.detach();
      EXPECT_TRUE(logits(model).equal(base));
      const Adapter again = Adapter::load(model, folder_ / "saved", 1, "again");
      EXPECT_TRUE(logits(model).equal(with));
      EXPECT_TRUE(again.flat_values().equal(adapter.flat_values()));
      model.merge_adapters();
      EXPECT_LT((logits(model) - with).abs().max().item<double>(), std::string(dtype) == "float32" ? 1e-4 : 0.2);
      std::filesystem::remove_all(folder_ / "model");
      std::filesystem::remove_all(folder_ / "saved");
    }
}

// Weights beside the updates that nobody trains, as PEFT's save_embedding_layers leaves them, outlive a training run.
TEST_F(Adapters, SavedEmbeddingsAreKept) {
  for (const bool tied : {false, true}) {
    const CausalLM model = load({.tied = tied});
    const at::Tensor base = logits(model);
    const Adapter plain = make(model, "plain", 1);
    const at::Tensor with_plain = logits(model);
    plain.save(folder_ / "plain");
    std::vector<std::pair<std::string, at::Tensor>> tensors;
    for (const Parameter& p : plain.named_parameters()) tensors.emplace_back(p.name, p.value.detach());
    const std::string key = "base_model.model.model.embed_tokens.weight";
    const auto load_with = [&](const at::Tensor& embedding, const std::string& name) {
      std::filesystem::remove(folder_ / "plain/manifest.json");
      auto all = tensors;
      all.emplace_back(key, embedding);
      write_tensor_file(folder_ / "plain/adapter_model.safetensors", all);
      return Adapter::load(model, folder_ / "plain", 1, name);
    };
    const at::Tensor own = TensorFile::open(folder_ / "model/model.safetensors").tensor("model.embed_tokens.weight");
    EXPECT_TRUE(load_with(own, "own").untrained_tensors().empty());
    EXPECT_TRUE(logits(model).equal(with_plain));
    const Adapter adapter = load_with(own * 1.5, "other");
    EXPECT_EQ(adapter.parameter_count(), plain.parameter_count());
    EXPECT_EQ(adapter.untrained_tensors().size(), 1u);
    const at::Tensor with = logits(model);
    EXPECT_FALSE(with.equal(with_plain));
    adapter.save(folder_ / "saved");
    EXPECT_TRUE(TensorFile::open(folder_ / "saved/adapter_model.safetensors").tensor(key).equal(own * 1.5));
    Adapter::load(model, folder_ / "saved", 1, "again");
    EXPECT_TRUE(logits(model).equal(with));
    model.merge_adapters();
    EXPECT_LT((logits(model) - with).abs().max().item<double>(), 1e-4);
    model.set_active_adapters({});
    EXPECT_FALSE(logits(model).equal(base));  // it is in the base now
    for (const char* name : {"model", "plain", "saved"}) std::filesystem::remove_all(folder_ / name);
  }
}

}  // namespace
}  // namespace rankfold
