// Which checkpoint of a folder counts.
#include "checkpoint/checkpoint.h"

#include "core/check.h"
#include "core/write.h"
#include "support/contains.h"
#include "support/temp_folder.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <filesystem>
#include <functional>

namespace rankfold {
namespace {

namespace fs = std::filesystem;
using testing::contains;
using testing::TempFolder;

// output_dir with whole checkpoints of steps 2 and 4.
class CheckpointTest : public ::testing::Test {
 protected:
  CheckpointTest() {
    run_ = start_run(folder_.path());
    for (int64_t step : {2, 4}) save(step);
  }
  void save(int64_t step) const {
    save_checkpoint(folder_.path(), run_, step, [](const fs::path& path) { write_text(path / "state", "text"); });
  }
  fs::path operator/(const std::string& name) const { return folder_ / name; }

  // The step that auto takes; what it says of others is kept.
  int64_t newest() {
    said_.clear();
    const auto found = newest_checkpoint(folder_.path(), [this](const std::string& line) { said_ += line + "\n"; });
    return found ? found->step : 0;
  }
  // With `break_it` done to the newest, then to both.
  void expect_fallback_then_refusal(const std::function<void(const fs::path&)>& break_it, const std::string& why) {
    break_it(*this / "checkpoint-4");
    EXPECT_EQ(newest(), 2) << why;
    EXPECT_TRUE(contains(said_, "skipped " + (*this / "checkpoint-4").string() + ": "));
    EXPECT_TRUE(contains(said_, why));
    break_it(*this / "checkpoint-2");
    try {
      newest();
      ADD_FAILURE() << "as if there were none: " << why;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::kResumeRefused);
      EXPECT_TRUE(contains(error.what(), why));
    }
  }

  TempFolder folder_;
  std::string run_, said_;
};

TEST_F(CheckpointTest, TheNewestWholeOne) {
  EXPECT_EQ(newest(), 4);
  EXPECT_EQ(said_, "");
}

// As on a disk that is not mounted now.
TEST_F(CheckpointTest, ALinkToNothingIsNoReasonToStartAgain) {
  expect_fallback_then_refusal(
      [](const fs::path& path) {
        fs::remove_all(path);
        fs::create_symlink("/nowhere/checkpoint", path);
      },
      "it is a link to nothing");
}

TEST_F(CheckpointTest, ALinkToItselfIsNoReasonToStartAgain) {
  expect_fallback_then_refusal(
      [](const fs::path& path) {
        fs::remove_all(path);
        fs::create_symlink(path.filename(), path);
      },
      "it is a link to nothing");
}

TEST_F(CheckpointTest, AFileIsNoReasonToStartAgain) {
  expect_fallback_then_refusal(
      [](const fs::path& path) {
        fs::remove_all(path);
        write_text(path, "text");
      },
      "it is a file");
}

TEST_F(CheckpointTest, AnotherFormatIsSaid) {
  for (int version : {1, 3}) {
    for (int64_t step : {2, 4}) save(step);
    expect_fallback_then_refusal(
        [version](const fs::path& path) {
          std::string text = testing::read_bytes(path / "manifest.json");
          const std::string ours = "\"format_version\": 2";
          text.replace(text.find(ours), ours.size(), "\"format_version\": " + std::to_string(version));
          write_text(path / "manifest.json", text);
        },
        "format_version: expected 2, got " + std::to_string(version));
  }
}

TEST_F(CheckpointTest, OfNumbersThatAreNoneNothingIsSaid) {
  for (const char* name : {"checkpoint-", "checkpoint-4x", "checkpoint--4", "checkpoint-99999999999999999999"})
    fs::create_directory(*this / name);
  EXPECT_EQ(newest(), 4);
  EXPECT_EQ(said_, "");
}

// Only what is whole counts, and only what is of the run goes.
TEST_F(CheckpointTest, TheLimitIsOfWholeOnesOfTheRun) {
  save(6), save(8);
  fs::remove(*this / "checkpoint-8/state");
  fs::create_directory(*this / "checkpoint-1");
  write_text(*this / "checkpoint-1/of_a_person", "text");
  remove_old_checkpoints(folder_.path(), run_, 2);
  for (const char* kept : {"checkpoint-8", "checkpoint-6", "checkpoint-4", "checkpoint-1/of_a_person"})
    EXPECT_TRUE(fs::exists(*this / kept)) << kept;
  EXPECT_FALSE(fs::exists(*this / "checkpoint-2"));
  remove_old_checkpoints(folder_.path(), run_, 0);  // no limit
  EXPECT_TRUE(fs::exists(*this / "checkpoint-4"));
  remove_old_checkpoints(folder_.path(), "another", 1);
  EXPECT_TRUE(fs::exists(*this / "checkpoint-4"));
}

TEST_F(CheckpointTest, TheBestIsKeptBesideTheLimit) {
  save(6), save(8);
  remove_old_checkpoints(folder_.path(), run_, 1, 4);
  for (const int step : {2, 4, 6, 8})
    EXPECT_EQ(fs::exists(*this / ("checkpoint-" + std::to_string(step))), step == 4 || step == 8) << step;
  remove_old_checkpoints(folder_.path(), run_, 1);
  EXPECT_FALSE(fs::exists(*this / "checkpoint-4"));
}

TEST_F(CheckpointTest, OneIsCarriedIntoAnotherFolder) {
  const fs::path other = folder_ / "other";
  save(6);
  const nlohmann::json facts = {{"parents", "its facts"}};
  save_checkpoint(
      folder_.path(), run_, 4, [](const fs::path& path) { write_text(path / "state", "4"); }, &facts);
  EXPECT_FALSE(carry_checkpoint(folder_.path(), other, run_, 5));  // there is none
  EXPECT_FALSE(carry_checkpoint(folder_.path(), other, "another", 4));
  fs::create_directories(other / "checkpoint-4");  // of somebody else
  EXPECT_TRUE(carry_checkpoint(folder_.path(), other, run_, 4));
  EXPECT_TRUE(has_checkpoint(other, run_, 4));
  EXPECT_EQ(read_manifest(other / "checkpoint-4").at("parents"), "its facts");
  EXPECT_FALSE(has_checkpoint(other, "another", 4));
  EXPECT_TRUE(fs::exists(other / "checkpoint-4-of-unknown"));
  EXPECT_TRUE(carry_checkpoint(folder_ / "nowhere", other, run_, 4));  // it is there
  fs::remove(other / "checkpoint-4/state");
  EXPECT_FALSE(has_checkpoint(other, run_, 4));
  EXPECT_TRUE(carry_checkpoint(folder_.path(), other, run_, 4));
  EXPECT_TRUE(carry_checkpoint(folder_.path(), other, run_, 6));
  save_checkpoint(other, run_, 5, [](const fs::path& path) { write_text(path / "state", "5"); });
  EXPECT_EQ(list_checkpoints(other).front().step, 5);  // newer than what was carried
}

}  // namespace
}  // namespace rankfold
