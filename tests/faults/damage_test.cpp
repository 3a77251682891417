// Checkpoints that are not what was saved: found out, said, and an older whole one is used.
#include "checkpoint/checkpoint.h"
#include "core/check.h"
#include "faults/flags.h"
#include "faults/world.h"

#include <gtest/gtest.h>

#include <fstream>
#include <iostream>

namespace rankfold::faults {
namespace {

class Damage : public ::testing::Test, protected World {
 protected:
  Damage() {
    train(settings(folder_ / "out", 4));
    for (const auto& entry : fs::directory_iterator(newer_)) names_.push_back(entry.path().filename());
    std::sort(names_.begin(), names_.end());
  }

  // newest_checkpoint names checkpoint-4 and takes checkpoint-2.
  ::testing::AssertionResult falls_back() const {
    std::string said;
    const auto found = newest_checkpoint(folder_ / "out", [&](const std::string& line) { said += line + "\n"; });
    if (!found || found->step != 2) return ::testing::AssertionFailure() << "not the older one; said " << said;
    if (said.find(newer_.string()) == std::string::npos) return ::testing::AssertionFailure() << "not said: " << said;
    return ::testing::AssertionSuccess();
  }
  static void put(const fs::path& file, const std::string& bytes) {
    std::ofstream(file, std::ios::binary | std::ios::trunc) << bytes;
  }

  TempFolder folder_;
  const fs::path newer_ = folder_ / "out/checkpoint-4";
  std::vector<std::string> names_;
};

TEST_F(Damage, OneByteAnywhere) {
  ASSERT_EQ(newest_checkpoint(folder_ / "out", {})->step, 4);
  uint64_t all = 0;
  for (const std::string& name : names_) all += fs::file_size(newer_ / name);
  Random random(5);
  int64_t detected = 0;
  for (int64_t i = 0; i < flags.flips; ++i) {
    uint64_t at = random.below(all);
    size_t file = 0;
    while (at >= fs::file_size(newer_ / names_[file])) at -= fs::file_size(newer_ / names_[file++]);
    const std::string whole = read_bytes(newer_ / names_[file]);
    std::string bytes = whole;
    bytes[at] = static_cast<char>(bytes[at] ^ static_cast<char>(1 << random.below(8)));
    put(newer_ / names_[file], bytes);
    const auto result = falls_back();
    EXPECT_TRUE(result) << names_[file] << ", byte " << at;
    detected += static_cast<bool>(result);
    put(newer_ / names_[file], whole);
  }
  ASSERT_EQ(newest_checkpoint(folder_ / "out", {})->step, 4);
  std::cout << "damage: " << flags.flips << " flips of one bit in " << names_.size() << " files of " << all
            << " bytes, " << detected << " detected, each time the older checkpoint was used and the newer one named\n";
  EXPECT_EQ(detected, flags.flips);
}

TEST_F(Damage, EachFileOfZerosEmptyShorterLongerOrGone) {
  int64_t cases = 0, detected = 0;
  const auto expect_detected = [&](const std::string& what) {
    const auto result = falls_back();
    EXPECT_TRUE(result) << what;
    ++cases, detected += static_cast<bool>(result);
  };
  for (const std::string& name : names_) {
    const std::string whole = read_bytes(newer_ / name);
    for (const std::string& bytes : {std::string(whole.size(), '\0'), std::string(), whole.substr(0, whole.size() - 1),
                                     whole + '\0', whole + whole}) {
      put(newer_ / name, bytes);
      expect_detected(join(name, " of ", bytes.size(), " bytes, not ", whole.size()));
    }
    fs::remove(newer_ / name);
    expect_detected(name + " is gone");
    fs::create_directory(newer_ / name);
    expect_detected(name + " is a folder");
    fs::remove(newer_ / name);
    put(newer_ / name, whole);
  }
  EXPECT_EQ(detected, cases);
  std::cout << "damage: " << cases << " files of zeros, empty, too short, too long, gone: " << detected
            << " detected\n";
}

TEST_F(Damage, FilesOfAnotherSave) {
  // Whole, but of an earlier step: right sizes in some cases, other bytes.
  for (const std::string& name : names_) {
    const std::string whole = read_bytes(newer_ / name), older = read_bytes(folder_ / "out/checkpoint-2" / name);
    if (older == whole) continue;
    put(newer_ / name, older);
    EXPECT_TRUE(falls_back()) << name << " of step 2";
    put(newer_ / name, whole);
  }
  // All of step 2 under the name of step 4.
  fs::remove_all(newer_);
  fs::copy(folder_ / "out/checkpoint-2", newer_);
  EXPECT_TRUE(falls_back()) << "step 2 under another name";
}

TEST_F(Damage, TheManifestOfAnotherRun) {
  TrainConfig other = settings(folder_ / "other", 4);
  other.learning_rate = 1e-3;
  train(other);
  fs::copy(folder_ / "other/checkpoint-4/manifest.json", newer_ / "manifest.json",
           fs::copy_options::overwrite_existing);
  EXPECT_TRUE(falls_back());
  // The whole checkpoint of another run, too, is not this one's.
  fs::remove_all(newer_);
  fs::copy(folder_ / "other/checkpoint-4", newer_);
  EXPECT_TRUE(falls_back());
}

TEST_F(Damage, AllOfThemIsNoReasonToStartAgain) {
  int64_t ways = 0, refused = 0, same = 0;
  for (const char* name : {"manifest.json", "training_state.json", "optimizer.safetensors", "adapter_model.safetensors",
                           "adapter_config.json"}) {
    ++ways;
    const TempFolder copy;
    fs::copy(folder_ / "out", copy / "out", fs::copy_options::recursive);
    for (const Checkpoint& checkpoint : list_checkpoints(copy / "out")) put(checkpoint.path / name, "{}");
    TrainConfig config = settings(copy / "out", 4);
    config.resume_from_checkpoint = "auto";
    const auto before = files_below(copy / "out");
    try {
      train(config);
      ADD_FAILURE() << "started again without " << name;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::kResumeRefused) << error.what();
      ++refused;
    }
    same += files_below(copy / "out") == before;
  }
  EXPECT_EQ(same, ways);
  std::cout << "damage: every checkpoint broken in " << ways << " ways: refused " << refused << ", changed nothing in "
            << same << "\n";
}

}  // namespace
}  // namespace rankfold::faults
