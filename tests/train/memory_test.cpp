// Memory that runs out at any allocation: a named error, never a crash, and the last checkpoint whole.
#include "rankfold/rankfold.h"

#include "checkpoint/checkpoint.h"
#include "support/contains.h"
#include "support/sanitizers.h"
#include "support/temp_folder.h"
#include "support/tiny_model.h"

#include <c10/core/CPUAllocator.h>
#include <c10/util/Exception.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <iostream>
#include <new>

namespace {

// Which allocation fails, counted from 1; 0: none. The first only, or all from then on.
std::atomic<int64_t> fails_at = 0, counted = 0;
std::atomic<bool> once = false;
std::atomic<bool> of_tensors = false;  // else of operator new

bool fails(bool of_a_tensor) {
  if (of_a_tensor != of_tensors) return false;
  const int64_t number = ++counted, at = fails_at;
  return at > 0 && (once ? number == at : number >= at);
}

// Small ones do not fail on a machine that lends more than it has, and what destroys a JSON value of nlohmann's allocates.
constexpr size_t kLarge = 2 << 10;

}  // namespace

// Not inlined: GCC would see malloc where it expects new.
[[gnu::noinline]] void* operator new(size_t bytes) {
  void* data = bytes >= kLarge && fails(false) ? nullptr : std::malloc(bytes);
  if (!data) throw std::bad_alloc();
  return data;
}
[[gnu::noinline]] void* operator new(size_t bytes, const std::nothrow_t&) noexcept {
  return bytes >= kLarge && fails(false) ? nullptr : std::malloc(bytes);
}
[[gnu::noinline]] void operator delete(void* data) noexcept { std::free(data); }
[[gnu::noinline]] void operator delete(void* data, size_t) noexcept { std::free(data); }

namespace rankfold {
namespace {

namespace fs = std::filesystem;

class FailingAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    TORCH_CHECK_WITH(OutOfMemoryError, !fails(true), "tried to allocate ", bytes, " bytes");
    return theirs_->allocate(bytes);
  }
  c10::DeleterFnPtr raw_deleter() const override { return theirs_->raw_deleter(); }
  void copy_data(void* to, const void* from, size_t bytes) const override { theirs_->copy_data(to, from, bytes); }
  FailingAllocator() { c10::SetCPUAllocator(this); }
  ~FailingAllocator() override { c10::SetCPUAllocator(theirs_); }

 private:
  c10::Allocator* theirs_ = c10::GetCPUAllocator();
};

class OutOfMemory : public ::testing::Test {
 protected:
  OutOfMemory() {
    testing::write_tiny_model(folder_ / "model", {.vocabulary = 256, .hidden = 64, .inner = 96});
    testing::write_tiny_rows(folder_ / "rows.jsonl", 12, 256);
  }

  // From loading to the result.
  void train() {
    const CausalLM model = CausalLM::load(folder_ / "model", {.device = "cpu"});
    const Adapter adapter = Adapter::create(model, {.r = 4, .lora_dropout = 0.1, .target_modules = "all-linear"}, 7);
    const Dataset data = Dataset::open(folder_ / "rows.jsonl", nullptr, {.max_length = 64}, 256);
    TrainConfig config;
    config.output_dir = (folder_ / "out").string();
    config.per_device_train_batch_size = 4;
    config.max_steps = 3;
    config.save_steps = 1;
    config.logging_steps = 1;
    Trainer trainer(model, adapter, data, config);
    trainer.on_progress([&](const Progress& progress) { steps_ = progress.step; });
    trainer.on_message(
        [&](const std::string& line) { lacks_page_ |= line.starts_with("going on without report.html"); });
    trainer.run();
  }

  void fail_everywhere(bool tensors, bool only_once, int64_t most_runs) {
    of_tensors = tensors, once = only_once;
    fails_at = 0, counted = 0;
    train();
    const int64_t total = counted, stride = std::max<int64_t>(1, total / most_runs);
    int64_t runs = 0, ended = 0, in_a_step = 0, unsaved = 0, without_page = 0;
    for (int64_t at = 1; at <= total; at += stride, ++runs) {
      fs::remove_all(folder_ / "out");
      steps_ = 0, lacks_page_ = false;
      counted = 0, fails_at = at;
      std::string line;
      try {
        train();
      } catch (const Error& error) {  // and nothing else
        EXPECT_EQ(error.code(), ExitCode::kOutOfMemory) << error.what();
        line = error.what();
      }
      fails_at = 0;
      ended += !line.empty();
      without_page += line.empty() && lacks_page_;
      if (line.starts_with("out of memory in step ")) {
        ++in_a_step;
        for (const char* part : {"in a micro-batch of 4 rows and ", " tokens, the longest row "})
          EXPECT_TRUE(testing::contains(line, part));
        EXPECT_TRUE(!tensors || testing::contains(line, ": tried to allocate ")) << line;
      }
      const auto saved = list_checkpoints(folder_ / "out");
      for (const Checkpoint& checkpoint : saved) EXPECT_EQ(damage(checkpoint.path), "") << "allocation " << at;
      // One step may be lost: the one whose checkpoint could not be written.
      const int64_t newest = saved.empty() ? 0 : saved[0].step;
      EXPECT_GE(newest, line.empty() ? 3 : steps_ - 1) << "allocation " << at;
      unsaved += newest < steps_;
    }
    std::cout << (tensors ? "tensors" : "operator new") << (only_once ? ", once: " : ", from then on: ") << runs
              << " of " << total << " allocations failed, " << ended << " runs ended with exit 4, " << without_page
              << " went on without report.html; " << in_a_step << " ended in a micro-batch that is named; " << unsaved
              << " did not save the last step\n";
    EXPECT_GT(ended + without_page, runs / 2);
    EXPECT_GT(ended, 0);
    EXPECT_TRUE(!tensors || in_a_step > 0);
  }

  testing::TempFolder folder_;
  int64_t steps_ = 0;
  bool lacks_page_ = false;
};

TEST_F(OutOfMemory, AtATensorsAllocation) {
  const FailingAllocator allocator;
  for (const bool only_once : {true, false}) fail_everywhere(true, only_once, testing::kSanitized ? 30 : 150);
}

TEST_F(OutOfMemory, AtALargeAllocation) {
  for (const bool only_once : {true, false}) fail_everywhere(false, only_once, 150);
}

}  // namespace
}  // namespace rankfold
