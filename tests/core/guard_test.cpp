// The kind, code and text with which every exception leaves the library.
#include "core/guard.h"

#include "core/check.h"
#include "kernels/types.h"

#include <c10/util/Exception.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <new>

namespace rankfold {
namespace {

template <class Job>
void entry(Job job) try {
  job();
} catch (...) {
  rethrow_as_error();
}

template <class Original, class Job>
void expect(Job job, ExitCode code, const std::string& line) {
  try {
    entry(job);
    ADD_FAILURE() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code);
    EXPECT_EQ(error.what(), line);
    EXPECT_THROW(std::rethrow_if_nested(error), Original);
  }
}

TEST(Guard, OtherKindsBecomeErrors) {
  expect<std::bad_alloc>([] { throw std::bad_alloc(); }, ExitCode::kOutOfMemory, "out of memory");
  expect<c10::Error>([] { TORCH_CHECK(false, "shapes\nmore"); }, ExitCode::kDefect,
                     "this is a defect of Rankfold: shapes");
  expect<c10::OutOfMemoryError>([] { TORCH_CHECK_WITH(OutOfMemoryError, false, "tried to allocate 9 bytes\nmore"); },
                                ExitCode::kOutOfMemory, "out of memory: tried to allocate 9 bytes");
  expect<kernels::Failure>([] { throw kernels::Failure("rms_norm: no launch"); }, ExitCode::kDefect,
                           "this is a defect of Rankfold: rms_norm: no launch");
  expect<std::out_of_range>([] { std::string().at(1); }, ExitCode::kDefect,
                            "this is a defect of Rankfold: basic_string::at: __n (which is 1) >= this->size() (which "
                            "is 0)");
  expect<int>([] { throw 5; }, ExitCode::kDefect, "this is a defect of Rankfold: an exception of unknown type");
  const auto no_space = std::make_error_code(std::errc::no_space_on_device);
  try {
    entry([&] { throw std::filesystem::filesystem_error("copy", no_space); });
  } catch (const StorageError& error) {
    EXPECT_TRUE(error.is_disk_full());
  }
}

TEST(Guard, ErrorsMisuseAndTheCallersOwnStayWhatTheyAre) {
  EXPECT_THROW(entry([] { fail("bad"); }), UserError);
  EXPECT_THROW(entry([] { throw Stopped(); }), Stopped);
  EXPECT_THROW(entry([] { RANKFOLD_CHECK(false, "misused"); }), std::invalid_argument);
  const auto call = [](std::function<int(int)> function) { return from_caller(std::move(function))(3); };
  EXPECT_EQ(call([](int x) { return 2 * x; }), 6);
  EXPECT_THROW(entry([&] { call([](int x) -> int { throw x; }); }), int);
  EXPECT_THROW(entry([&] { call([](int) -> int { throw std::bad_alloc(); }); }), std::bad_alloc);
  EXPECT_THROW(entry([&] { call([](int) -> int { throw Stopped(); }); }), Stopped);
  EXPECT_FALSE(from_caller(std::function<void()>()));
}

}  // namespace
}  // namespace rankfold
