// Candidates, best first; the first one that suits and does not refuse is taken:
//   flash             16 bits, head size a multiple of 8 up to 256. Takes strided q, k, v and grouped heads as they
//   are. memory-efficient  the rest, float32 too. One key/value head for each query head: they are repeated, and their
//                     gradients added up.
// cuDNN, the fastest on Hopper for long sequences, is not among them: at::_cudnn_attention_forward has cum_seq
// arguments, but places sequences at row * heads * size, so our strided views would have to be copied, and it builds a
// plan for every batch size and longest sequence, which here change from batch to batch.
#include "cuda/attention.h"

#include <ATen/Context.h>
#include <ATen/ops/_efficient_attention_backward.h>
#include <ATen/ops/_efficient_attention_forward.h>
#include <ATen/ops/_flash_attention_backward.h>
#include <ATen/ops/_flash_attention_forward.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/scalar_tensor.h>
#include <c10/cuda/CUDAGuard.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <map>
#include <mutex>
#include <string>

namespace rankfold::cuda {
namespace {

using at::Tensor;
using Gradients = std::tuple<Tensor, Tensor, Tensor>;

// Both sum dq with atomics unless told not to; then a run would not repeat itself to the bit. The switch is the
// process's, hence the lock; memory that is written anyway need not be filled first.
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

bool suits_flash(const Tensor& q) {
  const int64_t size = q.size(2);
  if (q.scalar_type() == at::kFloat || size % 8 != 0 || size > 256) return false;
  if (size <= 192) return true;
  // Its backward needs more shared memory for wide heads than the smaller chips of a generation have.
  const int chip = capability(q.device().index());
  return chip == 80 || chip == 90 || chip == 100;
}

// With a longest sequence of one token it would fold grouped heads into rows and give another shape of lse.
int64_t flash_length(const Sequences& sequences) { return std::max<int64_t>(sequences.longest, 2); }

std::vector<Tensor> flash(const Tensor& q, const Tensor& k, const Tensor& v, const Sequences& sequences) {
  const int64_t longest = flash_length(sequences);
  const auto [y, lse, state, unused, mask] =
      at::_flash_attention_forward(q, k, v, sequences.offsets, sequences.offsets, longest, longest, /*dropout_p=*/0,
                                   /*is_causal=*/true, /*return_debug_mask=*/false);
  return {y, lse, state, unused};
}

Gradients flash_backward(const Tensor& dy, const Tensor& q, const Tensor& k, const Tensor& v,
                         const std::vector<Tensor>& kept, const Sequences& sequences) {
  const int64_t longest = flash_length(sequences);
  return at::_flash_attention_backward(dy, q, k, v, kept[0], kept[1], sequences.offsets, sequences.offsets, longest,
                                       longest, /*dropout_p=*/0, /*is_causal=*/true, kept[2], kept[3]);
}

// ---- memory-efficient: [1, T, heads, size]

constexpr int64_t kCausalFromTopLeft = 1;  // sdp::CustomMaskType

bool suits_anything(const Tensor&) { return true; }

Tensor repeat(const Tensor& x, int64_t group) { return (group == 1 ? x : x.repeat_interleave(group, 1)).unsqueeze(0); }
Tensor collect(const Tensor& x, int64_t group) {
  const Tensor gradient = x.squeeze(0);
  return group == 1 ? gradient : gradient.unflatten(1, {gradient.size(1) / group, group}).sum(2);
}

std::vector<Tensor> efficient(const Tensor& q, const Tensor& k, const Tensor& v, const Sequences& sequences) {
  const int64_t group = q.size(1) / k.size(1);
  const auto [y, lse, seed, offset, longest_q, longest_k] = at::_efficient_attention_forward(
      q.unsqueeze(0), repeat(k, group), repeat(v, group), /*bias=*/{}, sequences.offsets, sequences.offsets,
      sequences.longest, sequences.longest, /*dropout_p=*/0, kCausalFromTopLeft, /*compute_log_sumexp=*/true);
  return {y.squeeze(0), lse, seed, offset};
}

Gradients efficient_backward(const Tensor& dy, const Tensor& q, const Tensor& k, const Tensor& v,
                             const std::vector<Tensor>& kept, const Sequences& sequences) {
  const int64_t group = q.size(1) / k.size(1);
  const auto [dq, dk, dv, dbias] = at::_efficient_attention_backward(
      dy.unsqueeze(0), q.unsqueeze(0), repeat(k, group), repeat(v, group), /*bias=*/{}, kept[0].unsqueeze(0),
      sequences.offsets, sequences.offsets, sequences.longest, sequences.longest, kept[1], /*dropout_p=*/0, kept[2],
      kept[3], kCausalFromTopLeft, /*bias_requires_grad=*/false, /*scale=*/std::nullopt, /*num_splits_key=*/1);
  return {dq.squeeze(0), collect(dk, group), collect(dv, group)};
}

// ---- The choice

struct Candidate {
  const char* name;
  bool (*suits)(const Tensor& q);
  decltype(&flash) forward;
  decltype(&flash_backward) backward;
};
constexpr std::array<Candidate, 2> kCandidates = {{
    {"flash (LibTorch)", &suits_flash, &flash, &flash_backward},
    {"memory-efficient (LibTorch)", &suits_anything, &efficient, &efficient_backward},
}};
std::atomic<const char*> last_name{"none yet"};

// Where the search begins for tensors like q: past the candidates that do not suit or have refused before. `works` says
// that one has served such tensors already; what it throws from then on is an error like any other.
struct Choice {
  size_t candidate = 0;
  bool works = false;
};
struct Choices {
  std::mutex mutex;
  std::map<std::tuple<int, at::ScalarType, int64_t>, Choice> of;  // by device, dtype, head size

  static Choices& get() {
    static Choices choices;
    return choices;
  }
  static auto key(const Tensor& q) {
    return std::tuple<int, at::ScalarType, int64_t>(q.device().index(), q.scalar_type(), q.size(2));
  }
  Choice find(const Tensor& q) {
    const std::lock_guard lock(mutex);
    return of[key(q)];
  }
  void set(const Tensor& q, Choice choice) {
    const std::lock_guard lock(mutex);
    of[key(q)] = choice;
  }
};

}  // namespace

const char* attention_name() { return last_name.load(); }

std::vector<Tensor> attention(const Tensor& q, const Tensor& k, const Tensor& v, const Sequences& sequences) {
  const c10::cuda::CUDAGuard guard(q.device());
  Choice choice = Choices::get().find(q);
  for (size_t i = choice.candidate;; ++i) {
    const bool last = i + 1 == kCandidates.size();
    if (!last && !choice.works && !kCandidates[i].suits(q)) continue;
    try {
      std::vector<Tensor> kept = kCandidates[i].forward(q, k, v, sequences);
      // Backward must go to the same kernels, whatever is chosen in the meantime.
      kept.push_back(at::scalar_tensor(static_cast<int64_t>(i), at::kLong));
      if (!choice.works) Choices::get().set(q, {.candidate = i, .works = true});
      last_name = kCandidates[i].name;
      return kept;
    } catch (const c10::OutOfMemoryError&) {
      throw;
    } catch (const c10::Error&) {
      if (last || choice.works) throw;
    }
  }
}

Gradients attention_backward(const Tensor& dy, const Tensor& q, const Tensor& k, const Tensor& v,
                             const std::vector<Tensor>& kept, const Sequences& sequences) {
  const c10::cuda::CUDAGuard guard(q.device());
  const Deterministic deterministic;
  const auto candidate = static_cast<size_t>(kept.back().item<int64_t>());
  return kCandidates.at(candidate).backward(dy, q, k, v, kept, sequences);
}

}  // namespace rankfold::cuda
