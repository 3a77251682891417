// A fault at every single call of everything that saves: an error that names the file and the reason, or success; and
// afterwards the old state or the new one.
#include "checkpoint/checkpoint.h"
#include "core/check.h"
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
#include <iterator>
#include <map>
#include <set>

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
  int exchange_error = 0;                             // of every renameat2 that exchanges
  // The call (as Report says it, but below the root) after which the old state stands aside until the next start.
  std::string stands_aside_after = {};
  // Two folders have changed places, but perhaps not yet on the disk: none may go before that is known, at the next start.
  bool keeps_both_where_the_folder_does_not_sync = false;
  std::vector<std::string> last = {};  // which names a save gives last, in this order
};

struct Count {
  int64_t saves = 0, half = 0, lost = 0, foreign = 0, left = 0, unnamed = 0;
};

class Saves : public ::testing::Test {
 protected:
  // One save with one fault; returns whether the fault was met.
  bool attempt(const Subject& subject, const fs::path& old, const Fault& fault, int64_t first, bool lasts) {
    const TempFolder folder;
    fs::copy(old, folder.path(), fs::copy_options::recursive);
    const std::string where =
        subject.name + ", " + fault.name + (lasts ? " from call " : " at call ") + std::to_string(first);
    start({.root = folder.path(),
           .first = first,
           .count = lasts ? fault.run : 1,
           .error = fault.error,
           .exchange_error = subject.exchange_error});
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
    const std::string failure = report.failures.empty() ? "" : report.failures.front(),
                      at = where + " (" + failure + "): ";
    if (!subject.stands_aside_after.empty() && failure == "rename " + (folder / subject.stands_aside_after).string())
      clean_up(folder.path());
    const std::string state = subject.state(folder.path());
    if (state != "old" && state != "new") ++count_.half, ADD_FAILURE() << at << state << "; " << error;
    if (error.empty() && state != "new") ++count_.lost, ADD_FAILURE() << at << "said to be saved, but " << state;
    if (!error.empty() && (error.find(folder.path().filename().string()) == std::string::npos ||
                           error.find(std::strerror(fault.error)) == std::string::npos))
      ++count_.unnamed, ADD_FAILURE() << at << "the line does not name path and reason: " << error;
    if (subject.keeps_both_where_the_folder_does_not_sync && failure == "fsync " + folder.path().string())
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
    count_ = {};
    in_order(subject, old.path());
    int64_t calls = 0, times = 0;
    for (const bool lasts : {false, true}) {
      ++times;
      for (const Fault& fault : kFaults) {
        int64_t first = 1;
        if (fault.error == 0) {  // other calls than writes cannot be short: all numbers up to the last call
          while (first <= calls) attempt(subject, old.path(), fault, first++, lasts);
        } else {
          while (attempt(subject, old.path(), fault, first, lasts) && !HasFatalFailure()) ++first;
        }
        calls = std::max(calls, first - 1);
      }
    }
    std::cout << "faults: " << subject.name << ": " << calls << " calls x " << std::size(kFaults) << " kinds x "
              << times << ", once and lasting: " << count_.saves << " saves, " << count_.half << " half states, "
              << count_.lost << " silent losses, " << count_.left << " leftovers, " << count_.foreign + count_.unnamed
              << " bad errors\n";
    EXPECT_GT(calls, 0);
  }

  // The journal of one save: bytes are on the disk before the file gets its name, once; names before that of the seal,
  // a manifest or a folder, which is given last; and the seal's before the save is over.
  void in_order(const Subject& subject, const fs::path& old) {
    struct File {
      int64_t syncs = 0;
      bool certain = true;
    };
    const TempFolder folder;
    fs::copy(old, folder.path(), fs::copy_options::recursive);
    start({.root = folder.path(), .exchange_error = subject.exchange_error, .journal = true});
    subject.save(folder.path());
    const Report report = stop();
    std::map<int, std::string> open;
    std::map<std::string, File> files;
    std::set<std::string> uncertain;  // names
    std::vector<std::string> given;
    int64_t moved = 0, once = 0, seals = 0, after_all = 0;
    const auto is_seal = [&](const std::string& path) {
      return fs::path(path).filename() == "manifest.json" || path == (folder / subject.last.back());
    };
    for (const Entry& entry : report.journal) {
      SCOPED_TRACE(subject.name + ": " + entry.path);
      switch (entry.call) {
        case Call::kOpen:
          open[entry.fd] = entry.path;
          if (entry.writes) files[entry.path];
          break;
        case Call::kWrite:
        case Call::kTruncate:
          files.at(open.at(entry.fd)).certain = false;
          break;
        case Call::kSync:
          if (const auto file = files.find(open.at(entry.fd)); file != files.end())
            ++file->second.syncs, file->second.certain = true;
          else
            std::erase_if(uncertain, [&](const fs::path& name) { return name.parent_path() == open.at(entry.fd); });
          break;
        case Call::kRename:
        case Call::kExchange: {
          if (entry.path.ends_with(".tmp")) break;  // on its way out
          if (auto file = files.extract(entry.other)) {
            EXPECT_EQ(file.mapped().syncs, 1);
            EXPECT_TRUE(file.mapped().certain);
            if (entry.other == entry.path + kUnfinished)
              ++moved, once += file.mapped().syncs == 1 && file.mapped().certain;
            file.key() = entry.path;
            files.erase(entry.path);
            files.insert(std::move(file));
          }
          const bool seal = is_seal(entry.path);
          const bool in_order = std::none_of(uncertain.begin(), uncertain.end(),
                                             [&](const std::string& name) { return seal || is_seal(name); });
          EXPECT_TRUE(in_order) << "before it: " << *uncertain.begin();
          seals += seal, after_all += seal && in_order;
          uncertain.insert(entry.path);
          given.push_back(fs::path(entry.path).lexically_relative(folder.path()));
          break;
        }
        case Call::kMakeFolder:
          if (!entry.path.ends_with(".tmp")) uncertain.insert(entry.path);
          break;
        default:
          break;
      }
    }
    EXPECT_TRUE(uncertain.empty()) << subject.name << ": never synced: " << *uncertain.begin();
    given.erase(given.begin(), given.end() - static_cast<int64_t>(std::min(given.size(), subject.last.size())));
    EXPECT_EQ(given, subject.last) << subject.name;
    EXPECT_GT(once, 0);
    EXPECT_EQ(once, moved);
    std::cout << "order: " << subject.name << ": " << once << "/" << moved
              << " files synced once before they got their names, " << after_all << "/" << seals
              << " seals after all before them were on the disk; the last name given is "
              << (given.empty() ? "none" : given.back()) << "\n";
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
              .state = [](const fs::path& root) { return text_state(root / "file"); },
              .last = {"file"}});
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
           },
       .last = {"deep/folder"}});
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
              .state = newest(),
              .last = {join("checkpoint-4", kUnfinished, "/manifest.json"), "checkpoint-4"}});
}

TEST_F(SavesOfAdapters, ACheckpointInThePlaceOfAnother) {
  every_call({.name = "a checkpoint over another",
              .prepare = [this](const fs::path& root) { start_run(root), save(root, 4, "old"); },
              .save = [this](const fs::path& root) { save(root, 4, "new"); },
              .state = newest(),
              .keeps_both_where_the_folder_does_not_sync = true,
              .last = {join("checkpoint-4", kUnfinished, "/manifest.json"), "checkpoint-4"}});
}

TEST_F(SavesOfAdapters, ACheckpointInThePlaceOfAnotherWhereNamesCannotChangePlaces) {
  for (const int error : {EINVAL, ENOSYS})
    every_call({.name = join("a checkpoint over another, where renameat2 says ", std::strerror(error)),
                .prepare = [this](const fs::path& root) { start_run(root), save(root, 4, "old"); },
                .save = [this](const fs::path& root) { save(root, 4, "new"); },
                .state = newest(),
                .exchange_error = error,
                .stands_aside_after = "checkpoint-4",
                .keeps_both_where_the_folder_does_not_sync = true,
                .last = {join("checkpoint-4", kUnfinished, "/manifest.json"), "checkpoint-4"}});
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
              },
              .last = {"adapter/adapter_config.json", "adapter/adapter_model.safetensors", "adapter/manifest.json"}});
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
              },
              .last = {"merged"}});
}

// What cannot be written is an error, as the rows may be more than memory holds.
TEST_F(SavesOfAdapters, TokenisedRows) {
  const auto settings = [](const fs::path& cache) { return DataConfig{.max_length = 64, .cache_dir = cache.string()}; };
  const auto open = [&](const fs::path& cache) {
    return Dataset::open(adapters_ / "rows.jsonl", nullptr, settings(cache), kVocabulary);
  };
  const auto file_in = [&](const fs::path& cache) {
    return Dataset::cache_file(adapters_ / "rows.jsonl", settings(cache));
  };
  every_call({.name = "tokenised rows",
              .prepare = [](const fs::path&) {},
              .save = [&](const fs::path& root) { open(root / "cache"); },
              .state = [&](const fs::path& root) -> std::string {
                if (!fs::exists(file_in(root / "cache"))) return "old";
                const TempFolder copy;  // what is half would be made anew
                fs::copy(root / "cache", copy / "cache", fs::copy_options::recursive);
                const std::string note = open(copy / "cache").cache_note();
                return note.starts_with("tokens read from ") ? "new" : note;
              },
              .last = {file_in("cache")}});
}

}  // namespace
}  // namespace rankfold::faults
