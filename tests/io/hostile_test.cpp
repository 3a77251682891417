// Model folders from strangers.
#include "io/model_folder.h"
#include "support/imposters.h"
#include "support/sanitizers.h"
#include "support/stopwatch.h"

#include <ATen/ATen.h>
#include <nlohmann/json.hpp>

namespace rankfold {
namespace {

using nlohmann::json;
using testing::contains;
using testing::error_of;
using testing::expect_imposters_are_named;
using testing::TempFolder;

struct Sound : TempFolder {
  Sound() {
    write("config.json", "{}");
    write("generation_config.json", "{}");
    write_tensor_file(*this / kWeightsName, {{"x", at::ones({2})}});
  }
};

TEST(Hostile, ImpostersInAModelFolder) {
  for (const char* name : {"config.json", "generation_config.json", kWeightsName}) {
    const Sound folder;
    expect_imposters_are_named(folder / name, [&] { ModelFolder::open(folder.path()); });
  }
}

TEST(Hostile, ImpostersOfShards) {
  const Sound folder;
  std::filesystem::rename(folder / kWeightsName, folder / "one.safetensors");
  folder.write(kIndexName, R"({"weight_map": {"x": "one.safetensors"}})");
  EXPECT_NO_THROW(ModelFolder::open(folder.path()));
  expect_imposters_are_named(folder / "one.safetensors", [&] { ModelFolder::open(folder.path()); });
  expect_imposters_are_named(folder / kIndexName, [&] { ModelFolder::open(folder.path()); });
}

TEST(Hostile, AnErrorIsOneLine) {
  const Sound folder;
  folder.write(kIndexName, "{\"weight_map\": {\"x\\n\\u001b[2J\": \"/etc/passwd\"}}");
  std::filesystem::remove(folder / kWeightsName);
  const std::string line = error_of<UserError>([&] { ModelFolder::open(folder.path()); });
  EXPECT_TRUE(contains(line, "weight_map: 'x\\x0a\\x1b[2J': expected the name of a .safetensors file"));
}

TEST(Hostile, ConfigsAreSmall) {
  const Sound folder;
  folder.write("config.json", "{}" + std::string(16 << 20, ' '));
  EXPECT_TRUE(contains(error_of<UserError>([&] { ModelFolder::open(folder.path()); }),
                       "config.json: expected at most 16777216 bytes, got 16777218"));
  folder.write("config.json", "{}");
  std::filesystem::remove(folder / kWeightsName);
  folder.write(kIndexName, "{\"weight_map\": {}}" + std::string(17 << 20, ' '));
  EXPECT_EQ(error_of<UserError>([&] { ModelFolder::open(folder.path()); }), "");
  folder.write(kIndexName, "{}" + std::string(64 << 20, ' '));
  EXPECT_TRUE(contains(error_of<UserError>([&] { ModelFolder::open(folder.path()); }),
                       "index.json: expected at most 67108864 bytes, got 67108866"));
}

TEST(Hostile, TheLargestHeader) {
  if (testing::kSanitized) GTEST_SKIP() << "takes minutes";
  const TempFolder folder;
  const auto file_with_header = [&](uint64_t size) {
    std::string bytes(8, '\0');
    for (int i = 0; i < 8; ++i) bytes[i] = static_cast<char>(size >> (8 * i));
    return folder.write("x", bytes + "{}" + std::string(size - 2, ' '));
  };
  const testing::Stopwatch watch;
  EXPECT_NO_THROW(TensorFile::open(file_with_header(100'000'000)));
  EXPECT_LT(watch.seconds(), 20);
  EXPECT_TRUE(contains(error_of<UserError>([&] { TensorFile::open(file_with_header(100'000'001)); }),
                       "at most 100000000 bytes, got 100000001"));
}

}  // namespace
}  // namespace rankfold
