// Runs a fuzz target over mutants of its seeds and prints one line: how many, accepted, refused, crashes, the slowest
// and the largest growth of memory. Mutant I of a seed S is always the same.
//   fuzz_NAME [--mutants N] [--seed S] [--accepted FOLDER] [--seeds FOLDER] [--only I]
//     --accepted  writes each mutant that is accepted there, as NUMBER-FILE
//     --seeds     writes the seeds there, as libFuzzer takes them, and ends
//     --only      runs mutant I alone, after the seeds
// Exit code 1: a crash, something thrown that is no UserError, more than a second, or more than 64 MiB.
#include "fuzz/fuzz.h"
#include "fuzz/mutate.h"

#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <ctime>
#include <fstream>
#include <iostream>
#include <map>
#include <new>

namespace rankfold::fuzz {
namespace {
namespace fs = std::filesystem;

constexpr double kLongest = 1;       // seconds of processor time: other processes are nothing to us
constexpr unsigned kHang = 20;       // seconds until the process that has not come back is ended
constexpr long kMostGrowth = 65536;  // KiB
constexpr int kMostCrashes = 10;

struct Options {
  std::map<std::string, std::string> flags{{"mutants", "10000"}, {"seed", "1"}};
  explicit Options(int argc, char** argv) {
    for (int i = 1; i + 1 < argc; i += 2) flags[std::string(argv[i]).substr(2)] = argv[i + 1];
    if (argc % 2 == 0) throw std::invalid_argument(std::string(argv[argc - 1]) + " needs a value");
  }
  bool has(const char* key) const { return flags.contains(key); }
  uint64_t number(const char* key) const { return std::stoull(flags.at(key)); }
};

// What the process that runs mutants tells the one that watches it.
struct Shared {
  uint64_t next = 0, accepted = 0, refused = 0, slow = 0, large = 0;
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

void run(const std::string& input) {
  LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(input.data()), input.size());
}

std::string mutant_of(const Options& options, uint64_t index) {
  static const std::vector<std::string> all = seeds();
  Random random(Random(options.number("seed")).next() + index);
  return mutant(random, all, file_names());
}

void run_measured(const Options& options, uint64_t index, Shared& shared) {
  const std::string input = mutant_of(options, index);
  forget_peak();
  const long before = peak_kib();
  const double start = processor_seconds();
  run(input);
  const double seconds = processor_seconds() - start;
  const long growth = peak_kib() - before;
  if (seconds > kLongest || growth > kMostGrowth)
    std::cerr << kName << ": mutant " << index << " took " << seconds << " s and " << growth << " KiB" << std::endl;
  shared.slow += seconds > kLongest;
  shared.large += growth > kMostGrowth;
  shared.slowest = std::max(shared.slowest, seconds);
  shared.largest_growth = std::max(shared.largest_growth, growth);
  (was_accepted ? shared.accepted : shared.refused) += 1;
  if (!was_accepted || !options.has("accepted")) return;
  const std::string name = std::to_string(index) + "-" + file_names()[static_cast<unsigned char>(input[0])];
  std::ofstream(fs::path(options.flags.at("accepted")) / name, std::ios::binary) << std::string_view(input).substr(1);
}

[[noreturn]] void work(const Options& options, uint64_t end, Shared& shared) {
  for (const std::string& seed : seeds()) {
    run(seed);
    if (!was_accepted) {
      std::cerr << kName << ": a seed is refused: " << seed.substr(1, 100) << std::endl;
      std::abort();
    }
  }
  for (; shared.next < end; ++shared.next) {
    alarm(kHang);
    run_measured(options, shared.next, shared);
  }
  std::exit(0);  // with LeakSanitizer's last look
}

void write_seeds(const fs::path& folder) {
  fs::create_directories(folder);
  int number = 0;
  for (const std::string& seed : seeds()) std::ofstream(folder / std::to_string(number++), std::ios::binary) << seed;
}

int main(int argc, char** argv) {
  const Options options(argc, argv);
  if (options.has("seeds")) return write_seeds(options.flags.at("seeds")), 0;
  if (options.has("accepted")) fs::create_directories(options.flags.at("accepted"));

  const bool has_memory_folder = fs::is_directory("/dev/shm");
  const fs::path folder = (has_memory_folder ? fs::path("/dev/shm") : fs::temp_directory_path()) /
                          ("rankfold-fuzz-" + std::to_string(::getpid()));
  ::setenv("RANKFOLD_FUZZ_FOLDER", folder.c_str(), 1);
  void* memory = ::mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  Shared& shared = *new (memory) Shared;
  const uint64_t begin = options.has("only") ? options.number("only") : 0;
  const uint64_t end = options.has("only") ? begin + 1 : options.number("mutants");
  int crashes = 0;
  for (shared.next = begin; shared.next < end && crashes < kMostCrashes;) {
    const uint64_t first = shared.next;
    const pid_t child = ::fork();
    if (child == 0) work(options, end, shared);
    int status = 0;
    ::waitpid(child, &status, 0);
    std::error_code ignored;
    fs::remove_all(folder, ignored);
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) break;
    ++crashes;
    std::cerr << kName << ": mutant " << shared.next << " ended the process ("
              << (WIFSIGNALED(status) ? ::strsignal(WTERMSIG(status)) : "exit") << "); again: --seed "
              << options.number("seed") << " --only " << shared.next << std::endl;
    if (first == shared.next && crashes > 1) break;  // not even the seeds pass
    ++shared.next;
  }
  std::cout << kName << ": " << shared.next - begin << " mutants, " << shared.accepted << " accepted, "
            << shared.refused << " refused, " << crashes << " crashes, slowest "
            << static_cast<long>(shared.slowest * 1000 + 0.5) << " ms, largest growth "
            << (shared.largest_growth + 1023) / 1024 << " MiB" << std::endl;
  return crashes > 0 || shared.slow > 0 || shared.large > 0;
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
