// What a fuzz target is. Each parser has a file here that defines all that is declared below but judge() and the
// folder. It runs under our own driver (driver.cpp: mutants of the seeds, the same ones each time) and under libFuzzer.
#pragma once

#include "rankfold/error.h"

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

// An input is a byte that says which of file_names() the rest stands for; the other files are sound ones.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace rankfold::fuzz {

extern const char* const kName;
const std::vector<std::string>& file_names();
std::vector<std::string> seeds();  // sound inputs, all of which are accepted

inline bool was_accepted = false;  // by the last call of judge()

// Runs a parser. It may accept or throw a UserError of one line; anything else ends the process.
template <class Parse>
int judge(Parse parse) {
  const auto defect = [](const char* what) {
    std::fprintf(stderr, "%s: expected a UserError of one line, got: %s\n", kName, what);
    std::abort();
  };
  was_accepted = false;
  try {
    parse();
    was_accepted = true;
  } catch (const Error& error) {
    const std::string_view line = error.what();
    if (error.code() != ExitCode::kBadInput || line.empty() || line.find('\n') != line.npos) defect(error.what());
  } catch (const std::exception& error) {
    defect(error.what());
  }
  return 0;
}

// A folder for the files that the parser reads: $RANKFOLD_FUZZ_FOLDER, which whoever sets it removes, or a new one.
class Folder {
 public:
  Folder();
  const std::filesystem::path& path() const { return path_; }
  void write(const std::string& name, std::string_view bytes) const;
  // Writes the rest of an input under the name that its first byte says, and afterwards the sound file again.
  template <class Parse>
  int with_input(const uint8_t* data, size_t size, Parse parse) const {
    if (size == 0) return 0;
    const std::string& name = file_names()[data[0] % file_names().size()];
    const std::string sound = read(name);
    write(name, {reinterpret_cast<const char*>(data) + 1, size - 1});
    const int result = judge(parse);
    write(name, sound);
    return result;
  }

 private:
  std::string read(const std::string& name) const;
  std::filesystem::path path_;
};

std::string input(uint8_t file, std::string_view bytes);  // for seeds()

// safetensors: a header and as many zero bytes.
std::string tensor_file(const std::string& header, size_t data_bytes);

// tokenizer.model: BPE (2) or unigram (1) with a few pieces and, where asked for, all 256 bytes. `normaliser_table` is
// a precompiled charsmap.
std::string tokenizer_model(int model_type, bool byte_fallback, const std::string& normaliser_table = "");
std::string normaliser_table();  // turns "A" into "a"

}  // namespace rankfold::fuzz
