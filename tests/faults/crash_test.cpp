// The power goes off after each call of whole runs, saves and merges, and what was not synced is lost, kept or torn: what
// is found afterwards is of one save.
#include "checkpoint/checkpoint.h"
#include "core/check.h"
#include "core/write.h"
#include "faults/crash_model.h"
#include "faults/world.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <iostream>
#include <optional>
#include <set>
#include <tuple>

namespace rankfold::faults {
namespace {

using Files = Disk::Files;

class Crashes : public ::testing::Test, protected World {
 protected:
  // A checkpoint as it was once it was said to be saved.
  struct Save {
    int64_t step;
    size_t calls;  // done by then
    Files files;
  };
  // A run of six steps that saves every two, watched from its begin to its end.
  struct Watched {
    std::optional<CrashModel> model;
    std::vector<Save> saves;    // in their order; the first is what was there before
    bool continues = false;     // the run that saved that
    bool stands_aside = false;  // what gives way to another, as names do not change places; the next start sees to it
    size_t done = 0;            // calls when the run was over
    Files result_before, result_after;
  };

  static Files result_of(const Files& files) {
    Files result;
    for (const auto& [name, bytes] : files)
      if (name == "adapter_model.safetensors" || name == "adapter_config.json") result[name] = bytes;
    return result;
  }

  Watched watch(const TrainConfig& config, int exchange_error = 0) const {
    Watched watched;
    const Disk before(config.output_dir);
    if (const auto newest = newest_checkpoint(config.output_dir, {}))
      watched.saves.push_back({newest->step, 0, files_below(newest->path)});
    watched.continues = !config.resume_from_checkpoint.empty();
    watched.stands_aside = exchange_error != 0;
    std::vector<std::pair<int64_t, size_t>> saved;
    start({.root = config.output_dir, .exchange_error = exchange_error, .journal = true});
    train(config, {}, [&](const Progress& progress) {
      // All of the last step is over when the next is said. A run that goes on from an older checkpoint saves that first.
      const int64_t save = progress.step - 1;
      if (save > 0 && save % config.save_steps == 0) saved.emplace_back(save, journal_size());
    });
    const Report report = stop();
    watched.done = report.journal.size();
    saved.emplace_back(config.max_steps, watched.done);
    watched.model.emplace(before, report.journal);
    // The model knows all that happened: with nothing lost it is the folder as it is.
    EXPECT_EQ(watched.model->whole(watched.done).files(), files_below(config.output_dir));
    for (const auto& [step, calls] : saved)
      watched.saves.push_back({step, calls, watched.model->whole(calls).files(join("checkpoint-", step))});
    watched.result_before = result_of(before.files());
    watched.result_after = result_of(files_below(config.output_dir));
    return watched;
  }

  void check(const std::string& name, const Watched& watched, const TrainConfig& config) {
    const std::string run = run_of(config.output_dir);
    int64_t states = 0, mixed = 0, lost = 0, refused = 0, aside = 0;
    int64_t from_checkpoints = 0, from_scratch = 0;   // resumed
    std::set<std::tuple<size_t, bool, size_t>> seen;  // what must be found in a state, and its bytes
    for (size_t calls = 0; calls <= watched.model->size(); ++calls) {
      size_t last = 0;  // the save that must be found, or one after it
      while (last < watched.saves.size() && watched.saves[last].calls <= calls) ++last;
      const bool nothing_yet = last == (watched.saves.front().calls == 0 && !watched.continues ? 1u : 0u);
      for (const Disk& disk : watched.model->states_after(calls)) {
        if (!seen.emplace(last, calls >= watched.done, disk.hash()).second) continue;
        const TempFolder folder;
        disk.write_to(folder.path());
        const std::string where = join(name, ", state ", states++, ", after call ", calls, ": ");
        std::optional<Checkpoint> found;
        try {
          if (watched.stands_aside) aside += put_back(folder.path());
          found = newest_checkpoint(folder.path(), {});
          if (!found) {
            if (!nothing_yet) ++lost, ADD_FAILURE() << where << "no checkpoint";
          } else {
            const Files files = files_below(found->path);
            size_t of = 0;
            while (of < watched.saves.size() && watched.saves[of].files != files) ++of;
            if (of == watched.saves.size())
              ++mixed, ADD_FAILURE() << where << found->path.filename() << " is of no save";
            else if (of + 1 < last)
              ++lost, ADD_FAILURE() << where << "an older one than was saved, " << found->path.filename();
          }
        } catch (const Error& error) {
          ++lost, ADD_FAILURE() << where << error.what();
        }
        if (fs::exists(folder / "adapter_model.safetensors") || calls >= watched.done) {
          const Files result = result_of(files_below(folder.path()));
          if (!loads(folder.path())) {
            ++refused;
            if (calls >= watched.done) ++lost, ADD_FAILURE() << where << "the result is refused";
          } else if (result != watched.result_after && (result != watched.result_before || calls >= watched.done)) {
            ++mixed, ADD_FAILURE() << where << "the result is neither the old nor the new one";
          }
        }
        if (states % 97 == 0 && run_of(folder.path()) == run) {  // the whole way, of some
          SCOPED_TRACE(where);
          TrainConfig again = config;
          again.output_dir = folder.path();
          const bool good = resume(again, found.value_or(Checkpoint{}).step);
          const bool same = result_of(files_below(folder.path())) == watched.result_after;
          EXPECT_TRUE(same);
          (found ? from_checkpoints : from_scratch) += good && same;
        }
        if (mixed + lost > 20) FAIL() << "and so on";
      }
    }
    std::cout << "crashes: " << name << ": " << watched.model->size() << " calls, " << states << " different states, "
              << mixed << " mixed, " << lost << " lost; result refused between old and new in " << refused << "; "
              << (watched.stands_aside ? join("given its name back in ", aside, "; ") : "")
              << "resumed to the same bytes " << from_checkpoints << " from the newest checkpoint, " << from_scratch
              << " without one\n";
    EXPECT_GT(from_checkpoints, 0);
    EXPECT_EQ(aside > 0, watched.stands_aside);
  }

  // What a start does first. True where a checkpoint that stood aside has got its name back.
  static bool put_back(const fs::path& folder) {
    bool is_due = false, is_done = true;
    std::vector<fs::path> own;
    for (const auto& entry : fs::directory_iterator(folder))
      if (const std::string path = entry.path(); path.ends_with(kAside))
        own.push_back(path.substr(0, path.size() - std::string(kAside).size()));
    std::erase_if(own, [](const fs::path& path) { return fs::exists(path); });
    clean_up(folder);
    for (const fs::path& path : own) is_due = true, is_done = is_done && fs::exists(path);
    return is_due && is_done;
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
  alpha_ = 4;
  train(config);
  alpha_ = 8;
  const Watched watched = watch(config);
  EXPECT_NE(watched.result_before, watched.result_after);
  check("a second run", watched, config);
}

TEST_F(Crashes, CheckpointsInThePlaceOfOthers) {
  TrainConfig config = settings(folder_ / "out", 6);
  train(config);
  config.resume_from_checkpoint = (folder_ / "out/checkpoint-2").string();
  check("a run over its own checkpoints", watch(config), config);
}

TEST_F(Crashes, CheckpointsInThePlaceOfOthersWhereNamesCannotChangePlaces) {
  TrainConfig config = settings(folder_ / "out", 6);
  train(config);
  config.resume_from_checkpoint = (folder_ / "out/checkpoint-2").string();
  check("a run over its own checkpoints, without renameat2", watch(config, EINVAL), config);
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
