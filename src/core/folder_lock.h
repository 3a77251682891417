// Tests for the lock of FolderLock (core/write.h) without taking it.
#pragma once

#include <filesystem>

namespace rankfold {

// Whether some process has locked the folder (run.lock). Writes nothing; false where the system does not tell.
bool is_folder_locked(const std::filesystem::path& folder);

}  // namespace rankfold
