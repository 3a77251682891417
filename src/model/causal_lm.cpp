#include "rankfold/causal_lm.h"

#include "core/check.h"
#include "core/config.h"
#include "core/file.h"
#include "core/guard.h"
#include "core/number_text.h"
#include "io/dtype.h"
#include "model/load_network.h"
#include "model/model.h"
#include "model/model_config.h"
#include "ops/backend.h"
#include "ops/open_cuda.h"
#include "ops/product_speed.h"
#include "quant/base_storage.h"
#include "text/vocabulary.h"

#include <ATen/ATen.h>

namespace rankfold {
namespace {

std::string gflops(double x) { return printed(x < 10 ? "%.1f" : "%.0f", x); }

// Of "auto". 16 bits on a GPU are bfloat16: it computes as fast in it as in float16, and no value of a gradient falls out
// of its range. On the CPU the faster product decides, and a line tells where that is not the stored dtype's.
at::ScalarType best_dtype(ModelConfig& config, at::Device device) {
  if (config.stored_dtype != at::kBFloat16 && config.stored_dtype != at::kHalf) return at::kFloat;
  if (!device.is_cpu()) return at::kBFloat16;
  const ops::ProductSpeed& speed = ops::product_speed();
  if (!ops::prefers_float32(speed)) return at::kBFloat16;
  config.notes.push_back(join("dtype auto: computes in float32, whose products are ",
                              printed("%.1f", speed.float32 / speed.bfloat16), " times as fast here as bfloat16's (",
                              gflops(speed.float32), " against ", gflops(speed.bfloat16),
                              " GFLOP/s); the weights stay as they are"));
  return at::kFloat;
}

at::ScalarType compute_dtype(const std::string& asked, ModelConfig& config, at::Device device) {
  const auto dtype = meaning_of(kDtypes, asked);
  if (!dtype) return best_dtype(config, device);
  if (*dtype == at::kHalf && !ops::backend_of(device.type()))  // only kernels compute in it
    fail("dtype: float16 is computed on CUDA devices only; expected float32, bfloat16 or auto on a CPU");
  return *dtype;
}

}  // namespace

CausalLM CausalLM::load(const std::filesystem::path& path, const LoadConfig& load) try {
  check_fields(load);
  const std::optional<BaseStorage> storage = storage_of(load);
  const at::Device device = ops::open_device(load.device);
  ModelFolder folder = ModelFolder::open(path);
  ModelConfig config = read_model_config(folder);
  // As transformers does: two different weights are not tied, whatever config.json says.
  if (config.tie_word_embeddings && head_differs_from_embedding(folder)) {
    config.tie_word_embeddings = false;
    config.notes.push_back(one_line(join((path / "config.json").string(),
                                         ": tie_word_embeddings is true, but the head's weight is not the embedding: "
                                         "not tied")));
  }
  if (config.tie_word_embeddings && config.has_norm_head)
    fail((path / "config.json").string(), ": norm_head: expected false beside tie_word_embeddings, got true");
  const at::ScalarType dtype = compute_dtype(load.dtype, config, device);
  CausalLM model;
  model.model_ = std::make_shared<Model>(std::move(folder), std::move(config), dtype, device, storage);
  return model;
} catch (...) {
  rethrow_as_error();
}

at::Tensor CausalLM::loss(const Batch& batch) const try { return model_->decoder.loss(batch); } catch (...) {
  rethrow_as_error();
}

at::Tensor CausalLM::logits(const Batch& batch) const try { return model_->decoder.logits(batch); } catch (...) {
  rethrow_as_error();
}

const ModelConfig& CausalLM::config() const { return model_->config; }
const std::filesystem::path& CausalLM::folder() const { return model_->folder.path(); }
at::ScalarType CausalLM::dtype() const { return model_->dtype; }
at::Device CausalLM::device() const { return model_->device; }
const std::vector<LinearModule>& CausalLM::linear_modules() const { return model_->linears; }

int64_t CausalLM::parameter_count() const {
  Network& network = model_->adapters.base();
  int64_t count = network.embedding->rows() * network.embedding->columns();
  for (const Norm* norm : network.norms()) count += norm->weight.numel();
  for (const Projection* p : network.projections()) {
    if (!network.is_tied_head(p)) count += p->out_features() * p->in_features();
    if (p->bias.defined()) count += p->bias.numel();
  }
  return count;
}

const Tokenizer& CausalLM::tokenizer() const try { return model_->tokenizer(); } catch (...) {
  rethrow_as_error();
}

bool CausalLM::has_tokenizer() const {
  return what_stands_at(folder() / kTokenizerJson) != "nothing" ||
         what_stands_at(folder() / kTokenizerModel) != "nothing";
}

std::vector<std::string> CausalLM::adapter_names() const { return model_->adapters.names(); }
std::vector<std::string> CausalLM::active_adapters() const { return model_->adapters.active(); }
void CausalLM::set_active_adapters(const std::vector<std::string>& names) const try {
  model_->adapters.activate(names);
} catch (...) {
  rethrow_as_error();
}
void CausalLM::merge_adapters() const try { model_->adapters.merge_active(); } catch (...) {
  rethrow_as_error();
}

std::shared_ptr<Decoder> CausalLM::shared_decoder() const {
  return model_ ? std::shared_ptr<Decoder>(model_, &model_->decoder) : nullptr;
}

}  // namespace rankfold
