// Which files count as those of one save.
#include "core/manifest.h"

#include "support/contains.h"
#include "support/temp_folder.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <filesystem>
#include <map>
#include <string>

namespace rankfold {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::contains;
using testing::error_of;
using testing::read_bytes;
using testing::TempFolder;
using Files = std::map<std::string, std::string>;

const Files kFirst = {{"adapter_a", "1"}, {"of_first", "1"}, {"template", "1"}};
const Files kSecond = {{"adapter_a", "2"}, {"of_second", "2"}, {"template", "2"}};
const Files kThird = {{"adapter_a", "3"}, {"template", "3"}};

class Manifest : public ::testing::Test {
 protected:
  void save(const Files& files) const {
    FileSet set(folder_.path());
    for (const auto& [name, text] : files) write_text(set.path() / name, text);
    commit_result(set, json::object());
  }
  static json manifest_of(const Files& files) {
    const TempFolder other;
    for (const auto& [name, text] : files) write_text(other / name, text);
    write_manifest(other.path(), json::object());
    return read_manifest(other.path());
  }
  // As a save of the second set over the first leaves the folder where it ends after `moved` files.
  void cut_short(size_t moved) const {
    for (const auto& [name, text] : kSecond)
      if (moved > 0) write_text(folder_ / name, text), --moved;
    write_text(folder_ / kManifest,
               json{{"unfinished", true}, {"before", manifest_of(kFirst)}, {"after", manifest_of(kSecond)}}.dump());
  }
  // Of those whose names begin with adapter_, as a reader of adapters asks.
  std::string refusal() const {
    try {
      check_result(folder_.path(), Look::kAtContents,
                   [](const std::string& name) { return name.starts_with("adapter_"); });
      return "";
    } catch (const UserError& error) {
      return error.what();
    }
  }
  Files files() const {
    Files found;
    for (const auto& entry : fs::directory_iterator(folder_.path()))
      if (entry.path().filename() != kManifest) found[entry.path().filename()] = read_bytes(entry.path());
    return found;
  }

  TempFolder folder_;
};

TEST_F(Manifest, ASaveThatWasCutShortCountsWhereAllItsFilesAreOfOneSet) {
  save(kFirst);
  cut_short(0);
  EXPECT_EQ(refusal(), "");
  cut_short(1);  // the adapter is the second's, the template the first's
  EXPECT_TRUE(contains(refusal(), "expected the files of one save"));
  cut_short(2);
  EXPECT_TRUE(contains(refusal(), "expected the files of one save"));
  cut_short(3);
  EXPECT_EQ(refusal(), "");
}

TEST_F(Manifest, NothingOfEarlierSavesStaysAfterOneThatWasCutShort) {
  for (size_t moved = 0; moved <= 3; ++moved) {
    save(kFirst);
    cut_short(moved);
    save(kThird);
    EXPECT_EQ(files(), kThird) << moved;
    EXPECT_EQ(refusal(), "");
  }
}

TEST_F(Manifest, AnotherTextOfTheSameContentIsNoneOfOurs) {
  save(kFirst);
  const json manifest = read_manifest(folder_.path());
  write_text(folder_ / kManifest, manifest.dump());  // without spaces
  EXPECT_TRUE(contains(error_of<UserError>([&] { read_manifest(folder_.path()); }),
                       "expected the text that its checksum is of"));
}

}  // namespace
}  // namespace rankfold
