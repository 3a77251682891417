// Attention with a cache against its definition: what attention over the whole rows gives for their last tokens.
// Compiled twice, as ops_test.cpp.
#include "core/check.h"
#include "ops/decode_attention.h"
#include "ops/prepare_qk.h"
#include "ops/support.h"

namespace rankfold {
namespace {

struct DecodeCase {
  std::string name;
  AttentionSpec spec;
  std::vector<int64_t> slots;                // of the rows
  std::vector<std::vector<int64_t>> pieces;  // of each row: tokens added at each step; all have as many steps
  int64_t capacity = 64;                     // at first
};

int64_t length_of(const std::vector<int64_t>& pieces, size_t steps) {
  int64_t length = 0;
  for (size_t i = 0; i < steps; ++i) length += pieces[i];
  return length;
}

// The rows' tokens of a step, end to end: qkv of all rows is [sum of lengths, features].
at::Tensor tokens_of(const DecodeCase& c, const at::Tensor& qkv, const std::vector<int64_t>& offsets, size_t step) {
  std::vector<at::Tensor> parts;
  for (size_t b = 0; b < c.pieces.size(); ++b)
    parts.push_back(qkv.narrow(0, offsets[b] + length_of(c.pieces[b], step), c.pieces[b][step]));
  return at::cat(parts);
}

// Prompts are appended, later pieces attend: their results, end to end.
at::Tensor decoded(const DecodeCase& c, const at::Tensor& qkv, const std::vector<int64_t>& offsets) {
  int64_t slots = 0, capacity = c.capacity;
  for (const int64_t slot : c.slots) slots = std::max(slots, slot + 1);
  ops::HeadCache cache(c.spec.heads, qkv.options(), slots, capacity);
  std::vector<at::Tensor> results;
  for (size_t step = 0; step < c.pieces[0].size(); ++step) {
    std::vector<int64_t> begin{0}, before;
    for (const auto& pieces : c.pieces) {
      before.push_back(length_of(pieces, step));
      begin.push_back(begin.back() + pieces[step]);
      while (before.back() + pieces[step] > capacity) cache.grow(capacity *= 2);
    }
    const Sequences sequences(begin, test_device);
    const ops::CachedRows rows(c.slots, before, sequences);
    const at::Tensor tokens = tokens_of(c, qkv, offsets, step);
    if (step == 0)
      ops::cache_append(tokens, c.spec, sequences, rows, cache);
    else
      results.push_back(ops::attend_cached(tokens, c.spec, sequences, rows, cache));
  }
  return at::cat(results);
}

void check_decoding(const DecodeCase& c) {
  std::vector<int64_t> lengths;
  for (const auto& pieces : c.pieces) lengths.push_back(length_of(pieces, pieces.size()));
  const Layout layout = make_layout(lengths);
  at::manual_seed(5);
  const at::Tensor numbers = random({layout.offsets.back(), c.spec.heads.features()}).to(at::kBFloat16);
  AttentionSpec spec = c.spec;
  spec.rotary = 0;  // what is given is prepared
  const auto defined = [&](at::ScalarType dtype) {
    const at::Tensor all = ops::reference::attend(numbers.to(test_device, dtype), spec, {}, layout.positions,
                                                  {layout.offsets, test_device});
    std::vector<at::Tensor> results;
    for (size_t step = 1; step < c.pieces[0].size(); ++step) results.push_back(tokens_of(c, all, layout.offsets, step));
    return at::cat(results);
  };
  const bool has_kernels = ops::backend_of(test_device.type()) != nullptr;
  const at::Tensor exact = defined(at::kDouble);
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16, has_kernels ? at::kHalf : at::kDouble}) {
    const at::Tensor qkv = numbers.to(test_device, dtype), ours = decoded(c, qkv, layout.offsets);
    expect_parity(ours, defined(dtype), exact, dtype, c.name + " " + c10::toString(dtype));
    EXPECT_TRUE(ours.equal(decoded(c, qkv, layout.offsets))) << c.name << ": other bytes when repeated";
  }
}

const std::vector<std::vector<int64_t>> kUneven = {{70, 1, 1, 1}, {1, 1, 1, 1}, {5, 1, 1, 1}};

TEST(Decoding, AttendsToWhatIsCached) {
  check_decoding({"heads", Heads{4, 4, 8}, {0, 1, 2}, kUneven, 128});
  check_decoding({"grouped heads, an odd size", Heads{6, 2, 9}, {2, 0, 1}, kUneven, 128});
  check_decoding({"one key for many queries, slots apart", Heads{7, 1, 20}, {5, 1, 3}, kUneven, 128});
  check_decoding({"a cache that grows", Heads{4, 2, 16}, {1, 0}, {{3, 1, 70, 1}, {60, 5, 1, 1}}, 4});
  check_decoding({"several tokens at a time", Heads{4, 2, 8}, {0, 1}, {{9, 7, 1, 130}, {1, 66, 3, 2}}, 256});
}

TEST(Decoding, KnowsEveryKindOfScore) {
  AttentionSpec window = Heads{4, 2, 8};
  window.window = 6;
  check_decoding({"window", window, {0, 1, 2}, kUneven, 128});
  window.window = 66;
  check_decoding({"a window beyond a block", window, {0, 1}, {{150, 1, 3}, {2, 64, 1}}, 256});
  AttentionSpec cap = Heads{4, 2, 8};
  cap.soft_cap = 1.5;
  check_decoding({"soft cap", cap, {0, 1, 2}, kUneven, 128});
  AttentionSpec slopes = Heads{6, 3, 9};
  slopes.slopes = at::pow(2.0, -0.5 * at::arange(6)).to(at::kFloat);
  check_decoding({"slopes", slopes, {0, 1, 2}, kUneven, 128});
  slopes.soft_cap = 2, slopes.window = 30, slopes.scale = 0.8;
  check_decoding({"all of it", slopes, {0, 1}, {{80, 1, 4}, {7, 40, 1}}, 256});
}

TEST(Decoding, ASlotIsUsedAgain) {
  const AttentionSpec spec = Heads{2, 1, 8};
  const auto options = at::TensorOptions(test_device).dtype(at::kFloat);
  ops::HeadCache cache(spec.heads, options, 2, 64);
  const at::Tensor first = at::randn({40, 32}).to(test_device), second = at::randn({7, 32}).to(test_device);
  const auto attend = [&](const at::Tensor& row, int64_t slot) {
    const int64_t size = row.size(0) - 1;
    const Sequences prompt({0, size}, test_device), token({0, 1}, test_device);
    ops::cache_append(row.narrow(0, 0, size), spec, prompt, {{slot}, {0}, prompt}, cache);
    return ops::attend_cached(row.narrow(0, size, 1), spec, token, {{slot}, {size}, token}, cache);
  };
  const at::Tensor fresh = attend(second, 0);
  attend(first, 1);
  EXPECT_TRUE(attend(second, 1).equal(fresh)) << "what was in the slot before shows";
  cache.copy(1, 0);
  const at::Tensor token = at::randn({1, 32}).to(test_device);
  const Sequences one({0, 1}, test_device);
  const auto next = [&](int64_t slot) { return ops::attend_cached(token, spec, one, {{slot}, {7}, one}, cache); };
  EXPECT_TRUE(next(0).equal(next(1)));
}

TEST(Decoding, MisuseIsRefused) {
  const AttentionSpec spec = Heads{2, 1, 8};
  ops::HeadCache cache(spec.heads, at::TensorOptions(test_device).dtype(at::kFloat), 1, 64);
  const at::Tensor row = at::zeros({1, 32}).to(test_device);
  const Sequences one({0, 1}, test_device);
  EXPECT_THROW(ops::CachedRows({}, {}, one), std::invalid_argument);
  const ops::CachedRows rows({0}, {0}, one);
  EXPECT_THROW(ops::attend_cached(row.to(at::kBFloat16), spec, one, rows, cache), std::invalid_argument);
  EXPECT_THROW(ops::attend_cached(row.narrow(1, 0, 16), spec, one, rows, cache), std::invalid_argument);
}

}  // namespace
}  // namespace rankfold
