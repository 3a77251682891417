#include "ops/cpu/loops.h"

#include <cstdlib>
#include <string_view>

namespace rankfold::cpu {

#if defined(RANKFOLD_ONLY_LOOPS)  // a build of one set

extern const Loops RANKFOLD_ONLY_LOOPS;
const Loops& loops() { return RANKFOLD_ONLY_LOOPS; }

#else

extern const Loops loops_baseline;
#if defined(__x86_64__)
extern const Loops loops_avx2, loops_avx512, loops_avx512bf16;
#endif

namespace {

const Loops& choose() {
#if defined(__x86_64__)
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  const bool avx512bf16 = avx512 && __builtin_cpu_supports("avx512bf16");
  const Loops* widest = avx512bf16 ? &loops_avx512bf16 : avx512 ? &loops_avx512 : avx2 ? &loops_avx2 : &loops_baseline;
  // So that tests reach what a lesser processor would run.
  const char* asked = std::getenv("RANKFOLD_CPU_CAPABILITY");
  if (!asked) return *widest;
  if (std::string_view(asked) == "avx512" && avx512) return loops_avx512;
  if (std::string_view(asked) == "avx2" && avx2) return loops_avx2;
  if (std::string_view(asked) != "baseline") return *widest;
#endif
  return loops_baseline;
}

}  // namespace

const Loops& loops() {
  static const Loops& chosen = choose();
  return chosen;
}

#endif

}  // namespace rankfold::cpu
