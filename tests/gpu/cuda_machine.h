// A CUDA device as the machine of the kernels' cases.
#pragma once

#include <memory>
#include <string>

#include "kernels/context.h"

namespace rankfold::kernels::testing {

// Why there is no device to test on; empty where there is one.
std::string why_no_device();

// Device 0. Each allocation is its own, so that compute-sanitizer sees the first byte too far.
std::unique_ptr<Machine> cuda_machine();

}  // namespace rankfold::kernels::testing
