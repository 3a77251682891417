#include "faults/program.h"

#include "checkpoint/checkpoint.h"
#include "core/check.h"
#include "support/tiny_tokenizer.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <thread>

extern char** environ;

namespace rankfold::faults {
namespace {

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// One thread each: several programs share the machine's cores. And no second start with settings that are there already,
// which takes as long as everything else before a first step.
std::vector<std::string> environment_of(const Setting& setting) {
  std::map<std::string, std::string> values;
  const auto set = [&values](const std::string& line) {
    const size_t equals = line.find('=');
    if (equals == std::string::npos)
      values.erase(line);
    else
      values[line.substr(0, equals)] = line;
  };
  for (char** line = environ; *line; ++line) set(*line);
  set("OMP_NUM_THREADS=1");
  set("OMP_WAIT_POLICY=passive");
  set("RANKFOLD_SET_UP=1");
  for (const std::string& line : setting.environment) set(line);
  std::vector<std::string> lines;
  for (const auto& [key, line] : values) lines.push_back(line);
  return lines;
}

std::vector<char*> pointers(std::vector<std::string>& texts) {
  std::vector<char*> result;
  for (std::string& text : texts) result.push_back(text.data());
  result.push_back(nullptr);
  return result;
}

// What /proc says of a process under a key; empty where it says nothing.
std::string status_of(pid_t pid, const std::string& key) {
  std::ifstream status("/proc/" + std::to_string(pid) + "/status");
  for (std::string line; std::getline(status, line);)
    if (line.starts_with(key + ":")) return line.substr(key.size() + 1);
  return "";
}

// A bit for each, from SIGHUP up.
uint64_t signals_of(pid_t pid, const std::string& key) {
  const std::string bits = status_of(pid, key);
  return bits.empty() ? 0 : std::stoull(bits, nullptr, 16);
}

}  // namespace

void sleep_for(double seconds) { std::this_thread::sleep_for(std::chrono::duration<double>(seconds)); }

Program::Program(const std::string& name, std::vector<std::string> arguments, const Setting& setting) {
  const std::string path = flags.programs + "/" + name;
  arguments.insert(arguments.begin(), path);
  std::vector<std::string> environment = environment_of(setting);
  const std::vector<char*> argv = pointers(arguments), envp = pointers(environment);
  const std::string out = folder_ / "out", err = folder_ / "err";
  started_ = now();
  pid_ = ::fork();
  if (pid_ != 0) return;
  ::dup2(::open("/dev/null", O_RDONLY), STDIN_FILENO);
  ::dup2(::open(out.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0666), STDOUT_FILENO);
  ::dup2(::open(err.c_str(), O_WRONLY | O_CREAT | O_APPEND, 0666), STDERR_FILENO);
  // A shell lets what runs behind it ignore SIGINT, and so would the program.
  for (const int number : {SIGINT, SIGTERM, SIGUSR1, SIGHUP}) ::signal(number, SIG_DFL);
  if (setting.in_child) setting.in_child();  // which may make one of its descriptors standard output
  for (int fd = 3; fd < 64; ++fd) ::close(fd);
  ::execve(path.c_str(), argv.data(), envp.data());
  ::_exit(127);
}

Program::~Program() {
  if (!runs()) return;
  ::kill(pid_, SIGKILL);
  ::waitpid(pid_, nullptr, 0);
}

double Program::seconds() const { return now() - started_; }

bool Program::runs() {
  if (ended_ == 0 && ::waitpid(pid_, &status_, WNOHANG) == pid_) ended_ = now();
  return ended_ == 0;
}

bool Program::hold() {
  if (!runs()) return false;
  signal(SIGSTOP);
  // Told when the last thread has stopped.
  while (::waitpid(pid_, &status_, WUNTRACED) != pid_) {
  }
  if (!WIFSTOPPED(status_)) ended_ = now();
  return ended_ == 0;
}

bool Program::says(const std::string& text) {
  while (seconds() < 300) {
    const bool running = runs();
    if (said().find(text) != std::string::npos) return true;
    if (!running) return false;
    sleep_for(0.002);
  }
  return false;
}

Outcome Program::wait(double most_seconds) {
  const double limit = now() + most_seconds;
  while (runs() && now() < limit) {
    peak_ = std::max(peak_, memory("VmHWM"));
    sleep_for(0.002);
  }
  if (runs()) {
    ADD_FAILURE() << "still running after " << most_seconds << " s: " << said();
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, &status_, 0);
    ended_ = now();
  }
  return {.code = WIFEXITED(status_) ? WEXITSTATUS(status_) : -1,
          .signal = WIFSIGNALED(status_) ? WTERMSIG(status_) : 0,
          .seconds = ended_ - started_,
          .peak_bytes = peak_,
          .out = said(),
          .err = read_bytes(folder_ / "err")};
}

int64_t Program::memory(const std::string& key) const {
  const std::string value = status_of(pid_, key);
  return value.empty() ? 0 : std::stoll(value) * 1024;
}

// The first thing it does there is to hold them back.
bool Program::is_in_main() const { return (signals_of(pid_, "SigBlk") >> (SIGTERM - 1) & 1) != 0; }

bool Program::has_pending_signals() const { return signals_of(pid_, "ShdPnd") != 0; }

std::string Instant::text() const {
  return join(seconds, " s after ",
              after == After::kStart   ? "its start"
              : after == After::kMain  ? "the begin of main"
              : after == After::kWords ? "its first words"
                                       : "step " + std::to_string(step));
}

Instant instant_of(int64_t i, int64_t count, double life, int64_t steps, Random& random) {
  using After = Instant::After;
  const double part = random.unit();
  // Not before a checkpoint may be there.
  const int64_t first = std::min(kSaveSteps + 1, steps), choice = std::max<int64_t>(1, steps - first);
  const auto step = first + static_cast<int64_t>(random.below(static_cast<uint64_t>(choice)));
  switch (i % 8) {
    case 0:
    case 4:
      return {life * (static_cast<double>(i) + part) / static_cast<double>(count)};
    case 1:
      return {0.3 * part, After::kMain};
    case 5:
      return {0.004 * part, After::kWords};
    case 7:
      return {0.01 * part, After::kStep, steps};
    default:
      return {0.005 * part, After::kStep, step};
  }
}

void await(Program& run, const Instant& instant) {
  using After = Instant::After;
  if (instant.after == After::kMain)
    while (run.runs() && !run.is_in_main()) sleep_for(0.001);
  if (instant.after == After::kWords) run.says("\n");
  if (instant.after == After::kStep) run.says(join("\nstep ", instant.step, "/"));
  sleep_for(instant.seconds);
}

Job::Job(int64_t text_rows) {
  testing::write_tiny_model(folder_ / "model", {.vocabulary = 512});
  testing::train_tokenizer(folder_ / "model");
  testing::write_tiny_rows(folder_ / "ids.jsonl", 200, 512);
  std::ofstream text(folder_ / "text.jsonl");
  for (int64_t i = 0; i < text_rows; ++i)
    text << nlohmann::json{{"question",
                            "What is " + std::to_string(i * 7919) + " for a patient with high blood pressure?"},
                           {"answer", "Ask your doctor. 请先咨询医生 " + std::to_string(i)}}
                .dump()
         << "\n";
}

std::vector<std::string> Job::arguments(const std::string& output_dir, std::vector<std::string> more) const {
  std::vector<std::string> all = {"--model_name_or_path=" + (folder_ / "model").string(),
                                  "--dataset=" + (folder_ / "ids.jsonl").string(),
                                  "--output_dir=" + (folder_ / output_dir).string(),
                                  "--r=4",
                                  "--lora_dropout=0.05",
                                  "--target_modules=W_pack,down_proj",
                                  "--per_device_train_batch_size=2",
                                  "--gradient_accumulation_steps=2",
                                  "--learning_rate=0.005",
                                  "--logging_steps=1",
                                  "--save_steps=" + std::to_string(kSaveSteps),
                                  "--save_total_limit=3",
                                  "--max_steps=" + std::to_string(kSteps),
                                  "--device=" + flags.device};
  all.insert(all.end(), more.begin(), more.end());
  return all;
}

Resumed Job::resume(const std::string& output_dir, std::vector<std::string> more) const {
  Resumed resumed{.outcome = {}, .from = newest_step(folder_ / output_dir)};
  more.push_back("--resume_from_checkpoint=auto");
  resumed.outcome = train(output_dir, more);
  const Outcome& o = resumed.outcome;
  const std::vector<int64_t> steps = steps_said(o.out);
  resumed.is_good =
      o.code == 0 && resumed_step(o.out) == resumed.from && (steps.empty() || steps[0] == resumed.from + 1);
  EXPECT_TRUE(resumed.is_good) << "the newest checkpoint is of step " << resumed.from << ", but code " << o.code
                               << ", signal " << o.signal << ": " << o.err << o.out;
  return resumed;
}

std::vector<int64_t> steps_said(const std::string& text) {
  constexpr std::string_view kStep = "step ";
  std::vector<int64_t> steps;
  for (size_t at = 0, end; (end = text.find('\n', at)) != std::string::npos; at = end + 1)
    if (text.compare(at, kStep.size(), kStep) == 0 && std::isdigit(static_cast<unsigned char>(text[at + kStep.size()])))
      steps.push_back(std::atoll(text.c_str() + at + kStep.size()));
  return steps;
}

int64_t newest_step(const fs::path& output_dir) {
  try {
    const auto found = newest_checkpoint(output_dir, {});
    return found ? found->step : 0;
  } catch (const Error& error) {
    ADD_FAILURE() << error.what();
    return 0;
  }
}

}  // namespace rankfold::faults
