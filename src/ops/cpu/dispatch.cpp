#include "ops/cpu/loops.h"

namespace rankfold::cpu {

extern const Loops loops_baseline;
#if defined(__x86_64__)
extern const Loops loops_avx2, loops_avx512;
#endif

const Loops& loops() {
  static const Loops& chosen = []() -> const Loops& {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))
      return loops_avx512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return loops_avx2;
#endif
    return loops_baseline;
  }();
  return chosen;
}

}  // namespace rankfold::cpu
