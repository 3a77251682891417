// How a program that computes a lot of tensors of changing size treats its memory.
#pragma once

namespace rankfold {

// Keeps freed pages in the process. The first touch of a fresh page costs more than the arithmetic on it, and
// glibc gives large blocks back at once. To be called once, before the first tensor. Not for programs whose
// aim is a low peak.
void keep_freed_pages();

}  // namespace rankfold
