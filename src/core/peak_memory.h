// The peak of this process's resident memory, and how to reset it.
#pragma once

#include <cstdint>

namespace rankfold {

int64_t peak_resident_bytes();  // bytes, since the start or the last reset; 0 where the system does not tell

// Restarts the peak. False where the system cannot. (Defined in write.cpp, because it writes to a file of /proc.)
bool reset_peak_resident_bytes();

// Returns unused memory to the system: pages cached by the allocator of set_up_memory(), and free memory of the heap.
void release_free_memory();

}  // namespace rankfold
