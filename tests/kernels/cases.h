// The cases, a file for each kernel: every kernel on small, odd and tail shapes against the formula of its header.
#pragma once

#include "kernels/context.h"

namespace rankfold::kernels::testing {

std::vector<Case> down_cases();
std::vector<Case> output_grad_cases();
std::vector<Case> input_grad_cases();
std::vector<Case> rope_cases();
std::vector<Case> cross_entropy_cases();
std::vector<Case> decode_cases();
std::vector<Case> embedding_cases();
std::vector<Case> dequantize_cases();
std::vector<Case> adamw_cases();
std::vector<Case> ptx_cases();  // of ptx.h and philox.h: instructions against what C++ says of them

inline std::vector<Case> all_cases() {
  std::vector<Case> all;
  for (const auto& cases : {down_cases(), output_grad_cases(), input_grad_cases(), rope_cases(), cross_entropy_cases(),
                            decode_cases(), embedding_cases(), dequantize_cases(), adamw_cases(), ptx_cases()})
    all.insert(all.end(), cases.begin(), cases.end());
  return all;
}

}  // namespace rankfold::kernels::testing
