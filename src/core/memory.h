// Memory of the system and of this process, from Linux's /proc; 0 where it does not tell. Also recognises failed
// allocations.
#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <optional>
#include <set>
#include <string>

namespace rankfold {

// Bytes that this process can use in total: what it already uses, what is free and what the system can free, within the
// limits of its control groups.
int64_t available_bytes();
int64_t resident_bytes();                                       // in use now
int64_t resident_bytes_of(const std::set<std::string>& files);  // of these, pages of files with these real paths

// Starts to read the pages behind these bytes from their file, if they are a mapping and not in memory. Does not wait.
void read_ahead(const void* begin, size_t bytes);

// If the exception is a failed allocation: one line about the request, perhaps empty. nullopt: another kind of
// exception.
std::optional<std::string> out_of_memory(const std::exception& error);

}  // namespace rankfold
