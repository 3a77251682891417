#include "train/advice.h"

#include "core/check.h"
#include "core/number_text.h"

namespace rankfold {
namespace {

// The guide's bounds.
constexpr int64_t kRowsForFull = 100'000, kRowsForLora = 10'000;
// Rows of a step up to which LoRA keeps up with full tuning, and from which it surely does not.
constexpr int64_t kModerateBatch = 64, kLargeBatch = 256;
constexpr double kRateRatio = 10;
constexpr double kTokensPerParameter = 2;  // that an update can hold: about two bits a parameter, one a token

bool is_lora(const RunConfig& config) { return meaning_of(kFinetunings, config.finetuning_type) == Finetuning::kLora; }

std::string rate_text(double rate) { return printed("%g", rate); }

void choose_by_rows(int64_t rows, const RunConfig& config, Advice& advice) {
  if (rows > kRowsForFull) {
    advice.choice = "full";
    advice.reason = "above 100,000 rows: full tuning, of high cost and the best effect";
  } else if (rows >= kRowsForLora) {
    advice.choice = "lora";
    advice.reason = "10,000 to 100,000 rows: LoRA, of medium cost and good effect";
  } else {
    advice.choice = "retrieval and prompts";
    advice.reason = "below 10,000 rows: retrieval and prompts, of low cost and medium effect";
  }
  advice.yours = advice.choice == config.finetuning_type
                     ? "finetuning_type " + config.finetuning_type + " is that"
                     : "finetuning_type " + config.finetuning_type + " is another choice";
  if (rows < kRowsForLora)
    advice.yours += ": compare it with a good prompt first, and keep rows apart to see over-fitting";
}

Finding on_targets(const MethodPlan& lora) {
  Finding finding{.topic = "target_modules",
                  .finding =
                      "LoRA equals full tuning where it is on all linear layers, the MLP's above all; on "
                      "attention alone it falls behind, at a higher rank too"};
  std::string names;
  for (const std::string& name : lora.targets) names += (names.empty() ? "" : ", ") + name;
  if (lora.trained >= lora.all_linear)
    finding.yours = "target_modules is all linear layers: " + names;
  else
    finding.yours =
        join("target_modules is ", names, lora.targets.size() == 1 ? " alone" : "", ": ", with_commas(lora.trained),
             " parameters; all-linear trains ", with_commas(lora.all_linear), " at the same r");
  return finding;
}

Finding on_rate(const RunConfig& config) {
  const double rate = config.train.learning_rate;
  return {.topic = "learning_rate",
          .finding = "LoRA's best rate is about ten times that of full tuning",
          .yours = is_lora(config) ? join("learning_rate ", rate_text(rate), " is LoRA's; for full tuning try ",
                                          rate_text(rate / kRateRatio))
                                   : join("learning_rate ", rate_text(rate), " is full tuning's; for LoRA try ",
                                          rate_text(rate * kRateRatio))};
}

Finding on_batch(int64_t rows) {
  return {.topic = "batch",
          .finding = "LoRA bears large batches less well than full tuning",
          .yours = rows <= kModerateBatch ? join(rows, rows == 1 ? " row" : " rows", " a step: moderate")
                   : rows < kLargeBatch   ? join(rows, " rows a step: rather many; try ", kModerateBatch, " or fewer")
                                          : join(rows, " rows a step: many; try ", kModerateBatch, " or fewer")};
}

Finding on_rank(const RunPlan& plan, const MethodPlan& lora) {
  const bool has_room =
      static_cast<double>(plan.data.learnt_tokens) <= kTokensPerParameter * static_cast<double>(lora.trained);
  return {.topic = "r",
          .finding = "LoRA equals full tuning while its parameters can hold what the data says",
          .yours = join(with_commas(plan.data.learnt_tokens), " learnt tokens for ", with_commas(lora.trained),
                        " parameters: ", has_room ? "room enough" : "little room; raise r, or take all linear layers")};
}

}  // namespace

Advice advise(const RunPlan& plan, const RunConfig& config) {
  Advice advice;
  choose_by_rows(plan.data.rows, config, advice);
  const bool mine_is_lora = plan.methods.front().method == Finetuning::kLora;
  const MethodPlan& lora = mine_is_lora ? plan.methods.front() : plan.methods.back();
  advice.findings = {on_targets(lora), on_rate(config), on_batch(plan.rows_per_step), on_rank(plan, lora)};
  return advice;
}

}  // namespace rankfold
