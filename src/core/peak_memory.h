// The most memory that this process has held, and counting it anew.
#pragma once

#include <cstdint>

namespace rankfold {

int64_t peak_resident_bytes();  // most held so far, or since the reset; 0 where the system does not say

// From now on. False where the system cannot. (In write.cpp: it is a word to the kernel, written to a file of /proc.)
bool reset_peak_resident_bytes();

// Gives memory back to the system that nothing holds: the pages that set_up_memory() keeps, and the heap's.
void release_free_memory();

}  // namespace rankfold
