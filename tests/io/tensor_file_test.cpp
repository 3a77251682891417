#include "rankfold/tensor_file.h"

#include "io/tensor_writer.h"
#include "rankfold/error.h"
#include "support/imposters.h"
#include "support/sanitizers.h"
#include "support/stopwatch.h"
#include "support/temp_folder.h"

#include <ATen/ATen.h>
#include <sys/stat.h>

#include <cstdio>
#include <cstring>
#include <functional>

namespace rankfold {
namespace {

using testing::contains;
using testing::error_of;
using testing::expect_error;
using testing::read_bytes;
using testing::TempFolder;

std::string file_of(const std::string& header, const std::string& data) {
  std::string length(8, '\0');
  const uint64_t size = header.size();
  std::memcpy(length.data(), &size, 8);
  return length + header + data;
}

struct Verdict {
  std::string header;
  size_t data_bytes;
  std::string error;  // "": accepted
};

std::string entry(const std::string& fields) { return "{\"a\":{" + fields + "}}"; }
std::string nested(size_t depth) {
  return entry("\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4],\"x\":" + std::string(depth, '[') +
               std::string(depth, ']'));
}
std::string shaped(const std::string& dtype, const std::string& shape, const std::string& offsets) {
  return entry("\"dtype\":\"" + dtype + "\",\"shape\":" + shape + ",\"data_offsets\":" + offsets);
}

// The verdicts are those of safetensors 0.8.0, but for the cases marked "stricter".
std::vector<Verdict> verdicts() {
  const std::string plain = "\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]";
  const std::string a = "\"a\":{" + plain + "}";
  std::string dimensions = "1";
  for (int i = 1; i < 64; ++i) dimensions += ",1";
  return {
      {entry(plain), 4, ""},
      {"{}", 0, ""},
      {"{}  ", 0, ""},
      {" \n\t\r{" + a + "}  ", 4, ""},
      {"{\"__metadata__\":null," + a + "}", 4, ""},
      {"{\"__metadata__\":{\"k\":\"v\"}," + a + "}", 4, ""},
      {entry(plain + ",\"x\":{\"y\":[1e-400]}"), 4, ""},
      {"{\"\":{" + plain + "}}", 4, ""},
      {"{\"a\\u0000\":{" + plain + "}}", 4, ""},
      {shaped("F32", "[]", "[0,4]"), 4, ""},
      {shaped("F32", "[0]", "[0,0]"), 0, ""},
      {shaped("F32", "[0,18446744073709551615,18446744073709551615]", "[0,0]"), 0, ""},
      {shaped("F32", "[18446744073709551615,0]", "[0,0]"), 0, ""},
      {shaped("F32", "[" + dimensions + "]", "[0,4]"), 4, ""},
      {shaped("F4", "[2]", "[0,1]"), 1, ""},
      {shaped("F6_E2M3", "[4]", "[0,3]"), 3, ""},
      {shaped("F8_E4M3FNUZ", "[4]", "[0,4]"), 4, ""},
      {"{" + a + ",\"z\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]}}", 4, ""},
      {nested(125), 4, ""},
      // Not JSON, or not of the right shape
      {"", 0, "header:1:1"},
      {"[]", 0, "expected an object, got []"},
      {"null", 0, "expected an object, got null"},
      {"{" + a + ",}", 4, "header:1:"},
      {"{" + a + "}//", 4, "header:1:"},
      {"{" + a + "}" + std::string(2, '\0'), 4, "NUL"},
      {"\xEF\xBB\xBF{" + a + "}", 4, "byte order mark"},
      {"{'a':{" + plain + "}}", 4, "header:1:2"},
      {entry(plain + ",\"x\":\"\xC3\""), 4, "header:1:"},
      {entry(plain + ",\"x\":\"\\ud800\""), 4, "header:1:"},
      {entry(plain + ",\"x\":1e400"), 4, "header:1:"},
      {nested(126), 4, "nested deeper than 127"},
      {"{\"a\":1}", 0, "tensor 'a': dtype: expected a text, got nothing"},
      {"{\"a\":null}", 0, "tensor 'a': dtype: expected a text, got nothing"},
      {"{\"__metadata__\":[]," + a + "}", 4, "__metadata__: expected an object, got []"},
      {"{\"__metadata__\":{\"k\":1}," + a + "}", 4, "__metadata__.k: expected a string, got 1"},
      {entry("\"shape\":[1],\"data_offsets\":[0,4]"), 4, "dtype: expected a text, got nothing"},
      {entry("\"dtype\":\"F32\",\"data_offsets\":[0,4]"), 4, "shape: expected a list of sizes, got nothing"},
      {entry("\"dtype\":\"F32\",\"shape\":[1]"), 4, "data_offsets: expected two offsets, got nothing"},
      {shaped("f32", "[1]", "[0,4]"), 4, "dtype \"f32\" is not known"},
      {shaped("I4", "[1]", "[0,4]"), 4, "dtype \"I4\" is not known"},
      {shaped("F32", "null", "[0,4]"), 4, "shape: expected a list of sizes, got null"},
      {shaped("F32", "[1.0]", "[0,4]"), 4, "shape: expected a list of sizes, got [1.0]"},
      {shaped("F32", "[-1]", "[0,4]"), 4, "shape: expected a list of sizes, got [-1]"},
      {shaped("F32", "[-0]", "[0,0]"), 0, "shape: expected a list of sizes"},
      {shaped("F32", "[18446744073709551616,0]", "[0,0]"), 0, "shape: expected a list of sizes"},
      {shaped("F32", "[1]", "[0,4,4]"), 4, "data_offsets: expected two offsets, got [0,4,4]"},
      {shaped("F32", "[1]", "[4]"), 4, "data_offsets: expected two offsets, got [4]"},
      {shaped("F32", "[1]", "[-0,4]"), 4, "data_offsets: expected two offsets"},
      // Sizes and places
      {shaped("F32", "[1]", "[0,4]"), 5, "expected 4 bytes of data, got 5"},
      {shaped("F32", "[1]", "[0,4]"), 3, "ends at byte 4 of the data, but the file holds 3"},
      {"{}", 1, "expected 0 bytes of data, got 1"},
      {shaped("F32", "[2]", "[0,4]"), 4, "expected 8 bytes for F32 [2], got [0,4]"},
      {shaped("F32", "[1]", "[4,0]"), 4, "expected 4 bytes"},
      {shaped("F32", "[1]", "[4,8]"), 8, "expected to begin at 0, got 4 (hole)"},
      {"{" + a + ",\"b\":{" + plain + "}}", 4, "'b': data_offsets: expected to begin at 4, got 0 (overlap)"},
      {"{" + a + ",\"b\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[2,2]}}", 4,
       "expected to begin at 4, got 2"},
      {shaped("F4", "[1]", "[0,0]"), 0, "is not a whole number of bytes"},
      {shaped("F32", "[18446744073709551615,18446744073709551615,0]", "[0,0]"), 0, "is not a whole number of bytes"},
      {shaped("F32", "[4611686018427387904]", "[0,0]"), 0, "is not a whole number of bytes"},
      {shaped("U8", "[1099511627776]", "[0,1099511627776]"), 4, "the file holds 4"},
      // Stricter: a name given twice, more than 64 dimensions, spellings that only serde's derived readers know
      {"{" + a + "," + a + "}", 4, "key \"a\" is given twice"},
      {entry(plain + ",\"x\":1,\"x\":2"), 4, "key \"x\" is given twice"},
      {shaped("F32", "[" + dimensions + ",1]", "[0,4]"), 4, "expected at most 64 dimensions, got 65"},
      {"{\"a\":[\"F32\",[1],[0,4]]}", 4, "dtype: expected a text, got nothing"},
      {entry("\"dtype\":{\"F32\":null},\"shape\":[1],\"data_offsets\":[0,4]"), 4, "dtype: expected a text"},
  };
}

TEST(TensorFile, Verdicts) {
  const TempFolder folder;
  for (const Verdict& verdict : verdicts()) {
    SCOPED_TRACE(verdict.header.substr(0, 200));
    const auto path = folder.write("x.safetensors", file_of(verdict.header, std::string(verdict.data_bytes, '\0')));
    if (verdict.error.empty())
      EXPECT_EQ(error_of<UserError>([&] { TensorFile::open(path); }), "");
    else
      expect_error<UserError>([&] { TensorFile::open(path); }, verdict.error);
  }
}

TEST(TensorFile, LengthOfTheHeader) {
  const TempFolder folder;
  const auto expect = [&](const std::string& bytes, const std::string& line) {
    expect_error<UserError>([&] { TensorFile::open(folder.write("x", bytes)); }, line);
  };
  expect("1234567", "got 7 bytes, which is too short");
  expect(std::string("\x03\0\0\0\0\0\0\0{}", 10), "expected a safetensors header of 3 bytes, got a file of 10");
  expect(std::string("\x01\xE1\xF5\x05\0\0\0\0{}", 10), "at most 100000000 bytes, got 100000001");
  expect(std::string(8, '\xFF'), "got 18446744073709551615");
}

TEST(TensorFile, OtherKindsOfFile) {
  const TempFolder folder;
  const auto expect = [&](const std::string& bytes, const std::string& line) {
    expect_error<UserError>([&] { TensorFile::open(folder.write("x", bytes)); }, line);
  };
  expect("version https://git-lfs.github.com/spec/v1\noid", "x: expected a safetensors file, got a git-lfs pointer");
  expect("PK\x03\x04 and more of it", "x: expected a safetensors file, got a pickle");
  expect("\x80\x02}q and more of it", "x: expected a safetensors file, got a pickle");
  expect("<!DOCTYPE html><html>", "x: expected a safetensors file, got an HTML page");
  expect("", "x: expected data, got an empty file");
  expect_error<UserError>([&] { TensorFile::open(folder.path()); }, "expected a file, got a folder");
  expect_error<UserError>([&] { TensorFile::open("/dev/zero"); }, "expected a file, got a device");
  ASSERT_EQ(::mkfifo((folder / "fifo").c_str(), 0600), 0);
  expect_error<UserError>([&] { TensorFile::open(folder / "fifo"); }, "expected a file, got a FIFO");
  // A sound file whose header's length has the bytes of a pickle.
  const std::string header = "{}" + std::string(0x280 - 2, ' ');
  EXPECT_NO_THROW(TensorFile::open(folder.write("x", file_of(header, ""))));
}

TEST(TensorFile, RejectsEveryTruncation) {
  const TempFolder folder;
  write_tensor_file(folder / "x",
                    {{"a", at::ones({2, 3})}, {"b", at::zeros({4}, at::kHalf)}, {"c", at::ones({3}, at::kByte)}});
  const std::string bytes = read_bytes(folder / "x");
  for (size_t size = 0; size < bytes.size(); ++size)
    EXPECT_NE(error_of<UserError>([&] { TensorFile::open(folder.write("cut", bytes.substr(0, size))); }), "") << size;
  EXPECT_NO_THROW(TensorFile::open(folder.write("cut", bytes)));
}

TEST(TensorFile, AllocationNeverFollowsAClaim) {
  const TempFolder folder;
  for (const std::string& bytes : {file_of(shaped("F32", "[1099511627776]", "[0,4398046511104]"), "1234"),
                                   file_of(shaped("U8", "[1099511627776]", "[0,1099511627776]"), "1234"),
                                   std::string("\0\xE1\xF5\5\0\0\0\0{}", 10)}) {
    folder.write("x", bytes);
    EXPECT_LT(testing::growth_kib([&] { EXPECT_NE(error_of<UserError>([&] { TensorFile::open(folder / "x"); }), ""); }),
              1 << 10);
  }
}

// 10 MB of JSON take no more than a second and 40 times that in memory, whatever is in them.
TEST(TensorFile, HeadersFullOfNothing) {
  const TempFolder folder;
  const auto repeated = [](const std::function<std::string(int)>& part) {
    std::string text;
    for (int i = 0; text.size() < (testing::kSanitized ? 2'000'000 : 10'000'000); ++i) text += part(i);
    return text;
  };
  const auto entry = [](const std::string& name, const std::string& more) {
    return "\"" + name + "\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]" + more + "},";
  };
  const std::string last = "\"z\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}";
  const std::pair<const char*, std::string> headers[] = {
      {"(overlap)", "{" + repeated([&](int i) { return entry("t" + std::to_string(i), ""); }) + last + "}"},
      {"", "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1],\"x\":[" +
               repeated([](int) { return "{},"; }) + "0]}}"},
      {"", "{\"__metadata__\":{" + repeated([](int i) { return "\"" + std::to_string(i) + "\":\"\","; }) +
               "\"x\":\"\"},\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}"}};
  for (const auto& [error, header] : headers) {
    folder.write("x", file_of(header, "1"));
    const testing::Stopwatch watch;
    std::string line;
    const long growth =
        testing::growth_kib([&] { line = error_of<UserError>([&] { TensorFile::open(folder / "x"); }); });
    const double seconds = watch.seconds();
    EXPECT_TRUE(contains(line, error)) << header.substr(0, 80);
    EXPECT_EQ(line.empty(), *error == '\0') << line;
    EXPECT_LT(seconds, testing::kSanitized ? 300 : 10) << header.substr(0, 80);
    EXPECT_TRUE(testing::kSanitized || growth < 40 * static_cast<long>(header.size() >> 10))
        << growth << header.substr(0, 80);
    std::printf("safetensors: a header of %.0f MB: %.2f s, %ld MiB\n", static_cast<double>(header.size()) / 1e6,
                seconds, growth >> 10);
  }
}

TEST(TensorFile, ViewsTheMapping) {
  const TempFolder folder;
  at::Tensor kept;
  {
    write_tensor_file(folder / "x", {{"a", at::arange(6, at::kFloat).view({2, 3})}});
    const TensorFile file = TensorFile::open(folder / "x");
    kept = file.tensor("a");
    EXPECT_EQ(kept.data_ptr(), file.tensor("a").data_ptr());
    EXPECT_TRUE(file.contains("a"));
    expect_error<UserError>([&] { file.tensor("b"); }, "x: no tensor 'b'");
  }
  std::filesystem::remove(folder / "x");
  EXPECT_TRUE(kept.equal(at::arange(6, at::kFloat).view({2, 3})));
}

TEST(TensorFile, CopiesWhatIsNotAligned) {
  const TempFolder folder;
  const float one = 1;
  std::string data(4, '\0');
  std::memcpy(data.data(), &one, 4);
  for (size_t pad = 0; pad < 4; ++pad) {
    const std::string header = shaped("F32", "[1]", "[0,4]") + std::string(pad, ' ');
    EXPECT_EQ(TensorFile::open(folder.write("x", file_of(header, data))).tensor("a").item<float>(), 1.f);
  }
}

TEST(TensorFile, RefusesTensorsItCannotHold) {
  const TempFolder folder;
  const auto expect = [&](const std::string& header, size_t bytes, const std::string& line) {
    const auto file = TensorFile::open(folder.write("x", file_of(header, std::string(bytes, '\0'))));
    expect_error<UserError>([&] { file.tensor("a"); }, line);
  };
  expect(shaped("F8_E5M2", "[4]", "[0,4]"), 4, "x: tensor 'a': dtype F8_E5M2 is not supported");
  expect(shaped("F32", "[0,18446744073709551615]", "[0,0]"), 0, "x: tensor 'a': a shape this large");
  expect(shaped("F32", "[0,4294967296,4294967296]", "[0,0]"), 0, "x: tensor 'a': a shape this large");
}

// Written by safetensors.torch.save_file (0.8.0) for the same tensors and {"format": "pt"}.
TEST(TensorWriter, BytesAreTheReferences) {
  const std::string golden =
      "{\"__metadata__\":{\"format\":\"pt\"},"
      "\"n4\":{\"dtype\":\"I64\",\"shape\":[2,3],\"data_offsets\":[0,48]},"
      "\"n0\":{\"dtype\":\"F64\",\"shape\":[2,3],\"data_offsets\":[48,96]},"
      "\"empty\":{\"dtype\":\"F32\",\"shape\":[0,3],\"data_offsets\":[96,96]},"
      "\"n1\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[96,120]},"
      "\"scalar\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[120,124]},"
      "\"\xc3\xa9\\n\x7f\\\"\\\\\\u0001\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[124,128]},"
      "\"n5\":{\"dtype\":\"I32\",\"shape\":[2,3],\"data_offsets\":[128,152]},"
      "\"n3\":{\"dtype\":\"BF16\",\"shape\":[2,3],\"data_offsets\":[152,164]},"
      "\"n2\":{\"dtype\":\"F16\",\"shape\":[2,3],\"data_offsets\":[164,176]},"
      "\"n6\":{\"dtype\":\"I16\",\"shape\":[2,3],\"data_offsets\":[176,188]},"
      "\"n7\":{\"dtype\":\"I8\",\"shape\":[2,3],\"data_offsets\":[188,194]},"
      "\"n8\":{\"dtype\":\"U8\",\"shape\":[2,3],\"data_offsets\":[194,200]},"
      "\"n9\":{\"dtype\":\"BOOL\",\"shape\":[2,3],\"data_offsets\":[200,206]}}     ";
  std::vector<std::pair<std::string, at::Tensor>> tensors;
  const at::ScalarType dtypes[] = {at::kDouble, at::kFloat, at::kHalf, at::kBFloat16, at::kLong,
                                   at::kInt,    at::kShort, at::kChar, at::kByte,     at::kBool};
  for (size_t i = 0; i < std::size(dtypes); ++i)
    tensors.emplace_back("n" + std::to_string(i), at::ones({3, 2}, dtypes[i]).t());  // not contiguous
  tensors.emplace_back("\xc3\xa9\n\x7f\"\\\x01", at::zeros({1}));
  tensors.emplace_back("scalar", at::scalar_tensor(1.5));
  tensors.emplace_back("empty", at::zeros({0, 3}));

  const TempFolder folder;
  write_tensor_file(folder / "x.safetensors", tensors);
  const std::string bytes = read_bytes(folder / "x.safetensors");
  EXPECT_EQ(bytes.size(), 8 + golden.size() + 206);
  EXPECT_EQ(bytes.substr(0, 8), std::string("\x38\x03\0\0\0\0\0\0", 8));
  EXPECT_EQ(bytes.substr(8, golden.size()), golden);

  const TensorFile file = TensorFile::open(folder / "x.safetensors");
  EXPECT_EQ(file.metadata().at("format"), "pt");
  EXPECT_EQ(file.tensors().size(), tensors.size());
  for (const auto& [name, tensor] : tensors) {
    EXPECT_EQ(file.info(name).dtype, tensor.scalar_type()) << name;
    EXPECT_TRUE(file.tensor(name).equal(tensor)) << name;
  }
}

TEST(TensorWriter, ChecksItsCalls) {
  const TempFolder folder;
  const auto expect = [](auto call, const std::string& line) { expect_error<std::invalid_argument>(call, line); };
  const at::Tensor one = at::ones({1});
  expect([&] { write_tensor_file(folder / "x", {{"a", one}, {"a", one}}); }, "tensor 'a' is given twice");
  expect([&] { write_tensor_file(folder / "x", {{"a", at::ones({1}, at::kComplexFloat)}}); }, "tensor 'a'");
  TensorWriter writer(folder / "x", {{.name = "a", .dtype = at::kFloat, .shape = {1}}});
  expect([&] { writer.add("b", one); }, "tensor 'b' was not expected, but 'a'");
  expect([&] { writer.add("a", at::ones({2})); }, "tensor 'a': expected Float [1], got Float [2]");
  EXPECT_FALSE(std::filesystem::exists(folder / "x"));
}

}  // namespace
}  // namespace rankfold
