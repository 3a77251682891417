// How much memory there is, and how much this process holds. Zero where the system does not say (it is Linux's /proc).
// And what an allocation says that failed.
#pragma once

#include <cstdint>
#include <exception>
#include <optional>
#include <set>
#include <string>

namespace rankfold {

// Bytes that the process may come to hold: what it holds, what is free and what the system can free, within the limit of
// its control group.
int64_t available_bytes();
int64_t resident_bytes();                                       // held now
int64_t resident_bytes_of(const std::set<std::string>& files);  // of that: pages of mapped files, by their real paths

// One line of what it asked for, perhaps empty; none where the exception is of another kind.
std::optional<std::string> out_of_memory(const std::exception& error);

}  // namespace rankfold
