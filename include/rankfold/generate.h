// Text from a model: batched decoding with a key/value cache.
#pragma once

#include "rankfold/causal_lm.h"
#include "rankfold/error.h"

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace rankfold {

struct GenerateConfig {
  int64_t max_new_tokens = 256;
  double temperature = 0;  // 0: greedy
  double top_p = 1;
  int64_t top_k = 0;  // 0: all
  int64_t seed = 42;
  std::vector<int64_t> stop_token_ids = {};

  template <class V>
  void fields(V&& v) {
    section(v, "decoding");
    v("max_new_tokens", max_new_tokens, "longest completion in tokens", allow::positive, "an integer above 0", {});
    v("temperature", temperature, "0: greedy", allow::not_negative, "a number of 0 or more", {});
    v("top_p", top_p, "sample among the likeliest tokens that make up this share",
      [](double p) { return p > 0 && p <= 1; }, "a number in (0, 1]", {});
    v("top_k", top_k, "sample among this many likeliest tokens; 0: all", allow::not_negative, "an integer of 0 or more",
      {});
    v("seed", seed, "of sampling", allow::not_negative, "an integer of 0 or more", {});
    v("stop_token_ids", stop_token_ids, "ids that end a completion, beside eos",
      [](const std::vector<int64_t>& ids) {
        for (const int64_t id : ids)
          if (id < 0) return false;
        return true;
      },
      "a list of ids", {});
  }
};

// New ids for each prompt (ids with bos where the model wants it), without the eos or other id that ended it. Rows are
// independent of their neighbours, but for the rounding of products of another size. `on_token(row, id)` is called as
// each token is chosen. `stop` is asked before every step, which makes one token of each row; true: throws Stopped.
std::vector<std::vector<int32_t>> generate(const CausalLM& model, const std::vector<std::vector<int32_t>>& prompts,
                                           const GenerateConfig& config,
                                           const std::function<void(int64_t, int32_t)>& on_token = {},
                                           const Stop& stop = {});

}  // namespace rankfold
