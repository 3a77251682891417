// How much memory there is, and how much this process holds. Zero where the system does not say (it is Linux's /proc).
#pragma once

#include <cstdint>
#include <set>
#include <string>

namespace rankfold {

// Bytes that the process may come to hold: what it holds, what is free and what the system can free, within the limit of
// its control group.
int64_t available_bytes();
int64_t resident_bytes();                                       // held now
int64_t resident_bytes_of(const std::set<std::string>& files);  // of that: pages of mapped files, by their real paths

}  // namespace rankfold
