// Candidates, best first; the first one that suits and does not refuse is taken:
//   flash             16 bits, heads up to 256 wide. Takes strided q, k, v and grouped heads as they are.
//   memory-efficient  float32 too. One key/value head for each query head: they are repeated, and their gradients added
//                     up.
//   any               what has a soft cap or slopes: LibTorch's operators one by one (ops/any_attention.h), which holds
//                     the scores of some rows. This wheel's flash kernels are built without slopes and know no soft cap.
// Both want head sizes that are multiples of 8: others get columns of zeros, which add nothing to any product.
// cuDNN, the fastest on Hopper for long sequences, is not among them: at::_cudnn_attention_forward has cum_seq
// arguments, but places sequences at row * heads * size, so our strided views would have to be copied, and it builds a
// plan for every batch size and longest sequence, which here change from batch to batch.
#include "cuda/attention.h"

#include "core/check.h"
#include "ops/any_attention.h"

#include <ATen/Context.h>
#include <ATen/ops/_efficient_attention_backward.h>
#include <ATen/ops/_efficient_attention_forward.h>
#include <ATen/ops/_flash_attention_backward.h>
#include <ATen/ops/_flash_attention_forward.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/scalar_tensor.h>
#include <c10/cuda/CUDAGuard.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <mutex>
#include <optional>
#include <string>

namespace rankfold::cuda {
namespace {

using at::Tensor;
using Gradients = std::tuple<Tensor, Tensor, Tensor>;

// flash sums dq with atomics unless told not to; then a run would not repeat itself to the bit. LibTorch exports no
// function that takes this as an argument: its operator asks the switch of the whole process. It is on for that one call.
// The lock keeps our own calls apart; CausalLM::loss says what it means for others. Memory that is written anyway need
// not be filled first.
class Deterministic {
 public:
  Deterministic()
      : lock_(mutex()),
        context_(at::globalContext()),
        on_(context_.deterministicAlgorithms()),
        warns_(context_.deterministicAlgorithmsWarnOnly()),
        fills_(context_.deterministicFillUninitializedMemory()) {
    context_.setDeterministicAlgorithms(true, /*warn_only=*/false);
    context_.setDeterministicFillUninitializedMemory(false);
  }
  ~Deterministic() {
    context_.setDeterministicAlgorithms(on_, warns_);
    context_.setDeterministicFillUninitializedMemory(fills_);
  }
  Deterministic(const Deterministic&) = delete;
  Deterministic& operator=(const Deterministic&) = delete;

 private:
  static std::mutex& mutex() {
    static std::mutex mutex;
    return mutex;
  }
  std::lock_guard<std::mutex> lock_;
  at::Context& context_;
  const bool on_, warns_, fills_;
};

int capability(c10::DeviceIndex device) {
  int major = 0, minor = 0;
  cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
  cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
  return 10 * major + minor;
}

// ---- flash

bool suits_flash(const Tensor& q, const AttentionSpec& spec) {
  const int64_t size = q.size(2);
  if (q.scalar_type() == at::kFloat || size > 256 || !spec.has_plain_scores()) return false;
  if (size <= 192) return true;
  // Its backward needs more shared memory for wide heads than the smaller chips of a generation have.
  const int chip = capability(q.device().index());
  return chip == 80 || chip == 90 || chip == 100;
}

// With a longest sequence of one token it would fold grouped heads into rows and give another shape of lse.
int64_t flash_length(const Sequences& sequences) { return std::max<int64_t>(sequences.longest, 2); }

// Whether some key before a query is not seen.
bool has_window(const AttentionSpec& spec, const Sequences& sequences) {
  return spec.window > 0 && spec.window < sequences.longest;
}
// Keys before a query's own that it sees, and after it; none given: all that causality leaves.
std::optional<int64_t> keys_before(const AttentionSpec& spec, const Sequences& sequences) {
  return has_window(spec, sequences) ? std::optional<int64_t>(spec.window - 1) : std::nullopt;
}
std::optional<int64_t> keys_after(const AttentionSpec& spec, const Sequences& sequences) {
  return has_window(spec, sequences) ? std::optional<int64_t>(0) : std::nullopt;
}

std::vector<Tensor> flash(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionSpec& spec,
                          const Sequences& sequences) {
  const int64_t longest = flash_length(sequences);
  const auto [y, lse, state, unused, mask] =
      at::_flash_attention_forward(q, k, v, sequences.offsets, sequences.offsets, longest, longest, /*dropout_p=*/0,
                                   /*is_causal=*/true, /*return_debug_mask=*/false, spec.scale,
                                   keys_before(spec, sequences), keys_after(spec, sequences));
  return {y, lse, state, unused};
}

Gradients flash_backward(const Tensor& dy, const Tensor& q, const Tensor& k, const Tensor& v,
                         const std::vector<Tensor>& kept, const AttentionSpec& spec, const Sequences& sequences) {
  const int64_t longest = flash_length(sequences);
  const Deterministic deterministic;
  return at::_flash_attention_backward(dy, q, k, v, kept[0], kept[1], sequences.offsets, sequences.offsets, longest,
                                       longest, /*dropout_p=*/0, /*is_causal=*/true, kept[2], kept[3], spec.scale,
                                       keys_before(spec, sequences), keys_after(spec, sequences));
}

// ---- memory-efficient: [1, T, heads, size]. Backward sums in a fixed order where the keys are not split.

constexpr int64_t kCausalFromTopLeft = 1;  // sdp::CustomMaskType

bool suits_efficient(const Tensor&, const AttentionSpec& spec) { return spec.has_plain_scores(); }

// Keys that a query sees, its own the last; none given: all before it.
std::optional<int64_t> window_of(const AttentionSpec& spec, const Sequences& sequences) {
  return has_window(spec, sequences) ? std::optional<int64_t>(spec.window) : std::nullopt;
}

Tensor repeat(const Tensor& x, int64_t group) { return (group == 1 ? x : x.repeat_interleave(group, 1)).unsqueeze(0); }
Tensor collect(const Tensor& x, int64_t group) {
  const Tensor gradient = x.squeeze(0);
  return group == 1 ? gradient : gradient.unflatten(1, {gradient.size(1) / group, group}).sum(2);
}

std::vector<Tensor> efficient(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionSpec& spec,
                              const Sequences& sequences) {
  const int64_t group = q.size(1) / k.size(1);
  const auto [y, lse, seed, offset, longest_q, longest_k] = at::_efficient_attention_forward(
      q.unsqueeze(0), repeat(k, group), repeat(v, group), /*bias=*/{}, sequences.offsets, sequences.offsets,
      sequences.longest, sequences.longest, /*dropout_p=*/0, kCausalFromTopLeft, /*compute_log_sumexp=*/true,
      spec.scale, /*seqlen_k=*/{}, window_of(spec, sequences));
  return {y.squeeze(0), lse, seed, offset};
}

Gradients efficient_backward(const Tensor& dy, const Tensor& q, const Tensor& k, const Tensor& v,
                             const std::vector<Tensor>& kept, const AttentionSpec& spec, const Sequences& sequences) {
  const int64_t group = q.size(1) / k.size(1);
  const auto [dq, dk, dv, dbias] = at::_efficient_attention_backward(
      dy.unsqueeze(0), q.unsqueeze(0), repeat(k, group), repeat(v, group), /*bias=*/{}, kept[0].unsqueeze(0),
      sequences.offsets, sequences.offsets, sequences.longest, sequences.longest, kept[1], /*dropout_p=*/0, kept[2],
      kept[3], kCausalFromTopLeft, /*bias_requires_grad=*/false, spec.scale, /*num_splits_key=*/1,
      window_of(spec, sequences));
  return {dq.squeeze(0), collect(dk, group), collect(dv, group)};
}

// ---- any

bool suits_anything(const Tensor&, const AttentionSpec&) { return true; }

std::vector<Tensor> any(const Tensor& q, const Tensor& k, const Tensor& v, const AttentionSpec& spec,
                        const Sequences& sequences) {
  return ops::any_attention(q, k, v, spec, sequences);
}
Gradients any_backward(const Tensor& dy, const Tensor& q, const Tensor& k, const Tensor& v, const std::vector<Tensor>&,
                       const AttentionSpec& spec, const Sequences& sequences) {
  return ops::any_attention_backward(dy, q, k, v, spec, sequences);
}

// ---- The choice

struct Candidate {
  const char* name;
  bool (*suits)(const Tensor& q, const AttentionSpec& spec);
  decltype(&flash) forward;
  decltype(&flash_backward) backward;
};
constexpr std::array<Candidate, 3> kCandidates = {{
    {"flash (LibTorch)", &suits_flash, &flash, &flash_backward},
    {"memory-efficient (LibTorch)", &suits_efficient, &efficient, &efficient_backward},
    {"operator by operator (LibTorch)", &suits_anything, &any, &any_backward},
}};
std::mutex name_mutex;
std::string last_name = "none yet";
void note(std::string name) {
  const std::lock_guard lock(name_mutex);
  last_name = std::move(name);
}

// With columns of zeros up to a multiple of 8.
Tensor widened(const Tensor& x) {
  const int64_t spare = (8 - x.size(2) % 8) % 8;
  return spare == 0 ? x : at::constant_pad_nd(x, {0, spare});
}

// Where the search begins for tensors like q and attention like this: past the candidates that do not suit or have refused
// before. `works` says that one has served such calls already; what it throws from then on is an error like any other.
struct Choice {
  size_t candidate = 0;
  bool works = false;
};
struct Choices {
  // Device, dtype, head size; whether scores are plain, whether there is a window.
  using Key = std::tuple<int, at::ScalarType, int64_t, bool, bool>;
  std::mutex mutex;
  std::map<Key, Choice> of;

  static Choices& get() {
    static Choices choices;
    return choices;
  }
  static Key key(const Tensor& q, const AttentionSpec& spec) {
    return {q.device().index(), q.scalar_type(), q.size(2), spec.has_plain_scores(), spec.window > 0};
  }
  Choice find(const Key& key) {
    const std::lock_guard lock(mutex);
    return of[key];
  }
  void set(const Key& key, Choice choice) {
    const std::lock_guard lock(mutex);
    of[key] = choice;
  }
};

}  // namespace

std::string attention_name() {
  const std::lock_guard lock(name_mutex);
  return last_name;
}

std::vector<Tensor> attention(const Tensor& q_in, const Tensor& k_in, const Tensor& v_in, const AttentionSpec& spec,
                              const Sequences& sequences) {
  const c10::cuda::CUDAGuard guard(q_in.device());
  const int64_t size = q_in.size(2);
  const Tensor q = widened(q_in), k = widened(k_in), v = widened(v_in);
  const Choices::Key key = Choices::key(q, spec);
  const Choice choice = Choices::get().find(key);
  std::string refusals;
  for (size_t i = choice.candidate;; ++i) {
    const bool last = i + 1 == kCandidates.size();
    if (!last && !kCandidates[i].suits(q, spec)) continue;
    try {
      std::vector<Tensor> kept = kCandidates[i].forward(q, k, v, spec, sequences);
      if (size != q.size(2)) kept[0] = kept[0].narrow(2, 0, size).contiguous();
      // Backward must go to the same kernels, whatever is chosen in the meantime.
      kept.push_back(at::scalar_tensor(static_cast<int64_t>(i), at::kLong));
      if (!choice.works) {
        Choices::get().set(key, {.candidate = i, .works = true});
        note(kCandidates[i].name + refusals);
      }
      return kept;
    } catch (const c10::OutOfMemoryError&) {
      throw;
    } catch (const c10::AcceleratorError&) {
      throw;  // the device itself, not a refusal
    } catch (const c10::Error& error) {
      if (last || choice.works) throw;
      refusals += join("; ", kCandidates[i].name, " refused: ", error.what_without_backtrace());
    }
  }
}

Gradients attention_backward(const Tensor& dy, const Tensor& q, const Tensor& k, const Tensor& v,
                             const std::vector<Tensor>& kept, const AttentionSpec& spec, const Sequences& sequences) {
  const c10::cuda::CUDAGuard guard(q.device());
  const int64_t size = q.size(2);
  const auto candidate = static_cast<size_t>(kept.back().item<int64_t>());
  std::vector<Tensor> whole = kept;
  whole[0] = widened(kept[0]);
  auto [dq, dk, dv] =
      kCandidates.at(candidate).backward(widened(dy), widened(q), widened(k), widened(v), whole, spec, sequences);
  if (dq.size(2) == size) return {dq, dk, dv};
  const auto narrowed = [size](const Tensor& x) { return x.narrow(2, 0, size).contiguous(); };
  return {narrowed(dq), narrowed(dk), narrowed(dv)};
}

}  // namespace rankfold::cuda
