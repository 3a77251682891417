// A folder of a test's own, removed afterwards, and small helpers to fill it.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <string>

namespace rankfold::testing {

class TempFolder {
 public:
  TempFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "rankfold-test-XXXXXX").string();
    if (!::mkdtemp(pattern.data())) throw std::runtime_error("no temporary folder: " + pattern);
    path_ = pattern;
  }
  ~TempFolder() {
    std::error_code error;
    std::filesystem::remove_all(path_, error);
  }
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }

  // Writes a file below the folder, with the folders it lies in.
  std::filesystem::path write(const std::string& name, const std::string& bytes) const {
    const std::filesystem::path path = path_ / name;
    std::filesystem::create_directories(path.parent_path());
    std::ofstream(path, std::ios::binary) << bytes;
    return path;
  }

 private:
  std::filesystem::path path_;
};

inline std::string read_bytes(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream bytes;
  bytes << file.rdbuf();
  return bytes.str();
}

// The line of the error that `call` throws; "" if it throws none. Anything but Expected fails the test.
template <class Expected, class Call>
std::string error_of(Call call) {
  try {
    call();
  } catch (const Expected& error) {
    return error.what();
  } catch (const std::exception& error) {
    ADD_FAILURE() << "another kind of error: " << error.what();
    return error.what();
  }
  return "";
}

// EXPECT that `call` throws Expected and that its line holds `text`.
template <class Expected, class Call>
void expect_error(Call call, const std::string& text) {
  const std::string line = error_of<Expected>(call);
  EXPECT_FALSE(line.empty()) << "no error; expected one with: " << text;
  EXPECT_NE(line.find(text), std::string::npos) << "error: " << line << "\nexpected: " << text;
  EXPECT_EQ(line.find('\n'), std::string::npos) << "more than one line: " << line;
}

}  // namespace rankfold::testing
