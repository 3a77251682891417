// How a program that computes a lot of tensors of changing size sets up its process.
#pragma once

namespace rankfold {

// Keeps freed pages in the process. The first touch of a fresh page costs more than the arithmetic on it, and
// glibc gives large blocks back at once. To be called once, before the first tensor. Not for programs whose
// aim is a low peak.
void keep_freed_pages();

// Makes OpenMP's threads sleep while they wait instead of spinning. When a core is shared with another process,
// spinning threads hold up the one that works (measured: 800 against 4,200 tokens a second). libgomp reads its settings
// when it is loaded, so the program starts itself again with OMP_WAIT_POLICY=passive; settings that are there already
// stand.
void wait_passively(char** argv);

}  // namespace rankfold
