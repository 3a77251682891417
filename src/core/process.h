// Process settings for programs that compute with many tensors of changing sizes.
#pragma once

namespace rankfold {

// Replaces LibTorch's CPU allocator. Call it once, before the first tensor. A failed allocation then throws
// c10::OutOfMemoryError, where LibTorch's own allocator ends the process.
// keep_pages: large tensors use a separate address range whose pages stay in memory. The first touch of a new page
// costs more than the arithmetic on it, and glibc returns large blocks at once. Not for programs that need a low peak.
void set_up_memory(bool keep_pages);

// Sets environment variables of libraries, which read them when they are loaded: the program restarts itself. Existing
// values are kept.
//   OMP_WAIT_POLICY=passive: OpenMP's threads sleep while they wait instead of spinning. When a core is shared with
//     another process, spinning threads delay the one that works (measured: 800 against 4,200 tokens a second).
void set_up_libraries(char** argv);

}  // namespace rankfold
