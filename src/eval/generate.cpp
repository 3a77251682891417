#include "rankfold/generate.h"

#include "core/check.h"
#include "core/config.h"
#include "core/guard.h"
#include "eval/sampler.h"
#include "eval/text_stream.h"
#include "model/model.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <set>

namespace rankfold {
namespace {

// Of prompts that are computed together: what bounds the memory of a step.
constexpr size_t kPromptTokens = 2048;

// A completion in the making.
struct OpenRow {
  int64_t completion, slot;
  Sampler sampler;
  std::unique_ptr<TextStream> text;  // null without a tokenizer
};

class Generation {
 public:
  Generation(const CausalLM& model, const std::vector<std::vector<int32_t>>& prompts, const GenerateConfig& config,
             const OnToken& on_token, const Stop& stop)
      : model_(model),
        parts_(*model.shared_model()),
        prompts_(prompts),
        config_(config),
        on_token_(on_token),
        stop_(stop) {
    check();
    completions_.resize(prompts.size() * static_cast<size_t>(config.num_return_sequences));
    for (size_t i = 0; i < completions_.size(); ++i) completions_[i].prompt = prompt_of(static_cast<int64_t>(i));
    ends_.insert(parts_.config.eos_token_ids.begin(), parts_.config.eos_token_ids.end());
    ends_.insert(config.stop_token_ids.begin(), config.stop_token_ids.end());
    if (model.has_tokenizer()) ends_.insert(model.tokenizer().eos());  // in which training ends a row
  }

  std::vector<Completion> run() {
    if (completions_.empty()) return std::move(completions_);
    size_t longest = 0;
    for (const auto& prompt : prompts_) longest = std::max(longest, prompt.size());
    const auto room = [&](int64_t new_tokens) {
      return static_cast<int64_t>(longest) + std::min(config_.max_new_tokens, new_tokens);
    };
    const int64_t slots = std::min(config_.batch_size, static_cast<int64_t>(completions_.size()));
    KvCache cache(parts_.config, at::TensorOptions(parts_.device).dtype(parts_.dtype), slots, room(256),
                  room(int64_t{1} << 40));
    for (int64_t slot = slots; slot-- > 0;) free_.push_back(slot);
    while (!is_cancelled_ && (next_ < completions_.size() || !rows_.empty())) {
      while (!is_cancelled_ && next_ < completions_.size() && !free_.empty()) start_rows(cache);
      if (!is_cancelled_ && !rows_.empty()) extend_rows(cache);
    }
    for (OpenRow& row : rows_) end(row, FinishReason::kCancelled);
    for (size_t i = next_; i < completions_.size(); ++i) completions_[i].reason = FinishReason::kCancelled;
    return std::move(completions_);
  }

 private:
  int64_t prompt_of(int64_t completion) const { return completion / config_.num_return_sequences; }

  void check() const {
    RANKFOLD_CHECK(allow::count(config_.num_return_sequences),
                   "num_return_sequences: expected an integer in [1, 1048576], got ", config_.num_return_sequences);
    if (config_.num_return_sequences > 1 && config_.temperature == 0)
      fail("num_return_sequences: expected 1 at temperature 0, where all samples are the same, got ",
           config_.num_return_sequences);
    if (!config_.stop.empty() && !model_.has_tokenizer())
      fail("stop: expected a model with a tokenizer, got none in ", model_.folder().string());
    for (size_t i = 0; i < prompts_.size(); ++i)
      RANKFOLD_CHECK(!prompts_[i].empty(), "generate: prompt ", i, " has no token");
  }

  // The next prompts, as many as there are slots and tokens for, and their first tokens. Samples of one prompt that start
  // together share its computation.
  void start_rows(KvCache& cache) {
    leave_if(stop_);
    const size_t first = rows_.size();
    std::vector<Sequence> sequences;
    std::vector<int64_t> slots, sequence_of;  // of each sequence, of each new row
    size_t tokens = 0;
    for (; next_ < completions_.size() && !free_.empty(); ++next_) {
      const auto completion = static_cast<int64_t>(next_);
      const std::vector<int32_t>& prompt = prompts_[static_cast<size_t>(prompt_of(completion))];
      const bool is_new = sequences.empty() || sequences.back().input_ids != &prompt;
      if (is_new && !sequences.empty() && tokens + prompt.size() > kPromptTokens) break;
      rows_.push_back(open_row(completion, prompt));
      cache.clear(rows_.back().slot);
      if (is_new) {
        tokens += prompt.size();
        sequences.push_back({&prompt, nullptr});
        slots.push_back(rows_.back().slot);
      }
      sequence_of.push_back(static_cast<int64_t>(sequences.size()) - 1);
    }
    at::Tensor logits = parts_.decoder.next_logits(make_batch(sequences), cache, slots);
    for (size_t i = first; i < rows_.size(); ++i)
      if (const int64_t from = slots[sequence_of[i - first]]; from != rows_[i].slot) cache.copy(from, rows_[i].slot);
    if (sequences.size() < sequence_of.size())
      logits = logits.index_select(0, at::tensor(sequence_of).to(logits.device()));
    take_tokens(logits, first);
  }

  OpenRow open_row(int64_t completion, const std::vector<int32_t>& prompt) {
    const int64_t slot = free_.back();
    free_.pop_back();
    auto text =
        model_.has_tokenizer() ? std::make_unique<TextStream>(model_.tokenizer().vocabulary(), config_.stop) : nullptr;
    return {completion, slot, Sampler(config_, completion % config_.num_return_sequences, prompt), std::move(text)};
  }

  // One more token of each open row.
  void extend_rows(KvCache& cache) {
    leave_if(stop_);
    std::vector<std::vector<int32_t>> last;
    for (const OpenRow& row : rows_) last.push_back({completions_[row.completion].ids.back()});
    std::vector<Sequence> sequences;
    for (const auto& ids : last) sequences.push_back({&ids, nullptr});
    Batch batch = make_batch(sequences);
    for (size_t b = 0; b < rows_.size(); ++b) batch.positions.data_ptr<int64_t>()[b] = cache.lengths[rows_[b].slot];
    std::vector<int64_t> slots;
    for (const OpenRow& row : rows_) slots.push_back(row.slot);
    take_tokens(parts_.decoder.next_logits(batch, cache, slots), 0);
  }

  // A token for each of the rows from `first` on; rows that end give their slots back.
  void take_tokens(const at::Tensor& logits, size_t first) {
    const std::vector<Choice> choices = choose(logits, first);
    std::vector<OpenRow> open(std::make_move_iterator(rows_.begin()), std::make_move_iterator(rows_.begin() + first));
    for (size_t i = first; i < rows_.size(); ++i) {
      if (take(rows_[i], choices[i - first]))
        open.push_back(std::move(rows_[i]));
      else
        free_.push_back(rows_[i].slot);
    }
    rows_ = std::move(open);
  }

  std::vector<Choice> choose(const at::Tensor& logits, size_t first) {
    const bool is_argmax = config_.temperature == 0 && config_.repetition_penalty == 1 && !config_.log_probabilities;
    if (is_argmax && !logits.is_cpu()) return choose_on_device(logits);
    const at::Tensor values = logits.to(at::kCPU, at::kFloat).contiguous();
    const int64_t vocabulary = values.size(1);
    std::vector<Choice> choices(rows_.size() - first);
    try {
      at::parallel_for(0, values.size(0), 1, [&](int64_t begin, int64_t end) {
        for (int64_t b = begin; b < end; ++b) {
          float* row = values.data_ptr<float>() + b * vocabulary;
          choices[b] = rows_[first + b].sampler.choose({row, static_cast<size_t>(vocabulary)});
        }
      });
    } catch (const std::domain_error&) {
      refuse_logits();
    }
    return choices;
  }

  // Of each row the id and whether all logits are finite; nothing else is copied.
  std::vector<Choice> choose_on_device(const at::Tensor& logits) const {
    const at::Tensor finite = logits.isfinite().all(1), ids = logits.argmax(1);
    const at::Tensor found = at::where(finite, ids, at::full_like(ids, -1)).to(at::kCPU);
    std::vector<Choice> choices;
    for (int64_t b = 0; b < found.size(0); ++b) {
      const int64_t id = found.const_data_ptr<int64_t>()[b];
      if (id < 0) refuse_logits();
      choices.push_back({static_cast<int32_t>(id), 0});
    }
    return choices;
  }

  [[noreturn]] void refuse_logits() const {
    throw Error(ExitCode::kDiverged, join(model_.folder().string(), ": the model's logits are not finite numbers"));
  }

  // The row's new token. False: the row has ended.
  bool take(OpenRow& row, const Choice& choice) {
    if (is_cancelled_) return end(row, FinishReason::kCancelled);
    if (ends_.contains(choice.id)) return end(row, FinishReason::kStop);
    Completion& completion = completions_[row.completion];
    completion.ids.push_back(choice.id);
    if (config_.log_probabilities) completion.log_probabilities.push_back(choice.log_probability);
    const std::string_view text = row.text ? row.text->push(choice.id) : std::string_view();
    if (row.text && row.text->is_stopped()) return end(row, FinishReason::kStop);
    const Reply reply = on_token_ ? on_token_({row.completion, choice.id, text}) : Reply::kGoOn;
    is_cancelled_ = reply == Reply::kEndAll;
    if (reply != Reply::kGoOn) return end(row, FinishReason::kCancelled);
    if (static_cast<int64_t>(completion.ids.size()) == config_.max_new_tokens) return end(row, FinishReason::kLength);
    return true;
  }

  bool end(OpenRow& row, FinishReason reason) {
    Completion& completion = completions_[row.completion];
    completion.reason = reason;
    if (!row.text) return false;
    row.text->finish();
    completion.text = row.text->text();
    if (!row.text->is_stopped()) return false;
    completion.reason = FinishReason::kStop;
    completion.ids.resize(row.text->ids_within());
    if (config_.log_probabilities) completion.log_probabilities.resize(completion.ids.size());
    return false;
  }

  const CausalLM& model_;
  Model& parts_;
  const std::vector<std::vector<int32_t>>& prompts_;
  const GenerateConfig& config_;
  const OnToken& on_token_;
  const Stop& stop_;
  std::vector<Completion> completions_;
  size_t next_ = 0;  // completion that has no row yet
  std::vector<OpenRow> rows_;
  std::vector<int64_t> free_;  // slots
  std::set<int64_t> ends_;     // ids
  bool is_cancelled_ = false;
};

}  // namespace

const char* word_of(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    default:
      return "cancelled";
  }
}

std::vector<Completion> complete(const CausalLM& model, const std::vector<std::vector<int32_t>>& prompts,
                                 const GenerateConfig& config, const OnToken& on_token, const Stop& stop) try {
  check_fields(config);
  const at::NoGradGuard no_grad;
  return Generation(model, prompts, config, from_caller(on_token), from_caller(stop)).run();
} catch (...) {
  rethrow_as_error();
}

std::vector<std::vector<int32_t>> generate(const CausalLM& model, const std::vector<std::vector<int32_t>>& prompts,
                                           const GenerateConfig& config,
                                           const std::function<void(int64_t, int32_t)>& on_token, const Stop& stop) {
  OnToken each;
  if (on_token)
    each = [&on_token](const TokenEvent& event) {
      on_token(event.completion, event.id);
      return Reply::kGoOn;
    };
  std::vector<std::vector<int32_t>> ids;
  for (Completion& completion : complete(model, prompts, config, each, stop)) ids.push_back(std::move(completion.ids));
  return ids;
}

}  // namespace rankfold
