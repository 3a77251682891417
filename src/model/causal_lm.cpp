#include "rankfold/causal_lm.h"

#include "core/check.h"
#include "core/config.h"
#include "core/file.h"
#include "core/guard.h"
#include "io/dtype.h"
#include "model/load_network.h"
#include "model/model.h"
#include "model/model_config.h"
#include "ops/backend.h"
#include "ops/open_cuda.h"
#include "text/vocabulary.h"

#include <ATen/ATen.h>

namespace rankfold {
namespace {

// float16 has no fast arithmetic on CPUs; bfloat16 is as wide where the processor multiplies it. GPUs compute in
// bfloat16 as fast as in float16, and no value of a gradient falls out of its range.
at::ScalarType compute_dtype(const std::string& asked, at::ScalarType stored, at::Device device) {
  if (const auto dtype = meaning_of(kDtypes, asked)) {
    if (*dtype == at::kHalf && !ops::backend_of(device.type()))  // only kernels compute in it
      fail("dtype: float16 is computed on CUDA devices only; expected float32, bfloat16 or auto on a CPU");
    return *dtype;
  }
  if (stored != at::kHalf) return stored == at::kBFloat16 ? at::kBFloat16 : at::kFloat;
  if (!device.is_cpu()) return at::kBFloat16;
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512bf16")) return at::kBFloat16;
#endif
  return at::kFloat;
}

}  // namespace

CausalLM CausalLM::load(const std::filesystem::path& path, const LoadConfig& load) try {
  check_fields(load);
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
  const at::ScalarType dtype = compute_dtype(load.dtype, config.stored_dtype, device);
  CausalLM model;
  model.model_ = std::make_shared<Model>(std::move(folder), std::move(config), dtype, device);
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
  int64_t count = network.embedding.numel();
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
