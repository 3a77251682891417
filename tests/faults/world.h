// A tiny model with its rows, runs of it in this process, and what their folders must look like.
#pragma once

#include "rankfold/rankfold.h"
#include "support/temp_folder.h"
#include "support/tiny_model.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <map>
#include <sstream>
#include <string>
#include <vector>

namespace rankfold::faults {

namespace fs = std::filesystem;
using testing::kVocabulary;
using testing::read_bytes;
using testing::TempFolder;

// Every file below a folder: name -> bytes.
inline std::map<std::string, std::string> files_below(const fs::path& folder) {
  std::map<std::string, std::string> files;
  std::error_code error;
  for (const auto& entry : fs::recursive_directory_iterator(folder, error))
    if (entry.is_regular_file()) files[entry.path().lexically_relative(folder)] = read_bytes(entry.path());
  return files;
}

// Names below a folder that a finished or failed program must not leave.
inline std::vector<std::string> temporaries_below(const fs::path& folder) {
  std::vector<std::string> found;
  std::error_code error;
  for (const auto& entry : fs::recursive_directory_iterator(folder, error)) {
    const std::string name = entry.path().filename();
    if (name.ends_with(".tmp") || name.starts_with(".rankfold-probe"))
      found.push_back(entry.path().lexically_relative(folder));
  }
  return found;
}

// The step at which a run said that it goes on, 0 where it said that it starts there; -1: it said neither.
inline int64_t resumed_step(const std::string& said) {
  constexpr const char *kResumed = "resumed ", *kAt = " at step ";
  std::istringstream lines(said);
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("no checkpoint in ")) return 0;
    const size_t at = line.rfind(kAt);
    if (line.starts_with(kResumed) && at != std::string::npos)
      return std::atoll(line.c_str() + at + std::string(kAt).size());
  }
  return -1;
}

class World {
 public:
  World() {
    testing::write_tiny_model(folder_ / "model",
                              {.vocabulary = kVocabulary, .hidden = 16, .inner = 24, .layers = 1, .heads = 2});
    testing::write_tiny_rows(folder_ / "rows.jsonl", 37, kVocabulary);
  }
  fs::path operator/(const std::string& name) const { return folder_ / name; }

  TrainConfig settings(const fs::path& output_dir, int64_t steps) const {
    TrainConfig config;
    config.output_dir = output_dir.string();
    config.per_device_train_batch_size = 2;
    config.max_steps = steps;
    config.learning_rate = 5e-3;
    config.warmup_steps = 1;
    config.logging_steps = 1;
    config.save_steps = 2;
    return config;
  }
  CausalLM model() const { return CausalLM::load(folder_ / "model", {.device = "cpu"}); }
  Adapter adapter(const CausalLM& model) const {
    return Adapter::create(
        model, {.r = 2, .lora_alpha = alpha_, .lora_dropout = 0.1, .target_modules = StringList{"W_pack", "down_proj"}},
        7);
  }
  bool loads(const fs::path& folder) const {
    try {
      Adapter::load(model(), folder);
      return true;
    } catch (const Error&) {
      return false;
    }
  }

  // All steps; the first takes what the trainer says.
  void train(const TrainConfig& config, const std::function<void(const std::string&)>& on_message = {},
             const std::function<void(const Progress&)>& on_progress = {}) const {
    const CausalLM base = model();
    Trainer trainer(base, adapter(base),
                    Dataset::open(folder_ / "rows.jsonl", nullptr, {.max_length = 64}, kVocabulary), config);
    trainer.on_message(on_message);
    trainer.on_progress(on_progress);
    trainer.add_file("prompt_template.json", "{}\n");
    trainer.run();
  }

  // The steps that are left after the newest checkpoint, which is of step `from`; 0: there is none. False where the run
  // did not say that it goes on there, or did not.
  bool resume(TrainConfig config, int64_t from) const {
    config.resume_from_checkpoint = "auto";
    std::string said;
    int64_t first = 0;
    train(
        config, [&](const std::string& line) { said += line + "\n"; },
        [&](const Progress& progress) { first = first ? first : progress.step; });
    EXPECT_EQ(resumed_step(said), from) << said;
    EXPECT_EQ(first, from < config.max_steps ? from + 1 : 0) << said;
    return resumed_step(said) == from && first == (from < config.max_steps ? from + 1 : 0);
  }

  double alpha_ = 8;  // of the next adapters

 private:
  TempFolder folder_;
};

}  // namespace rankfold::faults
