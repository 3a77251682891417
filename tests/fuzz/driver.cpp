// Runs a fuzz target over large inputs and over mutants of its seeds, each kind of file by itself, and prints a line for
// each: how many, accepted, refused, crashes, the slowest, the largest growth of memory, the longest line of an error.
// Mutant I of a seed S is always the same.
//   fuzz_NAME [--mutants N] [--seed S] [--count N] [--file NAME [--only I]] [--accepted FOLDER] [--seeds FOLDER]
//            [--inputs LIST]
//     --mutants   of each kind of file
//     --count     elements of a large input; 0: none are run
//     --file      of this kind alone; "large": the large inputs alone
//     --only      input I of them alone
//     --accepted  writes each mutant that is accepted there, as NUMBER-FILE
//     --seeds     writes the seeds there, as libFuzzer takes them, and ends
//     --inputs    reads files, each line of LIST a kind and a path; prints "ok RESULT" or "no LINE" for each, and ends
// Exit code 1: a crash, something thrown that is no UserError, something printed, more than a second, or more memory than
// 16 MiB and kGrowthOfAByte times the input.
#include "fuzz/fuzz.h"
#include "fuzz/mutate.h"
#include "support/sanitizers.h"

#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <ctime>
#include <fstream>
#include <iostream>
#include <iterator>
#include <map>
#include <new>
#include <sstream>

namespace rankfold::fuzz {
namespace {
namespace fs = std::filesystem;

constexpr double kLongest = 1;                // seconds of processor time: other processes are nothing to us
constexpr double kSlower = 100, kLarger = 4;  // under a sanitizer: large inputs, and the memory of any
constexpr unsigned kHang = 600;               // seconds until the process that has not come back is ended
constexpr double kMostGrowth = 16384;         // KiB, and what the target says for each byte of the input
constexpr int kMostCrashes = 10;

struct Options {
  std::map<std::string, std::string> flags{{"mutants", "10000"}, {"seed", "1"}, {"count", "100000"}};
  explicit Options(int argc, char** argv) {
    for (int i = 1; i + 1 < argc; i += 2) flags[std::string(argv[i]).substr(2)] = argv[i + 1];
    if (argc % 2 == 0) throw std::invalid_argument(std::string(argv[argc - 1]) + " needs a value");
  }
  bool has(const char* key) const { return flags.contains(key); }
  uint64_t number(const char* key) const { return std::stoull(flags.at(key)); }
};

// What the process that runs inputs tells the one that watches it.
struct Shared {
  uint64_t next = 0, accepted = 0, refused = 0, over = 0;
  size_t longest_line = 0;
  double slowest = 0;
  long largest_growth = 0;  // KiB
};

double processor_seconds() {
  timespec now{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

// Peak of the memory in use since forget_peak(), in KiB.
long peak_kib() {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);)
    if (line.starts_with("VmHWM:")) return std::stol(line.substr(6));
  return 0;
}
void forget_peak() { std::ofstream("/proc/self/clear_refs") << "5"; }

// Standard error of the processes that run inputs: no parser prints, and a sanitizer's report is for the one that watches.
class Printed {
 public:
  Printed() : file_(::memfd_create("printed", 0)), stderr_(::dup(2)) {}
  void take() const { ::dup2(file_, 2); }
  // Once more to the true one; whether there was any.
  bool show() const {
    std::string bytes(size(), '\0');
    const ssize_t count = ::pread(file_, bytes.data(), bytes.size(), 0);
    return count > 0 && ::write(stderr_, bytes.data(), static_cast<size_t>(count)) > 0;
  }
  void clear() const {
    if (::ftruncate(file_, 0) != 0 || ::lseek(file_, 0, SEEK_SET) != 0) std::abort();
  }
  size_t size() const {
    struct stat status {};
    return ::fstat(file_, &status) == 0 ? static_cast<size_t>(status.st_size) : 0;
  }
  void say(const std::string& line) const {
    if (::write(stderr_, (line + "\n").data(), line.size() + 1) < 0) std::abort();
  }

 private:
  int file_, stderr_;
};

void run(const std::string& input) {
  LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(input.data()), input.size());
}

// Inputs of one kind.
struct Kind {
  std::string name;
  uint64_t count;
  std::function<std::string(uint64_t)> input;
  bool is_large;
};

std::vector<Kind> kinds(const Options& options) {
  static const std::vector<Large> large =
      options.number("count") == 0 ? std::vector<Large>() : large_inputs(static_cast<int>(options.number("count")));
  std::vector<Kind> all;
  if (!large.empty()) all.push_back({"large", large.size(), [](uint64_t i) { return large[i].input; }, true});
  for (size_t file = 0; file < file_names().size(); ++file) {
    std::vector<std::string> contents;
    for (const std::string& seed : seeds())
      if (static_cast<unsigned char>(seed[0]) == file) contents.push_back(seed.substr(1));
    if (contents.empty()) throw std::logic_error("no seed of " + file_names()[file]);
    const uint64_t start = Random(options.number("seed")).next();
    all.push_back({file_names()[file], options.number("mutants"),
                   [contents, file, start](uint64_t i) {
                     Random random(start + i);
                     return fuzz::input(static_cast<uint8_t>(file), mutant(random, contents, file_names()[file]));
                   },
                   false});
  }
  if (options.has("file")) std::erase_if(all, [&](const Kind& kind) { return kind.name != options.flags.at("file"); });
  if (all.empty()) throw std::invalid_argument("--file: " + options.flags.at("file") + " is none of this parser's");
  return all;
}

void run_measured(const Options& options, const Kind& kind, uint64_t index, const Printed& printed, Shared& shared) {
  const std::string input = kind.input(index);
  const double most_seconds = kLongest * (kind.is_large && testing::kSanitized ? kSlower : 1);
  const double most_kib =
      (kMostGrowth + kGrowthOfAByte * static_cast<double>(input.size()) / 1024) * (testing::kSanitized ? kLarger : 1);
  verdict = {};
  forget_peak();
  const long before = peak_kib();
  const double start = processor_seconds();
  run(input);
  const double seconds = processor_seconds() - start;
  const long growth = peak_kib() - before;
  if (printed.size() > 0) std::abort();
  if (seconds > most_seconds || static_cast<double>(growth) > most_kib) {
    std::ostringstream line;
    line << kName << " " << kind.name << ": input " << index << " of " << input.size() << " bytes took " << seconds
         << " s and " << growth << " KiB";
    printed.say(line.str());
    ++shared.over;
  }
  shared.slowest = std::max(shared.slowest, seconds);
  shared.largest_growth = std::max(shared.largest_growth, growth);
  shared.longest_line = std::max(shared.longest_line, verdict.longest_line);
  (verdict.was_accepted ? shared.accepted : shared.refused) += 1;
  if (!verdict.was_accepted || kind.is_large || !options.has("accepted")) return;
  std::ofstream(fs::path(options.flags.at("accepted")) / (std::to_string(index) + "-" + kind.name), std::ios::binary)
      << std::string_view(input).substr(1);
}

[[noreturn]] void work(const Options& options, const Kind& kind, uint64_t end, const Printed& printed, Shared& shared) {
  for (const std::string& seed : seeds()) {
    run(seed);
    if (!verdict.was_accepted) {
      printed.say(std::string(kName) + ": a seed is refused: " + seed.substr(1, 100));
      std::abort();
    }
  }
  printed.clear();
  printed.take();
  while (shared.next < end) {
    alarm(kHang);
    run_measured(options, kind, shared.next, printed, shared);
    // AddressSanitizer keeps the frames that an exception has left, and gets slower by each: a new process has none.
    if (kind.is_large) break;
    ++shared.next;
  }
  std::exit(0);  // with LeakSanitizer's last look
}

// Whether all went well.
bool run_kind(const Options& options, const Kind& kind, const fs::path& folder) {
  void* memory = ::mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  Shared& shared = *new (memory) Shared;
  const Printed printed;
  const uint64_t begin = options.has("only") ? options.number("only") : 0;
  const uint64_t end = options.has("only") ? begin + 1 : kind.count;
  int crashes = 0;
  for (shared.next = begin; shared.next < end && crashes < kMostCrashes;) {
    const uint64_t first = shared.next;
    const pid_t child = ::fork();
    if (child == 0) work(options, kind, end, printed, shared);
    int status = 0;
    ::waitpid(child, &status, 0);
    std::error_code ignored;
    fs::remove_all(folder, ignored);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
      if (!kind.is_large) break;
      ++shared.next;
      continue;
    }
    ++crashes;
    printed.show();
    std::cerr << kName << ": input " << shared.next << " ended the process ("
              << (WIFSIGNALED(status) ? ::strsignal(WTERMSIG(status)) : "exit") << "); again: --seed "
              << options.number("seed") << " --file " << kind.name << " --only " << shared.next << std::endl;
    if (first == shared.next && crashes > 1) break;  // not even the seeds pass
    ++shared.next;
  }
  std::cout << kName << " " << kind.name << ": " << shared.next - begin << (kind.is_large ? " inputs, " : " mutants, ")
            << shared.accepted << " accepted, " << shared.refused << " refused, " << crashes << " crashes, slowest "
            << static_cast<long>(shared.slowest * 1000 + 0.5) << " ms, largest growth "
            << (shared.largest_growth + 1023) / 1024 << " MiB, longest line " << shared.longest_line << " bytes"
            << std::endl;
  return crashes == 0 && shared.over == 0;
}

void write_seeds(const fs::path& folder) {
  fs::create_directories(folder);
  int number = 0;
  for (const std::string& seed : seeds()) std::ofstream(folder / std::to_string(number++), std::ios::binary) << seed;
}

void run_inputs(const fs::path& list) {
  wants_result = true;
  std::ifstream lines(list);
  for (std::string name, path; lines >> name && std::getline(lines >> std::ws, path);) {
    const auto file = std::find(file_names().begin(), file_names().end(), name) - file_names().begin();
    std::ifstream bytes(path, std::ios::binary);
    run(input(static_cast<uint8_t>(file), std::string(std::istreambuf_iterator<char>(bytes), {})));
    std::cout << (verdict.was_accepted ? "ok " + verdict.result : "no " + verdict.line) << "\n";
  }
}

int main(int argc, char** argv) {
  const Options options(argc, argv);
  if (options.has("seeds")) return write_seeds(options.flags.at("seeds")), 0;
  if (options.has("accepted")) fs::create_directories(options.flags.at("accepted"));

  const bool has_memory_folder = fs::is_directory("/dev/shm");
  const fs::path folder = (has_memory_folder ? fs::path("/dev/shm") : fs::temp_directory_path()) /
                          ("rankfold-fuzz-" + std::to_string(::getpid()));
  ::setenv("RANKFOLD_FUZZ_FOLDER", folder.c_str(), 1);
  if (options.has("inputs")) {
    run_inputs(options.flags.at("inputs"));
    fs::remove_all(folder);
    return 0;
  }
  bool is_well = true;
  for (const Kind& kind : kinds(options)) is_well = run_kind(options, kind, folder) && is_well;
  return !is_well;
}

}  // namespace
}  // namespace rankfold::fuzz

int main(int argc, char** argv) {
  try {
    return rankfold::fuzz::main(argc, argv);
  } catch (const std::exception& error) {
    std::cerr << rankfold::fuzz::kName << ": " << error.what() << std::endl;
    return 2;
  }
}
