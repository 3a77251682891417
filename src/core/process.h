// How a program that computes a lot of tensors of changing size sets up its process.
#pragma once

namespace rankfold {

// Takes over the memory of tensors on the CPU: what cannot be had is a c10::OutOfMemoryError, where libtorch's own
// allocator ends the process. keep_pages: large tensors lie in a range of their own whose pages stay, as the first touch
// of a fresh page costs more than the arithmetic on it and glibc gives large blocks back at once; not for programs whose
// aim is a low peak. To be called once, before the first tensor.
void set_up_memory(bool keep_pages);

// Settings of the libraries underneath that can only be made before they are loaded: the program starts itself again
// with them in its environment. What is set already stands.
//   OMP_WAIT_POLICY=passive: OpenMP's threads sleep while they wait instead of spinning. When a core is shared with
//     another process, spinning threads hold up the one that works (measured: 800 against 4,200 tokens a second).
void set_up_libraries(char** argv);

}  // namespace rankfold
