#include "fuzz/fuzz.h"

#include "core/manifest.h"
#include "data/model_bytes.h"

#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <utility>

// A mapping reaches to the end of its page: what reads beyond the file is seen only where the file lies in memory of its
// own, as Mapping has it where a file system cannot map.
extern "C" __attribute__((visibility("default"))) void* mmap(void* address, size_t size, int protection, int flags,
                                                             int fd, off_t offset) noexcept {
  if (fd >= 0 && flags == MAP_SHARED && protection == PROT_READ) {
    errno = ENODEV;
    return MAP_FAILED;
  }
  return reinterpret_cast<void*>(::syscall(SYS_mmap, address, size, protection, flags, fd, offset));
}

namespace rankfold::fuzz {
namespace fs = std::filesystem;

void judge_line(std::string_view line) {
  constexpr size_t kLongest = 1000;
  verdict.longest_line = std::max(verdict.longest_line, line.size());
  const bool shows = std::none_of(line.begin(), line.end(), [](unsigned char c) { return c < 0x20 || c == 0x7F; });
  if (!line.empty() && line.size() <= kLongest && shows) return;
  std::fprintf(stderr, "%s: expected a line of 1 to %zu bytes without control characters, got %zu: %.*s\n", kName,
               kLongest, line.size(), static_cast<int>(line.size()), line.data());
  std::abort();
}

Folder::Folder() {
  if (const char* given = std::getenv("RANKFOLD_FUZZ_FOLDER")) {
    path_ = given;
    fs::create_directories(path_);
    return;
  }
  std::string pattern = (fs::temp_directory_path() / "rankfold-fuzz-XXXXXX").string();
  if (!::mkdtemp(pattern.data())) throw std::runtime_error("no temporary folder: " + pattern);
  path_ = pattern;
}

void Folder::write(const std::string& name, std::string_view bytes) const {
  std::ofstream(path_ / name, std::ios::binary) << bytes;
}

std::string Folder::read(const std::string& name) const {
  std::ifstream file(path_ / name, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::string input(uint8_t file, std::string_view bytes) {
  return std::string(1, static_cast<char>(file)).append(bytes);
}

std::string manifest(const std::vector<std::pair<std::string, std::string>>& files) {
  const fs::path folder = fs::temp_directory_path() / ("rankfold-fuzz-manifest-" + std::to_string(::getpid()));
  fs::create_directories(folder);
  for (const auto& [name, bytes] : files) std::ofstream(folder / name, std::ios::binary) << bytes;
  write_manifest(folder, {{"step", 3}});
  std::ifstream file(folder / kManifest, std::ios::binary);
  const std::string text(std::istreambuf_iterator<char>(file), {});
  fs::remove_all(folder);
  return text;
}

std::string tensor_file(const std::string& header, size_t data_bytes) {
  const uint64_t length = header.size();
  std::string bytes(sizeof length, '\0');
  std::memcpy(bytes.data(), &length, sizeof length);
  return bytes + header + std::string(data_bytes, '\0');
}

std::string repeated(const std::string& begin, int count, const std::function<std::string(int)>& element,
                     const std::string& end, const std::string& between) {
  std::string text = begin;
  for (int i = 0; i < count; ++i) {
    if (i > 0) text += between;
    text += element(i);
  }
  return text + end;
}

// sentencepiece_model.proto: pieces 1 {piece 1, score 2, type 3}, trainer_spec 2, normalizer_spec 3.
std::string tokenizer_model(const ModelParts& parts) {
  using namespace testing;
  std::string model = piece("<unk>", 0, kUnknown);
  if (parts.control) model += piece("<s>", 0, kControl) + piece("</s>", 0, kControl);
  for (int i = 0; parts.byte_fallback && i < 256; ++i) {
    char name[8];
    std::snprintf(name, sizeof name, "<0x%02X>", i);
    model += piece(name, 0, kByte);
  }
  float score = 0;
  for (const char* name : {"\xE2\x96\x81", "a", "b", "t", "h", "e", "th", "the", "\xE7\xB3\x96", "\xE2\x96\x81the"})
    model += piece(name, --score);
  const std::string trainer = number_field(3, static_cast<uint64_t>(parts.type)) +
                              number_field(35, parts.byte_fallback) + number_field(40, 0) + number_field(41, 1) +
                              number_field(42, 2) + number_field(43, ~uint64_t{0});
  const std::string normaliser = field(1, "own") +
                                 (parts.normaliser_table.empty() ? "" : field(2, parts.normaliser_table)) +
                                 number_field(3, 0) + number_field(4, 0) + number_field(5, 1);
  return model + parts.more + field(2, trainer) + field(3, normaliser);
}

}  // namespace rankfold::fuzz
