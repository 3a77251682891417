// embedding.h.
#include "kernels/cases.h"

namespace rankfold::kernels::testing {
namespace {

void run(Context& c, Dtype dtype, int64_t m, int64_t k, int64_t offset, int64_t extra) {
  constexpr int64_t kTokens = 11;
  const Matrix table = c.input(dtype, {kTokens, k, k + extra, 0, offset}, c.normal(kTokens * k));
  const Matrix y = c.output(dtype, {m, k, k + 2 * extra, 0, offset});
  std::vector<int64_t> token(static_cast<size_t>(m));
  for (int64_t& x : token) x = c.integer(0, kTokens);
  if (m > 1) token[0] = 0, token[1] = kTokens - 1;
  Embedding e;
  e.dtype = dtype;
  e.m = m, e.k = k;
  e.table = table.data(), e.ld_table = table.ld();
  e.token_M = c.array(token);
  e.y = y.data(), e.ld_y = y.ld();
  c.run([&] { c.table().embedding(e, c.stream()); });
  for (int64_t i = 0; i < m; ++i)
    for (int64_t j = 0; j < k; ++j)
      if (y(i, j) != table(token[static_cast<size_t>(i)], j))
        return c.expect(false, "row " + std::to_string(i) + " is not its token's, at column " + std::to_string(j));
}

}  // namespace

std::vector<Case> embedding_cases() {
  struct Problem {
    int64_t m, k, offset, extra;
  };
  std::vector<Case> cases;
  for (const Dtype dtype : {Dtype::f32, Dtype::bf16, Dtype::f16}) {
    for (const Problem p :
         {Problem{1, 8, 0, 0}, {17, 40, 0, 8}, {33, 37, 0, 3}, {9, 264, 1, 0}, {70, 1, 0, 0}, {0, 8, 0, 0}})
      cases.push_back({"embedding",
                       std::string("embedding_") + name_of(dtype) + "_m" + std::to_string(p.m) + "_k" +
                           std::to_string(p.k) + (p.offset ? "_odd_base" : "") + (p.extra ? "_pitched" : ""),
                       [=](Context& c) { run(c, dtype, p.m, p.k, p.offset, p.extra); }});
  }
  return cases;
}

}  // namespace rankfold::kernels::testing
