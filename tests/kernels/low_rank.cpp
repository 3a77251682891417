#include "kernels/low_rank.h"

#include <cmath>

namespace rankfold::kernels::testing {

std::array<uint32_t, 4> philox_reference(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t a = 0xD2511F53ull * counter[0], b = 0xCD9E8D57ull * counter[2];
    counter = {static_cast<uint32_t>(b >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(b),
               static_cast<uint32_t>(a >> 32) ^ counter[3] ^ key[1], static_cast<uint32_t>(a)};
    key = {key[0] + 0x9E3779B9u, key[1] + 0xBB67AE85u};
  }
  return counter;
}

LowRank make_low_rank(Context& c, const std::vector<int64_t>& ranks, double drop_prob, int64_t m, int64_t k) {
  LowRank low_rank;
  low_rank.ranks = ranks;
  low_rank.k = k;
  Updates& updates = low_rank.updates;
  updates.count = static_cast<int32_t>(ranks.size());
  constexpr float kScale[] = {2, 0.5f, 1.25f, 0.125f};
  int32_t begin = 0;
  for (int u = 0; u < updates.count; ++u) {
    const auto end = begin + static_cast<int32_t>(round_up(ranks[static_cast<size_t>(u)], 8));
    updates.update[u] = {begin, end, static_cast<uint32_t>(c.integer(0, int64_t{1} << 32)),
                         static_cast<uint32_t>(c.integer(0, 1 << 15)) << 17,
                         kScale[u] / static_cast<float>(1 - drop_prob)};
    begin = end;
  }
  std::vector<int32_t> row(static_cast<size_t>(m)), position(static_cast<size_t>(m));
  for (int32_t& x : row) x = static_cast<int32_t>(c.integer(0, 64));
  for (int32_t& x : position) x = static_cast<int32_t>(c.integer(0, 100000));
  Dropout& dropout = updates.dropout;
  dropout.threshold = static_cast<uint32_t>(std::lround(drop_prob * 65536));
  dropout.key = static_cast<uint64_t>(c.integer(0, int64_t{1} << 62)) * 4 + 3;
  if (dropout.threshold > 0) dropout.row_M = c.array(row), dropout.position_M = c.array(position);

  for (int u = 0; u < updates.count && c.checks(); ++u) {
    auto& kept = low_rank.kept_MK.emplace_back();
    for (int64_t i = 0; i < m; ++i) {
      std::array<uint32_t, 4> draws{};
      for (int64_t feature = 0; feature < k; ++feature) {
        if (feature % 8 == 0 && dropout.threshold > 0)
          draws =
              philox_reference({static_cast<uint32_t>(row[static_cast<size_t>(i)]),
                                static_cast<uint32_t>(position[static_cast<size_t>(i)]),
                                static_cast<uint32_t>(feature / 8) + updates.update[u].block, updates.update[u].stream},
                               {static_cast<uint32_t>(dropout.key), static_cast<uint32_t>(dropout.key >> 32)});
        const uint32_t word = draws[static_cast<size_t>(feature % 8 / 2)];
        kept.push_back((feature % 2 ? word >> 16 : word & 0xffff) >= dropout.threshold);
      }
    }
  }
  return low_rank;
}

Numbers LowRank::padded(Context& c, int64_t rows, double deviation) const {
  Numbers all(static_cast<size_t>(rows * columns()));
  for (int64_t i = 0; i < rows; ++i) {
    each_column([&](int, int64_t r) { all[static_cast<size_t>(i * columns() + r)] = c.normal(1, deviation)[0]; });
  }
  return all;
}

std::string name_of_ranks(const std::vector<int64_t>& ranks) {
  std::string name = "r";
  for (const int64_t rank : ranks) name += (name.size() > 1 ? "_" : "") + std::to_string(rank);
  return ranks.empty() ? "r0" : name;
}

Numbers columns_of(const Numbers& x, int64_t width, int64_t begin, int64_t end) {
  Numbers part;
  for (size_t i = 0; i < x.size(); ++i) {
    const int64_t column = static_cast<int64_t>(i) % width;
    if (column >= begin && column < end) part.push_back(x[i]);
  }
  return part;
}

Numbers transposed(const Numbers& x, int64_t rows, int64_t cols) {
  Numbers y(x.size());
  for (int64_t i = 0; i < rows; ++i)
    for (int64_t j = 0; j < cols; ++j) y[static_cast<size_t>(j * rows + i)] = x[static_cast<size_t>(i * cols + j)];
  return y;
}

std::string name_of_case(const char* kernel, Source source, Dtype dtype, int64_t m, int64_t k,
                         const std::vector<int64_t>& ranks, double drop_prob) {
  constexpr const char* kSources[] = {"plain", "norm", "glu"};
  const std::string drop = drop_prob == 0 ? "" : drop_prob == 0.5 ? "_drop50" : "_drop5";
  return std::string(kernel) + "_" + kSources[static_cast<int>(source)] + "_" + name_of(dtype) + "_m" +
         std::to_string(m) + "_k" + std::to_string(k) + "_" + name_of_ranks(ranks) + drop;
}

}  // namespace rankfold::kernels::testing
