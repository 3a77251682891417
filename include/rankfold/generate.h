// Text from a model: rows of any number are decoded together, some at a time, with a key/value cache.
#pragma once

#include "rankfold/causal_lm.h"
#include "rankfold/config.h"
#include "rankfold/error.h"

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

namespace rankfold {

// A token is chosen by transformers' rules in transformers' order: repetition_penalty, temperature, top_k, top_p, min_p.
struct GenerateConfig {
  int64_t max_new_tokens = 256;
  double temperature = 0;  // 0: greedy
  double top_p = 1;
  int64_t top_k = 0;  // 0: all
  double min_p = 0;
  double repetition_penalty = 1;
  int64_t seed = 42;
  std::vector<int64_t> stop_token_ids = {};
  StringList stop = {};
  int64_t batch_size = 16;
  // Not among fields(), as not every program takes them:
  int64_t num_return_sequences = 1;  // completions of each prompt, each with random numbers of its own: [1, 1048576]
  bool log_probabilities = false;    // whether Completion has them

  template <class V>
  void fields(V&& v) {
    section(v, "decoding");
    v("max_new_tokens", max_new_tokens, "most new tokens in an answer", allow::positive, "an integer above 0", {});
    v("temperature", temperature, "randomness of sampling; 0: always the likeliest token", allow::not_negative,
      "a number of 0 or more", {});
    v("top_p", top_p, "sample among the likeliest tokens that together have this probability; 1: all",
      [](double p) { return p > 0 && p <= 1; }, "a number in (0, 1]", {});
    v("top_k", top_k, "sample among this many of the likeliest tokens; 0: all", allow::not_negative,
      "an integer of 0 or more", {});
    v("min_p", min_p, "sample among tokens at least this fraction as likely as the likeliest; 0: all",
      [](double p) { return p >= 0 && p <= 1; }, "a number in [0, 1]", {});
    v("repetition_penalty", repetition_penalty,
      "above 1: tokens of the prompt and of the answer so far become less likely; 1: off", allow::positive_float,
      "a number above 0", {});
    v("seed", seed, "seed of sampling", allow::not_negative, "an integer of 0 or more", {});
    v("stop_token_ids", stop_token_ids, "token ids that end an answer, besides eos",
      [](const std::vector<int64_t>& ids) {
        for (const int64_t id : ids)
          if (id < 0) return false;
        return true;
      },
      "a list of ids", {});
    v("stop", stop,
      "texts that end an answer, which is cut before them; write JSON if one holds a comma or a line "
      "feed: [\"\\n\\n\"]",
      [](const StringList& texts) {
        for (const std::string& text : texts)
          if (text.empty()) return false;
        return true;
      },
      "a list of texts", {"stop_strings"});
    v("generation_batch_size", batch_size, "answers generated at the same time", allow::count,
      "an integer in [1, 1048576]", {});
  }
};

enum class FinishReason {
  kStop,       // a token or a text that ends completions
  kLength,     // max_new_tokens
  kCancelled,  // the caller's wish
};
const char* word_of(FinishReason reason);  // "stop", "length", "cancelled"

struct Completion {
  int64_t prompt = 0;  // its number
  // Without the id that ended it; where a text of `stop` did, those whose text lies before it.
  std::vector<int32_t> ids;
  std::string text;  // of a model with a tokenizer, else empty; cut before a text of `stop`
  // Natural logarithms, one for each id, where asked for. They are the model's own: no setting changes them.
  std::vector<float> log_probabilities;
  FinishReason reason = FinishReason::kLength;
};

// A token that was chosen and ends nothing.
struct TokenEvent {
  int64_t completion = 0;  // its number: prompt * num_return_sequences + sample
  int32_t id = 0;
  // What is now certain of the completion's text, whole characters. What may be the beginning of a text of `stop` is
  // held back. All of them and what Completion::text has more at the end are the text.
  std::string_view text;
};
enum class Reply { kGoOn, kEndRow, kEndAll };  // kEndRow, kEndAll: the completion, or all of them, end here
using OnToken = std::function<Reply(const TokenEvent&)>;

// Completions of each prompt (ids with bos where the model wants it): those of prompt 0 first. At most `batch_size` are
// decoded at a time; one that ends makes room for the next at once. They are independent of their neighbours, but for
// the rounding of products of another size: the same seed gives the same text, and a prompt given twice the same texts.
//
// `on_token` may be empty; it is called on this thread, and what it throws ends the work and comes out. `stop` is asked
// before every step, which makes one token of some completions; true: throws Stopped. One thread at a time for a model.
// Memory: keys and values of `batch_size` completions, each of the length of the longest prompt and 256 tokens; all of
// it doubles, within what max_new_tokens needs, where a completion becomes longer. A position beyond
// max_position_embeddings is computed like any other.
//
// Throws UserError (one of fields() out of its range; `stop` without a tokenizer; several samples at temperature 0),
// Error with kDiverged (logits that are not finite) or kOutOfMemory, std::invalid_argument (num_return_sequences out of
// its range, a prompt without ids, an id outside the vocabulary).
std::vector<Completion> complete(const CausalLM& model, const std::vector<std::vector<int32_t>>& prompts,
                                 const GenerateConfig& config, const OnToken& on_token = {}, const Stop& stop = {});

// complete(), the ids alone. `on_token(completion, id)` is called for each TokenEvent.
std::vector<std::vector<int32_t>> generate(const CausalLM& model, const std::vector<std::vector<int32_t>>& prompts,
                                           const GenerateConfig& config,
                                           const std::function<void(int64_t, int32_t)>& on_token = {},
                                           const Stop& stop = {});

}  // namespace rankfold
