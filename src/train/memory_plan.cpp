#include "train/memory_plan.h"

#include "core/check.h"
#include "core/memory.h"
#include "core/number_text.h"
#include "ops/augmented.h"
#include "ops/rowwise.h"

#include <c10/core/CachingDeviceAllocator.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <iomanip>
#include <set>
#include <sstream>

namespace rankfold {
namespace {

// Measured: code of the libraries that the first step touches, and what oneDNN keeps for each size of each product.
constexpr int64_t kTouchedCode = int64_t{32} << 20;
constexpr int64_t kProductsOfALayer = 8;                // four projections, forward and backward
constexpr int64_t kMostCompiled = 1024;                 // that oneDNN keeps
constexpr int64_t kDeviceLibraries = int64_t{1} << 30;  // context, cuBLASLt, attention: an allowance, not measured yet
int64_t compiled_product(at::ScalarType dtype) { return dtype == at::kBFloat16 ? 680 << 10 : 350 << 10; }

const char* name_of(Checkpointing level) { return word_for(kCheckpointings, level); }

// Bytes of a token, or of a whole layer, at a time.
class Estimate {
 public:
  // trains_all: as if every parameter trained, and nothing else.
  Estimate(Model& model, const BatchSize& batch, bool trains_all = false)
      : model_(model),
        network_(model.network()),
        batch_(batch),
        trains_all_(trains_all),
        tokens_(ops::product_rows(batch.tokens)),
        e_(c10::elementSize(model.dtype)) {
    const ModelConfig& c = model.config;
    hidden_ = c.hidden_size, inner_ = c.intermediate_size;
    query_ = c.num_attention_heads * c.head_dim, qkv_ = query_ + 2 * c.num_key_value_heads * c.head_dim;
  }

  // Rank sums of a projection's updates, in bytes.
  int64_t sums(const Projection& p) const {
    int64_t ranks = 0;
    if (trains_all_) return 0;
    for (const LowRank& u : p.updates) ranks += u.rank();
    return ranks * e_;
  }
  // Kept by each half of a layer, its input apart.
  int64_t attention(const Layer& layer) const {
    const ModelConfig& c = model_.config;
    // Where heads are normalised, what they were before is kept too.
    const int64_t heads = c.has_qk_norm ? qkv_ * e_ + 4 * (c.num_attention_heads + c.num_key_value_heads) : 0;
    return (qkv_ + query_) * e_ + heads + c.num_attention_heads * 4 + 4 + sums(layer.qkv) + sums(layer.o) +
           out_norm(layer.attention_out_norm);
  }
  int64_t mlp(const Layer& layer) const {
    return 2 * inner_ * e_ + 4 + sums(layer.gate_up) + sums(layer.down) + out_norm(layer.mlp_out_norm);
  }
  // What a sub-layer gave, where it is normalised before it is added.
  int64_t out_norm(const Norm& norm) const { return norm.weight.defined() ? hidden_ * e_ + 4 : 0; }

  int64_t kept(Checkpointing level) const {
    int64_t token = hidden_ * e_ + 24, again = 0;  // the last hidden state; tokens, labels, positions, rows
    for (size_t i = first_trained_layer(); i < network_.layers.size(); ++i) {
      const Layer& layer = network_.layers[i];
      const int64_t states = hidden_ * e_ * (level == Checkpointing::full ? 1 : 2);
      token += states + (level == Checkpointing::full ? 0 : attention(layer)) +
               (level == Checkpointing::none ? mlp(layer) : 0);
      // One layer at a time is made again.
      if (level == Checkpointing::mlp) again = std::max(again, mlp(layer));
      if (level == Checkpointing::full) again = std::max(again, hidden_ * e_ + attention(layer) + mlp(layer));
    }
    return (token + again) * tokens_;
  }

  int64_t temporary() const {
    const int64_t h = tokens_ * hidden_ * e_;
    const int64_t chunk = std::min(batch_.tokens, ops::loss_chunk(model_.device.type()));
    const int64_t loss = chunk * (model_.config.vocab_size * e_ + 3 * hidden_ * e_) + h + gradient(network_.head);
    int64_t leaves = 0;
    for (const Layer& layer : network_.layers)
      for (const Projection* p : layer.projections()) leaves = std::max(leaves, gradient(*p));
    // Gradients of whole weights: x, and both factors transposed for the product.
    const int64_t transposed = trains_weights() ? tokens_ * (3 * inner_ + hidden_) * e_ : 0;
    const int64_t mlp = tokens_ * 3 * inner_ * e_ + 2 * h + transposed;
    const int64_t attention =
        tokens_ * (query_ + qkv_) * e_ + 2 * h +
        ops::attention_scratch(model_.dtype, model_.device.type(), batch_.longest, network_.layers[0].attention);
    return std::max({loss, mlp + leaves, attention + leaves, embedding_gradient()}) + decoded();
  }

 private:
  // Blocks of weights that are decoded, and what they are multiplied into; on a device the buffers of all shapes.
  int64_t decoded() const {
    int64_t bytes = 0;
    if (!model_.device.is_cpu()) {
      std::set<std::array<int64_t, 4>> buffers;
      for (Projection* p : network_.projections())
        if (!trains_all_ && !p->frozen->dense()) buffers.insert(ops::decoded_buffer(*p));
      for (const auto& [n, k, rows, columns] : buffers) bytes += rows * columns;
      return bytes * e_;
    }
    for (Projection* p : network_.projections()) {
      if (trains_all_ || p->frozen->dense()) continue;
      const int64_t n = p->out_features(), k = p->in_features();
      const int64_t elements = std::min(n * k, DecodedWeight::block_elements(tokens_));
      bytes = std::max(bytes, elements + tokens_ * std::max(elements / k, elements / n));
    }
    return bytes * e_;
  }
  size_t first_trained_layer() const {
    if (trains_all_) return 0;
    if (network_.embedding_master.defined() || !network_.embedding_updates.empty()) return 0;
    for (const Norm* norm : network_.norms())
      if (norm != &network_.norm && norm->master.defined()) return 0;  // where one of the layers' trains, the others do
    for (size_t i = 0; i < network_.layers.size(); ++i) {
      const Layer& layer = network_.layers[i];
      for (const Projection* p : layer.projections())
        if (p->trains()) return i;
    }
    return network_.layers.size();
  }
  // Of a layer.
  bool trains_weights() const {
    if (trains_all_) return true;
    for (const Layer& layer : network_.layers)
      for (const Projection* p : layer.projections())
        for (const Module& m : p->modules)
          if (m.master.defined()) return true;
    return false;
  }
  int64_t embedding_gradient() const {
    if (trains_all_) return network_.embedding->rows() * network_.embedding->columns() * 4;
    int64_t bytes = network_.embedding_master.defined() ? network_.embedding_master.numel() * 4 : 0;
    for (const LowRank& u : network_.embedding_updates) bytes += (u.a.numel() + u.b.numel()) * 4;
    return bytes;
  }
  // Of a projection's leaves, beside the flat gradient that it is added to.
  int64_t gradient(const Projection& p) const {
    int64_t bytes = 0;
    if (trains_all_) return p.out_features() * p.in_features() * (e_ == 2 ? 6 : 4);
    for (const Module& m : p.modules) {
      if (m.master.defined()) bytes += m.master.numel() * (e_ == 2 ? 6 : 4);
    }
    for (const LowRank& u : p.updates) bytes += (u.a.numel() + u.b.numel()) * 4;
    return bytes;
  }

  Model& model_;
  Network& network_;
  const BatchSize& batch_;
  bool trains_all_;
  int64_t tokens_, e_, hidden_ = 0, inner_ = 0, query_ = 0, qkv_ = 0;
};

// Gives the bytes of copies that are yet to be filled. What is a view of the trained values counts as those.
int64_t add_weights(Model& model, const at::Tensor& values, MemoryPlan& plan) {
  Network& network = model.network();
  std::set<const void*> mapped;
  for (const std::string& name : model.folder.names())
    if (const TensorInfo& info = model.folder.info(name);
        info.dtype != at::ScalarType::Undefined && info.begin < info.end)
      mapped.insert(model.folder.tensor(name).const_data_ptr());
  std::set<const void*> counted;  // tied weights may be one
  const auto add = [&](const at::Tensor& weight, bool counts_mapped = true) {
    if (weight.is_alias_of(values) || !counted.insert(weight.const_data_ptr()).second) return;
    const bool is_mapped = mapped.contains(weight.const_data_ptr());
    if (counts_mapped || !is_mapped) (is_mapped ? plan.mapped : plan.copied) += static_cast<int64_t>(weight.nbytes());
  };
  int64_t unfilled = 0;
  for (const at::Tensor& x : network.embedding->tensors()) add(x);
  for (Projection* p : network.projections()) {
    for (const at::Tensor& x : p->frozen->tensors()) add(x);
    if (const DenseWeight* dense = p->frozen->dense(); dense && !dense->is_filled()) unfilled += p->frozen->bytes();
    if (p->bias.defined()) plan.copied += static_cast<int64_t>(p->bias.nbytes());
  }
  for (Norm* norm : network.norms()) add(norm->weight);
  // What an adapter stands in place of stays in memory, too, where it is not mapped.
  Network& base = model.adapters.base();
  const std::vector<Projection*> before = base.projections(), now = network.projections();
  for (const at::Tensor& x : base.embedding->tensors()) add(x, /*counts_mapped=*/false);
  for (size_t i = 0; i < now.size(); ++i)
    if (before[i]->frozen != now[i]->frozen)
      for (const at::Tensor& x : before[i]->frozen->tensors()) add(x, /*counts_mapped=*/false);
  return unfilled;
}

}  // namespace

std::string MemoryPlan::table() const {
  std::ostringstream text;
  text << "memory:";
  const auto add = [&](const char* name, int64_t bytes, const std::string& note) {
    text << "\n  " << std::left << std::setw(10) << name << std::right << std::setw(10) << bytes_text(bytes)
         << (note.empty() ? "" : "  ") << note;
  };
  add("weights", mapped + copied, copied == 0 ? "mapped" : mapped == 0 ? "copied" : bytes_text(mapped) + " mapped");
  add("adapter", adapter, "values and gradients");
  add("optimizer", optimizer, "two moments");
  add("kept", kept,
      join("for the backward pass of ", batch.rows, batch.rows == 1 ? " row, " : " rows, ", batch.tokens,
           " tokens; gradient_checkpointing ", name_of(checkpointing)));
  add("temporary", temporary, "");
  add("libraries", libraries, "code, compiled products, data set");
  add("in all", total(), limit > 0 ? "of " + bytes_text(limit) : "");
  return text.str();
}

namespace {

// --memory_budget, or what is there; 0 where the system does not say.
int64_t memory_limit(const TrainConfig& config, const Model& model, const MemoryPlan& plan) {
  if (!config.memory_budget.empty()) return static_cast<int64_t>(*parse_size(config.memory_budget));
  if (model.device.is_cpu()) return available_bytes();
  c10::DeviceAllocator* allocator = c10::getDeviceAllocator(model.device.type());
  allocator->emptyCache();  // what an earlier run of this process has left counts as free
  const auto [free, total] = allocator->getMemoryInfo(model.device.index());
  return static_cast<int64_t>(free) + plan.copied + plan.adapter + plan.optimizer;  // ours lie there already
}

std::vector<MemoryPlan> at_every_level(MemoryPlan plan, const Estimate& estimate) {
  std::vector<MemoryPlan> plans;
  plan.temporary = estimate.temporary();
  for (const auto& [name, level, short_name] : kCheckpointings) {  // the least first
    if (!level) continue;
    plan.checkpointing = *level;
    plan.kept = estimate.kept(*level);
    plans.push_back(plan);
  }
  return plans;
}

}  // namespace

std::vector<MemoryPlan> plan_levels(Model& model, const Adapter& adapter, const TrainConfig& config,
                                    const BatchSize& batch) {
  MemoryPlan plan;
  plan.batch = batch;
  const int64_t unfilled = add_weights(model, adapter.flat_values(), plan);
  plan.adapter = 8 * adapter.parameter_count();
  plan.optimizer = 8 * adapter.parameter_count();
  if (model.device.is_cpu()) {
    std::set<std::string> files;
    for (const TensorFile& file : model.folder.files()) files.insert(std::filesystem::canonical(file.path()).string());
    const int64_t ours = plan.copied - unfilled + plan.adapter + plan.optimizer + resident_bytes_of(files);
    plan.libraries = std::max<int64_t>(0, resident_bytes() - ours) + kTouchedCode +
                     std::min(batch.sizes * kProductsOfALayer, kMostCompiled) * compiled_product(model.dtype);
  } else {
    plan.libraries = kDeviceLibraries;
  }
  plan.limit = memory_limit(config, model, plan);
  return at_every_level(plan, Estimate(model, batch));
}

std::vector<MemoryPlan> plan_levels_of_full(Model& model, const Adapter& adapter, const TrainConfig& config,
                                            const BatchSize& batch) {
  MemoryPlan plan = plan_levels(model, adapter, config, batch).front();
  Network& network = model.adapters.base();
  const bool is_fp32 = model.dtype == at::kFloat;
  const int64_t element = c10::elementSize(model.dtype);
  int64_t parameters = network.embedding->rows() * network.embedding->columns();
  // The embedding is read from its fp32 values; in float32 so is every weight.
  plan.mapped = plan.copied = 0;
  for (const Projection* p : network.projections()) {
    const int64_t weights = p->out_features() * p->in_features();
    const bool is_tied = network.is_tied_head(p);
    if (!is_tied) parameters += weights;
    if (!is_fp32 || p->has_unit_rows) plan.copied += weights * element;
    if (p->bias.defined()) parameters += p->bias.numel(), plan.copied += static_cast<int64_t>(p->bias.nbytes());
  }
  for (const Norm* norm : network.norms()) {
    parameters += norm->weight.numel();
    plan.copied += static_cast<int64_t>(norm->weight.nbytes());
  }
  plan.adapter = plan.optimizer = 8 * parameters;
  return at_every_level(plan, Estimate(model, batch, /*trains_all=*/true));
}

const MemoryPlan& chosen_plan(const std::vector<MemoryPlan>& levels, const TrainConfig& config) {
  const std::optional<Checkpointing> wanted = meaning_of(kCheckpointings, config.gradient_checkpointing);
  const MemoryPlan* chosen = nullptr;
  for (const MemoryPlan& plan : levels) {
    if (wanted && *wanted != plan.checkpointing) continue;
    chosen = &plan;
    if (plan.fits()) break;
  }
  RANKFOLD_ASSERT(chosen);
  return *chosen;
}

MemoryPlan plan_memory(Model& model, const Adapter& adapter, const TrainConfig& config, const BatchSize& batch) {
  const std::vector<MemoryPlan> levels = plan_levels(model, adapter, config, batch);
  const MemoryPlan &asked = chosen_plan(levels, config), &least = levels.back();
  if (asked.fits()) return asked;
  const int64_t fixed = least.total() - least.kept - least.temporary, limit = asked.limit;
  fail(config.memory_budget.empty() ? "memory: " : "memory_budget: ", bytes_text(limit), " are there, ",
       bytes_text(asked.total()), " are needed at gradient_checkpointing ", name_of(asked.checkpointing), " (weights ",
       bytes_text(asked.mapped + asked.copied), ", adapter and optimizer ", bytes_text(asked.adapter + asked.optimizer),
       ", libraries ", bytes_text(asked.libraries), ", a micro-batch of ", batch.rows, " rows and ", batch.tokens,
       " tokens ", bytes_text(asked.kept + asked.temporary), ")",
       asked.checkpointing != Checkpointing::full && least.total() <= limit
           ? ": gradient_checkpointing full takes " + bytes_text(least.total())
       : fixed < limit ? std::string(": lower per_device_train_batch_size or max_length")
                       : std::string(": it would not fit with any batch"));
}

}  // namespace rankfold
