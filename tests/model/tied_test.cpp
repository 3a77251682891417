// Tied embeddings as folders bring them: the one weight under either name, twice, or two weights that are not one.
#include "rankfold/adapter.h"
#include "rankfold/causal_lm.h"

#include "io/model_folder.h"
#include "model/model.h"
#include "support/temp_folder.h"
#include "support/tiny_model.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <gtest/gtest.h>

namespace rankfold {
namespace {

using testing::TempFolder;
using testing::write_tiny_model;

constexpr const char* kEmbedding = "model.embed_tokens.weight";
constexpr const char* kHead = "lm_head.weight";
using Weights = std::vector<std::pair<std::string, at::Tensor>>;

class Tied : public ::testing::Test {
 protected:
  // A tied model; `change` has its tensors before they are written.
  std::filesystem::path make(const std::string& name, const std::function<void(Weights&)>& change) {
    const auto path = folder_ / name;
    write_tiny_model(path, {.tied = true});
    Weights weights;
    {
      const TensorFile file = TensorFile::open(path / kWeightsName);
      for (const TensorInfo& info : file.tensors()) weights.emplace_back(info.name, file.tensor(info.name).clone());
    }
    change(weights);
    write_tensor_file(path / kWeightsName, weights);
    return path;
  }
  static at::Tensor& find(Weights& weights, const std::string& name) {
    return std::find_if(weights.begin(), weights.end(), [&](const auto& w) { return w.first == name; })->second;
  }
  double loss(const std::filesystem::path& path) const {
    const at::NoGradGuard no_grad;
    const CausalLM model = CausalLM::load(path, {.device = "cpu", .dtype = "auto"});
    return model.loss(make_batch({{&ids_, &ids_}})).item<double>();
  }

  const TempFolder folder_;
  const std::vector<int32_t> ids_{5, 17, 3, 44, 61, 8};
};

TEST_F(Tied, OneWeightUnderEitherNameOrBoth) {
  const double expected = loss(make("plain", [](Weights&) {}));
  EXPECT_EQ(loss(make("twice", [](Weights& w) { w.emplace_back(kHead, find(w, kEmbedding)); })), expected);
  const auto as_head = make("as_head", [](Weights& w) {
    std::find_if(w.begin(), w.end(), [](const auto& x) { return x.first == kEmbedding; })->first = kHead;
  });
  EXPECT_EQ(loss(as_head), expected);
  const CausalLM model = CausalLM::load(as_head, {.device = "cpu", .dtype = "auto"});
  EXPECT_TRUE(model.config().tie_word_embeddings);
  EXPECT_TRUE(model.config().notes.empty());
  const Network& network = model.shared_model()->network();
  EXPECT_EQ(network.head.frozen, network.embedding) << "one weight in memory, too";
}

// As transformers does.
TEST_F(Tied, TwoWeightsAreNotTied) {
  const auto other = [](Weights& w) { w.emplace_back(kHead, find(w, kEmbedding) * 0.5); };
  const auto path = make("different", other);
  const CausalLM model = CausalLM::load(path, {.device = "cpu", .dtype = "auto"});
  EXPECT_FALSE(model.config().tie_word_embeddings);
  ASSERT_EQ(model.config().notes.size(), 1u);
  EXPECT_NE(model.config().notes[0].find("the head's weight is not the embedding: not tied"), std::string::npos);
  write_tiny_model(folder_ / "untied", {.tied = false});
  Weights weights;
  const TensorFile stored = TensorFile::open(path / kWeightsName);
  for (const TensorInfo& info : stored.tensors()) weights.emplace_back(info.name, stored.tensor(info.name));
  write_tensor_file(folder_ / "untied" / kWeightsName, weights);
  EXPECT_EQ(loss(path), loss(folder_ / "untied"));
  // The head is a weight of its own: an adapter on it trains and merges, and the result is untied in so many words.
  const Adapter on_head = Adapter::create(model, {.target_modules = StringList{"lm_head"}});
  {
    const at::NoGradGuard no_grad;
    on_head.flat_values().add_(0.1);
  }
  on_head.save(folder_ / "on_head");
  merge(path, folder_ / "on_head", folder_ / "merged");
  const CausalLM merged = CausalLM::load(folder_ / "merged", {.device = "cpu", .dtype = "auto"});
  EXPECT_TRUE(merged.config().notes.empty());
  const at::NoGradGuard no_grad;
  EXPECT_NEAR(loss(folder_ / "merged"), model.loss(make_batch({{&ids_, &ids_}})).item<double>(), 1e-4);
}

// What full tuning writes must open as the tied model that it is.
TEST_F(Tied, FullTuningWritesTheWeightUnderItsNames) {
  const auto twice = make("twice", [](Weights& w) { w.emplace_back(kHead, find(w, kEmbedding)); });
  const auto as_head = make("as_head", [](Weights& w) {
    std::find_if(w.begin(), w.end(), [](const auto& x) { return x.first == kEmbedding; })->first = kHead;
  });
  double losses[2];
  for (const auto& path : {twice, as_head}) {
    const CausalLM model = CausalLM::load(path, {.device = "cpu", .dtype = "auto"});
    const Adapter all = Adapter::full(model);
    {
      const at::NoGradGuard no_grad;
      all.flat_values().mul_(1.25);
    }
    const auto saved = folder_ / (path.filename().string() + "-saved");
    all.save(saved);
    losses[path == as_head] = loss(saved);
    const at::NoGradGuard no_grad;
    EXPECT_NEAR(losses[path == as_head], model.loss(make_batch({{&ids_, &ids_}})).item<double>(), 1e-5);
    EXPECT_TRUE(CausalLM::load(saved, {.device = "cpu", .dtype = "auto"}).config().tie_word_embeddings);
  }
  EXPECT_EQ(losses[0], losses[1]);
}

}  // namespace
}  // namespace rankfold
