// Opens the device of a run. librankfold_cuda.so, which loads libtorch_cuda (350 MB), is loaded only when a CUDA device
// is asked for and the driver exists.
#pragma once

#include <c10/core/Device.h>

#include <string>

namespace rankfold::ops {

// Returns the device for `name` ("auto", "cpu", "cuda", "cuda:N"), ready to compute: for a CUDA device the backend is
// registered (backend.h). "auto" is the first CUDA device if one works, otherwise the CPU. Throws UserError for another
// word, and Error(kNoDevice) with one sentence where the device does not exist. Thread-safe; may be called again.
// Call it before the process computes gradients on the CPU, because LibTorch checks only once whether CUDA exists.
// `why_cpu` is set to the reason if "auto" took the CPU although there seems to be a GPU.
at::Device open_device(const std::string& name, std::string* why_cpu = nullptr);

}  // namespace rankfold::ops
