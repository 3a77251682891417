// config.json from strangers: nothing that it claims is believed before the weights agree.
#include "rankfold/causal_lm.h"
#include "support/imposters.h"
#include "support/stopwatch.h"
#include "support/tiny_model.h"

#include <ATen/ATen.h>
#include <nlohmann/json.hpp>

namespace rankfold {
namespace {

using nlohmann::json;
using testing::contains;
using testing::error_of;
using testing::growth_kib;
using testing::TempFolder;

class HostileConfig : public ::testing::Test {
 protected:
  void SetUp() override {
    testing::write_tiny_model(folder_.path(), {});
    config_ = json::parse(testing::read_bytes(folder_ / "config.json"));
    CausalLM::load(folder_.path());
  }
  std::string load_error(const json& config) {
    folder_.write("config.json", config.dump());
    return error_of<UserError>([&] { CausalLM::load(folder_.path()); });
  }
  TempFolder folder_;
  json config_;
};

TEST_F(HostileConfig, TakesNoMemoryForAClaim) {
  testing::write_tiny_model(folder_.path(), {.baichuan = false});  // whose class reads all of these
  config_ = json::parse(testing::read_bytes(folder_ / "config.json"));
  const std::vector<json> claims = {{{"vocab_size", 2147483647}},
                                    {{"hidden_size", 1 << 20}},
                                    {{"hidden_size", 1 << 20}, {"num_attention_heads", 1 << 19}},
                                    {{"intermediate_size", 1 << 20}},
                                    {{"num_hidden_layers", 1000}},
                                    {{"num_hidden_layers", 1000}, {"hidden_size", 1 << 20}},
                                    {{"head_dim", 1 << 20}},
                                    {{"max_position_embeddings", int64_t{1} << 40}},
                                    {{"rope_theta", 1e300}},
                                    {{"rope_theta", 5e-324}}};
  for (const json& claim : claims) {
    SCOPED_TRACE(claim.dump());
    json config = config_;
    config.update(claim);
    const bool is_refused = !claim.contains("max_position_embeddings");
    const testing::Stopwatch watch;
    EXPECT_LT(growth_kib([&] { EXPECT_EQ(load_error(config) != "", is_refused); }), 16 << 10);
    EXPECT_LT(watch.seconds(), 5);
  }
}

TEST_F(HostileConfig, EveryKeyMayBeMissingOrOdd) {
  const std::vector<json> odd = {
      nullptr, true,           -1,        0, 1e9, 0.5, 1e300, 18446744073709551615u, "", "4", "x\ny", json::array(),
      {1},     json::object(), {{"a", 1}}};
  int accepted = 0;
  for (const auto& [key, value] : config_.items()) {
    json config = config_;
    config.erase(key);
    const std::string without = load_error(config);
    EXPECT_TRUE(without.empty() || contains(without, "config.json: " + key + ": expected ")) << key;
    for (const json& other : odd) {
      SCOPED_TRACE(key + " = " + other.dump());
      config[key] = other;
      const std::string line = load_error(config);
      accepted += line.empty();
      EXPECT_EQ(line.find('\n'), std::string::npos);
      EXPECT_TRUE(line.empty() || contains(line, folder_.path().string()));
    }
  }
  EXPECT_LT(accepted, 60);  // null is as good as absent; model_type may be any text
  for (const char* key : {"vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                          "architectures"}) {
    json config = config_;
    config.erase(key);
    EXPECT_TRUE(contains(load_error(config), key)) << key;
  }
}

}  // namespace
}  // namespace rankfold
