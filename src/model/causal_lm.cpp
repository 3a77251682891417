#include "rankfold/causal_lm.h"

#include "core/check.h"
#include "core/file.h"
#include "io/dtype.h"
#include "model/architecture.h"
#include "model/decoder.h"
#include "model/model_config.h"
#include "ops/backend.h"
#include "ops/open_cuda.h"

#include <ATen/ATen.h>

namespace rankfold {
namespace {

// float16 has no fast arithmetic on CPUs; bfloat16 is as wide where the processor multiplies it. GPUs compute in
// bfloat16 as fast as in float16, and no value of a gradient falls out of its range.
at::ScalarType compute_dtype(const std::string& asked, at::ScalarType stored, at::Device device) {
  if (asked != "auto") {
    const auto dtype = parse_model_dtype(asked, /*short_names=*/true);
    if (!dtype) fail("dtype: expected auto, float32, bfloat16 or float16, got '", asked, "'");
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

CausalLM CausalLM::load(const std::filesystem::path& path, const LoadConfig& load) {
  const at::Device device = ops::open_device(load.device);
  ModelFolder folder = ModelFolder::open(path);
  ModelConfig config = read_model_config(folder);
  const at::ScalarType dtype = compute_dtype(load.dtype, config.stored_dtype, device);
  CausalLM model;
  model.decoder_ = std::make_shared<Decoder>(std::move(folder), std::move(config), dtype, device);
  return model;
}

at::Tensor CausalLM::loss(const Batch& batch) const { return decoder_->loss(batch); }
at::Tensor CausalLM::logits(const Batch& batch) const { return decoder_->logits(batch); }
const ModelConfig& CausalLM::config() const { return decoder_->config; }
const std::filesystem::path& CausalLM::folder() const { return decoder_->folder.path(); }
at::ScalarType CausalLM::dtype() const { return decoder_->dtype; }
at::Device CausalLM::device() const { return decoder_->device; }
const std::vector<LinearModule>& CausalLM::linear_modules() const { return decoder_->linears; }

int64_t CausalLM::parameter_count() const {
  int64_t count = decoder_->embedding.numel();
  for (const Norm* norm : decoder_->norms()) count += norm->weight.numel();
  for (const Projection* p : decoder_->projections())
    if (!decoder_->is_tied(p)) count += p->weight.numel();
  return count;
}

const Tokenizer& CausalLM::tokenizer() const {
  if (!decoder_->tokenizer) {
    const auto& eos = decoder_->config.eos_token_ids;
    decoder_->tokenizer = Tokenizer::open(folder(), find_architecture(config().architecture).bos_by_default,
                                          eos.empty() ? -1 : static_cast<int32_t>(eos.front()));
  }
  return *decoder_->tokenizer;
}

bool CausalLM::has_tokenizer() const { return what_stands_at(folder() / "tokenizer.model") != "nothing"; }

}  // namespace rankfold
