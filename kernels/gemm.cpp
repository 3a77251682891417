// gemm through cuBLASLt. Needs no nvcc; the host build has its own product (tests/fused).
//   Sums    fp32 whatever the dtype; float32 operands are multiplied as float32. RANKFOLD_GEMM_TF32=1 lets the tensor
//           cores round them to TF32 (10 bits), several times faster.
//   Choice  the first algorithm that cuBLASLt's heuristic offers: the same for the same shape, device and cuBLAS.
//           RANKFOLD_GEMM_TUNE=1 times the candidates at the first use of a shape instead, for products of some size:
//           two runs may then choose, and round, differently. Worth it where shapes repeat.
//   Split-K only with partial sums in the workspace and a reduction of their own, so the same algorithm gives the same
//           bytes: no sums in place (their order is only said to be guarded by counters), none rounded in between.
//   Memory  one workspace per device and stream, kept: 32 MiB from compute capability 9.0 on (NVIDIA's advice for
//           Hopper), 8 MiB before. The first product of a stream may not be inside a graph capture, as it allocates.
// The device of `stream` must be current. From any thread.
#include "kernels/gemm.h"

#include <cublasLt.h>
#include <cuda_runtime_api.h>

#include <algorithm>
#include <array>
#include <compare>
#include <cstdlib>
#include <map>
#include <mutex>
#include <new>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace rankfold::kernels {
namespace {

constexpr int kCandidates = 16;
constexpr size_t kMostPlans = 4096;       // token counts differ from batch to batch: the cache is emptied when full
constexpr double kWorthTiming = 1 << 28;  // m n k; below it a product takes a few microseconds whatever the algorithm
constexpr int kTimedRuns = 5;
constexpr size_t kMostAlignment = 256;
constexpr float kOne = 1;  // alpha

[[noreturn]] void fail(const Gemm& p, const std::string& why) {
  std::ostringstream line;
  line << "gemm m " << p.m << " n " << p.n << " k " << p.k << (p.transpose_a ? " A^T" : "")
       << (p.transpose_b ? " B^T" : "") << ": " << why;
  throw Failure(line.str());
}
void check(const Gemm& p, cublasStatus_t status) {
  if (status != CUBLAS_STATUS_SUCCESS) fail(p, cublasLtGetStatusString(status));
}
void check(const Gemm& p, cudaError_t status) {
  if (status != cudaSuccess) fail(p, cudaGetErrorString(status));
}

bool switched_on(const char* variable) {
  const char* value = std::getenv(variable);
  return value != nullptr && std::string(value) == "1";
}

cudaDataType_t data_type(Dtype dtype) {
  switch (dtype) {
    case Dtype::bf16:
      return CUDA_R_16BF;
    case Dtype::f16:
      return CUDA_R_16F;
    case Dtype::f32:
      break;
  }
  return CUDA_R_32F;
}

size_t alignment(const void* pointer) {
  const auto address = reinterpret_cast<uintptr_t>(pointer);
  return address == 0 ? kMostAlignment : std::min<size_t>(address & -address, kMostAlignment);
}

// All that an algorithm is chosen by.
struct Key {
  int device = 0;
  Dtype dtype, dtype_out;
  bool transpose_a, transpose_b, adds;
  int64_t m, n, k, lda, ldb, ldc, ldd;
  size_t align_a, align_b, align_c, align_d;

  auto operator<=>(const Key&) const = default;
};

struct Plan {
  cublasLtMatmulDescOpaque_t operation;
  cublasLtMatrixLayoutOpaque_t a, b, c, d;
  cublasLtMatmulAlgo_t algorithm;
};

struct Device {
  cublasLtHandle_t handle = nullptr;
  size_t workspace_bytes = 0;
  std::map<Stream, void*> workspaces;
};

struct State {
  std::mutex mutex;
  std::map<int, Device> devices;
  std::map<Key, Plan> plans;
};
State& state() {
  static auto* state = new State;  // never destroyed: the driver may be gone when destructors run
  return *state;
}

Device& device_of(const Gemm& p, int index) {
  Device& device = state().devices[index];
  if (device.handle == nullptr) {
    int major = 0;
    check(p, cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, index));
    device.workspace_bytes = size_t{major >= 9 ? 32u : 8u} << 20;
    check(p, cublasLtCreate(&device.handle));
  }
  return device;
}

void* workspace_of(const Gemm& p, Device& device, Stream stream) {
  void*& workspace = device.workspaces[stream];
  if (workspace == nullptr) {
    const cudaError_t status = cudaMalloc(&workspace, device.workspace_bytes);
    if (status == cudaErrorMemoryAllocation) {
      cudaGetLastError();  // or the next launch would find it
      throw std::bad_alloc();
    }
    check(p, status);
  }
  return workspace;
}

cublasStatus_t multiply(const Gemm& p, const Plan& plan, const cublasLtMatmulAlgo_t& algorithm, const Device& device,
                        void* workspace, void* d, Stream stream) {
  // The opaque structs are what Create would allocate; the calls only read them.
  const auto layout = [](const cublasLtMatrixLayoutOpaque_t& x) {
    return const_cast<cublasLtMatrixLayoutOpaque_t*>(&x);
  };
  return cublasLtMatmul(device.handle, const_cast<cublasLtMatmulDescOpaque_t*>(&plan.operation), &kOne, p.a,
                        layout(plan.a), p.b, layout(plan.b), &p.beta, p.beta == 0 ? d : p.c, layout(plan.c), d,
                        layout(plan.d), &algorithm, workspace, device.workspace_bytes, stream);
}

// Destroyed with the scope they are timed in.
struct Timer {
  explicit Timer(const Gemm& p) {
    check(p, cudaEventCreate(&begin));
    check(p, cudaEventCreate(&end));
  }
  ~Timer() {
    cudaEventDestroy(begin);
    cudaEventDestroy(end);
    cudaFree(scratch);
  }
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;

  cudaEvent_t begin = nullptr, end = nullptr;
  void* scratch = nullptr;
};

// The candidate that was fastest; the first one where none could be timed.
cublasLtMatmulAlgo_t fastest(const Gemm& p, const Plan& plan, const Device& device, void* workspace, Stream stream,
                             const std::vector<cublasLtMatmulAlgo_t>& candidates) {
  Timer timer(p);
  void* d = p.d;
  if (p.beta != 0 && p.c == p.d) {  // every run would add once more
    if (cudaMalloc(&timer.scratch, static_cast<size_t>(p.n * p.ldd * size_of(p.dtype_out))) != cudaSuccess) {
      cudaGetLastError();  // no room: said by the status, not to be found by the next launch
      return candidates.front();
    }
    d = timer.scratch;
  }
  size_t best = 0;
  float best_time = 0;
  for (size_t i = 0; i < candidates.size(); ++i) {
    cublasStatus_t status = multiply(p, plan, candidates[i], device, workspace, d, stream);  // loads the kernel
    check(p, cudaEventRecord(timer.begin, stream));
    for (int run = 0; run < kTimedRuns && status == CUBLAS_STATUS_SUCCESS; ++run)
      status = multiply(p, plan, candidates[i], device, workspace, d, stream);
    check(p, cudaEventRecord(timer.end, stream));
    check(p, cudaEventSynchronize(timer.end));
    float time = 0;
    check(p, cudaEventElapsedTime(&time, timer.begin, timer.end));
    if (status != CUBLAS_STATUS_SUCCESS) continue;
    if (best_time == 0 || time < best_time) {
      best = i;
      best_time = time;
    }
  }
  return candidates[best];
}

bool is_capturing(const Gemm& p, Stream stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  check(p, cudaStreamIsCapturing(stream, &status));
  return status != cudaStreamCaptureStatusNone;
}

template <class Value>
void set(const Gemm& p, cublasLtMatmulDesc_t operation, cublasLtMatmulDescAttributes_t attribute, Value value) {
  check(p, cublasLtMatmulDescSetAttribute(operation, attribute, &value, sizeof(value)));
}
template <class Value>
void set(const Gemm& p, cublasLtMatmulPreference_t preference, cublasLtMatmulPreferenceAttributes_t attribute,
         Value value) {
  check(p, cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof(value)));
}

Plan make_plan(const Gemm& p, const Key& key, const Device& device, void* workspace, Stream stream) {
  static const bool tf32 = switched_on("RANKFOLD_GEMM_TF32"), tune = switched_on("RANKFOLD_GEMM_TUNE");
  const bool rounds = tf32 && p.dtype == Dtype::f32;
  Plan plan{};
  check(p, cublasLtMatmulDescInit(&plan.operation, rounds ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F,
                                  CUDA_R_32F));
  set(p, &plan.operation, CUBLASLT_MATMUL_DESC_TRANSA, p.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N);
  set(p, &plan.operation, CUBLASLT_MATMUL_DESC_TRANSB, p.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N);
  const auto layout = [&p](cublasLtMatrixLayoutOpaque_t& x, Dtype dtype, bool transposed, int64_t rows, int64_t columns,
                           int64_t ld) {
    if (transposed) std::swap(rows, columns);
    check(p, cublasLtMatrixLayoutInit(&x, data_type(dtype), static_cast<uint64_t>(rows), static_cast<uint64_t>(columns),
                                      ld));
  };
  layout(plan.a, p.dtype, p.transpose_a, p.m, p.k, p.lda);
  layout(plan.b, p.dtype, p.transpose_b, p.k, p.n, p.ldb);
  layout(plan.c, p.dtype_out, false, p.m, p.n, key.ldc);
  layout(plan.d, p.dtype_out, false, p.m, p.n, p.ldd);

  cublasLtMatmulPreferenceOpaque_t preference;
  check(p, cublasLtMatmulPreferenceInit(&preference));
  set(p, &preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t{device.workspace_bytes});
  set(p, &preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
      static_cast<uint32_t>(CUBLASLT_REDUCTION_SCHEME_NONE | CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
  set(p, &preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, static_cast<uint32_t>(key.align_a));
  set(p, &preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, static_cast<uint32_t>(key.align_b));
  set(p, &preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, static_cast<uint32_t>(key.align_c));
  set(p, &preference, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, static_cast<uint32_t>(key.align_d));

  std::array<cublasLtMatmulHeuristicResult_t, kCandidates> found{};
  int count = 0;
  check(p, cublasLtMatmulAlgoGetHeuristic(device.handle, &plan.operation, &plan.a, &plan.b, &plan.c, &plan.d,
                                          &preference, kCandidates, found.data(), &count));
  std::vector<cublasLtMatmulAlgo_t> candidates;
  for (int i = 0; i < count; ++i)
    if (found[i].state == CUBLAS_STATUS_SUCCESS && found[i].workspaceSize <= device.workspace_bytes)
      candidates.push_back(found[i].algo);
  if (candidates.empty()) fail(p, "cuBLASLt has no algorithm for it");
  const double size = static_cast<double>(p.m) * static_cast<double>(p.n) * static_cast<double>(p.k);
  const bool time = tune && candidates.size() > 1 && size >= kWorthTiming && !is_capturing(p, stream);
  plan.algorithm = time ? fastest(p, plan, device, workspace, stream, candidates) : candidates.front();
  return plan;
}

// k = 0: D = beta C.
void multiply_nothing(const Gemm& p, Stream stream) {
  const auto size = static_cast<size_t>(size_of(p.dtype_out));
  const auto width = static_cast<size_t>(p.m) * size, height = static_cast<size_t>(p.n);
  const size_t pitch = static_cast<size_t>(p.ldd) * size;
  if (p.beta == 0) {
    check(p, cudaMemset2DAsync(p.d, pitch, 0, width, height, stream));
  } else if (p.beta == 1) {
    if (p.c != p.d)
      check(p, cudaMemcpy2DAsync(p.d, pitch, p.c, static_cast<size_t>(p.ldc) * size, width, height,
                                 cudaMemcpyDeviceToDevice, stream));
  } else {
    fail(p, "with k = 0, beta must be 0 or 1");
  }
}

}  // namespace

void gemm(const Gemm& p, Stream stream) {
  if (p.m == 0 || p.n == 0) return;
  if (p.k == 0) return multiply_nothing(p, stream);
  int index = 0;
  check(p, cudaGetDevice(&index));
  const bool adds = p.beta != 0;
  const Key key{.device = index,
                .dtype = p.dtype,
                .dtype_out = p.dtype_out,
                .transpose_a = p.transpose_a,
                .transpose_b = p.transpose_b,
                .adds = adds,
                .m = p.m,
                .n = p.n,
                .k = p.k,
                .lda = p.lda,
                .ldb = p.ldb,
                .ldc = adds ? p.ldc : p.ldd,
                .ldd = p.ldd,
                .align_a = alignment(p.a),
                .align_b = alignment(p.b),
                .align_c = alignment(adds ? p.c : p.d),
                .align_d = alignment(p.d)};
  Plan plan;
  Device device;
  void* workspace = nullptr;
  {
    State& all = state();
    const std::lock_guard lock(all.mutex);
    Device& own = device_of(p, index);
    workspace = workspace_of(p, own, stream);
    auto found = all.plans.find(key);
    if (found == all.plans.end()) {
      if (all.plans.size() >= kMostPlans) all.plans.clear();
      found = all.plans.emplace(key, make_plan(p, key, own, workspace, stream)).first;
    }
    plan = found->second;
    device.handle = own.handle;
    device.workspace_bytes = own.workspace_bytes;
  }
  check(p, multiply(p, plan, plan.algorithm, device, workspace, p.d, stream));
}

}  // namespace rankfold::kernels
