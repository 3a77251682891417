// Compiled once per instruction set (CMakeLists.txt) with RANKFOLD_LOOPS = baseline, avx2, avx512 or avx512bf16.
#include "ops/cpu/decode_attention.h"
#include "ops/cpu/low_rank.h"
#include "ops/cpu/packed.h"
#include "ops/cpu/quantize.h"

namespace rankfold::cpu {
namespace {

template <class T>
void rms_norm(const T* x, const T* g, double offset, double eps, int64_t m, int64_t k, T* y, Sum<T>* rstd_m) {
  const Sum<T> more = static_cast<Sum<T>>(offset);
  for (int64_t i = 0; i < m; ++i, x += k, y += k) {
    Sum<T> sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < k; ++j) sum += load(x[j]) * load(x[j]);
    const Sum<T> rstd = 1 / square_root(sum / static_cast<Sum<T>>(k) + static_cast<Sum<T>>(eps));
    rstd_m[i] = rstd;
    store_each(y, k, [&](int64_t j) { return load(x[j]) * rstd * (load(g[j]) + more); });
  }
}

template <class T>
void rms_norm_backward(const T* dy, const T* x, const T* g, double offset, const Sum<T>* rstd_m, const T* residual,
                       int64_t m, int64_t k, T* dx, Sum<T>* dg) {
  const Sum<T> more = static_cast<Sum<T>>(offset);
  for (int64_t i = 0; i < m; ++i, dy += k, x += k, dx += k) {
    Sum<T> rstd = rstd_m[i], dot = 0;
#pragma omp simd reduction(+ : dot)
    for (int64_t j = 0; j < k; ++j) dot += load(dy[j]) * (load(g[j]) + more) * load(x[j]);
    const Sum<T> c = dot * rstd * rstd * rstd / static_cast<Sum<T>>(k);
    if (dg) {
#pragma omp simd
      for (int64_t j = 0; j < k; ++j) dg[j] += load(dy[j]) * load(x[j]) * rstd;
    }
    if (residual) {
      store_each(dx, k, [&](int64_t j) {
        return load(residual[j]) + (load(dy[j]) * (load(g[j]) + more) * rstd - load(x[j]) * c);
      });
      residual += k;
    } else {
      store_each(dx, k, [&](int64_t j) { return load(dy[j]) * (load(g[j]) + more) * rstd - load(x[j]) * c; });
    }
  }
}

// A gate in the type of the sums.
template <class T>
struct GateOf {
  Sum<T> linear, cubic;
  explicit GateOf(const Gate& gate)
      : linear(static_cast<Sum<T>>(gate.linear)), cubic(static_cast<Sum<T>>(gate.cubic)) {}
  // The square of x, bounded so that zero times it is zero: what the sigmoid makes of the bound is 0 or 1.
  static Sum<T> bounded_square(Sum<T> x) { return x * x < Sum<T>(1e10) ? x * x : Sum<T>(1e10); }
  Sum<T> sigmoid(Sum<T> x) const { return 1 / (1 + exponential(-x * (linear + cubic * bounded_square(x)))); }
  Sum<T> slope(Sum<T> x) const { return linear + 3 * cubic * bounded_square(x); }  // of what the sigmoid is made of
};

template <class T>
void glu(const T* gate_up, const Gate& gate, int64_t m, int64_t k, T* y) {
  const GateOf<T> act(gate);
  for (int64_t i = 0; i < m; ++i, gate_up += 2 * k, y += k) {
    const T* up = gate_up + k;
    store_each(y, k, [&](int64_t j) {
      const Sum<T> a = load(gate_up[j]);
      return a * act.sigmoid(a) * load(up[j]);
    });
  }
}

template <class T>
void glu_backward(const T* dy, const T* gate_up, const Gate& gate, int64_t m, int64_t k, T* dgate_up) {
  const GateOf<T> act(gate);
  for (int64_t i = 0; i < m; ++i, dy += k, gate_up += 2 * k, dgate_up += 2 * k) {
    const T* up = gate_up + k;
    T* dup = dgate_up + k;
    const auto gradient = [&](int64_t j, auto& d_gate, auto& d_up) {
      const Sum<T> a = load(gate_up[j]), d = load(dy[j]);
      const Sum<T> sigmoid = act.sigmoid(a);
      d_gate = d * load(up[j]) * sigmoid * (1 + a * (1 - sigmoid) * act.slope(a));
      d_up = d * a * sigmoid;
    };
    int64_t begin = 0;
    for (; begin + kBlock <= k; begin += kBlock) {
      alignas(64) Sum<T> gates[kBlock], ups[kBlock];
#pragma omp simd
      for (int64_t j = 0; j < kBlock; ++j) gradient(begin + j, gates[j], ups[j]);
      store_all(dgate_up + begin, gates, kBlock);
      store_all(dup + begin, ups, kBlock);
    }
#pragma omp simd
    for (int64_t j = begin; j < k; ++j) {
      Sum<T> d_gate, d_up;
      gradient(j, d_gate, d_up);
      store(dgate_up[j], d_gate), store(dup[j], d_up);
    }
  }
}

template <class T>
void rope(const T* x, int64_t pitch, const int64_t* line, const float* cos, const float* sin, int64_t m, int64_t heads,
          int64_t plain, int64_t d, int64_t rotary, float sign, T* y, int64_t y_pitch) {
  const int64_t half = rotary / 2;
  const size_t rest = static_cast<size_t>(d - rotary) * sizeof(T);
  for (int64_t i = 0; i < m; ++i, x += pitch, y += y_pitch) {
    const float* c = cos + line[i] * half;
    const float* s = sin + line[i] * half;
    for (int64_t h = 0; h < heads; ++h) {
      const T *a = x + h * d, *b = a + half;
      T *to_a = y + h * d, *to_b = to_a + half;
#pragma omp simd
      for (int64_t j = 0; j < half; ++j) {
        const Sum<T> u = load(a[j]), v = load(b[j]), sine = sign * s[j];
        store(to_a[j], u * c[j] - v * sine);
        store(to_b[j], v * c[j] + u * sine);
      }
      if (rest > 0 && x != y) memcpy(to_b + half, b + half, rest);
    }
    if (x != y) memcpy(y + heads * d, x + heads * d, static_cast<size_t>(plain * d) * sizeof(T));
  }
}

template <class T>
void add(const T* x, int64_t count, T* y) {
  store_each(y, count, [&](int64_t i) { return load(y[i]) + load(x[i]); });
}

template <class T>
void dropout(const T* x, const DropoutCounters& c, int64_t m, int64_t k, T* y) {
  dropout_tile(x, k, c, 0, 0, m, k, y, k);
  const Sum<T> scale = c.scale;
#pragma omp simd
  for (int64_t i = 0; i < m * k; ++i) store(y[i], load(y[i]) * scale);
}

template <class T>
void cross_entropy(T* x, const int64_t* label, int64_t m, int64_t v, double soft_cap, bool gradient, double* loss) {
  const Sum<T> cap = static_cast<Sum<T>>(soft_cap), inverse_cap = soft_cap > 0 ? 1 / cap : 0;
  for (int64_t i = 0; i < m; ++i, x += v) {
    if (soft_cap > 0)
      store_each(x, v, [&](int64_t j) { return cap * (1 - 2 / (exponential(2 * load(x[j]) * inverse_cap) + 1)); });
    Sum<T> largest = load(x[0]), sum = 0;
#pragma omp simd reduction(max : largest)
    for (int64_t j = 0; j < v; ++j) largest = load(x[j]) > largest ? load(x[j]) : largest;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < v; ++j) sum += exponential(load(x[j]) - largest);
    loss[i] = ::log(static_cast<double>(sum)) + static_cast<double>(largest) - static_cast<double>(load(x[label[i]]));
    if (!gradient) continue;
    const Sum<T> inverse = 1 / sum;
    const auto slope = [&](int64_t j) {
      const Sum<T> bent = cap > 0 ? load(x[j]) * inverse_cap : 0;
      return 1 - bent * bent;
    };
    const Sum<T> at_label = (exponential(load(x[label[i]]) - largest) * inverse - 1) * slope(label[i]);
    store_each(x, v, [&](int64_t j) { return exponential(load(x[j]) - largest) * inverse * slope(j); });
    store(x[label[i]], at_label);
  }
}

float largest(const float* x, int64_t count) {
  float most = x[0], nothing = 0;
#pragma omp simd reduction(max : most) reduction(+ : nothing)
  for (int64_t i = 0; i < count; ++i) {
    most = x[i] > most ? x[i] : most;
    nothing += x[i] - x[i];  // NaN for what is not finite
  }
  return most + nothing;
}

double exponentials(const float* x, int64_t count, float largest, float scale, float* y) {
  constexpr int64_t kPart = 4096;  // of fp32 sums, which are added in double
  double all = 0;
  for (int64_t begin = 0; begin < count; begin += kPart) {
    const int64_t end = least(count, begin + kPart);
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = begin; i < end; ++i) {
      y[i] = exponential((x[i] - largest) * scale);
      sum += y[i];
    }
    all += static_cast<double>(sum);
  }
  return all;
}

template <class T>
constexpr LoopTable<T> table() {
  return {.rms_norm = rms_norm<T>,
          .rms_norm_backward = rms_norm_backward<T>,
          .glu = glu<T>,
          .glu_backward = glu_backward<T>,
          .rope = rope<T>,
          .add = add<T>,
          .dropout = dropout<T>,
          .cross_entropy = cross_entropy<T>,
          .attention_scratch = attention_scratch<T>,
          .attention = attention<T>,
          .attention_backward = attention_backward<T>,
          .cached_keys = cached_keys<T>,
          .cached_values = cached_values<T>,
          .cache_append = cache_append<T>,
          .decode_scratch = decode_scratch<T>,
          .decode_attention = decode_attention<T>,
          .low_rank_packed = low_rank_packed<T>,
          .low_rank_pack = low_rank_pack<T>,
          .low_rank_scratch = low_rank_scratch<T>,
          .low_rank_down = low_rank_down<T>,
          .low_rank_up = low_rank_up<T>,
          .low_rank_gradient = low_rank_gradient<T>,
          .decode = decode<T>};
}

}  // namespace

#define RANKFOLD_NAME_2(name) loops_##name
#define RANKFOLD_NAME(name) RANKFOLD_NAME_2(name)
#define RANKFOLD_TEXT_2(name) #name
#define RANKFOLD_TEXT(name) RANKFOLD_TEXT_2(name)
extern const Loops RANKFOLD_NAME(RANKFOLD_LOOPS);
const Loops RANKFOLD_NAME(RANKFOLD_LOOPS) = {RANKFOLD_TEXT(RANKFOLD_LOOPS),
                                             largest,
                                             exponentials,
                                             quantize_table,
                                             quantize_int8,
                                             quantize_fp8,
                                             table<float>(),
                                             table<Bf16>(),
                                             table<double>()};

}  // namespace rankfold::cpu
