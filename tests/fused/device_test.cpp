// What only a device shows: skipped without --device=cuda.
#include "fused/backend.h"
#include "rankfold/rankfold.h"
#include "support/contains.h"
#include "support/temp_folder.h"
#include "support/tiny_model.h"

#include <ATen/ATen.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/util/Exception.h>
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <iostream>

namespace rankfold {
namespace {

using testing::contains;
using testing::kVocabulary;
using testing::TempFolder;
constexpr int64_t kLong = 4096;

// Everything that is free, as another process may take it at any time.
std::vector<at::Tensor> take_what_is_free() {
  std::vector<at::Tensor> taken;
  c10::DeviceAllocator* allocator = c10::getDeviceAllocator(at::kCUDA);
  allocator->emptyCache();
  for (int64_t size = static_cast<int64_t>(allocator->getMemoryInfo(0).first); size >= int64_t{2} << 20;) {
    try {
      taken.push_back(at::empty({size}, at::TensorOptions(at::kCUDA).dtype(at::kByte)));
    } catch (const c10::OutOfMemoryError&) {
      size /= 2;
    }
  }
  return taken;
}

// Short rows but for the one of step `long_step`.
void write_rows(const std::filesystem::path& path, int64_t long_step) {
  std::ofstream out(path);
  for (int64_t step = 1; step <= 6; ++step) {
    const std::vector<int64_t> ids(step == long_step ? kLong : 8, 5);
    out << nlohmann::json{{"input_ids", ids}, {"labels", ids}}.dump() << "\n";
  }
}

// What the rest of fused_tests relies on to see a host that reads or writes a device's memory.
TEST(FakeCuda, KeepsTheHostFromItsMemory) {
  if (testing::Kernels::on_cuda) GTEST_SKIP() << "the device is a real one";
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const at::Tensor x = at::ones({5, 7}, at::kCUDA);
  EXPECT_EQ(x.sum().item<float>(), 35);  // ATen's operators are the device's
  const char* kTouched = "the host has touched the memory of a device";
  EXPECT_DEATH(std::memset(x.data_ptr(), 0, 1), kTouched);
  EXPECT_DEATH(std::cout << static_cast<const volatile float*>(x.const_data_ptr())[34], kTouched);
  EXPECT_TRUE(x.cpu().equal(at::ones({5, 7})));
}

class OnDevice : public ::testing::TestWithParam<int64_t> {};

TEST_P(OnDevice, MemoryThatRunsOutNamesTheMicroBatchAndSavesTheStepBefore) {
  if (!testing::Kernels::on_cuda) GTEST_SKIP() << "its memory is a device's";
  const int64_t step = GetParam();
  const TempFolder folder;
  testing::write_tiny_model(folder / "model", {.vocabulary = kVocabulary, .hidden = 256, .inner = 1024});
  write_rows(folder / "rows.jsonl", step);
  TrainConfig config;
  config.output_dir = (folder / "out").string();
  config.per_device_train_batch_size = 1;
  config.shuffle = false;
  config.save_steps = 0;
  const auto train = [&](const std::string& output_dir, bool takes) {
    config.output_dir = (folder / output_dir).string();
    const CausalLM model = CausalLM::load(folder / "model", {.device = "cuda"});
    const Adapter adapter = Adapter::create(model, {.r = 8, .lora_alpha = 8, .target_modules = "all-linear"}, 3);
    Trainer trainer(model, adapter, Dataset::open(folder / "rows.jsonl", nullptr, {.max_length = kLong}, kVocabulary),
                    config);
    std::vector<at::Tensor> taken;
    const auto take = [&] {
      if (takes) taken = take_what_is_free();
    };
    if (step == 1)
      trainer.on_message([&](const std::string& line) {
        if (line.starts_with("memory:")) take();
      });
    else
      trainer.on_progress([&](const Progress& progress) {
        if (progress.step == step - 1) take();
      });
    trainer.run();
    return adapter.flat_values().cpu();
  };
  const at::Tensor whole = train("whole", false);
  try {
    train("out", true);
    ADD_FAILURE() << "it fitted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kOutOfMemory);
    const std::string line = error.what();
    EXPECT_TRUE(contains(line, "out of memory in step " + std::to_string(step)));
    EXPECT_TRUE(contains(line, "1 rows and " + std::to_string(kLong) + " tokens"));
    EXPECT_TRUE(contains(line, "Tried to allocate"));
  }
  if (step == 1) return;  // nothing is finished, so nothing is saved
  config.resume_from_checkpoint = "auto";
  EXPECT_TRUE(train("out", false).equal(whole));
}

INSTANTIATE_TEST_SUITE_P(Steps, OnDevice, ::testing::Values(1, 5));

}  // namespace
}  // namespace rankfold
