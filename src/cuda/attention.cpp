// Candidates, best first; the first one that suits and does not refuse is taken:
//   flash             16 bits, heads up to 256 wide. Takes strided q, k, v and grouped heads as they are.
//   memory-efficient  the rest, float32 too. One key/value head for each query head: they are repeated, and their
//                     gradients added up.
// Both want head sizes that are multiples of 8: others get columns of zeros, which add nothing to any product.
// cuDNN, the fastest on Hopper for long sequences, is not among them: at::_cudnn_attention_forward has cum_seq
// arguments, but places sequences at row * heads * size, so our strided views would have to be copied, and it builds a
// plan for every batch size and longest sequence, which here change from batch to batch.
#include "cuda/attention.h"

#include "core/check.h"

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

bool suits_flash(const Tensor& q) {
  const int64_t size = q.size(2);
  if (q.scalar_type() == at::kFloat || size > 256) return false;
  if (size <= 192) return true;
  // Its backward needs more shared memory for wide heads than the smaller chips of a generation have.
  const int chip = capability(q.device().index());
  return chip == 80 || chip == 90 || chip == 100;
}

// With a longest sequence of one token it would fold grouped heads into rows and give another shape of lse.
int64_t flash_length(const Sequences& sequences) { return std::max<int64_t>(sequences.longest, 2); }

std::vector<Tensor> flash(const Tensor& q, const Tensor& k, const Tensor& v, const Sequences& sequences, double scale) {
  const int64_t longest = flash_length(sequences);
  const auto [y, lse, state, unused, mask] =
      at::_flash_attention_forward(q, k, v, sequences.offsets, sequences.offsets, longest, longest, /*dropout_p=*/0,
                                   /*is_causal=*/true, /*return_debug_mask=*/false, scale);
  return {y, lse, state, unused};
}

Gradients flash_backward(const Tensor& dy, const Tensor& q, const Tensor& k, const Tensor& v,
                         const std::vector<Tensor>& kept, const Sequences& sequences, double scale) {
  const int64_t longest = flash_length(sequences);
  const Deterministic deterministic;
  return at::_flash_attention_backward(dy, q, k, v, kept[0], kept[1], sequences.offsets, sequences.offsets, longest,
                                       longest, /*dropout_p=*/0, /*is_causal=*/true, kept[2], kept[3], scale);
}

// ---- memory-efficient: [1, T, heads, size]. Backward sums in a fixed order where the keys are not split.

constexpr int64_t kCausalFromTopLeft = 1;  // sdp::CustomMaskType

bool suits_anything(const Tensor&) { return true; }

Tensor repeat(const Tensor& x, int64_t group) { return (group == 1 ? x : x.repeat_interleave(group, 1)).unsqueeze(0); }
Tensor collect(const Tensor& x, int64_t group) {
  const Tensor gradient = x.squeeze(0);
  return group == 1 ? gradient : gradient.unflatten(1, {gradient.size(1) / group, group}).sum(2);
}

std::vector<Tensor> efficient(const Tensor& q, const Tensor& k, const Tensor& v, const Sequences& sequences,
                              double scale) {
  const int64_t group = q.size(1) / k.size(1);
  const auto [y, lse, seed, offset, longest_q, longest_k] = at::_efficient_attention_forward(
      q.unsqueeze(0), repeat(k, group), repeat(v, group), /*bias=*/{}, sequences.offsets, sequences.offsets,
      sequences.longest, sequences.longest, /*dropout_p=*/0, kCausalFromTopLeft, /*compute_log_sumexp=*/true, scale);
  return {y.squeeze(0), lse, seed, offset};
}

Gradients efficient_backward(const Tensor& dy, const Tensor& q, const Tensor& k, const Tensor& v,
                             const std::vector<Tensor>& kept, const Sequences& sequences, double scale) {
  const int64_t group = q.size(1) / k.size(1);
  const auto [dq, dk, dv, dbias] = at::_efficient_attention_backward(
      dy.unsqueeze(0), q.unsqueeze(0), repeat(k, group), repeat(v, group), /*bias=*/{}, kept[0].unsqueeze(0),
      sequences.offsets, sequences.offsets, sequences.longest, sequences.longest, kept[1], /*dropout_p=*/0, kept[2],
      kept[3], kCausalFromTopLeft, /*bias_requires_grad=*/false, scale, /*num_splits_key=*/1);
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
std::mutex name_mutex;
std::string last_name = "none yet";
void note(std::string name) {
  const std::lock_guard lock(name_mutex);
  last_name = std::move(name);
}

double scale_of(int64_t head_size) { return 1 / std::sqrt(static_cast<double>(head_size)); }

// With columns of zeros up to a multiple of 8.
Tensor widened(const Tensor& x) {
  const int64_t spare = (8 - x.size(2) % 8) % 8;
  return spare == 0 ? x : at::constant_pad_nd(x, {0, spare});
}

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

std::string attention_name() {
  const std::lock_guard lock(name_mutex);
  return last_name;
}

std::vector<Tensor> attention(const Tensor& q_in, const Tensor& k_in, const Tensor& v_in, const Sequences& sequences) {
  const c10::cuda::CUDAGuard guard(q_in.device());
  const int64_t size = q_in.size(2);
  const Tensor q = widened(q_in), k = widened(k_in), v = widened(v_in);
  Choice choice = Choices::get().find(q);
  std::string refusals;
  for (size_t i = choice.candidate;; ++i) {
    const bool last = i + 1 == kCandidates.size();
    if (!last && !kCandidates[i].suits(q)) continue;
    try {
      std::vector<Tensor> kept = kCandidates[i].forward(q, k, v, sequences, scale_of(size));
      if (size != q.size(2)) kept[0] = kept[0].narrow(2, 0, size).contiguous();
      // Backward must go to the same kernels, whatever is chosen in the meantime.
      kept.push_back(at::scalar_tensor(static_cast<int64_t>(i), at::kLong));
      if (!choice.works) {
        Choices::get().set(q, {.candidate = i, .works = true});
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
                             const std::vector<Tensor>& kept, const Sequences& sequences) {
  const c10::cuda::CUDAGuard guard(q.device());
  const int64_t size = q.size(2);
  const auto candidate = static_cast<size_t>(kept.back().item<int64_t>());
  std::vector<Tensor> whole = kept;
  whole[0] = widened(kept[0]);
  auto [dq, dk, dv] = kCandidates.at(candidate).backward(widened(dy), widened(q), widened(k), widened(v), whole,
                                                         sequences, scale_of(size));
  if (dq.size(2) == size) return {dq, dk, dv};
  const auto narrowed = [size](const Tensor& x) { return x.narrow(2, 0, size).contiguous(); };
  return {narrowed(dq), narrowed(dk), narrowed(dv)};
}

}  // namespace rankfold::cuda
