// Who asks about a lock that FolderLock (core/write.h) has taken, and takes none.
#pragma once

#include <filesystem>

namespace rankfold {

// Whether some process has the folder's lock, run.lock. Nothing is written; false where the system does not say.
bool is_folder_locked(const std::filesystem::path& folder);

}  // namespace rankfold
