#include "train/plan.h"

#include "adapter/adapter_files.h"
#include "adapter/match.h"
#include "core/check.h"
#include "core/checksum.h"
#include "core/memory.h"
#include "core/number_text.h"
#include "model/model.h"
#include "ops/rowwise.h"
#include "train/base_checksum.h"
#include "train/evaluation.h"
#include "train/step_times.h"
#include "train/windows.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>
#include <set>
#include <span>
#include <unordered_set>

namespace rankfold {
namespace {

using PlanClock = std::chrono::steady_clock;

constexpr double kMostForTheOther = 20;               // the other method is measured where this one took fewer seconds
constexpr double kDiskRate = 200e6, kPerSave = 0.05;  // bytes a second and seconds a save: assumed, not measured
constexpr double kChecksumRate = 1e9;                 // of a base too large to be read for a plan
constexpr int64_t kReadForPlan = int64_t{4} << 30;    // bytes of a base that are read for it
constexpr double kBytesOfAUpdate = 36;                // that AdamW and clipping move for a parameter
constexpr double kOfFull = 1.5;                       // products of full tuning's passes to those of LoRA's

double since(PlanClock::time_point start) { return std::chrono::duration<double>(PlanClock::now() - start).count(); }

// At most ten bins of a round width.
std::vector<LengthBin> histogram(const RowSizes& sizes, int64_t longest) {
  constexpr int64_t kBins = 10;
  int64_t width = 1;
  const auto bins_of = [longest](int64_t width) { return longest / width + 1; };
  for (int64_t ten = 1; bins_of(width) > kBins; ten *= 10)
    for (const int64_t factor : {1, 2, 5})
      if (bins_of(width) > kBins) width = factor * ten;
  std::vector<LengthBin> bins(static_cast<size_t>(longest / width + 1));
  for (size_t i = 0; i < bins.size(); ++i)
    bins[i].first = static_cast<int64_t>(i) * width, bins[i].last = bins[i].first + width - 1;
  for (const int32_t tokens : sizes.tokens) ++bins[static_cast<size_t>(tokens / width)].rows;
  while (bins.size() > 1 && bins.front().rows == 0) bins.erase(bins.begin());
  return bins;
}

RowSizes read_sizes(const Dataset& dataset, const Stop& stop, std::unordered_set<uint64_t>* contents) {
  RowSizes sizes;
  for (int64_t i = 0; i < dataset.size(); ++i) {
    if (i % 1024 == 0) leave_if(stop);
    const Example row = dataset[i];
    sizes.tokens.push_back(static_cast<int32_t>(row.input_ids.size()));
    const auto not_learnt = std::count(row.labels.begin(), row.labels.end(), static_cast<int32_t>(kIgnoreIndex));
    sizes.learnt.push_back(static_cast<int32_t>(row.labels.size()) - static_cast<int32_t>(not_learnt));
    if (contents)
      contents->insert(
          checksum64(std::as_bytes(std::span(row.labels)), checksum64(std::as_bytes(std::span(row.input_ids)))));
  }
  return sizes;
}

int64_t stored_bytes(const Model& model) {
  int64_t bytes = 0;
  for (const TensorFile& file : model.folder.files())
    for (const TensorInfo& tensor : file.tensors()) bytes += static_cast<int64_t>(tensor.end - tensor.begin);
  return bytes;
}

// Bytes a second that a large copy moves, read and written.
double memory_rate(at::Device device) {
  const at::Tensor from = at::zeros({16 << 20}, at::TensorOptions(device).dtype(at::kFloat)), to = from.clone();
  const auto start = PlanClock::now();
  to.copy_(from);
  to[0].item();
  return 2.0 * static_cast<double>(from.nbytes()) / std::max(since(start), 1e-6);
}

class Planner {
 public:
  explicit Planner(const PlanRequest& request)
      : request_(request),
        config_(request.config),
        stop_(request.stop),
        windows_(request.rows, config_.train),
        largest_(windows_.largest_batch(stop_)),
        evaluation_(request.held_out, config_.train, windows_.plan(), largest_.tokens),
        configured_(meaning_of(kFinetunings, config_.finetuning_type)) {}

  RunPlan make() {
    read_data();
    const StepPlan& steps = windows_.plan();
    plan_.steps = steps.total_steps, plan_.steps_per_epoch = steps.steps_per_epoch;
    plan_.rows_per_step = config_.train.per_device_train_batch_size * config_.train.gradient_accumulation_steps;
    plan_.evaluations = evaluation_.count();
    plan_.saves = count_saves(config_.train.save_steps, evaluation_.interval(), plan_.steps);
    plan_methods();
    return std::move(plan_);
  }

 private:
  void read_data() {
    std::unordered_set<uint64_t> contents;
    sizes_ = read_sizes(request_.rows, stop_, &contents);
    DataPlan& data = plan_.data;
    data.rows = request_.rows.size();
    data.tokens = std::accumulate(sizes_.tokens.begin(), sizes_.tokens.end(), int64_t{0});
    data.learnt_tokens = std::accumulate(sizes_.learnt.begin(), sizes_.learnt.end(), int64_t{0});
    data.shortest = *std::min_element(sizes_.tokens.begin(), sizes_.tokens.end());
    data.longest = *std::max_element(sizes_.tokens.begin(), sizes_.tokens.end());
    data.duplicates = data.rows - static_cast<int64_t>(contents.size());
    data.lengths = histogram(sizes_, data.longest);
    if (!request_.held_out) return;
    data.held_out_rows = request_.held_out->size();
    held_out_sizes_ = read_sizes(*request_.held_out, stop_, nullptr);
  }

  CausalLM load() const { return CausalLM::load(config_.model_name_or_path, config_.load); }

  // Of a method that is not configured the settings need not be of use for this model.
  Adapter make_lora(const CausalLM& model) const {
    if (!config_.adapter_name_or_path.empty())
      return Adapter::load(model, config_.adapter_name_or_path, config_.train.seed);
    LoraConfig lora = config_.lora;
    const auto* list = std::get_if<StringList>(&lora.target_modules);
    if (configured_ == Finetuning::kFull && list && list->empty()) lora.target_modules = "all-linear";
    try {
      return Adapter::create(model, lora, config_.train.seed);
    } catch (const UserError&) {
      if (configured_ == Finetuning::kLora) throw;
    }
    return Adapter::create(model, {.r = lora.r, .lora_alpha = lora.lora_alpha, .target_modules = "all-linear"},
                           config_.train.seed);
  }

  // Memory of both before anything is computed, as what is computed stays in memory for a while.
  void plan_methods() {
    MethodPlan lora{.method = Finetuning::kLora}, full{.method = Finetuning::kFull};
    {
      const CausalLM model = load();
      const Adapter adapter = make_lora(model);
      Model& parts = *model.shared_model();
      if (configured_ == Finetuning::kLora) refuse_head(model, adapter.modules());
      read_base(model);
      describe(lora, model, adapter);
      full.trained = model.parameter_count();
      choose(lora, [&](const BatchSize& batch) { return plan_levels(parts, adapter, config_.train, batch); });
      choose(full, [&](const BatchSize& batch) { return plan_levels_of_full(parts, adapter, config_.train, batch); });
      for (const Projection* p : parts.network().projections())
        if (p->frozen->is_quantized()) full.no_time = "full tuning takes a base in 16 or 32 bits", full.remedy.clear();
      if (configured_ == Finetuning::kLora) {
        if (request_.on_configured) request_.on_configured(model, adapter);
        measure(lora, model, adapter);
      } else if (!full.memory.fits()) {
        measure(lora, model, adapter);
      }
    }
    if (configured_ == Finetuning::kFull && full.memory.fits()) measure_full(full);
    MethodPlan& mine = configured_ == Finetuning::kLora ? lora : full;
    MethodPlan& other = configured_ == Finetuning::kLora ? full : lora;
    const bool needs_time = !other.time && other.no_time.empty() && mine.time;
    if (needs_time && other.memory.fits() && spent_ < kMostForTheOther) {
      if (other.method == Finetuning::kFull) {
        measure_full(other);
      } else {
        const CausalLM model = load();
        measure(other, model, make_lora(model));
      }
    } else if (needs_time) {
      estimate(other, mine);
    }
    for (MethodPlan* method : {&mine, &other})
      if (!method->time && method->no_time.empty())
        method->no_time =
            method->memory.fits() ? "there is none of the method that is configured" : "it does not fit in memory";
    plan_.methods = {mine, other};
  }

  void measure_full(MethodPlan& full) {
    const CausalLM model = load();
    const Adapter adapter = Adapter::full(model);
    if (configured_ == Finetuning::kFull && request_.on_configured) request_.on_configured(model, adapter);
    measure(full, model, adapter);
  }

  void read_base(const CausalLM& model) {
    batches_ = micro_batches(
        sizes_, model.config(), config_.train.per_device_train_batch_size,
        epoch_order(request_.rows.size(), static_cast<uint64_t>(config_.train.seed), 0, config_.train.shuffle));
    if (plan_.evaluations > 0) {
      std::vector<int64_t> in_order(held_out_sizes_.tokens.size());
      std::iota(in_order.begin(), in_order.end(), 0);
      held_out_ = micro_batches(held_out_sizes_, model.config(), evaluation_.rows_per_batch(), in_order);
    }
    device_ = model.device();
    base_bytes_ = stored_bytes(*model.shared_model());
    if (base_bytes_ > kReadForPlan) {
      checksum_ = static_cast<double>(base_bytes_) / kChecksumRate;
      return;
    }
    const auto start = PlanClock::now();
    base_checksum(model.shared_model()->folder, stop_);  // as a run begins
    checksum_ = since(start);
  }

  static void describe(MethodPlan& lora, const CausalLM& model, const Adapter& adapter) {
    lora.trained = adapter.parameter_count();
    std::set<std::string> kinds;
    for (const std::string& module : adapter.modules()) kinds.insert(module.substr(module.rfind('.') + 1));
    lora.targets.assign(kinds.begin(), kinds.end());
    const ModuleRanks ranks(adapter.config());
    for (const LinearModule& module : model.linear_modules())
      if (!module.is_head) lora.all_linear += ranks.match(module).r * (module.in_features + module.out_features);
  }

  using Levels = std::function<std::vector<MemoryPlan>(const BatchSize&)>;

  void choose(MethodPlan& method, const Levels& levels_of) {
    const std::vector<MemoryPlan> levels = levels_of(largest_);
    method.memory = chosen_plan(levels, config_.train);
    if (!method.memory.fits()) method.remedy = remedy(levels, levels_of);
  }

  // What of gradient_checkpointing and of the batch makes it fit.
  std::string remedy(const std::vector<MemoryPlan>& levels, const Levels& levels_of) {
    for (const MemoryPlan& plan : levels)
      if (plan.fits())
        return join("gradient_checkpointing ", word_for(kCheckpointings, plan.checkpointing), " takes ",
                    bytes_text(plan.total()));
    TrainConfig smaller = config_.train;
    MemoryPlan least = levels.back();
    while (smaller.per_device_train_batch_size > 1) {
      smaller.per_device_train_batch_size = (smaller.per_device_train_batch_size + 1) / 2;
      smaller.gradient_accumulation_steps =
          (plan_.rows_per_step + smaller.per_device_train_batch_size - 1) / smaller.per_device_train_batch_size;
      least = levels_of(Windows(request_.rows, smaller).largest_batch(stop_)).back();
      if (least.fits())
        return join("gradient_checkpointing full with per_device_train_batch_size ",
                    smaller.per_device_train_batch_size, " and gradient_accumulation_steps ",
                    smaller.gradient_accumulation_steps, " takes ", bytes_text(least.total()));
    }
    const int64_t fixed = least.total() - least.kept - least.temporary;
    return fixed < least.limit
               ? join("one row at a time with gradient_checkpointing full takes ", bytes_text(least.total()),
                      ": a smaller max_length takes less")
               : join("it takes ", bytes_text(fixed), " with any batch: more memory, or a smaller model");
  }

  void measure(MethodPlan& method, const CausalLM& model, const Adapter& adapter) {
    if (!method.memory.fits()) return;
    try {
      const StepTimes times = measure_steps(model, adapter, request_.rows, config_.train, method.memory.checkpointing,
                                            batches_, request_.measuring_seconds, stop_);
      spent_ = times.spent;
      method.time = time_of(method, times, model);
    } catch (const std::exception& error) {
      const auto wanted = out_of_memory(error);
      if (!wanted) throw;
      method.no_time = "memory ran out while it was measured";
    }
  }

  TimePlan time_of(const MethodPlan& method, const StepTimes& times, const CausalLM& model) {
    std::set<int64_t> widths;
    for (const MicroBatch& batch : batches_) {
      int64_t tokens = 0;
      for (const int64_t row : batch.rows) tokens += sizes_.tokens[static_cast<size_t>(row)];
      widths.insert(ops::product_rows(tokens));
    }
    TimePlan time;
    time.measured = times.measured;
    time.basis = join(times.measured, times.measured == 1 ? " micro-batch" : " micro-batches",
                      " of the run's rows were computed for it");
    time.training = times.training.mean(batches_) * micro_batches_of_run() +
                    times.update * static_cast<double>(plan_.steps) +
                    times.first_time * static_cast<double>(widths.size());
    if (plan_.evaluations > 0)
      time.evaluation = static_cast<double>(plan_.evaluations) *
                        (times.forward.mean(held_out_) * static_cast<double>(held_out_.size()) + answers(model));
    finish(time, method);
    return time;
  }

  double micro_batches_of_run() const {
    const int64_t epochs = plan_.steps / plan_.steps_per_epoch, rest = plan_.steps % plan_.steps_per_epoch;
    return static_cast<double>(epochs) * static_cast<double>(batches_.size()) +
           static_cast<double>(rest * config_.train.gradient_accumulation_steps);
  }

  // What is the same however the time of steps was found.
  void finish(TimePlan& time, const MethodPlan& method) const {
    const double parameters = static_cast<double>(method.trained), saves = static_cast<double>(plan_.saves - 1);
    const bool is_full = method.method == Finetuning::kFull;
    const double result = is_full ? static_cast<double>(base_bytes_) : 4 * parameters;
    const double checkpoint = result + (is_full ? 12 : 8) * parameters;
    time.saving = (saves * checkpoint + result) / kDiskRate + static_cast<double>(plan_.saves) * kPerSave;
    time.start = request_.start_seconds + checksum_;
    time.step = time.training / static_cast<double>(plan_.steps);
    const double epochs = static_cast<double>(plan_.steps) / static_cast<double>(plan_.steps_per_epoch);
    time.tokens_per_second = static_cast<double>(plan_.data.tokens) * epochs / time.training;
  }

  // The answers of one evaluation, from their first few tokens: as if each were as long as it may be.
  double answers(const CausalLM& model) const {
    constexpr int64_t kTokens = 8;
    TrainConfig few = config_.train;
    few.eval_max_new_tokens = std::min(few.eval_max_new_tokens, kTokens);
    const Evaluation evaluation(request_.held_out, few, windows_.plan(), largest_.tokens);
    const auto start = PlanClock::now();
    if (evaluation.answers(model, 0, stop_).empty()) return 0;
    return since(start) * static_cast<double>(config_.train.eval_max_new_tokens) /
           static_cast<double>(few.eval_max_new_tokens);
  }

  void estimate(MethodPlan& other, const MethodPlan& mine) const {
    const bool is_full = other.method == Finetuning::kFull;
    TimePlan time = *mine.time;
    const double update = kBytesOfAUpdate * static_cast<double>(is_full ? other.trained : mine.trained) *
                          static_cast<double>(plan_.steps) / memory_rate(device_);
    time.training = is_full ? time.training * kOfFull + update : std::max(time.training - update, 0.0) / kOfFull;
    time.measured = 0;
    time.basis = is_full ? "estimated: LoRA's products and half as many again, and AdamW's pass over all values"
                         : "estimated: two thirds of full tuning's products, without AdamW's pass over all values";
    finish(time, other);
    other.time = time;
  }

  const PlanRequest& request_;
  const RunConfig& config_;
  Stop stop_;
  Windows windows_;
  BatchSize largest_;
  Evaluation evaluation_;
  Finetuning configured_;
  RunPlan plan_;
  RowSizes sizes_, held_out_sizes_;
  std::vector<MicroBatch> batches_, held_out_;
  int64_t base_bytes_ = 0;
  double checksum_ = 0;  // seconds that a run takes to read its base for it
  double spent_ = 0;     // seconds that measuring the last method took
  at::Device device_ = at::kCPU;
};

}  // namespace

RunPlan make_plan(const PlanRequest& request) { return Planner(request).make(); }

int64_t count_saves(int64_t save_steps, int64_t interval, int64_t steps) {
  const int64_t before = steps - 1;  // the last step is saved in any case
  const auto multiples = [before](int64_t of) { return of == 0 ? 0 : before / of; };
  int64_t of_both = 0;
  if (save_steps > 0 && interval > 0)  // those of the least common multiple, which may not fit in 64 bits
    of_both = multiples(save_steps) / (interval / std::gcd(save_steps, interval));
  return multiples(save_steps) + multiples(interval) - of_both + 2;
}

}  // namespace rankfold
