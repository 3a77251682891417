// What a fuzz target is. Each parser has a file here that defines all that is declared below but judge() and the
// folder. It runs under our own driver (driver.cpp: mutants of the seeds, the same ones each time) and under libFuzzer.
#pragma once

#include "rankfold/error.h"

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

// An input is a byte that says which of file_names() the rest stands for; the other files are sound ones.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace rankfold::fuzz {

extern const char* const kName;
extern const double kGrowthOfAByte;  // bytes that reading one may take
const std::vector<std::string>& file_names();
std::vector<std::string> seeds();  // sound inputs, all of which are accepted, at least one of each file

// Inputs of a few MB, in which one element stands `count` times; accepted or not, they must not take long.
struct Large {
  const char* what;
  std::string input;
};
std::vector<Large> large_inputs(int count);

// Of the last call of judge().
struct Verdict {
  bool was_accepted = false;
  size_t longest_line = 0;
  std::string line = {};    // the error's, or
  std::string result = {};  // what was read, where `wants_result`
};
inline Verdict verdict;
inline bool wants_result = false;

// Ends the process unless it is one line that a terminal can show.
void judge_line(std::string_view line);

// Runs a parser. It may accept or throw a UserError; anything else ends the process.
template <class Parse>
int judge(Parse parse) {
  const auto defect = [](const char* what) {
    std::fprintf(stderr, "%s: expected a UserError, got: %s\n", kName, what);
    std::abort();
  };
  verdict = {};
  try {
    parse();
    verdict.was_accepted = true;
  } catch (const Error& error) {
    if (error.code() != ExitCode::kBadInput) defect(error.what());
    judge_line(verdict.line = error.what());
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
  // Writes the rest of an input under the name that its first byte says, and afterwards the sound file again. `parse`
  // gets the name.
  template <class Parse>
  int with_input(const uint8_t* data, size_t size, Parse parse) const {
    if (size == 0) return 0;
    const std::string& name = file_names()[data[0] % file_names().size()];
    const std::string sound = read(name);
    write(name, {reinterpret_cast<const char*>(data) + 1, size - 1});
    const int result = judge([&] { parse(name); });
    write(name, sound);
    return result;
  }

 private:
  std::string read(const std::string& name) const;
  std::filesystem::path path_;
};

std::string input(uint8_t file, std::string_view bytes);  // for seeds()

// "begin", then element(0), "," ... element(count - 1), then "end".
std::string repeated(const std::string& begin, int count, const std::function<std::string(int)>& element,
                     const std::string& end, const std::string& between = ",");

// manifest.json of a folder with these files.
std::string manifest(const std::vector<std::pair<std::string, std::string>>& files);

// safetensors: a header and as many zero bytes.
std::string tensor_file(const std::string& header, size_t data_bytes);

// tokenizer.model: a few pieces and, where asked for, control pieces and all 256 bytes.
struct ModelParts {
  int type = 2;  // unigram 1, BPE 2, word 3, char 4
  bool byte_fallback = false;
  bool control = true;
  std::string normaliser_table = {};  // a precompiled charsmap
  std::string more = {};              // fields after the pieces
};
std::string tokenizer_model(const ModelParts& parts);

}  // namespace rankfold::fuzz
