#include "io/model_folder.h"

#include "rankfold/error.h"
#include "support/temp_folder.h"

#include <ATen/ATen.h>
#include <nlohmann/json.hpp>

namespace rankfold {
namespace {

using nlohmann::json;
using testing::expect_error;
using testing::TempFolder;
namespace fs = std::filesystem;

void write_index(const TempFolder& folder, const json& weight_map) {
  folder.write(kIndexName, json{{"metadata", {{"total_size", 0}}}, {"weight_map", weight_map}}.dump());
}

void expect_open_error(const TempFolder& folder, const std::string& text) {
  expect_error<UserError>([&] { ModelFolder::open(folder.path()); }, text);
}

// Two shards: a, b and c.
struct Sharded : TempFolder {
  const char* first = "model-00001-of-00002.safetensors";
  const char* second = "model-00002-of-00002.safetensors";
  Sharded() {
    write("config.json", "{}");
    write_tensor_file(*this / first, {{"b", at::ones({2})}, {"a", at::ones({1}, at::kHalf)}});
    write_tensor_file(*this / second, {{"c", at::full({3}, 7.)}});
    write_index(*this, {{"a", first}, {"b", first}, {"c", second}});
  }
};

TEST(ModelFolder, OneFile) {
  const TempFolder folder;
  folder.write("config.json", R"({"hidden_size": 4})");
  folder.write("generation_config.json", R"({"eos_token_id": 2})");
  write_tensor_file(folder / kWeightsName, {{"x", at::ones({2})}, {"y", at::zeros({1})}});
  const ModelFolder model = ModelFolder::open(folder.path());
  EXPECT_EQ(model.config()["hidden_size"], 4);
  EXPECT_EQ(model.generation_config()["eos_token_id"], 2);
  EXPECT_FALSE(model.is_sharded());
  EXPECT_EQ(model.names(), (std::vector<std::string>{"x", "y"}));
  EXPECT_TRUE(model.tensor("x").equal(at::ones({2})));
  expect_error<UserError>([&] { model.info("z"); }, "no tensor 'z'");
}

TEST(ModelFolder, Shards) {
  const Sharded folder;
  const ModelFolder model = ModelFolder::open(folder.path());
  EXPECT_TRUE(model.is_sharded());
  EXPECT_EQ(model.names(), (std::vector<std::string>{"b", "a", "c"}));
  EXPECT_EQ(model.files().size(), 2u);
  EXPECT_EQ(model.info("a").dtype, at::kHalf);
  EXPECT_EQ(model.tensor("c").sum().item<float>(), 21.f);
  EXPECT_EQ(model.file_of("c").path().filename(), folder.second);
  EXPECT_TRUE(model.generation_config().empty());
}

TEST(ModelFolder, FollowsLinks) {
  const TempFolder blobs, folder;
  write_tensor_file(blobs / "0123abcd", {{"x", at::ones({2})}});
  blobs.write("4567", "{}");
  fs::create_symlink(blobs / "0123abcd", folder / kWeightsName);
  fs::create_symlink(blobs / "4567", folder / "config.json");
  EXPECT_TRUE(ModelFolder::open(folder.path()).contains("x"));
}

TEST(ModelFolder, WhatIsNotAFolderOfWeights) {
  const TempFolder folder;
  expect_error<UserError>([&] { ModelFolder::open(folder / "none"); }, "none: expected a model folder, got nothing");
  const fs::path file = folder.write("file", "x");
  expect_error<UserError>([&] { ModelFolder::open(file); }, "file: expected a model folder, got a file");
  expect_open_error(folder, "config.json: expected a file, got nothing");
  folder.write("adapter_config.json", "{}");
  expect_open_error(folder, "got an adapter folder");
  folder.write("config.json", "[]");
  expect_open_error(folder, "config.json: expected an object, got []");
  folder.write("config.json", "{}");
  expect_open_error(folder, "expected model.safetensors or model.safetensors.index.json, got neither");
  folder.write("model-00001-of-00002.safetensors", "x");
  expect_open_error(folder,
                    "model.safetensors.index.json: expected a file beside model-00001-of-00002.safetensors, got "
                    "nothing: the save or the download was cut short; get the files again");
  folder.write("pytorch_model-00001-of-00002.bin", "PK\x03\x04");
  expect_open_error(folder,
                    "a pickle, which may run code and is refused; convert it: python3 examples/convert_bin.py " +
                        folder.path().string() + " OUTPUT");
  folder.write(kWeightsName, "version https://git-lfs.github.com/spec/v1\n");
  expect_open_error(folder, "model.safetensors: expected a safetensors file, got a git-lfs pointer");
}

TEST(ModelFolder, IndexStaysInTheFolder) {
  const Sharded folder;
  write_tensor_file(folder / "evil.safetensors", {{"c", at::ones({3})}});
  const std::string outside = "../" + folder.path().filename().string() + "/evil.safetensors";
  for (const json& bad :
       {json(outside), json((folder / "evil.safetensors").string()), json("sub/x.safetensors"), json(".."), json(""),
        json(".safetensors"), json(std::string("a\0.safetensors", 14)), json("config.json"), json(1), json(nullptr)}) {
    write_index(folder, {{"c", bad}});
    expect_open_error(folder, "weight_map: 'c': expected the name of a .safetensors file in this folder, got ");
  }
}

TEST(ModelFolder, IndexAndShardsMustAgree) {
  const Sharded folder;
  write_index(folder, {{"a", folder.first}, {"b", folder.first}, {"c", "gone.safetensors"}});
  expect_open_error(
      folder,
      "gone.safetensors: expected a file, as model.safetensors.index.json says, got nothing: the save or the "
      "download was cut short; get that file again");
  write_index(folder, {{"a", folder.first}, {"b", folder.second}, {"c", folder.second}});
  expect_open_error(folder, std::string(folder.second) + ": tensor 'b' is missing (" + kIndexName +
                                " says it is here, but it is in " + folder.first);
  write_index(folder, {{"a", folder.first}, {"b", folder.first}, {"c", folder.second}, {"d", folder.second}});
  expect_open_error(folder, std::string(folder.second) + ": tensor 'd' is missing");
  write_index(folder, {{"a", folder.first}, {"c", folder.second}});
  expect_open_error(folder, std::string(folder.first) + ": tensor 'b' is not in the weight_map");
  write_index(folder, {{"a", folder.first}, {"b", folder.first}, {"c", folder.second}});
  write_tensor_file(folder / folder.second, {{"c", at::ones({3})}, {"a", at::ones({1})}});
  expect_open_error(folder, "tensor 'a' is in two shards: model-00001-of-00002.safetensors and model-00002");
  for (const char* bad : {"{}", "{\"weight_map\": []}"}) {
    folder.write(kIndexName, bad);
    expect_open_error(folder, "weight_map: expected an object, got ");
  }
}

TEST(ModelFolder, ManyEntriesOfOneShard) {
  const TempFolder folder;
  folder.write("config.json", "{}");
  std::vector<std::pair<std::string, at::Tensor>> tensors;
  json map;
  for (int i = 0; i < 4000; ++i) {
    tensors.emplace_back("t" + std::to_string(i), at::zeros({1}));
    map[tensors.back().first] = "one.safetensors";
  }
  write_tensor_file(folder / "one.safetensors", tensors);
  write_index(folder, map);
  EXPECT_EQ(ModelFolder::open(folder.path()).names().size(), 4000u);
}

}  // namespace
}  // namespace rankfold
