// Text generation with a key/value cache, for any number of prompts. A batch of completions is decoded at a time.
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

// Settings of decoding. The next token is chosen by the rules of transformers, in its order: repetition_penalty,
// temperature, top_k, top_p, min_p.
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
  // Not in fields(), because not every program has them:
  // Completions of each prompt, in [1, 1048576]; each draws its own random numbers.
  int64_t num_return_sequences = 1;
  bool log_probabilities = false;  // fill Completion::log_probabilities

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
  kStop,       // an end token, or a text of GenerateConfig::stop
  kLength,     // max_new_tokens
  kCancelled,  // on_token ended the completion
};
const char* word_of(FinishReason reason);  // "stop", "length", "cancelled"

// One generated completion.
struct Completion {
  int64_t prompt = 0;  // index of its prompt
  // Without the end token. Where a text of `stop` ended the completion, the ids of the text before it.
  std::vector<int32_t> ids;
  std::string text;  // decoded ids, cut before a text of `stop`; empty without a tokenizer
  // Natural logarithms, one for each id, if requested. They are the model's own probabilities; temperature and the
  // other settings do not change them.
  std::vector<float> log_probabilities;
  FinishReason reason = FinishReason::kLength;
};

// A new token, other than an end token.
struct TokenEvent {
  int64_t completion = 0;  // index of the completion: prompt * num_return_sequences + sample
  int32_t id = 0;
  // The next part of the completion's text, in whole characters. Text that may be the beginning of a text of `stop` is
  // delayed. All parts, and the rest that only Completion::text has at the end, make up the text.
  std::string_view text;
};
enum class Reply { kGoOn, kEndRow, kEndAll };  // kEndRow ends this completion, kEndAll all of them
using OnToken = std::function<Reply(const TokenEvent&)>;

// Generates completions of each prompt; those of prompt 0 come first. A prompt is token ids, with bos where the model
// needs it. At most `batch_size` completions are decoded at a time; when one ends, the next one starts. The same seed
// gives the same text, and a prompt given twice gives the same texts. Other prompts in the batch matter only through
// rounding, because the size of matrix products changes.
//
// `on_token` may be empty. It runs on the calling thread; an exception from it ends the call and passes through. `stop`
// is polled before every step, which generates one token for some completions; true: throws Stopped. Only one thread at
// a time may use a model.
// Memory: the key/value cache of `batch_size` completions, each as long as the longest prompt plus 256 tokens. The
// cache doubles, up to what max_new_tokens needs, when a completion becomes longer. Positions beyond
// max_position_embeddings are computed like any other.
//
// Throws
// - UserError for a setting out of range, `stop` without a tokenizer, or several samples at temperature 0;
// - Error with kDiverged for logits that are not finite, with kOutOfMemory where memory is short;
// - std::invalid_argument for a bad num_return_sequences, an empty prompt, or an id outside the vocabulary.
std::vector<Completion> complete(const CausalLM& model, const std::vector<std::vector<int32_t>>& prompts,
                                 const GenerateConfig& config, const OnToken& on_token = {}, const Stop& stop = {});

// The same as complete(), but returns only the ids. `on_token(completion, id)` is called for each TokenEvent.
std::vector<std::vector<int32_t>> generate(const CausalLM& model, const std::vector<std::vector<int32_t>>& prompts,
                                           const GenerateConfig& config,
                                           const std::function<void(int64_t, int32_t)>& on_token = {},
                                           const Stop& stop = {});

}  // namespace rankfold
