// What the kernels read of a projection that has low-rank updates or a bias, in the model's dtype:
//     buffer [N8 + R, K8 + R64]   W  | B | b   K8 = round_up(K, 8), N8 likewise: the columns and rows between are zero
//                                 A  |         R: the columns of all updates side by side, each padded to 8
// (b: the bias and seven columns of zeros, where there is one; [x | S] has a column of ones there)
// so that y = [x | S] [W | B]^T and dX = [dY | dS] [W; A] are one product each over neighbouring memory, and any R up
// to 64 costs one step of its loop. B is block-diagonal where a projection has several modules. Beside it A and B
// transposed. These copies of A and B are written by the optimizer's kernel after each of its steps (Segment, kernels/adamw.h), and
// by ops::current where a leaf's version counter says that it has been changed since.
// A weight in fewer bits is decoded into the buffer at each use. Then weights of one shape share a buffer; A and B lie in
// tensors of the projection's own, and go into the buffer with W.
#pragma once

#include "ops/backend.h"
#include "ops/projection.h"

#include <array>
#include <vector>

namespace rankfold {

struct Augmented {
  at::Tensor buffer;        // [N8 + R, K8 + R64]
  at::Tensor a;             // [R, K]: a view of the buffer; the projection's own where the buffer is shared
  at::Tensor b;             // [N, R], with a bias [N, R + 8], likewise
  bool is_shared = false;   // the buffer
  at::Tensor a_transposed;  // [K, R]
  at::Tensor b_transposed;  // [R, N8]
  at::Tensor one;           // [8]: 1 and zeros, where there is a bias
  int64_t k8 = 0, n8 = 0, columns = 0;
  std::vector<std::array<uint32_t, 2>> versions;  // of A and B of each update that the copies were made of
  uint32_t bias_version = 0;                      // of Projection::bias, likewise

  int64_t pitch() const { return buffer.size(1); }
  // First element of row, column of the buffer.
  const void* at(int64_t row, int64_t column) const;
};

namespace ops {

// The projection's augmented form, with copies of its leaves as they are now. Lays a dense weight out anew the first
// time; from then on it is a view of the buffer. Another is decoded into the buffer, which is good until the next call
// for a projection of its shape. The projection is_augmented().
Augmented& current(Projection& projection);
// The buffer that such a weight is decoded into: n, k, rows and columns (WeightScratch::buffer).
std::array<int64_t, 4> decoded_buffer(const Projection& projection);
inline bool is_augmented(const Projection& projection) { return projection.has_update() || projection.bias.defined(); }

// The trained leaves of a projection that lie in a flat fp32 buffer, with the places of their low-precision copies, for
// AdamW's kernel; and, to be called after it has run, the note that the copies are those of the leaves as they are now.
std::vector<kernels::Segment> optimizer_segments(Projection& projection, const at::Tensor& flat);
void copies_written(Projection& projection, const at::Tensor& flat);

// The updates of a projection as the kernels want them.
kernels::Updates updates_of(const Projection& projection, const Pass& pass);

// Segments in the memory of the device, and how many blocks they are.
struct DeviceSegments {
  at::Tensor memory;
  int64_t count = 0, blocks = 0;
  const kernels::Segment* data() const { return static_cast<const kernels::Segment*>(memory.const_data_ptr()); }
};
DeviceSegments to_device(const Backend& backend, std::vector<kernels::Segment> segments, const at::Device& device);

kernels::Dtype dtype_of(at::ScalarType dtype);

}  // namespace ops
}  // namespace rankfold
