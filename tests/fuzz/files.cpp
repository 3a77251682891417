#include "fuzz/fuzz.h"

#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

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

std::string tensor_file(const std::string& header, size_t data_bytes) {
  const uint64_t length = header.size();
  std::string bytes(sizeof length, '\0');
  std::memcpy(bytes.data(), &length, sizeof length);
  return bytes + header + std::string(data_bytes, '\0');
}

namespace {

std::string varint(uint64_t x) {
  std::string bytes;
  for (; x >= 0x80; x >>= 7) bytes += static_cast<char>((x & 0x7F) | 0x80);
  return bytes + static_cast<char>(x);
}
std::string number(int field, uint64_t x) { return varint(static_cast<uint64_t>(field) << 3) + varint(x); }
std::string text(int field, const std::string& bytes) {
  return varint(static_cast<uint64_t>(field) << 3 | 2) + varint(bytes.size()) + bytes;
}
std::string real(int field, float x) {
  std::string bytes(sizeof x, '\0');
  std::memcpy(bytes.data(), &x, sizeof x);
  return varint(static_cast<uint64_t>(field) << 3 | 5) + bytes;
}

}  // namespace

// sentencepiece_model.proto: pieces 1 {piece 1, score 2, type 3}, trainer_spec 2, normalizer_spec 3.
std::string tokenizer_model(int model_type, bool byte_fallback, const std::string& table) {
  constexpr uint64_t kNormal = 1, kUnknown = 2, kControl = 3, kByte = 6;
  std::string model;
  const auto piece = [&model](const std::string& name, float score, uint64_t type) {
    model += text(1, text(1, name) + real(2, score) + number(3, type));
  };
  piece("<unk>", 0, kUnknown);
  piece("<s>", 0, kControl);
  piece("</s>", 0, kControl);
  for (int i = 0; byte_fallback && i < 256; ++i) {
    char name[8];
    std::snprintf(name, sizeof name, "<0x%02X>", i);
    piece(name, 0, kByte);
  }
  float score = 0;
  for (const char* name : {"\xE2\x96\x81", "a", "b", "t", "h", "e", "th", "the", "\xE7\xB3\x96", "\xE2\x96\x81the"})
    piece(name, --score, kNormal);
  std::string trainer = number(3, static_cast<uint64_t>(model_type)) + number(4, byte_fallback ? 269 : 13);
  trainer += number(35, byte_fallback) + number(40, 0) + number(41, 1) + number(42, 2) + number(43, ~uint64_t{0});
  const std::string normaliser =
      text(1, "own") + (table.empty() ? "" : text(2, table)) + number(3, 0) + number(4, 0) + number(5, 1);
  return model + text(2, trainer) + text(3, normaliser);
}

// A Darts trie (src/data/tokenizer_model.cpp says how its units lead on) that holds "A", and the text "a".
std::string normaliser_table() {
  constexpr uint32_t kRootOffset = 256, kLeaf = 1 << 8, kValue = 1u << 31, kNode = kRootOffset ^ 'A';
  std::vector<uint32_t> units(512, kValue);  // a value where no byte leads
  units[0] = kRootOffset << 10;
  units[kNode] = (kNode ^ 1) << 10 | kLeaf | 'A';  // its leaf is unit 1
  units[1] = kValue | 0;
  const auto size = static_cast<uint32_t>(units.size() * sizeof(uint32_t));
  std::string table(sizeof size + size, '\0');
  std::memcpy(table.data(), &size, sizeof size);
  std::memcpy(table.data() + sizeof size, units.data(), size);
  return table + std::string("a\0", 2);
}

}  // namespace rankfold::fuzz
