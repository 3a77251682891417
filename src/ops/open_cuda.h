// Opening the device of a run. librankfold_cuda.so, and with it libtorch_cuda (350 MB), is loaded when a CUDA device is
// asked for and its driver is there, not before.
#pragma once

#include <c10/core/Device.h>

#include <string>

namespace rankfold::ops {

// The device that `name` ("auto", "cpu", "cuda", "cuda:N") stands for, ready to compute on: for a CUDA device the
// backend is in use (backend.h). auto takes the first CUDA device where one works, the CPU otherwise. UserError for
// another word, Error(kNoDevice) with one sentence where the device asked for is not there. From any thread, any number
// of times. LibTorch decides on its first look whether CUDA exists: open before the process computes gradients on the
// CPU. `why_cpu` hears why auto took the CPU where a GPU seems to be there.
at::Device open_device(const std::string& name, std::string* why_cpu = nullptr);

}  // namespace rankfold::ops
