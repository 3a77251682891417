// The power goes off after each call of whole runs, saves and merges, and what was not synced is lost, kept or torn: what
// is found afterwards is of one save.
#include "checkpoint/checkpoint.h"
#include "faults/crash_model.h"
#include "faults/world.h"

#include <gtest/gtest.h>

#include <iostream>
#include <optional>

namespace rankfold::faults {
namespace {

using Files = Disk::Files;

class Crashes : public ::testing::Test, protected World {
 protected:
  // A run of six steps that saves every two, watched from its begin to its end.
  struct Watched {
    std::optional<CrashModel> model;
    std::map<int64_t, size_t> saved;  // step -> calls after which its checkpoint was said to be saved
    size_t last_step = 0, done = 0;   // calls when the last step was computed, and when the run was over
    Files result_before, result_after;
  };

  static Files result_of(const Files& files) {
    Files result;
    for (const auto& [name, bytes] : files)
      if (name == "adapter_model.safetensors" || name == "adapter_config.json") result[name] = bytes;
    return result;
  }

  Watched watch(const TrainConfig& config) const {
    Watched watched;
    const Disk before(config.output_dir);
    const CausalLM base = model();
    Trainer trainer(base, adapter(base), Dataset::open(*this / "rows.jsonl", nullptr, {.max_length = 64}, kVocabulary),
                    config);
    trainer.on_progress([&](const Progress& progress) {
      const int64_t save = progress.step - 1;
      if (save > 0 && save % config.save_steps == 0) watched.saved[save] = journal_size();
      if (progress.step == progress.total_steps) watched.last_step = journal_size();
    });
    start({.root = config.output_dir, .journal = true});
    trainer.run();
    Report report = stop();
    watched.saved[config.max_steps] = watched.done = report.journal.size();
    watched.model.emplace(before, report.journal);
    // The model knows all that happened: with nothing lost it is the folder as it is.
    EXPECT_EQ(watched.model->whole(watched.done).files(), files_below(config.output_dir));
    watched.result_before = result_of(before.files());
    watched.result_after = result_of(files_below(config.output_dir));
    return watched;
  }

  // What each checkpoint has ever held under its name with nothing lost.
  static std::map<int64_t, std::vector<Files>> checkpoints_of(const CrashModel& model) {
    std::map<int64_t, std::vector<Files>> known;
    for (size_t calls = 0; calls <= model.size(); ++calls) {
      std::map<int64_t, Files> now;
      for (const auto& [name, bytes] : model.whole(calls).files()) {
        const size_t slash = name.find('/'), digits = name.find_first_not_of("0123456789", 11);
        if (name.starts_with("checkpoint-") && digits == slash)
          now[std::stoll(name.substr(11))][name.substr(slash + 1)] = bytes;
      }
      for (auto& [step, files] : now)
        if (files.contains("manifest.json") &&
            std::find(known[step].begin(), known[step].end(), files) == known[step].end())
          known[step].push_back(std::move(files));
    }
    return known;
  }

  bool loads(const fs::path& folder) const {
    try {
      Adapter::load(model(), folder);
      return true;
    } catch (const Error&) {
      return false;
    }
  }

  void check(const std::string& name, const Watched& watched, const TrainConfig& config) {
    const auto known = checkpoints_of(*watched.model);
    const std::string run = run_of(config.output_dir);
    int64_t states = 0, mixed = 0, lost = 0, refused = 0, resumed = 0;
    for (size_t calls = 0; calls <= watched.model->size(); ++calls) {
      int64_t least = 0;
      for (const auto& [step, at] : watched.saved)
        if (at <= calls) least = std::max(least, step);
      for (const Disk& disk : watched.model->states_after(calls)) {
        const TempFolder folder;
        disk.write_to(folder.path());
        const std::string where =
            name + ", state " + std::to_string(states++) + ", after call " + std::to_string(calls);
        try {
          const auto found = newest_checkpoint(folder.path(), {});
          if (!found) {
            if (least > 0) ++lost, ADD_FAILURE() << where << ": no checkpoint, step " << least << " was saved";
          } else {
            const auto& of_step = known.at(found->step);
            if (std::find(of_step.begin(), of_step.end(), files_below(found->path)) == of_step.end())
              ++mixed, ADD_FAILURE() << where << ": " << found->path.filename() << " is of no save";
            if (found->step < least) ++lost, ADD_FAILURE() << where << ": step " << found->step << " of " << least;
          }
        } catch (const Error& error) {
          ++lost, ADD_FAILURE() << where << ": " << error.what();
        }
        if (fs::exists(folder / "adapter_model.safetensors") || calls >= watched.done) {
          const Files result = result_of(files_below(folder.path()));
          if (!loads(folder.path())) {
            ++refused;
            if (calls >= watched.done) ++lost, ADD_FAILURE() << where << ": the result is refused";
          } else if (result != watched.result_after && (result != watched.result_before || calls >= watched.done)) {
            ++mixed, ADD_FAILURE() << where << ": the result is neither the old nor the new one";
          }
        }
        if (states % 97 == 0 && run_of(folder.path()) == run) {  // the whole way, of some
          ++resumed;
          TrainConfig again = config;
          again.output_dir = folder.path();
          again.resume_from_checkpoint = "auto";
          train(again);
          EXPECT_EQ(result_of(files_below(folder.path())), watched.result_after) << where;
        }
        if (mixed + lost > 20) FAIL() << "and so on";
      }
    }
    std::cout << "crashes: " << name << ": " << watched.model->size() << " calls, " << states << " states, " << mixed
              << " mixed, " << lost << " lost; result refused between old and new in " << refused << "; " << resumed
              << " resumed to the same bytes\n";
  }

  TempFolder folder_;
};

TEST_F(Crashes, ARun) {
  TrainConfig config = settings(folder_ / "out", 6);
  config.save_total_limit = 1;
  fs::create_directory(folder_ / "out");
  check("a run", watch(config), config);
}

// The result of the first stands until that of the second does; its checkpoints are not the second's.
TEST_F(Crashes, ASecondRunInTheFolder) {
  TrainConfig config = settings(folder_ / "out", 6);
  config.learning_rate = 1e-3;
  train(config);
  config.learning_rate = 5e-3;
  const Watched watched = watch(config);
  EXPECT_NE(watched.result_before, watched.result_after);
  check("a second run", watched, config);
}

TEST_F(Crashes, CheckpointsInThePlaceOfOthers) {
  TrainConfig config = settings(folder_ / "out", 6);
  train(config);
  config.resume_from_checkpoint = (folder_ / "out/checkpoint-2").string();
  Watched watched = watch(config);
  watched.saved = {{6, 0}};  // stands from the first call on
  check("a run over its own checkpoints", watched, config);
}

TEST_F(Crashes, AMerge) {
  const CausalLM base = model();
  const Adapter trained = adapter(base);
  trained.flat_values().detach().fill_(1);
  trained.save(*this / "adapter");
  fs::create_directory(folder_ / "out");
  const Disk before(folder_ / "out");
  start({.root = folder_ / "out", .journal = true});
  merge(*this / "model", *this / "adapter", folder_ / "out/merged");
  const CrashModel model(before, stop().journal);
  const Files whole = files_below(folder_ / "out/merged");
  int64_t states = 0, half = 0;
  for (size_t calls = 0; calls <= model.size(); ++calls)
    for (const Disk& disk : model.states_after(calls)) {
      ++states;
      const Files merged = disk.files("merged");
      if (merged.empty() ? calls == model.size() : merged != whole)
        ++half, ADD_FAILURE() << "after call " << calls << ": " << merged.size() << " of " << whole.size() << " files";
    }
  std::cout << "crashes: a merge: " << model.size() << " calls, " << states << " states, " << half << " half\n";
}

}  // namespace
}  // namespace rankfold::faults
