// A fault at every single call of everything that saves: an error that names the file and the reason, or success; and
// afterwards the old state or the new one.
#include "checkpoint/checkpoint.h"
#include "core/write.h"
#include "faults/flags.h"
#include "faults/shim.h"
#include "faults/world.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cerrno>
#include <cstring>
#include <functional>
#include <iostream>

namespace rankfold::faults {
namespace {

struct Fault {
  const char* name;
  int error;    // 0: short writes
  int64_t run;  // how many calls in a row fail when it lasts
};
// A call that was interrupted is made again: for ever it would be a machine that does nothing else.
const Fault kFaults[] = {{"EIO", EIO, -1}, {"ENOSPC", ENOSPC, -1}, {"EDQUOT", EDQUOT, -1}, {"EINTR", EINTR, 3},
                         {"short", 0, -1}, {"EROFS", EROFS, -1},   {"EACCES", EACCES, -1}};

// Something that saves below a folder.
struct Subject {
  std::string name;
  std::function<void(const fs::path&)> prepare;  // the old state
  std::function<void(const fs::path&)> save;
  std::function<std::string(const fs::path&)> state;  // "old" or "new"; anything else is a defect
  // Two folders have changed places, but perhaps not yet on the disk: none may go before that is known, at the next start.
  bool keeps_both_where_the_folder_does_not_sync = false;
};

struct Count {
  int64_t calls = 0, saves = 0, half = 0, lost = 0, foreign = 0, left = 0, unnamed = 0;
};

class Saves : public ::testing::Test {
 protected:
  // One save with one fault; returns whether the fault was met.
  bool attempt(const Subject& subject, const fs::path& old, const Fault& fault, int64_t first, bool lasts) {
    const TempFolder folder;
    fs::copy(old, folder.path(), fs::copy_options::recursive);
    const std::string where =
        subject.name + ", " + fault.name + (lasts ? " from call " : " at call ") + std::to_string(first);
    start({.root = folder.path(), .first = first, .count = lasts ? fault.run : 1, .error = fault.error});
    std::string error;
    try {
      subject.save(folder.path());
    } catch (const Error& failed) {
      error = failed.what();
      if (failed.code() != ExitCode::kStorage) ++count_.foreign, ADD_FAILURE() << where << ": " << error;
    } catch (const std::exception& other) {
      error = other.what();
      ++count_.foreign, ADD_FAILURE() << where << ": no rankfold::Error: " << error;
    }
    const Report report = stop();
    ++count_.saves;
    if (report.failed == 0 && error.empty() && subject.state(folder.path()) == "new") return false;
    const std::string at = where + " (" + (report.failures.empty() ? "" : report.failures.front()) + "): ";
    const std::string state = subject.state(folder.path());
    if (state != "old" && state != "new") ++count_.half, ADD_FAILURE() << at << state << "; " << error;
    if (error.empty() && state != "new") ++count_.lost, ADD_FAILURE() << at << "said to be saved, but " << state;
    if (!error.empty() && (error.find(folder.path().filename().string()) == std::string::npos ||
                           error.find(std::strerror(fault.error)) == std::string::npos))
      ++count_.unnamed, ADD_FAILURE() << at << "the line does not name path and reason: " << error;
    if (subject.keeps_both_where_the_folder_does_not_sync && !report.failures.empty() &&
        report.failures.front() == "fsync " + folder.path().string())
      clean_up(folder.path());
    if (const auto left = temporaries_below(folder.path()); !left.empty() && !report.deletions_failed)
      ++count_.left, ADD_FAILURE() << at << "left " << left.front() << "; " << error;
    // What the fault has left does no harm to the next save.
    if (lasts && !error.empty() && state == "old") {
      subject.save(folder.path());
      EXPECT_EQ(subject.state(folder.path()), "new") << at << "and saved again";
      EXPECT_EQ(temporaries_below(folder.path()), std::vector<std::string>()) << at << "and saved again";
    }
    return report.failed > 0;
  }

  void every_call(const Subject& subject) {
    const TempFolder old;
    subject.prepare(old.path());
    int64_t calls = 0;
    for (const Fault& fault : kFaults)
      for (const bool lasts : {false, true}) {
        int64_t first = 1;
        if (fault.error == 0) {  // other calls than writes cannot be short: all numbers up to the last call
          while (first <= calls) attempt(subject, old.path(), fault, first++, lasts);
        } else {
          while (attempt(subject, old.path(), fault, first, lasts) && !HasFatalFailure()) ++first;
        }
        calls = std::max(calls, first - 1);
      }
    count_.calls += calls;
    std::cout << "faults: " << subject.name << ": " << calls << " calls x 7 kinds x 2 = " << count_.saves << " saves, "
              << count_.half << " half states, " << count_.lost << " silent losses, " << count_.left << " leftovers, "
              << count_.foreign + count_.unnamed << " bad errors\n";
    EXPECT_GT(calls, 0);
  }

  Count count_;
};

std::string text_state(const fs::path& file) {
  const std::string text = fs::exists(file) ? read_bytes(file) : "nothing";
  return text == std::string(9000, 'o')    ? "old"
         : text == std::string(20000, 'n') ? "new"
                                           : "half: " + text.substr(0, 9);
}

TEST_F(Saves, AFile) {
  every_call({.name = "a file",
              .prepare = [](const fs::path& root) { write_text(root / "file", std::string(9000, 'o')); },
              .save = [](const fs::path& root) { write_text(root / "file", std::string(20000, 'n')); },
              .state = [](const fs::path& root) { return text_state(root / "file"); }});
}

TEST_F(Saves, AFolder) {
  every_call(
      {.name = "a folder",
       .prepare = [](const fs::path&) {},
       .save =
           [](const fs::path& root) {
             AtomicFolder folder(root / "deep/folder");
             write_text(folder.path() / "a", "first");
             write_text(folder.path() / "b", "second");
             folder.commit();
           },
       .state =
           [](const fs::path& root) {
             if (!fs::exists(root / "deep/folder")) return "old";
             const auto files = files_below(root / "deep/folder");
             return files == std::map<std::string, std::string>{{"a", "first"}, {"b", "second"}} ? "new" : "half";
           }});
}

// The tiny model with two adapters on it, whose bytes differ.
struct Adapters : World {
  explicit Adapters() {
    for (const char* name : {"old", "new"}) {
      const CausalLM base = model();
      const Adapter fresh = adapter(base);
      fresh.flat_values().detach().fill_(name[0] == 'o' ? 1 : 2);
      fresh.save(*this / name);
    }
  }
  // In the place of training: what a checkpoint holds.
  void fill(const std::string& name, const fs::path& folder) const {
    for (const auto& [file, bytes] : checkpoint(name)) write_text(folder / file, bytes);
  }
  std::string state(const fs::path& folder) const {
    auto files = files_below(folder);
    files.erase("manifest.json");
    for (const std::string name : {"old", "new"})
      if (files == checkpoint(name)) return name;
    return "half: " + folder.string();
  }
  std::map<std::string, std::string> checkpoint(const std::string& name) const {
    auto files = files_below(*this / name);
    files["optimizer.safetensors"] = name + " moments";
    files["training_state.json"] = "{\"of\": \"" + name + "\"}";
    files.erase("manifest.json");
    return files;
  }
};

class SavesOfAdapters : public Saves {
 protected:
  std::function<std::string(const fs::path&)> newest() const {
    return [this](const fs::path& root) -> std::string {
      try {
        const auto found = newest_checkpoint(root, {});
        return found ? adapters_.state(found->path) : "no checkpoint";
      } catch (const Error& error) {
        return error.what();
      }
    };
  }
  void save(const fs::path& root, int64_t step, const std::string& name) const {
    save_checkpoint(root, run_of(root), step, [&](const fs::path& folder) { adapters_.fill(name, folder); });
    remove_old_checkpoints(root, run_of(root), 1);
  }
  Adapters adapters_;
};

TEST_F(SavesOfAdapters, ACheckpointAndTheDeletionOfTheLast) {
  every_call({.name = "a checkpoint",
              .prepare = [this](const fs::path& root) { start_run(root), save(root, 2, "old"); },
              .save = [this](const fs::path& root) { save(root, 4, "new"); },
              .state = newest()});
}

TEST_F(SavesOfAdapters, ACheckpointInThePlaceOfAnother) {
  every_call({.name = "a checkpoint over another",
              .prepare = [this](const fs::path& root) { start_run(root), save(root, 4, "old"); },
              .save = [this](const fs::path& root) { save(root, 4, "new"); },
              .state = newest(),
              .keeps_both_where_the_folder_does_not_sync = true});
}

// Between the two there may be neither, which is said and not loaded.
TEST_F(SavesOfAdapters, AnAdapterInThePlaceOfAnother) {
  const auto save = [this](const std::string& name, const fs::path& root) {
    const CausalLM base = adapters_.model();
    Adapter::load(base, adapters_ / name).save(root / "adapter");
  };
  every_call({.name = "an adapter over another",
              .prepare = [&](const fs::path& root) { save("old", root); },
              .save = [&](const fs::path& root) { save("new", root); },
              .state = [this](const fs::path& root) -> std::string {
                try {
                  const CausalLM base = adapters_.model();
                  const at::Tensor values = Adapter::load(base, root / "adapter").flat_values();
                  const at::Tensor first = at::full_like(values, values[0].item<float>());
                  return !values.equal(first) ? "half" : values[0].item<float>() == 1 ? "old" : "new";
                } catch (const Error& error) {
                  return error.what();
                }
              }});
}

TEST_F(SavesOfAdapters, AMergedModel) {
  const TempFolder whole;
  merge(adapters_ / "model", adapters_ / "new", whole / "merged");
  const auto wanted = files_below(whole / "merged");
  every_call({.name = "a merged model",
              .prepare = [](const fs::path&) {},
              .save = [&](const fs::path& root) { merge(adapters_ / "model", adapters_ / "new", root / "merged"); },
              .state = [&](const fs::path& root) -> std::string {
                if (!fs::exists(root / "merged")) return "old";
                return files_below(root / "merged") == wanted ? "new" : "half";
              }});
}

}  // namespace
}  // namespace rankfold::faults
